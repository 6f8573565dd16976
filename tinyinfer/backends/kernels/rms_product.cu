// rms_product: a linear layer of a few rows, with RMSNorm before it or none (ReferenceOps.rms_norm, .linear).
//
//     y[t][n] = sum over m of rms(x[t])[m] * w[n][m] + bias[n]
//
// Reads: the weight once, x, norm and bias (both may be null: none). Writes: y, T * OUTPUTS float32. How: product.cuh.
// Roofline: INPUTS * OUTPUTS weights, 2 FLOPs each and row: memory-bound below 20 rows of bfloat16 weights on the CUDA
// cores of an H100, which multiply here. SmolLM2-135M's query, key and value projection is 1.1 MB, 0.3 us at 3.35 TB/s:
// less than a dependent launch costs.
// Wins: up to 8 rows, wherever the rest of the sub-layer cannot be fused (heads with norms of their own). Loses: beyond
// 8 rows tensor cores multiply all rows in the time of one (small_batch_product.cu).
//
// Items, grid and dynamic shared memory: product.cuh says, with M = INPUTS and OUTPUTS groups.
#include "common.cuh"
#include "weights.cuh"
#include "product.cuh"

template <typename Weight, int M, int N>
__device__ void rms_product_body(const float* x, const float* norm, const void* codes, const void* scale,
                                 const void* minimum, const float* bias, float* y) {
    constexpr int J = rows_at_once<Weight, M>(N);
    const auto row_at = [](int group, int j) { return group * J + j; };
    const auto write = [&](int t, int group, const float (&values)[J]) {
#pragma unroll
        for (int j = 0; j < J; j++) {
            const int n = row_at(group, j);
            y[t * N + n] = values[j] + (bias ? bias[n] : 0.0f);
        }
    };
    product<Weight, M, J, N / J>(x, norm, Weight(codes, scale, minimum), row_at, write);
}

extern "C" __global__ void __launch_bounds__(PRODUCT_THREADS, 1) rms_product(const float* x, const float* norm, const void* codes, const void* scale, const void* minimum, const float* bias, float* y) { rms_product_body<Weight, INPUTS, OUTPUTS>(x, norm, codes, scale, minimum, bias, y); }
