// sample: picks each row's token from its logits, with the filters of sampling.py (choose, filtered; noise.py's noise).
//
//     keep      top-k, then top-p, then min-p: (s - max s) / temperature >= log(min_p)
//     token     the largest s / temperature + noise of what is kept; at temperature 0 the largest s, without filters
//
// Reads: logits (T, V), per row temperature, seed, top_k (0: all), top_p (1: all), min_p (0: all), position (-1: a
// padded row, which is left alone). Writes: tokens, positions + 1, results[step % RING][row] = {token, bits of the
// smallest logit, bits of the largest (both NaN if any is NaN), 0}, and, by the last block to finish, step + 1.
// Scratch: counters, 1 int, 0 before the first launch and again after each.
// Items: T rows; sensible grid: T. No dynamic shared memory.
//
// Roofline: greedy reads the logits once, 197 KB a row at V = 49152, by one of 132 processors at some 64 bytes a cycle
// from L2: 2 us. A draw reads them twice and computes 12,288 counters, 10 us; all the logarithms would cost 30 us more.
// top-k and top-p read the row 33 times each: 60 to 90 us, during which processors without a row idle. A filter in the
// head (rms_head_sample.cu) would have to wait for every block's sums 32 times.
// Wins: any filter, any number of rows, and nothing is sorted. Loses: few rows without filters, where the head has the
// candidates at hand.
#include "common.cuh"
#include "choice.cuh"
#include "filters.cuh"

constexpr int SAMPLE_THREADS = 1024;

// The best of all threads' bests, in every thread.
template <int THREADS> __device__ inline Best best_of_block(Best mine, const Draw& draw) {
    __shared__ Best warps[THREADS / 32];
    mine = best_of_warp(mine, draw);
    __syncthreads();  // the list of the call before has been read
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = mine;
    __syncthreads();
    return best_of_list(warps, THREADS / 32, 1, draw);
}

template <int THREADS>
__device__ void sample_body(const float* logits, const double* temperatures, const unsigned long long* seeds,
                            const int* top_k, const double* top_p, const double* min_p, int* tokens, int* positions,
                            int* step, int* results, int* counters) {
    const int now = *step;
    for (int row = blockIdx.x; row < T; row += gridDim.x) {
        const int position = positions[row];
        if (position < 0) continue;
        const float* scores = logits + (long long)row * V;
        const Draw draw = draw_of(temperatures, seeds, row, position), greedy = {0, INFINITE, 0, 0};
        Best best = no_best();
        each_score<THREADS>(scores, [&](float score, int token) {
            best = combined(best, best_of_one(score, token, greedy), greedy);
        });
        best = best_of_block<THREADS>(best, greedy);
        if (draw.temperature > 0) {
            const float least = best.low, most = best.high;
            const unsigned cut = lowest_kept<THREADS>(scores, least, most, draw.temperature, top_k[row], top_p[row]);
            const double farthest = min_p[row] > 0 ? log(min_p[row]) : -INFINITE;
            best = best_of_one(best.score, best.token, draw);  // what the others must beat
            for (int first = 4 * threadIdx.x; first < V; first += 4 * THREADS) {
                const Words words = words_of(draw.seed, draw.position, first / 4, 0);
                float some[4];
#pragma unroll
                for (int i = 0; i < 4; i++) some[i] = first + i < V ? scores[first + i] : 0.0f;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float score = some[i];
                    if (first + i >= V || key_of(score) < cut) continue;
                    if (((double)score - most) * draw.sharpness < farthest) continue;
                    if (!draw.may_win(score, words.at[i], best)) continue;
                    best = combined(best, {gumbel(words.at[i]), score, first + i, score, score}, draw);
                }
            }
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
