// Packs the blocks that the rows of a step fill, before attention reads them: codes, scales and minimums are the same,
// bit by bit, as the host's. Keys have a scale for each channel of a block, values one for each position and group.
// Formula: packed_blocks.quantize and packing.pack.
//     minimum = the largest float16 that is <= min x       scale = the smallest one that is >= (max x - minimum) / most
//     code = rint((x - minimum) / scale), from 0 to most = 2^BITS - 1
//
// Reads: positions (T,), slots (T,) and the float rows of the blocks. Writes: their packed codes and scales (packed.cuh).
// A row that does not end a block, or is padded (position -1), does nothing.
// Items: T * K * 2 (keys, values); sensible grid: as many. Static shared memory: 8 bytes for each scale of a block.
//
// Roofline at SmolLM2-135M's shape, blocks of 16, 8 bits: a row that fills a block reads 24.6 KB and writes 7.3 KB in a
// layer; one step in 16 does it. It is a launch's latency, 2 us, that it costs, in the 15 other steps as well.
// Wins: a step reads a third of the keys' bytes. Loses: at short contexts, where bytes are not what a step waits for.
#include "common.cuh"
#include "packed.cuh"

constexpr int PACK_THREADS = 128;
constexpr float HALF_MOST = 65504;  // of float16

// The smallest float16 that is no smaller than x, within the range of float16.
__device__ inline float16 half_above(float x) {
    x = x < -HALF_MOST ? -HALF_MOST : x > HALF_MOST ? HALF_MOST : x;
    float16 half = from_float<float16>(x);
    // The next one up: of negative numbers the bits count downwards, from the smallest one down to -0.
    if (to_float(half) < x) half.bits += half.bits & 0x8000 ? -1 : 1;
    return half;
}

template <int THREADS>
__device__ void pack_block_body(const int* positions, const int* slots, const unsigned long long* stores,
                                const int* places, int layer) {
    constexpr int SCALES = OF_KEYS > OF_VALUES ? OF_KEYS : OF_VALUES, MOST = (1 << BITS) - 1;
    __shared__ float minimums[SCALES], divisors[SCALES];
    for (int item = blockIdx.x; item < T * K * 2; item += gridDim.x) {
        const int t = item / (2 * K), head = item / 2 % K, values = item % 2, stop = positions[t] + 1;
        if (stop == 0 || stop % BLOCK != 0) continue;
        const Stored store = stored(stores, places, layer, slots[t]);
        const float* from = float_row(store, stop - BLOCK, head, values);
        const int id = store.table[stop / BLOCK - 1], scales = values ? OF_VALUES : OF_KEYS;
        for (int i = threadIdx.x; i < scales; i += THREADS) {
            const float* x = values ? from + i / (E / GROUP) * (long long)NUMBERS + i % (E / GROUP) * GROUP : from + i;
            float low = x[0], high = x[0];
            for (int j = 1; j < (values ? GROUP : BLOCK); j++) {
                const float next = x[values ? j : j * (long long)NUMBERS];
                low = next < low ? next : low, high = next > high ? next : high;
            }
            float16 minimum = half_above(-low);
            minimum.bits ^= 0x8000;  // rounded down: its negative was rounded up
            const float16 scale = half_above((high - to_float(minimum)) / MOST);
            minimums[i] = to_float(minimum), divisors[i] = to_float(scale) == 0 ? 1 : to_float(scale);
            const long long place = ((long long)head * store.blocks + id) * scales + i;
            store.scales[values][place] = scale;
            store.scales[values][(long long)K * store.blocks * scales + place] = minimum;
        }
        __syncthreads();
        for (int c = threadIdx.x; c < CODES; c += THREADS) {
            unsigned packed = 0;
            for (int plane = 0; plane < PLANES; plane++) {
                const int n = plane * CODES + c, r = n / E, e = n % E;
                if (n >= BLOCK * E) break;
                const int i = scale_of(values, r, e);
                const float code = rintf((from[r * (long long)NUMBERS + e] - minimums[i]) / divisors[i]);
                packed |= (unsigned)(code < 0 ? 0 : code > MOST ? MOST : code) << (plane * BITS);
            }
            store.codes[values][((long long)head * store.blocks + id) * CODES + c] = (unsigned char)packed;
        }
        __syncthreads();  // the codes are made before the next item overwrites the scales
    }
}

extern "C" __global__ void __launch_bounds__(PACK_THREADS) pack_block(const int* positions, const int* slots, const unsigned long long* stores, const int* places, int layer) { pack_block_body<PACK_THREADS>(positions, slots, stores, places, layer); }
