// The product that every sub-layer of a small decode batch is made of: y[t][n] = sum over m of rms(x[t])[m] * w[n][m].
//
// A few rows (T <= 8) use each weight a few times, so the weights' way from memory is all the time there is. Therefore:
// - The first pieces of the weight are asked for before x is read: weights do not depend on the layer before, x does.
// - RMSNorm (ReferenceOps.rms_norm) costs no kernel and no pass: every block stages x * norm in shared memory, adds the
//   squares up on the way, and multiplies the finished dot products by 1 / sqrt(mean + EPS).
// - All T rows use the same weight registers; shares.cuh says which lane holds what.
//
// Work items are warps, dealt out over the blocks first, so few rows occupy all multiprocessors. Any grid is right;
// sensible: as many blocks as are resident together, at most the items, divided(GROUPS, 32 / LANES). At least 8 warps.
// Dynamic shared memory: 4 * min(T * filled(M), 16384) bytes; what is longer is staged in tiles, again for each item.
#include "shares.cuh"

template <int N> struct alignas(4 * N) Floats { float at[N]; };

// Stages one tile of x * norm, zeros where codes only fill up; each row is shared by warps / T warps, and a warp's part
// of the sum of squares goes to `partial`. Vector v of piece u of plane p lies at (p * VECTORS + v) * UNITS + u:
// neighbouring lanes then read neighbouring vectors, from different banks.
template <typename P, int M>
__device__ inline void stage(const float* x, const float* norm, int tile, Floats<P::VECTOR>* shared,
                             float (&partial)[T][32]) {
    using Vector = Floats<P::VECTOR>;
    constexpr int AHEAD = 4;  // vectors of a thread that are on their way at once
    constexpr int COUNT = P::Part::PLANES * P::UNITS * P::VECTORS, PLANE = P::Part::INPUTS / P::Part::PLANES;
    const int share = blockDim.x / 32 / T * 32, t = threadIdx.x / share;
    if (t >= T) return;
    float squares = 0;
    for (int first = threadIdx.x % share; first < COUNT; first += AHEAD * share) {
        Vector a[AHEAD] = {}, b[AHEAD] = {};
        int to[AHEAD];
#pragma unroll
        for (int r = 0; r < AHEAD; r++) {
            const int i = first + r * share, v = i % P::VECTORS, u = i / P::VECTORS % P::UNITS;
            const int p = i / (P::VECTORS * P::UNITS), piece = tile * P::UNITS + u;
            const int m = p * PLANE + piece * P::Part::CODES + v * P::VECTOR;
            to[r] = ((t * P::Part::PLANES + p) * P::VECTORS + v) * P::UNITS + u;
            if (i >= COUNT || (P::TILES > 1 && piece >= P::Part::PIECES) || m >= M) continue;
            a[r] = ((const Vector*)(x + t * M))[m / P::VECTOR];
            if (norm) b[r] = ((const Vector*)norm)[m / P::VECTOR];
        }
#pragma unroll
        for (int r = 0; r < AHEAD; r++) {
            for (int k = 0; norm && k < P::VECTOR; k++) squares += a[r].at[k] * a[r].at[k], a[r].at[k] *= b[r].at[k];
            if (first + r * share < COUNT) shared[to[r]] = a[r];
        }
    }
    squares = warp_sum(squares);
    float& sum = partial[t][threadIdx.x % share / 32];
    if (threadIdx.x % 32 == 0) sum = tile ? sum + squares : squares;
}

// One piece of J rows times the activations of its inputs, which lie in shared memory as `stage` puts them.
template <typename P, int J>
__device__ inline void multiply(const typename P::Part* const (&pieces)[J], const Floats<P::VECTOR>* shared,
                                float (&sums)[J][T][P::WAYS]) {
#pragma unroll
    for (int i = 0; i < P::Part::PLANES * P::VECTORS; i++) {
        float w[J][P::VECTOR];
        for (int j = 0; j < J; j++)
            for (int k = 0; k < P::VECTOR; k++)
                w[j][k] = pieces[j]->at(i / P::VECTORS, i % P::VECTORS * P::VECTOR + k);
        for (int t = 0; t < T; t++) {
            const Floats<P::VECTOR> a = shared[(t * P::Part::PLANES * P::VECTORS + i) * P::UNITS];
            for (int j = 0; j < J; j++)
                for (int k = 0; k < P::VECTOR; k++) sums[j][t][k % P::WAYS] += w[j][k] * a.at[k];
        }
    }
}

struct AtOnce { __device__ void operator()() const {} };  // no wait: x is there when the kernel begins

// row_of(group, j): the weight's row that is row j of a group. write(t, group, values): J finished sums of a row of x.
// wait(): returns when x may be read; a persistent kernel waits there for the other blocks, its weights on their way.
template <typename Weight, int M, int J, int GROUPS, typename RowOf, typename Write, typename Wait = AtOnce>
__device__ inline void product(const float* x, const float* norm, Weight weight, RowOf row_of, Write write,
                               Wait wait = Wait()) {
    using P = Plan<Weight, M, J>;
    using Vector = Floats<P::VECTOR>;
    constexpr int PER_WARP = 32 / P::LANES, ITEMS = divided(GROUPS, PER_WARP);
    DYNAMIC_SHARED(Vector, shared);
    __shared__ float partial[T][32];  // sums of squares: of a row, by its warps
    typename P::Part held[J][P::DEPTH];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % P::LANES;
    const int warps = blockDim.x / 32, stride = gridDim.x * warps;
    const auto group_of = [&](int base) {
        return (base + warp * (int)gridDim.x) * PER_WARP + (int)threadIdx.x % 32 / P::LANES;
    };
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
                stage<P, M>(x, norm, batch / P::PER_TILE, shared, partial);
                __syncthreads();
            }
#pragma unroll
            for (int d = 0; d < P::DEPTH; d++) {
                const int piece = (batch * P::DEPTH + d) * P::LANES + lane;
                const typename P::Part* pieces[J];
                for (int j = 0; j < J; j++) pieces[j] = &held[j][d];
                if (piece < P::Part::PIECES && group < GROUPS) multiply<P, J>(pieces, shared + piece % P::UNITS, sums);
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
