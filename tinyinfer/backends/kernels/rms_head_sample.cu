// rms_head_sample: the model's last norm, its head, and the choice of the next token, in one kernel.
//
//     logits[t][v] = cap(logit_scale * sum over d of rms(x[t])[d] * w[v][d])     (ReferenceOps.linear, .scale, .cap)
//     token[t] = the largest logits[t][v] / temperature + noise; at temperature 0 the largest   (sampling.py's choose)
//
// Reads: x (T, D), norm or null, the head's weights, per row temperature, seed and position (-1: a padded row, whose
// logits are computed, and which is else left alone). Writes: logits (T, V) and, by the last block to finish, tokens,
// positions + 1, results[step % RING][row] = {token, bits of the smallest logit, bits of the largest (both NaN if any
// is NaN), 0} and step + 1. So the next step's launches find their tokens without a word from the host.
// Scratch: gridDim.x * T structs Best, 24 bytes each; counters, 1 int, 0 before the first launch and after each.
// Items, sensible grid and dynamic shared memory: product.cuh, with M = D and V / J groups. T <= 8.
//
// A draw needs no softmax: noise is added to each logit by itself, and the largest sum is a draw (the Gumbel-max
// trick). So each block keeps one candidate a row, and the last block to finish compares gridDim.x of them.
// Roofline: at SmolLM2-135M's shape 56.6 MB of weights, 17 us at 3.35 TB/s, a fifth of all bytes of a step; the noise
// is 98,304 logarithms in double, under 1 us of all processors; combining adds 2 us, a launch of its own would add 4.
// Wins: greedy and plain temperature, up to 8 rows. Loses: filters need a whole row first (sample.cu).
#include "common.cuh"
#include "weights.cuh"
#include "product.cuh"
#include "choice.cuh"

constexpr int HEAD_THREADS = 256;  // below 8 rows, the registers of two blocks a multiprocessor are enough

// A logit as heads.py's SoftCap has it; cap 0: none.
__device__ inline float capped_logit(float logit, float cap) { return cap > 0 ? cap * tanhf(logit / cap) : logit; }

template <int THREADS, typename Weight>
__device__ void rms_head_sample_body(const float* x, const float* norm, const void* codes, const void* scale,
                                     const void* minimum, float logit_scale, float cap, const double* temperatures,
                                     const unsigned long long* seeds, int* tokens, int* positions, double* scratch,
                                     int* counters, int* step, int* results, float* logits) {
    constexpr int J = rows_at_once<Weight, D>(V), PER_ITEM = 32 / Plan<Weight, D, J>::LANES * J;
    __shared__ Best warps[THREADS / 32];
    __shared__ int arrived;
    Best* best = (Best*)scratch;  // [gridDim.x][T]
    const auto write = [&](int t, int group, const float (&values)[J]) {
        for (int j = 0; j < J; j++)
            logits[(long long)t * V + group * J + j] = capped_logit(logit_scale * values[j], cap);
    };
    const auto row_of = [](int group, int j) { return group * J + j; };
    product<Weight, D, J, V / J>(x, norm, Weight(codes, scale, minimum), row_of, write);
    for (int t = 0; t < T; t++) {
        if (positions[t] < 0) continue;
        const Draw draw = draw_of(temperatures, seeds, t, positions[t]);
        Best mine = no_best();
        __syncthreads();  // the block's logits are written, and the list of the row before has been read
        for (int i = threadIdx.x;; i += THREADS) {  // a block's items are every gridDim.x-th, of PER_ITEM tokens each
            const long long token = ((long long)i / PER_ITEM * gridDim.x + blockIdx.x) * PER_ITEM + i % PER_ITEM;
            if (token >= V) break;
            mine = combined(mine, best_of_one(logits[(long long)t * V + token], (int)token, draw), draw);
        }
        mine = best_of_warp(mine, draw);
        if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = mine;
        __syncthreads();
        mine = best_of_list(warps, THREADS / 32, 1, draw);
        if (threadIdx.x == 0) best[blockIdx.x * T + t] = mine;
    }
    if (threadIdx.x == 0) {  // which wrote the block's candidates
        __threadfence();
        arrived = atomicAdd(counters, 1);
    }
    __syncthreads();
    if (arrived < (int)gridDim.x - 1) return;
    __threadfence();
    const int now = *step;
    for (int t = threadIdx.x / 32; t < T; t += THREADS / 32) {  // a warp for each row
        if (positions[t] < 0) continue;
        const Best all = best_of_list(best + t, gridDim.x, T, draw_of(temperatures, seeds, t, positions[t]));
        __syncwarp();  // all lanes have read the row's position
        if (threadIdx.x % 32 == 0) record(all, t, now, tokens, positions, results);
    }
    __syncthreads();  // all warps have read the step
    if (threadIdx.x == 0) *counters = 0, *step = now + 1;
}

extern "C" __global__ void __launch_bounds__(HEAD_THREADS, T < 8 ? 2 : 1) rms_head_sample(const float* x, const float* norm, const void* codes, const void* scale, const void* minimum, float logit_scale, float cap, const double* temperatures, const unsigned long long* seeds, int* tokens, int* positions, double* scratch, int* counters, int* step, int* results, float* logits) { rms_head_sample_body<HEAD_THREADS, Weight>(x, norm, codes, scale, minimum, logit_scale, cap, temperatures, seeds, tokens, positions, scratch, counters, step, results, logits); }
