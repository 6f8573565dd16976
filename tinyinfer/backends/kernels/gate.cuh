// act(gate) * up, by the model's activation (ReferenceOps.gate): the nonlinearity between an MLP's two products.
//
// ACTIVATION: 0 silu, 1 gelu_tanh, 2 gelu, 3 clamped (gpt-oss). silu as x/2 * (1 + tanh(x/2)), which cannot overflow.
#include "common.cuh"

__device__ inline float silu(float x) { return 0.5f * x * (1 + tanhf(0.5f * x)); }

__device__ inline float gate_up(float gate, float up) {
    if constexpr (ACTIVATION == 0) return silu(gate) * up;
    if constexpr (ACTIVATION == 1)
        return 0.5f * gate * (1 + tanhf(0.7978845608f * (gate + 0.044715f * gate * gate * gate))) * up;
    if constexpr (ACTIVATION == 2) return 0.5f * gate * (1 + erff(0.7071067812f * gate)) * up;
    gate = gate > 7 ? 7.0f : gate, up = up > 7 ? 7.0f : up < -7 ? -7.0f : up;  // a NaN stays a NaN
    return silu(1.702f * gate) / 1.702f * (up + 1);
}
