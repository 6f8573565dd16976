// A row's attention, its keys split among blocks: Flash-Decoding (Dao et al. 2023), for any way in which keys are stored.
// Formula: ReferenceOps.attention, of one row: softmax(cap(scale * q.k) + mask, sink) v; the mask is "at most my
// position, and within the window".
//
// One row alone has K heads' work, and a GPU has 132 processors; so a row's keys are cut into SPLITS shares of equal
// length. The length is the row's own, found on the device: a captured graph need not know it. A block walks over its
// share: LANES lanes hold a key, the queries of the QUERIES heads that share it, and a running softmax: (largest score
// m, sum of exp(s - m), the same sum weighted by values). Such triples add up in any order: first those of the block,
// then, in the block that is last to finish, those of the row. The sink comes in there, once.
//
// Items: T*K*SPLITS. Scratch: partial, T*H*SPLITS*(E + 2) floats (not used at SPLITS 1); counters, T*K ints, 0 before
// the first launch and 0 again after each. A padded row (position -1) reads no cache and gets zeros.
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

    __device__ void meet(const Chunk* k, const Chunk* v, bool seen, float cap) {
        float s = 0;
        for (int j = 0; j < PER_LANE; j++)
            for (int i = 0; i < CHUNK; i++) s += query[j].at[i] * k[j].at[i];
        s = capped(warp_sum<LANES>(s), cap);
        const float higher = seen ? fmaxf(most, s) : most, keep = expf(most - higher);
        const float weight = seen ? expf(s - higher) : 0;
        most = higher, total = total * keep + weight;
        for (int j = 0; j < PER_LANE; j++)
            for (int i = 0; i < CHUNK; i++) sum[j].at[i] = sum[j].at[i] * keep + weight * v[j].at[i];
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
    for (int n = 0; n < parts; n++) all.most = fmaxf(all.most, tops[(n * QUERIES + i / E) * 2]);
    for (int n = 0; n < parts; n++) {
        const float* top = tops + (n * QUERIES + i / E) * 2;
        const float share = expf(top[0] - all.most);
        all.total += share * top[1];
        all.sum += share * sums[n * QUERIES * E + i];
    }
    return all;
}

// The softmax's denominator, a sink's share included; a row that met no key (a padded one) gives 0.
__device__ inline float finished(const Triple& all, const float* sinks, int head, int i) {
    const float sink = sinks ? expf(sinks[head * QUERIES + i / E] - all.most) : 0;
    return all.total == 0 ? 0 : all.sum / (all.total + sink);
}

__device__ inline float* tops_of(float* partial) { return partial + (long long)T * H * SPLITS * E; }

__device__ inline void store(const Triple& all, float* partial, int item, int i) {
    const long long part = (long long)item * QUERIES + i / E;
    partial[part * E + i % E] = all.sum;
    if (i % E == 0) tops_of(partial)[part * 2] = all.most, tops_of(partial)[part * 2 + 1] = all.total;
}

// keys_of(t, head) gives what finds and loads keys and values: .row(position), .key(row, chunk) and .value(row, chunk).
template <int THREADS, typename KeysOf>
__device__ inline void attend_in_splits(const float* q, const int* positions, int window, float scale, float cap,
                                        const float* sinks, float* partial, int* counters, float* out, KeysOf keys_of) {
    constexpr int GROUPS = THREADS / LANES, NUMBERS = QUERIES * E;  // of lanes; of a key head's queries
    __shared__ float sums[GROUPS * NUMBERS], tops[GROUPS * QUERIES * 2];
    __shared__ int arrived;
    const int lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
    for (int item = blockIdx.x; item < T * K * SPLITS; item += gridDim.x) {
        const int pair = item / SPLITS, split = item % SPLITS, head = pair % K;  // pair: of a row and a key head
        const int stop = positions[pair / K] + 1, start = window > 0 && stop > window ? stop - window : 0;
        const int share = (stop - start + SPLITS - 1) / SPLITS, first = start + split * share;
        const int last = first + share < stop ? first + share : stop;
        Running running[QUERIES];
        for (int g = 0; g < QUERIES; g++) running[g].begin(q + ((long long)pair * QUERIES + g) * E, lane, scale);
        for (int base = first; base < last; base += AT_ONCE * GROUPS) {
            const auto keys = keys_of(pair / K, head);
            Chunk k[AT_ONCE][PER_LANE], v[AT_ONCE][PER_LANE];
#pragma unroll
            for (int u = 0; u < AT_ONCE; u++) {
                const int p = base + u * GROUPS + group;
                const auto row = keys.row(p < last ? p : last - 1);  // lanes without a key load another
                for (int j = 0; j < PER_LANE; j++) {
                    const int c = lane + j * LANES < CHUNKS ? lane + j * LANES : 0;  // their queries are 0
                    k[u][j] = keys.key(row, c), v[u][j] = keys.value(row, c);
                }
            }
#pragma unroll
            for (int u = 0; u < AT_ONCE; u++)
                for (int g = 0; g < QUERIES; g++) running[g].meet(k[u], v[u], base + u * GROUPS + group < last, cap);
        }
        for (int g = 0; g < QUERIES; g++) {
            const int part = group * QUERIES + g;
            running[g].store(sums + part * E, tops + part * 2, lane);
        }
        __syncthreads();
        for (int i = threadIdx.x; i < NUMBERS; i += THREADS) {
            const Triple all = add_up(sums, tops, GROUPS, i);
            if (SPLITS == 1) out[(long long)pair * NUMBERS + i] = finished(all, sinks, head, i);
            else store(all, partial, item, i);
        }
        if (SPLITS == 1) {
            __syncthreads();  // the sums are read before the next item overwrites them
            continue;
        }
        __threadfence();  // every thread's part is in memory before the counter says that the block is done
        __syncthreads();
        if (threadIdx.x == 0) arrived = atomicAdd(&counters[pair], 1);
        __syncthreads();
        if (arrived < SPLITS - 1) continue;
        __threadfence();
        for (int i = threadIdx.x; i < NUMBERS; i += THREADS) {
            const long long part = (long long)pair * SPLITS * QUERIES;
            const Triple all = add_up(partial + part * E, tops_of(partial) + part * 2, SPLITS, i);
            out[(long long)pair * NUMBERS + i] = finished(all, sinks, head, i);
        }
        if (threadIdx.x == 0) counters[pair] = 0;
    }
}
