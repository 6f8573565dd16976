// norm_add: the norm after a sub-layer, added to the residual stream (ReferenceOps.rms_norm and .add): Gemma, OLMo-2.
//
//     x[t][d] += factor * h[t][d] / sqrt(mean of h[t]^2 + EPS) * norm[d]
//
// Reads: x, h and norm; h twice, the second time from L1. Writes: x, T * D float32.
// Roofline: 16 bytes a number, 9 KB for a row of 576, so nothing but the launch at few rows; 8192 rows of a prompt take
// 20 us at 3 TB/s. Wins: one pass instead of the six of single operations. Loses: a norm before a sub-layer is cheaper
// still, in the prologue of the next product; one behind it needs all of the row first, from all blocks.
//
// Items: rows; sensible grid: T. Shared memory: none that is dynamic.
#include "common.cuh"

constexpr int NORM_THREADS = 256;

template <int THREADS>
__device__ void norm_add_body(float* x, const float* h, const float* norm, float factor) {
    for (int t = blockIdx.x; t < T; t += gridDim.x) {
        float squares = 0;
        for (int d = threadIdx.x; d < D; d += THREADS) squares += h[t * D + d] * h[t * D + d];
        const float inverse = factor / sqrtf(block_sum(squares) / D + EPS);
        for (int d = threadIdx.x; d < D; d += THREADS) x[t * D + d] += h[t * D + d] * inverse * norm[d];
    }
}

extern "C" __global__ void __launch_bounds__(NORM_THREADS) norm_add(float* x, const float* h, const float* norm, float factor) { norm_add_body<NORM_THREADS>(x, h, norm, factor); }
