// embed: the rows of the token table that the tokens name, times a factor (ReferenceOps.embed).
//
//     x[t][d] = factor * table[token t][d]
//
// Reads: T rows of the table, whatever its type, and no other. Writes: x, T * D float32.
// Roofline: 1.2 KB in and 2.3 KB out for a row of SmolLM2-135M, so nothing but the launch, about 1 us. Wins: the token
// never leaves the GPU between two steps. Loses: nothing; the next kernel could look the row up itself (a launch less),
// but each of its blocks would do so again.
//
// Items: D / 256 of each row, rounded up; sensible grid: all of them. Shared memory: none.
#include "common.cuh"
#include "weights.cuh"

constexpr int EMBED_THREADS = 256;

template <typename Weight, int THREADS>
__device__ void embed_body(const int* tokens, const void* codes, const void* scale, const void* minimum, float factor,
                           float* x) {
    constexpr int PARTS = (D + THREADS - 1) / THREADS;
    const Weight table(codes, scale, minimum);
    for (int item = blockIdx.x; item < T * PARTS; item += gridDim.x) {
        const int t = item / PARTS, d = item % PARTS * THREADS + threadIdx.x;
        if (d < D) x[t * D + d] = factor * table.at(tokens[t], d, D);
    }
}

extern "C" __global__ void __launch_bounds__(EMBED_THREADS) embed(const int* tokens, const void* codes, const void* scale, const void* minimum, float factor, float* x) { embed_body<Weight, EMBED_THREADS>(tokens, codes, scale, minimum, factor, x); }
