// Weight matrices of N outputs and M inputs in GPU memory, (N, M) row by row: what a thread reads of them at once.
//
// A product reads a row in pieces of up to 16 bytes, each by one load instruction of one lane; neighbouring lanes take
// neighbouring pieces. `Dense` rows are numbers. `Packed` rows are codes of 8, 4, 3 or 2 bits as packing.py packs them,
// filled up to a multiple of 8 inputs: byte c of C holds the codes of the inputs c, c + C, c + 2C ..., so a piece is
// PLANES runs of neighbouring inputs. w = scale * (code + lowest) + minimum, float16 scales for every GROUP inputs (0:
// for all). 3 bits are two low bits in the first two thirds of the row and the high bit in the last third.
//
// A piece holds what was loaded and unpacks it on use: `at(plane, i)` is the weight of input plane * M/PLANES +
// piece * CODES + i. plane and i are known when the loops are unrolled, so no array is indexed at run time.

__device__ constexpr int power_of_two_in(int number, int most = 16) {  // the largest that divides it, at most `most`
    return most > 1 && number % most ? power_of_two_in(number, most / 2) : most;
}
__device__ constexpr int filled(int inputs) { return (inputs + 7) / 8 * 8; }

template <typename Number> struct Dense {
    const Number* numbers;
    __device__ Dense(const void* codes, const void*, const void*) : numbers((const Number*)codes) {}
    __device__ float at(long long row, int input, int inputs) const { return to_float(numbers[row * inputs + input]); }
};

template <int BITS, int GROUP, bool SYMMETRIC> struct Packed {
    static constexpr int LOWEST = SYMMETRIC ? -(1 << (BITS - 1)) : 0;
    const unsigned char* codes;
    const float16 *scale, *minimum;
    __device__ Packed(const void* codes, const void* scale, const void* minimum)
        : codes((const unsigned char*)codes), scale((const float16*)scale), minimum((const float16*)minimum) {}
    __device__ float at(long long row, int input, int inputs) const {
        const int width = filled(inputs) / 8, low = BITS == 3 ? 2 : BITS, group = GROUP ? GROUP : inputs;
        const unsigned char* bytes = codes + row * width * BITS;
        int code = bytes[input % (width * low)] >> input / (width * low) * low & ((1 << low) - 1);
        if (BITS == 3) code |= (bytes[width * 2 + input % width] >> input / width & 1) << 2;
        const long long place = row * ((inputs + group - 1) / group) + input / group;
        return to_float(scale[place]) * (code + LOWEST) + (SYMMETRIC ? 0.0f : to_float(minimum[place]));
    }
};

template <typename Weight, int M> struct Piece;

template <typename Number, int M> struct Piece<Dense<Number>, M> {
    static constexpr int SIZE = power_of_two_in(M * sizeof(Number)), CODES = SIZE / sizeof(Number);
    static constexpr int PLANES = 1, PIECES = M / CODES, INPUTS = M, REGISTERS = (SIZE + 3) / 4;
    static constexpr int ROW = M * sizeof(Number);  // bytes
    Bytes<SIZE> raw;
    __device__ void load(const Dense<Number>& weight, long long row, int piece) {
        raw = stream<SIZE>(weight.numbers + row * M + piece * CODES);
    }
    __device__ float at(int, int i) const {
        if constexpr (sizeof(Number) == 4) return from_bits(raw.words[i]);
        else return to_float(Number{(unsigned short)(raw.words[i / 2] >> i % 2 * 16)});
    }
};

template <int BITS, int GROUP, bool SYMMETRIC, int M> struct Piece<Packed<BITS, GROUP, SYMMETRIC>, M> {
    using Weight = Packed<BITS, GROUP, SYMMETRIC>;
    static constexpr int LOW = BITS == 3 ? 2 : BITS, WIDTH = filled(M) / 8;  // WIDTH: bytes of one bit of every code
    static constexpr int SIZE = power_of_two_in(BITS == 3 ? WIDTH : WIDTH * LOW, power_of_two_in(GROUP ? GROUP : 16));
    static constexpr int CODES = SIZE, PLANES = 8 / LOW, PIECES = WIDTH * LOW / SIZE, INPUTS = filled(M);
    static constexpr int ROW = WIDTH * BITS;  // bytes of codes
    static constexpr int GROUPS = GROUP ? (M + GROUP - 1) / GROUP : 1, WORDS = (SIZE + 3) / 4;
    static constexpr int REGISTERS = WORDS * (BITS == 3 ? 2 : 1) + (GROUP ? PLANES : 1) * (SYMMETRIC ? 1 : 2);
    Bytes<SIZE> low, high;
    int high_shift;  // 3 bits: the high bits of plane p are bit 2p or 2p + 1 of their bytes
    float16 scale[PLANES], minimum[PLANES];  // as they were loaded: to convert a number here would wait for it here
    __device__ void load(const Weight& weight, long long row, int piece) {
        const unsigned char* bytes = weight.codes + row * WIDTH * BITS;
        low = stream<SIZE>(bytes + piece * SIZE);
        if constexpr (BITS == 3) high = stream<SIZE>(bytes + WIDTH * 2 + piece * SIZE % WIDTH);
        high_shift = piece * SIZE / WIDTH;
#pragma unroll
        for (int p = 0; p < PLANES; p++) {
            int group = GROUP ? (p * WIDTH * LOW + piece * SIZE) / (GROUP ? GROUP : 1) : 0;
            if (GROUP && M < INPUTS && group >= GROUPS) group = GROUPS - 1;  // codes that only fill the row up
            scale[p] = weight.scale[row * GROUPS + group];
            if (!SYMMETRIC) minimum[p] = weight.minimum[row * GROUPS + group];
        }
    }
    __device__ float at(int plane, int i) const {
        unsigned code = low.words[i / 4] >> (i % 4 * 8 + plane * LOW) & ((1u << LOW) - 1);
        if constexpr (BITS == 3) code |= (high.words[i / 4] >> (i % 4 * 8 + plane * 2 + high_shift) & 1) << 2;
        // 0x4b000000 is 2^23, whose last bit is worth 1: one "or" and one subtraction, faster than a conversion.
        const float exact = from_bits(0x4b000000u | code) - (8388608.0f - Weight::LOWEST);
        return to_float(scale[plane]) * exact + (SYMMETRIC ? 0.0f : to_float(minimum[plane]));
    }
};
