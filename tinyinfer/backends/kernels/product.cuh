// The product that every sub-layer of a small decode batch is made of: y[t][n] = sum over m of rms(x[t])[m] * w[n][m].
//
// A few rows (T <= 8) use each weight a few times, so the weights' way from memory is all the time there is. Therefore:
// - LANES neighbouring lanes share an output row and read it in pieces of 16 bytes, all of them in flight at once. For
//   576 numbers in bfloat16 16 lanes take 5 pieces each; a whole warp for such a row would idle a quarter of its loads.
// - The first pieces are asked for before x is read: weights do not depend on the layer before, x does.
// - RMSNorm (ReferenceOps.rms_norm) costs no kernel and no pass: every block stages x * norm in shared memory, sums up
//   the squares on the way, and multiplies the finished dot products by 1 / sqrt(mean + eps).
// - J output rows at once use the same activations out of shared memory, and all T rows the same weight registers.
//
// Work items are warps, dealt out over the blocks first, so that few rows occupy all multiprocessors. Any grid is right;
// sensible: two blocks per multiprocessor, at most ITEMS. Shared memory: 4 * min(T * filled(M), 16384) bytes at most; x
// that is longer is staged in tiles, again for each item.

constexpr int PRODUCT_THREADS = 256;
constexpr int STAGED = 16384;  // floats of activations in shared memory: 64 KB, so that two blocks fit
constexpr int HELD = T < 4 ? 72 : 48;  // registers of a lane for weights on their way; the others hold sums

__device__ constexpr int divided(int number, int by) { return (number + by - 1) / by; }
__device__ constexpr int lanes_for(int pieces, int lanes = 32) {  // the most that idle an eighth of their loads or less; at least 4
    return lanes > 4 && 8 * (divided(pieces, lanes) * lanes - pieces) > pieces ? lanes_for(pieces, lanes / 2) : lanes;
}
__device__ constexpr int within(int low, int number, int high) { return number < low ? low : number > high ? high : number; }

template <typename Weight, int M, int J> struct Plan {
    using Part = Piece<Weight, M>;
    static constexpr int LANES = lanes_for(Part::PIECES), EACH = divided(Part::PIECES, LANES);
    static constexpr int ROUND = T * LANES * Part::CODES * Part::PLANES;  // activations that all lanes' one piece needs
    static constexpr int BATCHES = divided(EACH, within(1, HELD / Part::REGISTERS / J, STAGED / ROUND));
    static constexpr int DEPTH = divided(EACH, BATCHES);  // pieces of a row that a lane holds at once
    static constexpr int PER_TILE = within(1, STAGED / (ROUND * DEPTH), BATCHES), TILES = divided(BATCHES, PER_TILE);
    static constexpr int UNITS = TILES == 1 ? Part::PIECES : PER_TILE * DEPTH * LANES;  // pieces of a row in a tile
    static constexpr int VECTOR = power_of_two_in(M, power_of_two_in(Part::CODES, 4)), VECTORS = Part::CODES / VECTOR;
    static constexpr int WAYS = J * T >= VECTOR ? 1 : VECTOR;  // sums that do not wait for each other
};
template <typename Weight, int M> __device__ constexpr int rows_at_once(int outputs, int rows = T >= 4 ? 2 : 1) {
    const bool few = outputs / rows * Plan<Weight, M, 1>::LANES < 32 * 264;  // fewer than two warps a multiprocessor
    return rows > 1 && (outputs % rows || few) ? rows_at_once<Weight, M>(outputs, rows / 2) : rows;
}

template <int N> struct alignas(4 * N) Floats { float at[N]; };

// Stages one tile of x * norm, zeros where codes only fill up; each row is shared by warps / T warps, and a warp's part
// of the sum of squares goes to `partial`. Vector v of piece u of plane p lies at (p * VECTORS + v) * UNITS + u:
// neighbouring lanes then read neighbouring vectors, from different banks.
template <typename P, int M>
__device__ inline void stage(const float* x, const float* norm, int tile, Floats<P::VECTOR>* shared, float (&partial)[T][32]) {
    using Vector = Floats<P::VECTOR>;
    constexpr int COUNT = P::Part::PLANES * P::UNITS * P::VECTORS, PLANE = P::Part::INPUTS / P::Part::PLANES;
    const int share = blockDim.x / 32 / T * 32, t = threadIdx.x / share;
    if (t >= T) return;
    float squares = 0;
#pragma unroll 4
    for (int i = threadIdx.x % share; i < COUNT; i += share) {
        const int v = i % P::VECTORS, u = i / P::VECTORS % P::UNITS, p = i / (P::VECTORS * P::UNITS);
        const int piece = tile * P::UNITS + u, m = p * PLANE + piece * P::Part::CODES + v * P::VECTOR;
        Vector a = {};
        if ((P::TILES == 1 || piece < P::Part::PIECES) && m < M) {
            a = ((const Vector*)(x + t * M))[m / P::VECTOR];
            for (int k = 0; norm && k < P::VECTOR; k++) squares += a.at[k] * a.at[k], a.at[k] *= norm[m + k];
        }
        shared[((t * P::Part::PLANES + p) * P::VECTORS + v) * P::UNITS + u] = a;
    }
    squares = warp_sum(squares);
    float& sum = partial[t][threadIdx.x % share / 32];
    if (threadIdx.x % 32 == 0) sum = tile ? sum + squares : squares;
}

struct AtOnce { __device__ void operator()() const {} };  // no wait: x is there when the kernel begins

// row_of(group, j): the weight's row that is row j of a group. write(t, group, values): J finished sums of a row of x.
// wait(): returns when x may be read; a persistent kernel waits there for the other blocks, its weights on their way.
template <typename Weight, int M, int J, int GROUPS, typename RowOf, typename Write, typename Wait = AtOnce>
__device__ inline void product(const float* x, const float* norm, Weight weight, RowOf row_of, Write write,
                               Wait wait = Wait()) {
    using P = Plan<Weight, M, J>;
    using Vector = Floats<P::VECTOR>;
    constexpr int ITEMS = divided(GROUPS, 32 / P::LANES);
    DYNAMIC_SHARED(float, shared);
    __shared__ float partial[T][32];
    typename P::Part held[J][P::DEPTH];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % P::LANES, warps = blockDim.x / 32, stride = gridDim.x * warps;
    const auto group_of = [&](int base) { return (base + warp * gridDim.x) * (32 / P::LANES) + threadIdx.x % 32 / P::LANES; };
    const auto fetch = [&](int base, int batch) {
        const int group = group_of(base);
#pragma unroll
        for (int i = 0; i < J * P::DEPTH; i++) {
            const int piece = (batch * P::DEPTH + i / J) * P::LANES + lane;
            if (piece < P::Part::PIECES && group < GROUPS) held[i % J][i / J].load(weight, row_of(group, i % J), piece);
        }
    };
    fetch(blockIdx.x, 0);
    wait();
    for (int base = blockIdx.x; base < ITEMS; base += stride) {
        float sums[J][T][P::WAYS] = {};
        const int group = group_of(base);
        for (int batch = 0; batch < P::BATCHES; batch++) {
            if (batch % P::PER_TILE == 0 && (P::TILES > 1 || base == blockIdx.x)) {
                if (P::TILES > 1) __syncthreads();  // all warps are done with the tile before
                stage<P, M>(x, norm, batch / P::PER_TILE, (Vector*)shared, partial);
                __syncthreads();
            }
#pragma unroll
            for (int d = 0; d < P::DEPTH; d++) {
                const int piece = (batch * P::DEPTH + d) * P::LANES + lane, unit = piece % P::UNITS;
                if (piece >= P::Part::PIECES || group >= GROUPS) continue;
#pragma unroll
                for (int i = 0; i < P::Part::PLANES * P::VECTORS; i++) {
                    float w[J][P::VECTOR];
                    for (int j = 0; j < J; j++)
                        for (int k = 0; k < P::VECTOR; k++) w[j][k] = held[j][d].at(i / P::VECTORS, i % P::VECTORS * P::VECTOR + k);
                    for (int t = 0; t < T; t++) {
                        const Vector a = ((const Vector*)shared)[(t * P::Part::PLANES * P::VECTORS + i) * P::UNITS + unit];
                        for (int j = 0; j < J; j++)
                            for (int k = 0; k < P::VECTOR; k++) sums[j][t][k % P::WAYS] += w[j][k] * a.at[k];
                    }
                }
            }
            if (batch + 1 < P::BATCHES) fetch(base, batch + 1);
            else fetch(base + stride, 0);
        }
#pragma unroll
        for (int t = 0; t < T; t++) {
            float mean = 0, values[J];
            for (int w = 0; norm && w < warps / T; w++) mean += partial[t][w] / M;
            for (int j = 0; j < J; j++) {
                float sum = sums[j][t][0];
                for (int k = 1; k < P::WAYS; k++) sum += sums[j][t][k];
                values[j] = warp_sum<P::LANES>(sum) * (norm ? 1 / sqrtf(mean + EPS) : 1);
            }
            if (lane == t % P::LANES && group < GROUPS) write(t, group, values);
        }
    }
}
