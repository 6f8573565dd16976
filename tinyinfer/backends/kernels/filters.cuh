// Filters of sampling.py without a sort: top-k and top-p keep what lies at or above a cut, and bisection finds the cut.
//
// The bits of a float, with all of them turned if it is negative and the sign alone if not, are whole numbers in the
// order of the floats. Both filters are then one question: which is the lowest number ("key") such that all greater keys
// together weigh less than a limit? For top-k each key weighs 1 and the limit is k; for top-p a key weighs its
// probability and the limit is p. 32 halvings answer it exactly, and tokens of equal scores stay or go together
// (keep_top_k does that too; keep_top_p's sort keeps only as many of equals as the mass needs).
//
// A halving reads the row again, from L2, but weighs only keys of the interval's upper half: what lies above the interval
// has been added up, what lies below no longer matters.
#include "common.cuh"

__device__ inline unsigned key_of(float score) {
    const unsigned bits = to_bits(score == 0 ? 0.0f : score);  // -0 equals 0
    return bits >> 31 ? ~bits : bits | 0x80000000u;
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
        for (int token = threadIdx.x; token < V; token += THREADS) {
            const unsigned key = key_of(scores[token]);
            if (key > middle && key <= high) upper += weigh(scores[token]);
        }
        upper = sum_of_block<THREADS>(upper);
        if (above + upper < limit) high = middle, above += upper;
        else low = middle + 1;
    }
    return low;
}

// The key below which a row's filters leave nothing: top-k first, then top-p of what top-k has left.
template <int THREADS>
__device__ inline unsigned lowest_kept(const float* scores, float least, float most, double temperature, int k, double p) {
    unsigned low = key_of(least);
    const unsigned high = key_of(most);
    const auto probability = [=](float score) { return exp(((double)score - most) / temperature); };  // but for a factor
    if (k > 0 && k < V) low = cut_of<THREADS>(scores, low, high, k, [](float) { return 1.0; });
    if (p < 1) {
        double total = 0;
        for (int token = threadIdx.x; token < V; token += THREADS)
            if (key_of(scores[token]) >= low) total += probability(scores[token]);
        low = cut_of<THREADS>(scores, low, high, p * sum_of_block<THREADS>(total), probability);
    }
    return low;
}
