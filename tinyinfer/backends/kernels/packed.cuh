// Where the keys and values of a quantized cache lie (kv_cache/quantized.py and packed_blocks.py on the host). A
// sequence's full blocks are packed: codes of BITS bits, x = scale * code + minimum. Its last, unfinished block, from
// position `first` on, and what the running step adds, are float rows of NUMBERS floats, all layers side by side.
//
// stores: [L][SLOTS][5], addresses in layer and slot: key codes (K, B, CODES), value codes (K, B, CODES), key scales
// (2, K, B, E), value scales (2, K, B, BLOCK, E / GROUP), and the layer's keys in the first float row; the values lie
// behind the keys. Scales are float16; of the 2, index 0 is the scale and 1 the minimum. places: [SLOTS][2 +
// MOST_BLOCKS], of each slot B, first, then the table of packed blocks. BLOCK: positions of a block.
#include "cache.cuh"

constexpr int PLANES = 8 / BITS;                                // codes in a byte
constexpr int CODES = (BLOCK * E * BITS + 7) / 8;               // bytes of a head's keys, or values, in a block
constexpr int OF_KEYS = E, OF_VALUES = BLOCK * (E / GROUP);     // scales of a block

struct Stored {
    unsigned char* codes[2];  // of keys, of values
    float16* scales[2];
    float* floats;
    const int* table;
    int blocks, first;
};

__device__ inline Stored stored(const unsigned long long* stores, const int* places, int layer, int slot) {
    const unsigned long long* at = stores + ((long long)layer * SLOTS + slot) * 5;
    const int* place = places + (long long)slot * (2 + MOST_BLOCKS);
    return {{(unsigned char*)at[0], (unsigned char*)at[1]}, {(float16*)at[2], (float16*)at[3]},
            (float*)at[4], place + 2, place[0], place[1]};
}

// The keys of a head at a position (its values: values = 1), among the float rows.
__device__ inline float* float_row(const Stored& store, int position, int head, int values) {
    return store.floats + (long long)(position - store.first) * NUMBERS + (values * K + head) * E;
}

// Which scale of a block number e of its position r has.
__device__ inline int scale_of(int values, int r, int e) { return values ? r * (E / GROUP) + e / GROUP : e; }
