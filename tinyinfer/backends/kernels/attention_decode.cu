// Attention of single rows over the paged cache: a decode step, and rows of drafts, which see each other, because the
// keys of a step are in the cache before it.
// Formula: ReferenceOps.attention; how a row's keys are shared out and added up: decode.cuh.
//
// Reads: q (T, H, E), positions (T,), slots (T,), the caches (cache.cuh), sinks (H,) or null. Writes: out (T, H, E);
// zeros for a padded row (position -1), whose cache is not looked at.
// Scratch: partial, T*H*SPLITS*(E + 2) floats; counters, T*K ints, 0 before the first launch.
// Items: T*K*SPLITS; sensible grid: as many. Shared memory: none dynamic; static 4 * QUERIES * (E + 2) * 128 / LANES.
//
// Roofline at SmolLM2-135M's shape, 256 positions, one row: 393 KB a layer are read, 0.13 us at 3 TB/s, for 0.6 MFLOP;
// so it is the chain of dependent loads (position, table, key, partial sums) that takes the time, some 3 us.
// Wins: few rows or long contexts. Loses: many rows of one sequence (a prompt), each of which reads all keys again.
#include "common.cuh"
#include "cache.cuh"
#include "decode.cuh"

constexpr int DECODE_THREADS = 128;

template <int THREADS>
__device__ void attention_decode_body(const float* q, const int* positions, const int* slots,
                                      const unsigned long long* pools, const int* places, int layer, int window,
                                      float scale, float cap, const float* sinks, float* partial, int* counters,
                                      float* out) {
    attend_in_splits<THREADS>(q, positions, window, scale, cap, sinks, partial, counters, out, [=](int t, int head) {
        return PagedKeys{cached(pools, places, layer, slots[t]), head};
    });
}

extern "C" __global__ void __launch_bounds__(DECODE_THREADS) attention_decode(const float* q, const int* positions, const int* slots, const unsigned long long* pools, const int* places, int layer, int window, float scale, float cap, const float* sinks, float* partial, int* counters, float* out) { attention_decode_body<DECODE_THREADS>(q, positions, slots, pools, places, layer, window, scale, cap, sinks, partial, counters, out); }
