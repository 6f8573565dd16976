// small_batch_product: a linear layer of 9 to 256 rows on tensor cores, with RMSNorm before it and what follows it.
//
//     p[t][n] = sum over m of half(rms(x[t])[m]) * half(w[n][m]) + bias[n]      (ReferenceOps.rms_norm, .linear)
//     EPILOGUE 0   y[t][n] = p[t][n]
//     EPILOGUE 1   y[t][n] += factor * p[t][n]                                  (.add)
//     EPILOGUE 2   y[t][f] = gate_up(p[t][f], p[t][F + f]), OUTPUTS = 2 F       (.gate)
//
// half: rounded to the weights' type, to bfloat16 for packed ones; sums are float32. Reads: x (T, INPUTS), the weight,
// norm and bias (each may be null: none). Writes: y. Float32 weights are refused.
// Items: tiles of p; sensible grid: two blocks a processor. No dynamic shared memory. A tile is one block's alone, and
// the order of its sums is fixed.
//
// A block walks along the inputs, a tile of them at a time: while the tensor cores multiply one tile out of shared
// memory, the next one is on its way into registers (tiles.cuh). Each of the 8 warps computes all rows and 16 columns
// of p's tile, from one chunk of 32 inputs; where the columns are fewer than 128, several warps share them, and their
// sums are added at the end. Lane 4 g + q finds in 16 bytes of row g what two mma instructions want of the row.
//
// Roofline at SmolLM2-135M's shape, 64 rows: a layer's weights are 7.1 MB, 2.1 us at 3.35 TB/s, for 0.45 GFLOP, 0.5 us
// at 989 TFLOP/s; neither limits. But each block reads its rows of x again, and its weights for every tile of rows: 42
// MB from L2 a layer, 8 us at 5.5 TB/s (256 rows: 85 MB, 15 us). So a tile's shape is chosen for the fewest bytes of
// the busiest processor; and weights are asked for before x is normalized, so that later tiles find them in L2.
// Wins: from 9 rows on, where product.cuh would multiply each row by itself. Loses: above 256 rows, where cuBLAS has
// larger tiles and asynchronous copies; but a captured graph must do without cuBLAS.
#include "common.cuh"
#include "weights.cuh"
#include "mma.cuh"
#include "tiles.cuh"
#include "gate.cuh"

// 1 / rms of the rows of a tile, a warp for each row.
template <int M, int ROWS, int RUN> __device__ inline void measure(const float* x, int first, float* scales) {
    for (int row = threadIdx.x / 32; row < ROWS && first + row < T; row += BATCH_THREADS / 32) {
        float squares = 0;
        for (int m = threadIdx.x % 32 * RUN; m < M; m += 32 * RUN) {
            const Run<RUN> run = *(const Run<RUN>*)(x + (long long)(first + row) * M + m);
            for (int i = 0; i < RUN; i++) squares += run.at[i] * run.at[i];
        }
        squares = warp_sum(squares);
        if (threadIdx.x % 32 == 0) scales[row] = 1 / sqrtf(squares / M + EPS);
    }
}

template <typename Weight, int M, int N, int EPILOGUE>
__device__ void small_batch_product_body(const float* x, const float* norm, const void* codes, const void* scale,
                                         const void* minimum, const float* bias, float* y, float factor) {
    using P = Tiles<Weight, M, N, EPILOGUE == 2>;
    constexpr int ROW_TILES = (T + P::ROWS - 1) / P::ROWS, COLUMN_TILES = (N + P::COLUMNS - 1) / P::COLUMNS;
    constexpr int PARTS = P::ROWS / 16, SUMS = PARTS * 8;  // of a warp: tiles of 16 rows and 16 columns; of a lane
    __shared__ uint4 tiles[2][P::UNITS + 4096 / 8];
    __shared__ float scales[P::ROWS];
    const Weight weight(codes, scale, minimum);
    const int lane = threadIdx.x % 32, chunk = threadIdx.x / 32 % P::CHUNKS, column = threadIdx.x / 32 / P::CHUNKS * 16;
    for (int item = blockIdx.x; item < ROW_TILES * COLUMN_TILES; item += gridDim.x) {
        const int first = item % ROW_TILES * P::ROWS, tile = item / ROW_TILES;  // neighbours share weights
        P passage;
        float sums[PARTS][2][4] = {};
        P::expect(codes, tile);
        passage.load(weight, tile, 0);
        if (norm) measure<M, P::ROWS, P::RUN>(x, first, scales);
        passage.load(x, first, 0);
        __syncthreads();  // the scales are known, and the last item's sums have been read
        for (int step = 0; step < P::STEPS; step++) {
            uint4 *xs = tiles[step % 2], *ws = xs + P::UNITS;
            passage.store(xs, norm, scales, step);
            passage.store(ws, tile, step);
            __syncthreads();  // this tile is stored, and all warps are done with the one before
            if (step + 1 < P::STEPS) passage.load(weight, tile, step + 1), passage.load(x, first, step + 1);
#pragma unroll
            for (int i = 0; i < 2 * PARTS; i++) {
                const uint4 w = ws[P::place(P::COLUMNS, chunk, column + i % 2 * 8 + lane / 4, lane % 4)];
                const uint4 upper = xs[P::place(P::ROWS, chunk, i / 2 * 16 + lane / 4, lane % 4)];
                const uint4 lower = xs[P::place(P::ROWS, chunk, i / 2 * 16 + 8 + lane / 4, lane % 4)];
                mma<typename P::Half>(sums[i / 2][i % 2], {upper.x, lower.x, upper.y, lower.y}, {w.x, w.y});
                mma<typename P::Half>(sums[i / 2][i % 2], {upper.z, lower.z, upper.w, lower.w}, {w.z, w.w});
            }
        }
        __syncthreads();  // the tiles have been read: their memory takes the sums of the tile's other chunks
        float* handed = (float*)tiles + (column / 16 * (P::CHUNKS - 1) * SUMS) * 32 + lane;
#pragma unroll
        for (int i = 0; i < SUMS; i++)
            if (chunk > 0) handed[((chunk - 1) * SUMS + i) * 32] = sums[i / 8][i / 4 % 2][i % 4];
        __syncthreads();
#pragma unroll
        for (int i = 0; i < SUMS; i++)
            for (int c = 0; c < P::CHUNKS - 1 && chunk == 0; c++)
                sums[i / 8][i / 4 % 2][i % 4] += handed[(c * SUMS + i) * 32];
#pragma unroll
        for (int i = 0; i < SUMS; i++) {
            const int t = first + i / 8 * 16 + i % 4 / 2 * 8 + lane / 4;
            const int n = P::output_of(tile, column + i / 4 % 2 * 8 + lane % 4 * 2 + i % 2);
            if (chunk > 0 || t >= T || n < 0) continue;
            const float p = sums[i / 8][i / 4 % 2][i % 4] + (bias ? bias[n] : 0.0f);
            if constexpr (EPILOGUE == 0) y[(long long)t * N + n] = p;
            if constexpr (EPILOGUE == 1) y[(long long)t * N + n] += factor * p;
            if constexpr (EPILOGUE == 2) {
                const float up = sums[i / 8][1][i % 4] + (bias && n < N / 2 ? bias[n + N / 2] : 0.0f);
                if (i / 4 % 2 == 0) y[(long long)t * (N / 2) + n] = gate_up(p, up);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(BATCH_THREADS, 1) small_batch_product(const float* x, const float* norm, const void* codes, const void* scale, const void* minimum, const float* bias, float* y, float factor) { small_batch_product_body<Weight, INPUTS, OUTPUTS, EPILOGUE>(x, norm, codes, scale, minimum, bias, y, factor); }
