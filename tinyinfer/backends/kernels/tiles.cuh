// Tiles of x and of a weight as halves in shared memory, for tensor cores: their shape, and how they get there.
//
// A tile of a weight is 4096 numbers, TILE inputs of COLUMNS outputs; beside it lie the same inputs of ROWS rows of x.
// It lies in chunks of 32 inputs, of each row 64 bytes, in units of 8 inputs. Eight neighbouring lanes, whose accesses
// of 16 bytes are served together, then touch 128 bytes in a row, which are all 32 banks: no padding is needed.
//
// A tile passes through registers: they are loaded while the tile before is multiplied, and stored after it. On the way
// float32 activations are normalized and rounded, and packed codes become numbers. Of packed rows a tile takes whole
// bytes, and so neighbouring inputs from each of the PLANES planes: a sum over inputs may be taken in any order.
#include "common.cuh"
#include "weights.cuh"
#include "mma.cuh"

constexpr int BATCH_THREADS = 256, PROCESSORS = 132;  // of an H100

// What tensor cores multiply, and the bytes of a row of M weights.
template <typename Weight, int M> struct Stored;
template <typename Number, int M> struct Stored<Dense<Number>, M> {
    using Half = Number;
    static constexpr int BYTES = M * sizeof(Number);
};
template <int BITS, int GROUP, bool SYMMETRIC, int M> struct Stored<Packed<BITS, GROUP, SYMMETRIC>, M> {
    using Half = bfloat16;
    static constexpr int BYTES = filled(M) / 8 * BITS;
};

// The shape with which the busiest of the processors reads the fewest bytes for each input: 4 of x, 2 of a weight.
struct Shape { int rows, columns; };
__device__ constexpr Shape shape_of(int outputs, int most) {
    Shape best = {16, 16};
    long long least = 1ll << 60;
    for (int rows = 16; rows <= most && rows < 2 * T; rows *= 2)
        for (int columns = rows; columns <= most; columns *= 2) {
            const long long tiles = (long long)((T + rows - 1) / rows) * ((outputs + columns - 1) / columns);
            const long long bytes = (tiles + PROCESSORS - 1) / PROCESSORS * (4 * rows + 2 * columns);
            if (bytes < least) least = bytes, best = {rows, columns};
        }
    return best;
}

template <int N> struct alignas(4 * N) Run { float at[N]; };

template <typename Half> __device__ inline uint4 eight(const float (&n)[8]) {
    return {pair_of<Half>(n[0], n[1]), pair_of<Half>(n[2], n[3]), pair_of<Half>(n[4], n[5]), pair_of<Half>(n[6], n[7])};
}

// The tiles of a product with M inputs and N outputs. GATED: its columns are 8 of gate, the same 8 of up, 8 of gate ...
template <typename Weight, int M, int N, bool GATED> struct Tiles {
    using Part = Piece<Weight, M>;
    using Half = typename Stored<Weight, M>::Half;
    static_assert(sizeof(Half) == 2, "tensor cores multiply halves: products with float32 weights are left to cuBLAS");
    static constexpr int CODES = Part::CODES, EACH = CODES * Part::PLANES;  // numbers in a piece
    static constexpr Shape SHAPE = shape_of(N, EACH > 32 ? 4096 / EACH : 128);
    static constexpr int ROWS = SHAPE.rows, COLUMNS = SHAPE.columns, TILE = 4096 / COLUMNS, CHUNKS = TILE / 32;
    static constexpr int STEPS = (Part::PIECES * EACH + TILE - 1) / TILE;
    static constexpr int RUN = power_of_two_in(M, power_of_two_in(CODES, 4));  // inputs that one load brings
    static constexpr int UNITS = ROWS * TILE / 8, PIECES = 4096 / EACH;  // of a tile, x's and the weight's
    static constexpr int HELD_UNITS = (UNITS + BATCH_THREADS - 1) / BATCH_THREADS;  // by one thread
    static constexpr int HELD_PIECES = (PIECES + BATCH_THREADS - 1) / BATCH_THREADS;
    static constexpr int BESIDE = EACH < 32 ? 32 / EACH : 1;  // pieces of a row that are neighbours in a chunk
    Run<RUN> x[HELD_UNITS][8 / RUN];
    Part pieces[HELD_PIECES];

    // Where eight inputs of a row of a chunk lie: a unit. Tiles of x and of the weight have other numbers of rows.
    static __device__ int place(int rows, int chunk, int row, int part) { return (chunk * rows + row) * 4 + part; }

    // The input that is number i of a step's tile; -1 behind the last one.
    static __device__ int input_of(int step, int i) {
        const int piece = (step * TILE + i) / EACH, plane = i % EACH / CODES;
        const int input = plane * (Part::INPUTS / Part::PLANES) + piece * CODES + i % CODES;
        return piece < Part::PIECES && input < M ? input : -1;
    }
    // The weight's row that is a column of a tile; -1 beyond the last one.
    static __device__ int output_of(int tile, int column) {
        if (!GATED) return tile * COLUMNS + column < N ? tile * COLUMNS + column : -1;
        const int n = tile * (COLUMNS / 2) + column / 16 * 8 + column % 8;
        return n < N / 2 ? n + column % 16 / 8 * (N / 2) : -1;
    }

    // Asks for a tile's weights, all of their inputs, to come nearer: into L2.
    static __device__ void expect(const void* codes, int tile) {
        constexpr int BYTES = Stored<Weight, M>::BYTES, LINES = (BYTES + 127) / 128;
        for (int i = threadIdx.x; i < COLUMNS * LINES; i += BATCH_THREADS) {
            const int n = output_of(tile, i / LINES);
            const char* line = (const char*)codes + (long long)n * BYTES + i % LINES * 128;
#ifdef __CUDA_ARCH__
            if (n >= 0) asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
#endif
        }
    }

    // The weight's share of this thread: pieces h = 0, 1 ..., each of a column, its first number somewhere in the tile.
    static __device__ int unit_of(int h) { return threadIdx.x + h * BATCH_THREADS; }
    static __device__ int column_of(int unit) { return unit / BESIDE % COLUMNS; }
    static __device__ int number_of(int unit) { return (unit / BESIDE / COLUMNS * BESIDE + unit % BESIDE) * EACH; }
    static __device__ bool exists(int tile, int step, int unit) {
        const int piece = (step * TILE + number_of(unit)) / EACH;
        return unit < PIECES && output_of(tile, column_of(unit)) >= 0 && piece < Part::PIECES;
    }
    __device__ void load(const Weight& weight, int tile, int step) {
#pragma unroll
        for (int h = 0; h < HELD_PIECES; h++) {
            const int unit = unit_of(h), piece = (step * TILE + number_of(unit)) / EACH;
            if (exists(tile, step, unit)) pieces[h].load(weight, output_of(tile, column_of(unit)), piece);
        }
    }
    __device__ void store(uint4* shared, int tile, int step) const {
#pragma unroll
        for (int h = 0; h < HELD_PIECES; h++) {
            const int unit = unit_of(h), first = number_of(unit);
            if (unit >= PIECES) continue;
            const bool real = exists(tile, step, unit);
#pragma unroll
            for (int i = 0; i < EACH; i += EACH < 8 ? EACH : 8) {
                uint4* at = shared + place(COLUMNS, (first + i) / 32, column_of(unit), (first + i) % 32 / 8);
                float numbers[8];
#pragma unroll
                for (int j = 0; j < 8 && j < EACH; j++)
                    numbers[j] = real ? pieces[h].at((i + j) / CODES, (i + j) % CODES) : 0.0f;
                if constexpr (EACH >= 8) *at = eight<Half>(numbers);
                else for (int j = 0; j < EACH; j++) ((Half*)at)[first % 8 + j] = from_float<Half>(numbers[j]);
            }
        }
    }

    // x's share of this thread: units, each in runs that one load brings. scales: 1 / rms of rows; norm null: no norm.
    static __device__ int run_of(int step, int unit, int r) {
        return input_of(step, unit / 4 / ROWS * 32 + unit % 4 * 8 + r * RUN);
    }
    __device__ void load(const float* from, int first, int step) {
#pragma unroll
        for (int i = 0; i < HELD_UNITS * 8 / RUN; i++) {
            const int h = i * RUN / 8, r = i % (8 / RUN), unit = unit_of(h), t = first + unit / 4 % ROWS;
            const int m = run_of(step, unit, r);
            const bool real = unit < UNITS && t < T && m >= 0;
            x[h][r] = real ? *(const Run<RUN>*)(from + (long long)t * M + m) : Run<RUN>{};
        }
    }
    __device__ void store(uint4* shared, const float* norm, const float* scales, int step) const {
#pragma unroll
        for (int h = 0; h < HELD_UNITS; h++) {
            const int unit = unit_of(h), row = unit / 4 % ROWS;
            if (unit >= UNITS) continue;
            float numbers[8];
#pragma unroll
            for (int r = 0; r < 8 / RUN; r++) {
                const int m = run_of(step, unit, r);
                const Run<RUN> weights = norm && m >= 0 ? *(const Run<RUN>*)(norm + m) : Run<RUN>{};
                for (int i = 0; i < RUN; i++)
                    numbers[r * RUN + i] = norm ? x[h][r].at[i] * scales[row] * weights.at[i] : x[h][r].at[i];
            }
            shared[place(ROWS, unit / 4 / ROWS, row, unit % 4)] = eight<Half>(numbers);
        }
    }
};
