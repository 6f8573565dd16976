// Queries and keys are normed and turned, keys and values go to the cache: what lies between a layer's QKV product and
// its attention, where the product was computed before (prompts, and layers whose heads have norms).
// Formula: ReferenceOps.norm (rms_norm of each head) and .rope, then KVCache.append.
//
// Reads: qkv (T, H + 2K, E), qk_norm (H + K, E) or null (no norm), positions, slots, sets (T,), frequencies and
// amplitudes (Z, E/2). Writes: q (T, H, E) and the keys and values of the rows' positions in the layer's pools
// (cache.cuh). A padded row (position -1) is skipped: neither its q nor any cache is written.
// Items: T * (H + 2K), one for each warp; sensible grid: a quarter of it. No shared memory.
//
// A warp has a head; its lane l computes the pairs l, l + 32, ... The mean of squares is one sum over the warp.
// Roofline at SmolLM2-135M's shape: 7.7 KB a row are moved, so 8192 rows of a prompt take 21 us a layer at 3 TB/s;
// bandwidth limits it. Its cosines are computed again for each head: free, as the memory is waited for anyway.
// Wins: any number of rows, norms for each head. Loses: up to 8 rows without such norms, where the product's own kernel
// can do the same before it ends (rms_qkv_rope_append.cu) and saves a launch and the way through memory.
#include "common.cuh"
#include "cache.cuh"
#include "rope.cuh"

constexpr int APPEND_THREADS = 128;

template <int THREADS>
__device__ void qk_norm_rope_append_body(const float* qkv, const float* qk_norm, float qk_eps, const int* positions,
                                         const int* slots, const int* sets, const float* frequencies,
                                         const float* amplitudes, const unsigned long long* pools, const int* places,
                                         int layer, float* q) {
    constexpr int HEADS = H + 2 * K, HALF = E / 2, WARPS = THREADS / 32;
    const int lane = threadIdx.x % 32;
    for (int item = blockIdx.x * WARPS + threadIdx.x / 32; item < T * HEADS; item += gridDim.x * WARPS) {
        const int t = item / HEADS, head = item % HEADS, position = positions[t];
        if (position < 0) continue;
        const Cached cache = cached(pools, places, layer, slots[t]);
        const float* from = qkv + (long long)item * E;
        const bool value = head >= H + K;
        float* to = q + ((long long)t * H + head) * E;
        if (head >= H) {
            const int key = value ? head - H - K : head - H;
            to = (value ? cache.values : cache.keys) + place_of(cache, key, row_of(cache, position), 0);
        }
        float squares = 0, inverse = 1;
        for (int e = lane; e < E; e += 32) squares += from[e] * from[e];
        if (qk_norm) inverse = 1 / sqrtf(warp_sum(squares) / E + qk_eps);
        for (int e = lane; e < HALF; e += 32) {
            float x = from[e], y = from[e + HALF];
            if (!value) {
                if (qk_norm) x *= inverse * qk_norm[head * E + e], y *= inverse * qk_norm[head * E + HALF + e];
                const int i = sets[t] * HALF + e;
                const Turn turn = turn_of(position, frequencies[i], amplitudes[i]);
                to[e] = turn.first(x, y), to[e + HALF] = turn.second(x, y);
            } else {
                to[e] = x, to[e + HALF] = y;
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(APPEND_THREADS) qk_norm_rope_append(const float* qkv, const float* qk_norm, float qk_eps, const int* positions, const int* slots, const int* sets, const float* frequencies, const float* amplitudes, const unsigned long long* pools, const int* places, int layer, float* q) { qk_norm_rope_append_body<APPEND_THREADS>(qkv, qk_norm, qk_eps, positions, slots, sets, frequencies, amplitudes, pools, places, layer, q); }
