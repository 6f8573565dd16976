// Attention of many rows of a sequence over the cache, in tiles: TILE queries meet KEYS keys at a time in shared memory
// (FlashAttention; Dao et al. 2022; backends/flash.py is the same idea in NumPy).
// Formula: ReferenceOps.attention: softmax(cap(scale * q kT) + mask, sink) v, one query head at a time.
//
// Reads: q (T, H, E), positions (T,), the caches (cache.cuh), sinks (H,) or null, and tiles (num_tiles, 3): first row,
// rows (at most TILE) and slot. The rows of a tile are neighbours in one sequence; tiles come in any order.
// Writes: the rows of out (T, H, E) that are in a tile.
// Items: num_tiles * H; sensible grid: as many. TILE: 16, 32, 48 or 64. Dynamic shared memory:
// 4 * ((TILE + 2 * 32) * (E rounded up to fours + 4) + TILE * 36) bytes (44 KB for TILE 64 and E 64).
//
// How two tiles meet: flash.cuh. Keys that no row of the tile sees are not loaded.
// Roofline at SmolLM2-135M's shape, a prompt of 1024: 1.2 GFLOP a layer, 20 us at float32's 60 TFLOP/s; TILE 64 reads
// 40 MB of keys and values a layer, most of it from L2. So arithmetic limits it.
// Wins: prompts: a key is loaded once for TILE queries. Loses: single rows, where 1/TILE of the work is of use.
#include "common.cuh"
#include "cache.cuh"
#include "flash.cuh"

template <int THREADS>
__device__ void attention_prefill_body(const float* q, const int* positions, const int* slots, const int* tiles,
                                       const unsigned long long* pools, const int* places, int layer, int window,
                                       float scale, float cap, const float* sinks, float* out, int num_tiles) {
    DYNAMIC_SHARED(float, shared);
    float *queries = shared, *keys = queries + TILE * STRIDE, *values = keys + KEYS * STRIDE;
    float* weights = values + KEYS * STRIDE;
    constexpr int PADDED = 4 * FOURS / CHUNK;  // chunks of a row of shared memory that are read
    const int line = threadIdx.x / COLUMNS, column = threadIdx.x % COLUMNS;
    for (int item = blockIdx.x; item < num_tiles * H; item += gridDim.x) {
        const int *tile = tiles + item / H * 3, h = item % H, first = tile[0], rows = tile[1];
        const Cached cache = cached(pools, places, layer, tile[2]);
        const int begin = positions[first], stop = begin + rows;
        for (int i = threadIdx.x; i < TILE * PADDED; i += THREADS) {
            const int r = i / PADDED;
            const float* from = r < rows ? q + ((long long)(first + r) * H + h) * E : nullptr;
            fill(queries + r * STRIDE, from, i % PADDED);
        }
        float most[ROWS], total[ROWS], s[ROWS][SCORES];
        Four sum[ROWS][PARTS] = {};
        for (int r = 0; r < ROWS; r++) most[r] = LOWEST, total[r] = 0;
        for (int base = window > 0 && begin >= window ? begin - window + 1 : 0; base < stop; base += KEYS) {
            for (int i = threadIdx.x; i < KEYS * PADDED; i += THREADS) {
                const int n = i / PADDED, c = i % PADDED;
                const bool there = base + n < stop;
                const long long place = there ? place_of(cache, h / QUERIES, row_of(cache, base + n), 0) : 0;
                fill(keys + n * STRIDE, there ? cache.keys + place : nullptr, c);
                fill(values + n * STRIDE, there ? cache.values + place : nullptr, c);
            }
            __syncthreads();
            score(queries + line * STRIDE, keys + column * STRIDE, s);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                const int row = line + r * LINES;
                float higher = most[r];
                for (int j = 0; j < SCORES; j++) {
                    const int back = begin + row - (base + column + j * COLUMNS);  // how far the key lies behind
                    s[r][j] = back >= 0 && (window == 0 || back < window) ? capped(s[r][j] * scale, cap) : LOWEST;
                    higher = fmaxf(higher, s[r][j]);
                }
                higher = warp_max<COLUMNS>(higher);
                const float keep = expf(most[r] - higher);
                most[r] = higher, total[r] *= keep;
                for (int part = 0; part < PARTS; part++)
                    for (int e = 0; e < 4; e++) sum[r][part].at[e] *= keep;
                for (int j = 0; j < SCORES; j++) {
                    const float weight = s[r][j] == LOWEST ? 0 : expf(s[r][j] - higher);
                    weights[row * (KEYS + 4) + column + j * COLUMNS] = weight;
                    total[r] += weight;
                }
            }
            __syncthreads();
            mix(weights + line * (KEYS + 4), values, column, sum);
            __syncthreads();
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const int row = line + r * LINES;
            const float all = warp_sum<COLUMNS>(total[r]) + (sinks ? expf(sinks[h] - most[r]) : 0);
            float* to = out + ((long long)(first + row) * H + h) * E;
            for (int part = 0; part < PARTS; part++)
                for (int e = 0, i = 4 * (column + part * COLUMNS); e < 4; e++, i++)
                    if (row < rows && i < E) to[i] = sum[r][part].at[e] / all;
        }
    }
}

extern "C" __global__ void __launch_bounds__(PREFILL_THREADS, 2) attention_prefill(const float* q, const int* positions, const int* slots, const int* tiles, const unsigned long long* pools, const int* places, int layer, int window, float scale, float cap, const float* sinks, float* out, int num_tiles) { attention_prefill_body<PREFILL_THREADS>(q, positions, slots, tiles, pools, places, layer, window, scale, cap, sinks, out, num_tiles); }
