// A tile of TILE queries meets a tile of KEYS keys in shared memory: the two small products inside FlashAttention (Dao
// et al. 2022), scores = q kT and sum += weights v, on CUDA cores in float32.
//
// The threads form a grid of 8 lines by 16 columns. Of a tile's scores, thread (l, c) computes the rows l, l + 8, ...
// and the keys c, c + 16; of its output the same rows and the numbers of the groups of four c, c + 16, ...: whatever a
// thread reads from shared memory, it uses several times. The rows of shared memory are 4 numbers longer than needed,
// so that 8 lanes that read neighbouring rows meet different banks.
#include "cache.cuh"

constexpr int PREFILL_THREADS = 128;
constexpr int KEYS = 32, COLUMNS = 16, LINES = PREFILL_THREADS / COLUMNS;
constexpr int ROWS = TILE / LINES, SCORES = KEYS / COLUMNS;     // of a thread: rows, and scores in each
constexpr int FOURS = (E + 3) / 4, STRIDE = 4 * FOURS + 4;      // groups of four in a row; a row of shared memory
constexpr int PARTS = (FOURS + COLUMNS - 1) / COLUMNS;          // such groups of a thread

struct alignas(16) Four {
    float at[4];
};

// Copies chunk c of a row of E numbers to shared memory; zeros where there is no such row or no such chunk.
__device__ inline void fill(float* to, const float* from, int c) {
    const Chunk chunk = from && c < CHUNKS ? load_chunk(from + c * CHUNK) : Chunk{};
    *(Chunk*)(to + c * CHUNK) = chunk;
}

// scores = q kT of a tile of queries and a tile of keys.
__device__ inline void score(const float* queries, const float* keys, float scores[ROWS][SCORES]) {
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < SCORES; j++) scores[r][j] = 0;
#pragma unroll 1  // unrolled, the loops ask for more registers than there are
    for (int f = 0; f < FOURS; f++) {
        Four k[SCORES];
        for (int j = 0; j < SCORES; j++) k[j] = *(const Four*)(keys + j * COLUMNS * STRIDE + 4 * f);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const Four q = *(const Four*)(queries + r * LINES * STRIDE + 4 * f);
            for (int j = 0; j < SCORES; j++)
                for (int i = 0; i < 4; i++) scores[r][j] += q.at[i] * k[j].at[i];
        }
    }
}

// sum += weights v.
__device__ inline void mix(const float* weights, const float* values, int column, Four sum[ROWS][PARTS]) {
#pragma unroll 1
    for (int n = 0; n < KEYS; n += 4) {
        Four w[ROWS];
        for (int r = 0; r < ROWS; r++) w[r] = *(const Four*)(weights + r * LINES * (KEYS + 4) + n);
#pragma unroll
        for (int i = 0; i < 4; i++)
            for (int part = 0; part < PARTS; part++) {
                const int f = column + part * COLUMNS;
                const Four v = *(const Four*)(values + (n + i) * STRIDE + 4 * (f < FOURS ? f : 0));
                for (int r = 0; r < ROWS; r++)
                    for (int e = 0; e < 4; e++) sum[r][part].at[e] += w[r].at[i] * v.at[e];
            }
    }
}
