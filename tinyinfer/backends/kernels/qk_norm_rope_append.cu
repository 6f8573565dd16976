// Queries and keys are normed and turned, keys and values go to the cache: what lies between a layer's QKV product and
// its attention, where the product was computed before (prompts, and layers whose heads have norms).
// Formula: ReferenceOps.norm (rms_norm of each head) and .rope, then KVCache.append.
//
// Reads: qkv (T, H + 2K, E), qk_norm (H + K, E) or null (no norm), positions, slots, sets (T,), frequencies and
// amplitudes (Z, E/2). Writes: q (T, H, E) and the keys and values of the rows' positions in the layer's pools
// (cache.cuh). A padded row (position -1) is skipped: neither its q nor any cache is written.
// Items: T * (H + 2K), one for each warp; sensible grid: a quarter of it. No shared memory.
//
// How: append.cuh, with the rows of the pools as places.
// Roofline at SmolLM2-135M's shape: 7.7 KB a row are moved, so 8192 rows of a prompt take 21 us a layer at 3 TB/s;
// bandwidth limits it.
// Wins: any number of rows, norms for each head. Loses: up to 8 rows without such norms, where the product's own kernel
// can do the same before it ends (rms_qkv_rope_append.cu) and saves a launch and the way through memory.
#include "common.cuh"
#include "cache.cuh"
#include "append.cuh"

constexpr int APPEND_THREADS = 128;

template <int THREADS>
__device__ void qk_norm_rope_append_body(const float* qkv, const float* qk_norm, float qk_eps, const int* positions,
                                         const int* slots, const int* sets, const float* frequencies,
                                         const float* amplitudes, const unsigned long long* pools, const int* places,
                                         int layer, float* q) {
    norm_rope_append<THREADS>(qkv, qk_norm, qk_eps, positions, sets, frequencies, amplitudes, q,
                              [=](int t, int position, int head, bool values) {
        const Cached cache = cached(pools, places, layer, slots[t]);
        return (values ? cache.values : cache.keys) + place_of(cache, head, row_of(cache, position), 0);
    });
}

extern "C" __global__ void __launch_bounds__(APPEND_THREADS, 2) qk_norm_rope_append(const float* qkv, const float* qk_norm, float qk_eps, const int* positions, const int* slots, const int* sets, const float* frequencies, const float* amplitudes, const unsigned long long* pools, const int* places, int layer, float* q) { qk_norm_rope_append_body<APPEND_THREADS>(qkv, qk_norm, qk_eps, positions, slots, sets, frequencies, amplitudes, pools, places, layer, q); }
