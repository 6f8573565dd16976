// rms_qkv_rope_append: all of attention that comes before the scores, in one kernel (ReferenceOps.rms_norm, .linear,
// .cos_sin and .rope, then KVCache.append).
//
//     qkv = rms(x[t]) W^T + bias; queries and keys are turned by the row's position; keys and values are appended
//
// Reads: the weight ((H + 2K) * E, D) once, x, norm and bias (both may be null), positions, slots, sets (T,),
// frequencies and amplitudes (Z, E/2). Writes: q (T, H, E), and one row of keys and of values of each key head
// (cache.cuh). A padded row (position -1) writes nothing. How: product.cuh; lanes compute numbers e and e + E/2 of a
// head together, the pair that rope turns, so that qkv never leaves the registers.
// Roofline: memory-bound. SmolLM2-135M in bfloat16: 1.1 MB, 0.3 us at 3.35 TB/s. Wins: four launches become one, each
// worth about 2 us. Loses: where heads have norms, which need a whole head (rms_product, then qk_norm_rope_append).
//
// Items, grid and dynamic shared memory: product.cuh says, with M = D and (H + 2K) * E/2 groups.
#include "common.cuh"
#include "weights.cuh"
#include "product.cuh"
#include "cache.cuh"
#include "rope.cuh"

template <typename Weight, typename Wait = AtOnce>
__device__ void rms_qkv_rope_append_body(const float* x, const float* norm, const void* codes, const void* scale,
                                         const void* minimum, const float* bias, const int* positions, const int* slots,
                                         const int* sets, const float* frequencies, const float* amplitudes,
                                         const unsigned long long* pools, const int* places, int layer, float* q,
                                         Wait wait = Wait()) {
    constexpr int HALF = E / 2;
    const auto row_at = [](int pair, int j) { return pair / HALF * E + pair % HALF + j * HALF; };
    const auto write = [&](int t, int pair, const float (&values)[2]) {
        const int head = pair / HALF, e = pair % HALF, position = positions[t];
        if (position < 0) return;
        float a = values[0] + (bias ? bias[row_at(pair, 0)] : 0.0f);
        float b = values[1] + (bias ? bias[row_at(pair, 1)] : 0.0f);
        float* to = q + (t * H + head) * E;
        if (head >= H) {
            const Cached cache = cached(pools, places, layer, slots[t]);
            const long long place = place_of(cache, (head - H) % K, row_of(cache, position), 0);
            to = (head < H + K ? cache.keys : cache.values) + place;
        }
        if (head < H + K) {
            const int i = sets[t] * HALF + e;
            const Turn turn = turn_of(position, frequencies[i], amplitudes[i]);
            const float first = turn.first(a, b);
            b = turn.second(a, b), a = first;
        }
        to[e] = a, to[e + HALF] = b;
    };
    product<Weight, D, 2, (H + 2 * K) * HALF>(x, norm, Weight(codes, scale, minimum), row_at, write, wait);
}

extern "C" __global__ void __launch_bounds__(PRODUCT_THREADS, 1) rms_qkv_rope_append(const float* x, const float* norm, const void* codes, const void* scale, const void* minimum, const float* bias, const int* positions, const int* slots, const int* sets, const float* frequencies, const float* amplitudes, const unsigned long long* pools, const int* places, int layer, float* q) { rms_qkv_rope_append_body<Weight>(x, norm, codes, scale, minimum, bias, positions, slots, sets, frequencies, amplitudes, pools, places, layer, q); }
