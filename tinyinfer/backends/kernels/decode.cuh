// A row's attention, its keys split among blocks: Flash-Decoding (Dao et al. 2023), however keys are stored.
// Formula: ReferenceOps.attention, of one row: softmax(cap(scale * q.k) + mask, sink) v; the mask is "at most my
// position, and within the window".
//
// One row alone has K heads' work, and a GPU has 132 processors; so a row's keys are cut into up to SPLITS parts of
// equal length. The length is the row's own, found on the device: a captured graph need not know it. A block walks over
// its part: LANES lanes hold a key and the queries of the QUERIES heads that share it (softmax.cuh). Triples add up:
// first those of the block, then, in the block that is last to finish, those of the row. The sink comes in there, once.
//
// Items: T*K*SPLITS. Scratch: partial, T*H*SPLITS*(E + 2) floats (not used by rows of one part); counters, T*K ints, 0
// before the first launch and 0 again after each. A padded row (position -1) reads no cache and gets zeros.
#include "softmax.cuh"

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
    constexpr int LEAST = 2 * AT_ONCE * GROUPS;  // keys of a part: fewer are not worth their share of the adding up
    __shared__ float sums[GROUPS * NUMBERS], tops[GROUPS * QUERIES * 2];
    __shared__ int arrived;
    const int lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
    for (int item = blockIdx.x; item < T * K * SPLITS; item += gridDim.x) {
        const int pair = item / SPLITS, split = item % SPLITS, head = pair % K;  // pair: of a row and a key head
        const int stop = positions[pair / K] + 1, start = window > 0 && stop > window ? stop - window : 0;
        const int equal = (stop - start + SPLITS - 1) / SPLITS, share = equal > LEAST ? equal : LEAST;
        const int parts = (stop - start + share - 1) / share;  // that have keys; 0 of a padded row
        if (split > 0 && split >= parts) continue;
        const int first = start + split * share, last = first + share < stop ? first + share : stop;
        Running running[QUERIES];
#pragma unroll
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
            const int left = last - base - group, seen = (left + GROUPS - 1) / GROUPS;
#pragma unroll
            for (int g = 0; g < QUERIES; g++) running[g].meet(k, v, seen, cap);
        }
#pragma unroll
        for (int g = 0; g < QUERIES; g++) {
            const int part = group * QUERIES + g;
            running[g].store(sums + part * E, tops + part * 2, lane);
        }
        __syncthreads();
        for (int i = threadIdx.x; i < NUMBERS; i += THREADS) {
            const Triple all = add_up(sums, tops, GROUPS, i);
            if (parts < 2) out[(long long)pair * NUMBERS + i] = finished(all, sinks, head, i);
            else store(all, partial, item, i);
        }
        if (parts < 2) {
            __syncthreads();  // the sums are read before the next item overwrites them
            continue;
        }
        __threadfence();  // every thread's part is in memory before the counter says that the block is done
        __syncthreads();
        if (threadIdx.x == 0) arrived = atomicAdd(&counters[pair], 1);
        __syncthreads();
        if (arrived < parts - 1) continue;
        __threadfence();
        for (int i = threadIdx.x; i < NUMBERS; i += THREADS) {
            const long long part = (long long)pair * SPLITS * QUERIES;
            const Triple all = add_up(partial + part * E, tops_of(partial) + part * 2, parts, i);
            out[(long long)pair * NUMBERS + i] = finished(all, sinks, head, i);
        }
        if (threadIdx.x == 0) counters[pair] = 0;
    }
}
