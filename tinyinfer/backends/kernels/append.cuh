// A row's queries and keys are normed and turned, its keys and values go to the cache, however the cache stores them.
// Formula: ReferenceOps.norm (rms_norm of each head) and .rope, then KVCache.append.
//
// A warp has a head; its lane l computes the pairs l, l + 32, ... The mean of squares is one sum over the warp. The
// cosines are computed again for each head: free, as memory is waited for anyway.
// Items: T * (H + 2K), one for each warp. A padded row (position -1) is skipped.
#include "rope.cuh"

// place_of(t, position, head, values) is where the E numbers of a key head's keys (its values: values = 1) go.
template <int THREADS, typename PlaceOf>
__device__ inline void norm_rope_append(const float* qkv, const float* qk_norm, float qk_eps, const int* positions,
                                        const int* sets, const float* frequencies, const float* amplitudes, float* q,
                                        PlaceOf place_of) {
    constexpr int HEADS = H + 2 * K, HALF = E / 2, WARPS = THREADS / 32;
    const int lane = threadIdx.x % 32;
    for (int item = blockIdx.x * WARPS + threadIdx.x / 32; item < T * HEADS; item += gridDim.x * WARPS) {
        const int t = item / HEADS, head = item % HEADS, position = positions[t];
        if (position < 0) continue;
        const float* from = qkv + (long long)item * E;
        const bool values = head >= H + K;
        float* to = q + ((long long)t * H + head) * E;
        if (head >= H) to = place_of(t, position, values ? head - H - K : head - H, values);
        float squares = 0, inverse = 1;
        for (int e = lane; e < E; e += 32) squares += from[e] * from[e];
        if (qk_norm) inverse = 1 / sqrtf(warp_sum(squares) / E + qk_eps);
        for (int e = lane; e < HALF; e += 32) {
            float x = from[e], y = from[e + HALF];
            if (!values) {
                if (qk_norm) x *= inverse * qk_norm[head * E + e], y *= inverse * qk_norm[head * E + HALF + e];
                const int i = sets[t] * HALF + e;
                const Turn turn = turn_of(position, frequencies[i], amplitudes[i]);
                const float turned = turn.first(x, y);
                y = turn.second(x, y), x = turned;
            }
            to[e] = x, to[e + HALF] = y;
        }
    }
}
