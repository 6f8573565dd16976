// Queries and keys are normed and turned, keys and values go to the float rows of a quantized cache: rows stay floats
// until their block is full (pack_block.cu) and committed, because the rows of rejected drafts are rolled back.
// Formula: ReferenceOps.norm (rms_norm of each head) and .rope, then QuantizedCache.append without its packing.
//
// Reads: qkv (T, H + 2K, E), qk_norm (H + K, E) or null (no norm), positions, slots, sets (T,), frequencies and
// amplitudes (Z, E/2). Writes: q (T, H, E) and the keys and values of the rows in the layer's columns of the sequences'
// float rows (packed.cuh). A padded row (position -1) is skipped.
// Items: T * (H + 2K), one for each warp; sensible grid: a quarter of it. No shared memory.
//
// How: append.cuh, with the float rows as places. Roofline as qk_norm_rope_append.cu's: 7.7 KB a row and layer.
// Wins: any kind of layer, for one launch. Loses: a float row is as wide as all layers together, so that one layer's
// part of neighbouring positions is far apart; 768 bytes at a time are read and written for that.
#include "common.cuh"
#include "packed.cuh"
#include "append.cuh"

constexpr int APPEND_THREADS = 128;

template <int THREADS>
__device__ void append_float_rows_body(const float* qkv, const float* qk_norm, float qk_eps, const int* positions,
                                       const int* slots, const int* sets, const float* frequencies,
                                       const float* amplitudes, const unsigned long long* stores, const int* places,
                                       int layer, float* q) {
    norm_rope_append<THREADS>(qkv, qk_norm, qk_eps, positions, sets, frequencies, amplitudes, q,
                              [=](int t, int position, int head, bool values) {
        return float_row(stored(stores, places, layer, slots[t]), position, head, values);
    });
}

extern "C" __global__ void __launch_bounds__(APPEND_THREADS, 2) append_float_rows(const float* qkv, const float* qk_norm, float qk_eps, const int* positions, const int* slots, const int* sets, const float* frequencies, const float* amplitudes, const unsigned long long* stores, const int* places, int layer, float* q) { append_float_rows_body<APPEND_THREADS>(qkv, qk_norm, qk_eps, positions, slots, sets, frequencies, amplitudes, stores, places, layer, q); }
