// projection_residual: the end of a sub-layer, attention's output or the MLP's down projection, added to the residual
// stream (ReferenceOps.linear and .add).
//
//     x[t][d] += factor * (sum over m of y[t][m] * w[d][m] + bias[d])
//
// Reads: the weight once, y, x and bias (may be null). Writes: x, T * D float32, each number by one thread, so that the
// order of the blocks cannot change a sum. How: product.cuh, without a norm.
// Roofline: memory-bound as rms_product.cu. SmolLM2-135M in bfloat16: 0.66 MB of attention's output, 0.2 us at 3.35
// TB/s; 1.8 MB of the MLP's, 0.5 us. Wins: no pass over x for the addition. Loses: where a norm stands between the
// projection and the addition (Gemma, OLMo-2): then rms_product and norm_add.
//
// Items, grid and dynamic shared memory: product.cuh says, with M = INPUTS and D groups.
#include "common.cuh"
#include "weights.cuh"
#include "product.cuh"

template <typename Weight, int M, typename Wait = AtOnce>
__device__ void projection_residual_body(const float* y, const void* codes, const void* scale, const void* minimum,
                                         const float* bias, float* x, float factor, Wait wait = Wait()) {
    constexpr int J = rows_at_once<Weight, M>(D);
    const auto row_at = [](int group, int j) { return group * J + j; };
    const auto write = [&](int t, int group, const float (&values)[J]) {
#pragma unroll
        for (int j = 0; j < J; j++) {
            const int d = row_at(group, j);
            x[t * D + d] += factor * (values[j] + (bias ? bias[d] : 0.0f));
        }
    };
    product<Weight, M, J, D / J>(y, nullptr, Weight(codes, scale, minimum), row_at, write, wait);
}

extern "C" __global__ void __launch_bounds__(PRODUCT_THREADS, 1) projection_residual(const float* y, const void* codes, const void* scale, const void* minimum, const float* bias, float* x, float factor) { projection_residual_body<Weight, INPUTS>(y, codes, scale, minimum, bias, x, factor); }
