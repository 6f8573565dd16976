// rms_gate_up: the first half of a gated MLP, norm included (ReferenceOps.rms_norm, .linear and .gate).
//
//     h[t][f] = act(gate) * up,   gate = rms(x[t]) . w[f] + bias[f],   up = rms(x[t]) . w[F + f] + bias[F + f]
//
// Reads: the weight (2F, D) once, x, norm and bias (both may be null). Writes: h, T * F float32. How: product.cuh; the
// lanes that compute a gate compute its up row beside it, from the same activations, so neither is ever stored.
// Roofline: memory-bound, 2 FLOPs a weight and row. SmolLM2-135M in bfloat16: 3.5 MB, 1.1 us at 3.35 TB/s, the largest
// kernel of a layer. Wins: three launches and two passes over 2F numbers less than one operation after the other.
// Loses: beyond 8 rows (small_batch_product.cu).
//
// Items, grid and dynamic shared memory: product.cuh says, with M = D and F groups.
#include "common.cuh"
#include "weights.cuh"
#include "product.cuh"
#include "gate.cuh"

template <typename Weight, typename Wait = AtOnce>
__device__ void rms_gate_up_body(const float* x, const float* norm, const void* codes, const void* scale,
                                 const void* minimum, const float* bias, float* h, Wait wait = Wait()) {
    const auto row_at = [](int f, int j) { return j * F + f; };  // 0: the gate, 1: its up row
    const auto write = [&](int t, int f, const float (&values)[2]) {
        h[t * F + f] = gate_up(values[0] + (bias ? bias[f] : 0.0f), values[1] + (bias ? bias[F + f] : 0.0f));
    };
    product<Weight, D, 2, F>(x, norm, Weight(codes, scale, minimum), row_at, write, wait);
}

extern "C" __global__ void __launch_bounds__(PRODUCT_THREADS, 1) rms_gate_up(const float* x, const float* norm, const void* codes, const void* scale, const void* minimum, const float* bias, float* h) { rms_gate_up_body<Weight>(x, norm, codes, scale, minimum, bias, h); }
