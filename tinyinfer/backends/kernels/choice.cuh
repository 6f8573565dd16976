// The choice of a token as a reduction: each lane keeps the best token that it has met, and bests are combined in any
// order, first those of a warp's lanes, then of a block's warps, then of the blocks.
//
// Formula: sampling.py's choose, the largest of s / T + g; at temperature 0 the largest s, and of equals the lowest id.
// Two tokens are compared by (s_a - s_b) / T + (g_a - g_b), in double: no maximum must be known before, and the tiniest
// temperature makes the first part infinite but never a NaN, because equal scores are told apart by their noise alone.
// `low` and `high` report a score of NaN; any token may then be chosen, because the host refuses such a row.
#include "common.cuh"
#include "philox.cuh"

struct Best {
    double noise;     // of the token; 0 where no noise is wanted
    float score;      // its logit
    int token;        // NO_TOKEN before the first one
    float low, high;  // smallest and largest logit so far; NaN once one was
};

constexpr int NO_TOKEN = 0x7fffffff;

// How a row is sampled. sharpness: 1 / T, infinite at temperature 0, where the noise is 0.
struct Draw {
    double temperature, sharpness;
    unsigned long long seed;
    int position;

    __device__ double noise(int token) const {
        return temperature > 0 ? gumbel(word_of(seed, position, token, 0)) : 0;
    }
    // Whether a score could win against `best` with the noise of this word; no for nearly all, without a logarithm.
    // It needs g > x, which is u > exp(-exp(-x)), and that is never below 1 - exp(-x). 1.001 is for float32's rounding.
    __device__ bool may_win(float score, unsigned word, const Best& best) const {
        const double x = ((double)best.score - score) * sharpness + best.noise;
        return !((~word + 0.5f) * 0x1p-32f > 1.001f * expf((float)-x));
    }
    __device__ bool prefers(const Best& a, const Best& b) const {
        double gap = a.noise - b.noise;
        if (a.score != b.score) gap += ((double)a.score - b.score) * sharpness;
        return gap > 0 || (gap == 0 && a.token < b.token);
    }
};

__device__ inline Draw draw_of(const double* temperatures, const unsigned long long* seeds, int row, int position) {
    return {temperatures[row], 1 / temperatures[row], seeds[row], position + 1};  // noise is of the token's own place
}

__device__ inline Best no_best() { return {0, -INFINITE, NO_TOKEN, INFINITE, -INFINITE}; }
__device__ inline Best best_of_one(float score, int token, const Draw& draw) {
    return {draw.noise(token), score, token, score, score};
}

// A NaN passes through both, unlike through fminf and fmaxf.
__device__ inline float lower(float a, float b) { return b < a || b != b ? b : a; }
__device__ inline float higher(float a, float b) { return b > a || b != b ? b : a; }

__device__ inline Best combined(const Best& a, const Best& b, const Draw& draw) {
    Best best = b.token != NO_TOKEN && (a.token == NO_TOKEN || draw.prefers(b, a)) ? b : a;
    best.low = lower(a.low, b.low);
    best.high = higher(a.high, b.high);
    return best;
}

// The best of a warp's lanes, in all of them.
__device__ inline Best best_of_warp(Best mine, const Draw& draw) {
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        Best other;
        other.noise = __shfl_xor_sync(ALL_LANES, mine.noise, lanes);
        other.score = __shfl_xor_sync(ALL_LANES, mine.score, lanes);
        other.token = __shfl_xor_sync(ALL_LANES, mine.token, lanes);
        other.low = __shfl_xor_sync(ALL_LANES, mine.low, lanes);
        other.high = __shfl_xor_sync(ALL_LANES, mine.high, lanes);
        mine = combined(mine, other, draw);
    }
    return mine;
}

// The best of a list, whose entries lie `stride` apart, by one warp.
__device__ inline Best best_of_list(const Best* list, int count, int stride, const Draw& draw) {
    Best mine = no_best();
    for (int i = threadIdx.x % 32; i < count; i += 32) mine = combined(mine, list[(long long)i * stride], draw);
    return best_of_warp(mine, draw);
}

// Writes what a step reports of a row, and moves the row on to its next token. One thread does that.
__device__ inline void record(const Best& best, int row, int step, int* tokens, int* positions, int* results) {
    int* result = results + ((long long)(step % RING) * T + row) * 4;
    result[0] = best.token;
    result[1] = __float_as_int(best.low);
    result[2] = __float_as_int(best.high);
    result[3] = 0;
    tokens[row] = best.token;
    positions[row] += 1;
}
