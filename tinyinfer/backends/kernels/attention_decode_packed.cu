// Attention of single rows over a quantized cache: as attention_decode.cu, but full blocks are read as codes of 8, 4 or
// 2 bits, and only the row's own block, with what has no packed form yet, as floats.
// Formula: ReferenceOps.attention over QuantizedCache.read; how a row's keys are shared out: decode.cuh.
//
// Reads: q (T, H, E), positions (T,), slots (T,), the caches (packed.cuh), sinks (H,) or null. Writes: out (T, H, E);
// zeros for a padded row (position -1). Blocks that this step fills must be packed before (pack_block.cu).
// Scratch: partial, T*H*SPLITS*(E + 2) floats; counters, T*K ints, 0 before the first launch.
// Items: T*K*SPLITS; sensible grid: as many. Shared memory: none dynamic; static 4 * QUERIES * (E + 2) * 128 / LANES.
//
// Four neighbouring codes lie in four neighbouring bytes, at the same bits (packing.py), so a lane's chunk is one load
// of 4 bytes, a shift and a mask; a block's scales stay in L1 while its keys are read.
// Roofline at SmolLM2-135M's shape, 16 positions a block, groups of 32: a position takes 456 bytes a layer at 8 bits
// instead of 1,536, 264 at 4 and 168 at 2. At 256 rows of 512 positions, where keys and values are most of what a step
// reads, that is 20 us a layer at 3 TB/s, not 67.
// Wins: long contexts in large batches, and memory for more of them. Loses: precision (packed_blocks.py says how much).
#include "common.cuh"
#include "packed.cuh"
#include "decode.cuh"

constexpr int DECODE_THREADS = 128;

// A key head's rows of one sequence, as a row at `position` sees them: packed before `edge`.
struct PackedKeys {
    Stored store;
    int head, edge;

    struct Row {
        int id, r, position;  // block and row in it; id -1: a float row
    };
    __device__ Row row(int p) const { return {p < edge ? store.table[p / BLOCK] : -1, p % BLOCK, p}; }
    __device__ Chunk key(Row row, int c) const { return load(row, c, 0); }
    __device__ Chunk value(Row row, int c) const { return load(row, c, 1); }

    __device__ Chunk load(Row row, int c, int values) const {
        if (row.id < 0) return load_chunk(float_row(store, row.position, head, values) + c * CHUNK);
        const long long block = (long long)head * store.blocks + row.id;
        const int scales = values ? OF_VALUES : OF_KEYS, n = row.r * E + c * CHUNK;
        const unsigned char* codes = store.codes[values] + block * CODES;
        const float16* scale = store.scales[values] + block * scales;
        const float16* minimum = scale + (long long)K * store.blocks * scales;
        unsigned word = 0;
        if constexpr (CHUNK == 4 && CODES % 4 == 0) word = *(const unsigned*)(codes + n % CODES) >> n / CODES * BITS;
        Chunk chunk;
        for (int i = 0; i < CHUNK; i++) {
            const int m = n + i, s = scale_of(values, row.r, c * CHUNK + i);
            unsigned code = word >> 8 * i;
            if constexpr (CHUNK != 4 || CODES % 4 != 0) code = codes[m % CODES] >> m / CODES * BITS;
            chunk.at[i] = to_float(scale[s]) * (float)(code & ((1u << BITS) - 1)) + to_float(minimum[s]);
        }
        return chunk;
    }
};

template <int THREADS>
__device__ void attention_decode_packed_body(const float* q, const int* positions, const int* slots,
                                             const unsigned long long* stores, const int* places, int layer,
                                             int window, float scale, float cap, const float* sinks, float* partial,
                                             int* counters, float* out) {
    attend_in_splits<THREADS>(q, positions, window, scale, cap, sinks, partial, counters, out, [=](int t, int head) {
        const Stored store = stored(stores, places, layer, slots[t]);
        const int own = positions[t] / BLOCK * BLOCK;  // where the row's own block begins
        return PackedKeys{store, head, own > store.first ? own : store.first};
    });
}

extern "C" __global__ void __launch_bounds__(DECODE_THREADS) attention_decode_packed(const float* q, const int* positions, const int* slots, const unsigned long long* stores, const int* places, int layer, int window, float scale, float cap, const float* sinks, float* partial, int* counters, float* out) { attention_decode_packed_body<DECODE_THREADS>(q, positions, slots, stores, places, layer, window, scale, cap, sinks, partial, counters, out); }
