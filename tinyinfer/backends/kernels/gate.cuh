// The gate of an MLP, chosen when the kernel is compiled (ReferenceOps.gate, .activations, .clamped_gate).
//
//     ACTIVATION   0 silu   1 gelu_tanh   2 gelu   3 clamped, gpt-oss's

__device__ inline float silu(float x) { return x * 0.5f * (tanhf(x * 0.5f) + 1); }  // cannot overflow, unlike exp(-x)

__device__ inline float gate(float gate, float up) {
    if constexpr (ACTIVATION == 0) return silu(gate) * up;
    if constexpr (ACTIVATION == 1)
        return gate * 0.5f * (tanhf(0.7978845608f * (gate + 0.044715f * gate * gate * gate)) + 1) * up;
    if constexpr (ACTIVATION == 2) return gate * 0.5f * (erff(gate * 0.7071067812f) + 1) * up;
    gate = gate > 7 ? 7 : gate;
    up = up > 7 ? 7 : up < -7 ? -7 : up;  // a NaN passes
    return silu(gate * 1.702f) * (1 / 1.702f) * (up + 1);
}
