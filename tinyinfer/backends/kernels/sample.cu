// sample: picks each row's token from its logits, with the filters of sampling.py (choose, filtered; noise.py's noise).
//
//     keep      top-k, then top-p, then min-p: (s - max s) / temperature >= log(min_p)
//     token     the largest s / temperature + noise of what is kept; at temperature 0 the largest s, without filters
//
// Reads: logits (T, V), per row temperature, seed, top_k (0: all), top_p (1: all), min_p (0: all), positions (-1: a
// padded row, which is left alone). Writes: tokens, positions + 1, results[step % RING][row] = {token, bits of the
// smallest logit, bits of the largest (both NaN if any is NaN), 0}, and step + 1, by the last block to finish. counters:
// 1 int, 0 before the first launch and again after each.
// Items: T rows; sensible grid: T. No dynamic shared memory.
//
// Roofline: greedy reads the logits once, 197 KB a row at V = 49152, by one of 132 processors at some 64 bytes a cycle
// from L2: 2 us. Noise costs 49152 * 2 logarithms in double, 1 us more. top-p reads the row 33 times: about 60 us, during which
// 131 processors idle if there is one row; an epilogue that filtered in the head would need every block's sum first.
// Wins: any filter, any number of rows. Loses: greedy and plain temperature of few rows, which the head does on its way
// (rms_head_sample).
#include "common.cuh"
#include "choice.cuh"
#include "filters.cuh"

constexpr int SAMPLE_THREADS = 1024;

// The best of all threads' bests, in every thread of warp 0.
template <int THREADS> __device__ inline Best best_of_block(Best mine, const Draw& draw) {
    __shared__ Best warps[THREADS / 32];
    mine = best_of_warp(mine, draw);
    __syncthreads();  // the list of the call before has been read
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = mine;
    __syncthreads();
    return best_of_list(warps, THREADS / 32, 1, draw);
}

template <int THREADS>
__device__ void sample_body(const float* logits, const double* temperatures, const unsigned long long* seeds, const int* top_k, const double* top_p, const double* min_p, int* tokens, int* positions, int* step, int* results, int* counters) {
    const int now = *step;
    for (int row = blockIdx.x; row < T; row += gridDim.x) {
        const int position = positions[row];
        if (position < 0) continue;
        const float* scores = logits + (long long)row * V;
        const Draw draw = draw_of(temperatures, seeds, row, position), greedy = {0, 1 / 0.0, 0, 0};
        Best best = no_best();
        for (int token = threadIdx.x; token < V; token += THREADS)
            best = combined(best, best_of_one(scores[token], token, greedy), greedy);
        best = best_of_block<THREADS>(best, greedy);
        if (draw.temperature > 0) {
            const float least = best.low, most = best.high;
            const unsigned cut = lowest_kept<THREADS>(scores, least, most, draw.temperature, top_k[row], top_p[row]);
            const double farthest = min_p[row] > 0 ? log(min_p[row]) : -1 / 0.0;
            best = no_best();
            for (int token = threadIdx.x; token < V; token += THREADS)
                if (key_of(scores[token]) >= cut && !(((double)scores[token] - most) * draw.sharpness < farthest))
                    best = combined(best, best_of_one(scores[token], token, draw), draw);
            best = best_of_block<THREADS>(best, draw);
            best.low = least, best.high = most;
        }
        if (threadIdx.x == 0) record(best, row, now, tokens, positions, results);
    }
    __threadfence();
    __syncthreads();  // every thread has read the step, and written what it had to write
    if (threadIdx.x == 0 && atomicAdd(counters, 1) == (int)gridDim.x - 1) *counters = 0, *step = now + 1;
}

extern "C" __global__ void __launch_bounds__(SAMPLE_THREADS) sample(const float* logits, const double* temperatures, const unsigned long long* seeds, const int* top_k, const double* top_p, const double* min_p, int* tokens, int* positions, int* step, int* results, int* counters) { sample_body<SAMPLE_THREADS>(logits, temperatures, seeds, top_k, top_p, min_p, tokens, positions, step, results, counters); }
