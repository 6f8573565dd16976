// A softmax in parts: (largest score m, sum of exp(s - m), the same sum weighted by values) of some keys (Milakov &
// Gimelshein 2018). Two such triples make one: the smaller m's sums are multiplied by exp(m - the larger m). So lanes,
// warps and blocks each walk over keys of their own, and the triples add up in any order.
//
// LANES neighbouring lanes share a key: each holds PER_LANE chunks of 16 bytes of it, of the query and of the sum of
// values; the score is one sum over the lanes.
#include "cache.cuh"

constexpr int LANES = CHUNKS > 16 ? 32 : CHUNKS > 8 ? 16 : CHUNKS > 4 ? 8 : CHUNKS > 2 ? 4 : 2;  // of one key
constexpr int PER_LANE = (CHUNKS + LANES - 1) / LANES;                                           // chunks of a lane
constexpr int AT_ONCE = 2;  // keys that a lane loads before it computes

// One query's softmax over the keys that a lane has met, with the lane's chunks of the sum of values.
struct Running {
    float most, total;
    Chunk query[PER_LANE], sum[PER_LANE];

    __device__ void begin(const float* from, int lane, float scale) {
        most = LOWEST, total = 0;
        for (int j = 0; j < PER_LANE; j++) {
            const int c = lane + j * LANES;
            const Chunk chunk = load_chunk(from + (c < CHUNKS ? c : 0) * CHUNK);
            for (int i = 0; i < CHUNK; i++) query[j].at[i] = c < CHUNKS ? chunk.at[i] * scale : 0, sum[j].at[i] = 0;
        }
    }

    // Meets the first `seen` of AT_ONCE keys; at the end of a part there are fewer.
    __device__ void meet(const Chunk (*k)[PER_LANE], const Chunk (*v)[PER_LANE], int seen, float cap) {
        float s[AT_ONCE] = {}, higher = most;
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            for (int j = 0; j < PER_LANE; j++)
                for (int i = 0; i < CHUNK; i++) s[u] += query[j].at[i] * k[u][j].at[i];
            s[u] = capped(warp_sum<LANES>(s[u]), cap);
            if (u < seen) higher = fmaxf(higher, s[u]);
        }
        const float keep = expf(most - higher);
        most = higher, total *= keep;
        for (int j = 0; j < PER_LANE; j++)
            for (int i = 0; i < CHUNK; i++) sum[j].at[i] *= keep;
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            const float weight = u < seen ? expf(s[u] - higher) : 0;
            total += weight;
            for (int j = 0; j < PER_LANE; j++)
                for (int i = 0; i < CHUNK; i++) sum[j].at[i] += weight * v[u][j].at[i];
        }
    }

    __device__ void store(float* sums, float* top, int lane) const {
        for (int j = 0; j < PER_LANE; j++)
            for (int i = 0, c = lane + j * LANES; i < CHUNK; i++)
                if (c < CHUNKS) sums[c * CHUNK + i] = sum[j].at[i];
        if (lane == 0) top[0] = most, top[1] = total;
    }
};

struct Triple {
    float most, total, sum;
};

// Adds up the triples of some parts, for number i of the (QUERIES, E) numbers of a key head.
__device__ inline Triple add_up(const float* sums, const float* tops, int parts, int i) {
    Triple all = {LOWEST, 0, 0};
#pragma unroll 8
    for (int n = 0; n < parts; n++) all.most = fmaxf(all.most, tops[(n * QUERIES + i / E) * 2]);
#pragma unroll 8
    for (int n = 0; n < parts; n++) {
        const float* top = tops + (n * QUERIES + i / E) * 2;
        const float share = expf(top[0] - all.most);
        all.total += share * top[1];
        all.sum += share * sums[n * QUERIES * E + i];
    }
    return all;
}
