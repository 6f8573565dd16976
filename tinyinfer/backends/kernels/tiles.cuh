// Tiles of x and of a weight as halves in shared memory, for tensor cores: their shape, and how they get there.
//
// A tile of a weight is 4096 numbers, TILE inputs of COLUMNS outputs; beside it lie the same inputs of ROWS rows of x.
// A tile lies in chunks of 32 inputs, of each row 64 bytes, in units of 8. Eight neighbouring lanes, whose 16-byte accesses
// are served together, then touch 128 bytes in a row, which are 32 different banks: no padding is needed.
//
// A tile passes through registers: they are loaded while the tile before is multiplied, and stored after it. On the way
// float32 activations are normalized and rounded, and packed codes become numbers. Of packed rows a tile takes whole
// bytes, and so neighbouring inputs from each of the PLANES planes: a sum over inputs may be taken in any order.
#include "common.cuh"
#include "weights.cuh"
#include "mma.cuh"

constexpr int BATCH_THREADS = 256, PROCESSORS = 132;  // of an H100

template <typename Weight> struct Stored;  // the type that tensor cores multiply, and the bits of a weight
template <typename Number> struct Stored<Dense<Number>> { using Half = Number; static constexpr int BITS = 8 * sizeof(Number); };
template <int B, int G, bool S> struct Stored<Packed<B, G, S>> { using Half = bfloat16; static constexpr int BITS = B; };

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

// The tiles of a product with N outputs and M inputs. GATED: a block's columns are 8 of gate, the same 8 of up, 8 of gate ...
template <typename Weight, int M, int N, bool GATED> struct Tiles {
    using Part = Piece<Weight, M>;
    using Half = typename Stored<Weight>::Half;
    static_assert(sizeof(Half) == 2, "tensor cores multiply halves: products with float32 weights are left to cuBLAS");
    static constexpr int CODES = Part::CODES, EACH = CODES * Part::PLANES;  // numbers in a piece
    static constexpr Shape SHAPE = shape_of(N, EACH > 32 ? 4096 / EACH : 128);
    static constexpr int ROWS = SHAPE.rows, COLUMNS = SHAPE.columns, TILE = 4096 / COLUMNS, CHUNKS = TILE / 32;
    static constexpr int STEPS = (Part::PIECES * EACH + TILE - 1) / TILE;
    static constexpr int RUN = power_of_two_in(M, power_of_two_in(CODES, 4));  // inputs that one load brings
    static constexpr int UNITS = ROWS * TILE / 8, PIECES = 4096 / EACH;  // of a tile
    static constexpr int BESIDE = EACH < 32 ? 32 / EACH : 1;  // pieces of a row that are neighbours in a chunk

    static constexpr int HELD_UNITS = (UNITS + BATCH_THREADS - 1) / BATCH_THREADS;  // by one thread
    static constexpr int HELD_PIECES = (PIECES + BATCH_THREADS - 1) / BATCH_THREADS;
    Run<RUN> x[HELD_UNITS][8 / RUN];
    Part pieces[HELD_PIECES];

    // The input that is number i of a step's tile; -1 behind the last one.
    static __device__ int input_of(int step, int i) {
        const int piece = (step * TILE + i) / EACH, plane = i % EACH / CODES;
        const int input = plane * (Part::INPUTS / Part::PLANES) + piece * CODES + i % CODES;
        return piece < Part::PIECES && input < M ? input : -1;
    }
    // The weight's row that is a column of a tile; -1 beyond the last one.
    static __device__ int output_of(int tile, int column) {
        constexpr int PARTS = GATED ? 2 : 1;
        const int n = GATED ? tile * (COLUMNS / 2) + column / 16 * 8 + column % 8 : tile * COLUMNS + column;
        return n < N / PARTS ? n + (GATED ? column % 16 / 8 * (N / 2) : 0) : -1;
    }
    // Where unit `part` of a row of a chunk lies.
    static __device__ int place(int rows, int chunk, int row, int part) { return (chunk * rows + row) * 4 + part; }

    // Asks for a tile's weights to come nearer, into L2; they are loaded soon.
    static __device__ void expect(const void* codes, int tile) {
        constexpr int BYTES = (Stored<Weight>::BITS < 16 ? Part::INPUTS : M) * Stored<Weight>::BITS / 8, LINES = (BYTES + 127) / 128;
        for (int i = threadIdx.x; i < COLUMNS * LINES; i += BATCH_THREADS) {
            const int n = output_of(tile, i / LINES);
            const char* line = (const char*)codes + (long long)n * BYTES + i % LINES * 128;
#ifdef __CUDA_ARCH__
            if (n >= 0) asm volatile("prefetch.global.L2 [%0];" :: "l"(line));
#endif
        }
    }
    // A piece's place in its tile: its column, and which number its first one is.
    static __device__ int column_of(int unit) { return unit / BESIDE % COLUMNS; }
    static __device__ int number_of(int unit) { return (unit / BESIDE / COLUMNS * BESIDE + unit % BESIDE) * EACH; }
    static __device__ bool exists(int tile, int step, int unit) {
        return unit < PIECES && output_of(tile, column_of(unit)) >= 0 && step * TILE + number_of(unit) < Part::PIECES * EACH;
    }
    __device__ void load(const Weight& weight, int tile, int step) {
#pragma unroll
        for (int h = 0; h < HELD_PIECES; h++) {
            const int unit = threadIdx.x + h * BATCH_THREADS;
            if (exists(tile, step, unit)) pieces[h].load(weight, output_of(tile, column_of(unit)), (step * TILE + number_of(unit)) / EACH);
        }
    }
    __device__ void store(uint4* shared, int tile, int step) const {
#pragma unroll
        for (int h = 0; h < HELD_PIECES; h++) {
            const int unit = threadIdx.x + h * BATCH_THREADS, first = number_of(unit);
            const bool real = exists(tile, step, unit);
            const auto number = [&](int i) { return real ? pieces[h].at(i / CODES, i % CODES) : 0.0f; };
            const auto unit_of = [&](int i) { return place(COLUMNS, (first + i) / 32, column_of(unit), (first + i) % 32 / 8); };
            if (unit >= PIECES) continue;
            if constexpr (EACH < 8) {
#pragma unroll
                for (int i = 0; i < EACH; i++) ((Half*)(shared + unit_of(i)))[(first + i) % 8] = from_float<Half>(number(i));
            } else {
#pragma unroll
                for (int i = 0; i < EACH; i += 8)
                    shared[unit_of(i)] = {pair_of<Half>(number(i), number(i + 1)), pair_of<Half>(number(i + 2), number(i + 3)),
                                          pair_of<Half>(number(i + 4), number(i + 5)), pair_of<Half>(number(i + 6), number(i + 7))};
            }
        }
    }
    // The same for x: a unit is 8 inputs of a row. scales: 1 / rms of the tile's rows; norm null: no norm.
    static __device__ int run_of(int step, int unit, int r) { return input_of(step, unit / 4 / ROWS * 32 + unit % 4 * 8 + r * RUN); }
    __device__ void load(const float* from, int first, int step) {
#pragma unroll
        for (int h = 0; h < HELD_UNITS; h++)
#pragma unroll
            for (int r = 0; r < 8 / RUN; r++) {
                const int unit = threadIdx.x + h * BATCH_THREADS, t = first + unit / 4 % ROWS, m = run_of(step, unit, r);
                x[h][r] = unit < UNITS && t < T && m >= 0 ? *(const Run<RUN>*)(from + (long long)t * M + m) : Run<RUN>{};
            }
    }
    __device__ void store(uint4* shared, const float* norm, const float* scales, int step) const {
#pragma unroll
        for (int h = 0; h < HELD_UNITS; h++) {
            const int unit = threadIdx.x + h * BATCH_THREADS, row = unit / 4 % ROWS;
            float numbers[8];
            if (unit >= UNITS) continue;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const int m = run_of(step, unit, i / RUN);
                numbers[i] = x[h][i / RUN].at[i % RUN];
                if (norm && m >= 0) numbers[i] = numbers[i] * scales[row] * norm[m + i % RUN];
            }
            shared[place(ROWS, unit / 4 / ROWS, row, unit % 4)] = {pair_of<Half>(numbers[0], numbers[1]), pair_of<Half>(numbers[2], numbers[3]),
                                                                   pair_of<Half>(numbers[4], numbers[5]), pair_of<Half>(numbers[6], numbers[7])};
        }
    }
};
