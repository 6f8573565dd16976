// Filters of sampling.py without a sort: top-k and top-p keep what lies at or above a cut, and bisection finds the cut.
//
// The bits of a float, all of them turned if it is negative and the sign alone if not, are whole numbers ("keys") in
// the order of the floats. Both filters are then one question: which is the lowest key such that all greater keys
// together weigh less than a limit? For top-k each key weighs 1 and the limit is k; for top-p a key weighs its
// probability and the limit is p. 32 halvings answer it exactly, and tokens of equal scores stay or go together
// (keep_top_k does that too; keep_top_p's sort keeps only as many of equals as the mass needs).
//
// A halving reads the row again, from L2, but weighs only keys of the interval's upper half: those above the interval
// have been added up, those below no longer matter.
#include "common.cuh"

__device__ inline unsigned key_of(float score) {
    const unsigned bits = to_bits(score == 0 ? 0.0f : score);  // -0 equals 0
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// Calls visit(score, token) for this thread's share of a row, four scores on their way at once.
template <int THREADS, typename Visit> __device__ inline void each_score(const float* scores, Visit visit) {
    for (int first = threadIdx.x; first < V; first += 4 * THREADS) {
        float some[4];
#pragma unroll
        for (int i = 0; i < 4; i++) some[i] = first + i * THREADS < V ? scores[first + i * THREADS] : 0.0f;
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (first + i * THREADS < V) visit(some[i], first + i * THREADS);
    }
}

// Over all threads of a block, in the same order in every run; every thread gets the sum.
template <int THREADS> __device__ inline double sum_of_block(double value) {
    __shared__ double warps[THREADS / 32];
    for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(ALL_LANES, value, lanes);
    __syncthreads();  // whoever called before has read its numbers
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    value = 0;
    for (int warp = 0; warp < THREADS / 32; warp++) value += warps[warp];
    return value;
}

// The lowest key in [low, high] above which the keys weigh less than the limit in all; `high` if there is none.
template <int THREADS, typename Weigh>
__device__ inline unsigned cut_of(const float* scores, unsigned low, unsigned high, double limit, Weigh weigh) {
    double above = 0;  // what the keys above `high` weigh
    while (low < high) {
        const unsigned middle = low + (high - low) / 2;
        double upper = 0;
        each_score<THREADS>(scores, [&](float score, int) {
            const unsigned key = key_of(score);
            if (key > middle && key <= high) upper += weigh(score);
        });
        upper = sum_of_block<THREADS>(upper);
        if (above + upper < limit) high = middle, above += upper;
        else low = middle + 1;
    }
    return low;
}

// The key below which a row's filters leave nothing: top-k first, then top-p of what top-k has left.
template <int THREADS>
__device__ inline unsigned lowest_kept(const float* scores, float least, float most, double temperature, int k,
                                       double p) {
    unsigned low = key_of(least);
    const unsigned high = key_of(most);
    // But for a constant factor.
    const auto probability = [=](float score) { return exp(((double)score - most) / temperature); };
    if (k > 0 && k < V) low = cut_of<THREADS>(scores, low, high, k, [](float) { return 1.0; });
    if (p < 1) {
        double total = 0;
        each_score<THREADS>(scores, [&](float score, int) {
            if (key_of(score) >= low) total += probability(score);
        });
        low = cut_of<THREADS>(scores, low, high, p * sum_of_block<THREADS>(total), probability);
    }
    return low;
}
