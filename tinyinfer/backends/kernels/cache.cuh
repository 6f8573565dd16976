// Where the keys and values of a position lie: the paged cache as kernels see it (kv_cache/paged.py is the same on the
// host). A layer's pool is (K, P, E): of each key head P rows of E numbers. A sequence holds blocks of b rows each, and
// its table says which: position p lies in row table[p / b] * b + p % b. A contiguous cache is a table of one block.
//
// pools: [L][SLOTS][2], addresses of the keys and the values of layer and slot. places: [SLOTS][2 + MOST_BLOCKS], of
// each slot P, b, then the table. A slot is a sequence's seat in the batch, so the addresses change only with the batch
// and a captured graph reads them from memory.
#include "common.cuh"

struct Cached {
    float* keys;
    float* values;
    const int* table;
    int rows, block;
};

__device__ inline Cached cached(const unsigned long long* pools, const int* places, int layer, int slot) {
    const unsigned long long* pair = pools + ((long long)layer * SLOTS + slot) * 2;
    const int* place = places + (long long)slot * (2 + MOST_BLOCKS);
    return {(float*)pair[0], (float*)pair[1], place + 2, place[0], place[1]};
}

// The pool's row of a position.
__device__ inline long long row_of(const Cached& cache, int position) {
    return (long long)cache.table[position / cache.block] * cache.block + position % cache.block;
}

// The place in a pool of number e of a key head's row.
__device__ inline long long place_of(const Cached& cache, int head, long long row, int e) {
    return ((long long)head * cache.rows + row) * E + e;
}

// Query heads that share a key head are neighbours: query head h reads key head h / QUERIES.
constexpr int QUERIES = H / K;

// Numbers of a head that lie side by side and are loaded at once: 16 bytes a lane where E allows.
constexpr int CHUNK = E % 4 == 0 ? 4 : E % 2 == 0 ? 2 : 1;
constexpr int CHUNKS = E / CHUNK;

struct alignas(4 * CHUNK) Chunk {
    float at[CHUNK];
};

__device__ inline Chunk load_chunk(const float* from) { return *(const Chunk*)from; }

// Below every score, and finite: a difference of two of them is 0 and no NaN.
constexpr float LOWEST = -3.4e38f;

// A score as heads.py has it: limit * tanh(x / limit), the limit 0 for none.
__device__ inline float capped(float x, float limit) { return limit > 0 ? limit * tanhf(x / limit) : x; }

// A key head's rows in the pools of one sequence.
struct PagedKeys {
    Cached cache;
    int head;

    __device__ long long row(int position) const { return place_of(cache, head, row_of(cache, position), 0); }
    __device__ Chunk key(long long row, int c) const { return load_chunk(cache.keys + row + c * CHUNK); }
    __device__ Chunk value(long long row, int c) const { return load_chunk(cache.values + row + c * CHUNK); }
};
