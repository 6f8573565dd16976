// persistent: whole decode steps of one sequence in one launch; blocks stay, and meet at barriers of the whole grid.
//
// Why: a step of SmolLM2-135M reads 269 MB of bfloat16 weights, 80 us at 3.35 TB/s, but it is a chain of 152 phases,
// each of which needs all of the phase before. As launches of a graph a phase costs 1.3 us before any work, and memory
// idles meanwhile. Here a phase ends at a barrier, an atomic counter of about 0.7 us, and weights do not depend on the
// phase before: a block that has arrived asks for its share of the next product's weights into registers, and for those
// of products further on into L2, and only then waits. Memory streams while activations hop from barrier to barrier.
// Formulas: those of the kernels whose bodies are called; x, q, out, h, partial, best and logits are their buffers.
//
// Reads: layers, num_layers times the addresses that `Layer` names; the model's other weights; the sequence's row data.
// Writes: what rms_head_sample writes, num_steps times (at most RING), without the host in between.
// Scratch: counters, K + 2 ints, 0 before the first launch and after each; generation, 1 int of any value.
// Grid: at most as many blocks as are resident together (one a multiprocessor), else the first barrier never opens.
// Dynamic shared memory: 4 * min(filled(largest of D, H * E, F), 16384) bytes.
// Roofline: 80 us of memory, 106 us of barriers, each of which can hide the other: 130 to 200 us a step are predicted,
// against 375 to 500 for a graph. Wins: one sequence of a small model. Loses: with more rows or a larger model a phase
// is long, and a graph hides its launches as well; one kernel has the registers of its hungriest phase, and those that
// hold addresses from one phase to the next: so weights on their way have fewer than in kernels of their own (few.cuh).
#include "few.cuh"
#include "common.cuh"
#include "embed.cu"
#include "rms_qkv_rope_append.cu"
#include "attention_decode.cu"
#include "projection_residual.cu"
#include "rms_gate_up.cu"
#include "rms_head_sample.cu"
#ifndef SPIN
#define SPIN()
#endif

static_assert(T == 1, "one sequence");
constexpr int PERSISTENT_THREADS = 256;
struct Matrix { const void *codes, *scale, *minimum; };
struct Layer {  // 23 words of 8 bytes
    const float* attention_norm;
    Matrix qkv;
    const float* qkv_bias;
    Matrix o;
    const float *o_bias, *mlp_norm;
    Matrix gate_up;
    const float* gate_up_bias;
    Matrix down;
    const float *down_bias, *sinks;
    const int* sets;
    const float *frequencies, *amplitudes;
    long long window;
};

struct GridBarrier {
    int *arrived, *generation, seen;
    __device__ void arrive() {
        __syncthreads();
        if (threadIdx.x) return;
        __threadfence();  // what the block wrote is seen before its arrival is
        seen = *(volatile int*)generation;
        if (atomicAdd(arrived, 1) < (int)gridDim.x - 1) return;
        *arrived = 0;
        __threadfence();
        atomicAdd(generation, 1);  // the last one opens the barrier
    }
    __device__ void wait() {
        if (threadIdx.x == 0) {
            while (*(volatile int*)generation == seen) SPIN();
            __threadfence();  // and L1 forgets what it held before
        }
        __syncthreads();
    }
};

template <typename Weight, int M> __device__ inline void to_l2(const Matrix& weight, int rows) {
#ifdef __CUDA_ARCH__
    const long long stride = (long long)gridDim.x * blockDim.x * 128, bytes = (long long)rows * Piece<Weight, M>::ROW;
    for (long long at = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * 128; at < bytes; at += stride)
        asm volatile("prefetch.global.L2 [%0];" ::"l"((const char*)weight.codes + at));
#endif
}

template <int THREADS, typename Weight, typename Table, typename Head>
__device__ void persistent_body(const unsigned long long* layers, int num_layers, const void* table,
                                const void* table_scale, const void* table_minimum, float embedding_factor,
                                float attention_scale, float score_cap, float factor, const float* norm,
                                const void* head, const void* head_scale, const void* head_minimum, float logit_scale,
                                float logit_cap, const double* temperatures, const unsigned long long* seeds,
                                int* tokens, int* positions, const int* slots, const unsigned long long* pools,
                                const int* places, float* x, float* q, float* out, float* h, float* partial,
                                double* best, int* counters, int* generation, int* step, int* results, float* logits,
                                int num_steps) {
    GridBarrier barrier = {counters + K + 1, generation, 0};
    const auto wait = [&] { barrier.wait(); };
    for (int s = 0; s < num_steps; s++) {
        embed_body<Table, THREADS>(tokens, table, table_scale, table_minimum, embedding_factor, x);
        barrier.arrive();
        for (int i = 0; i < num_layers; i++) {
            const Layer& l = ((const Layer*)layers)[i];
            rms_qkv_rope_append_body<Weight>(
                x, l.attention_norm, l.qkv.codes, l.qkv.scale, l.qkv.minimum, l.qkv_bias, positions, slots, l.sets,
                l.frequencies, l.amplitudes, pools, places, i, q, wait);
            barrier.arrive();
            to_l2<Weight, H * E>(l.o, D);
            to_l2<Weight, D>(l.gate_up, 2 * F);
            barrier.wait();
            attention_decode_body<THREADS>(q, positions, slots, pools, places, i, (int)l.window, attention_scale,
                                           score_cap, l.sinks, partial, counters, out);
            barrier.arrive();
            to_l2<Weight, F>(l.down, D);
            projection_residual_body<Weight, H * E>(out, l.o.codes, l.o.scale, l.o.minimum, l.o_bias, x, factor, wait);
            barrier.arrive();
            if (i + 1 < num_layers) to_l2<Weight, D>((&l)[1].qkv, (H + 2 * K) * E);
            else to_l2<Head, D>({head, head_scale, head_minimum}, V < 8192 ? V : 8192);  // what memory has time for
            rms_gate_up_body<Weight>(x, l.mlp_norm, l.gate_up.codes, l.gate_up.scale, l.gate_up.minimum,
                                     l.gate_up_bias, h, wait);
            barrier.arrive();
            projection_residual_body<Weight, F>(h, l.down.codes, l.down.scale, l.down.minimum, l.down_bias, x, factor,
                                                wait);
            barrier.arrive();
        }
        barrier.wait();
        rms_head_sample_body<THREADS, Head>(x, norm, head, head_scale, head_minimum, logit_scale, logit_cap,
                                            temperatures, seeds, tokens, positions, best, counters + K, step, results,
                                            logits);
        barrier.arrive();
        barrier.wait();
    }
}

extern "C" __global__ void __launch_bounds__(PERSISTENT_THREADS, 1) persistent(const unsigned long long* layers, int num_layers, const void* table, const void* table_scale, const void* table_minimum, float embedding_factor, float attention_scale, float score_cap, float factor, const float* norm, const void* head, const void* head_scale, const void* head_minimum, float logit_scale, float logit_cap, const double* temperatures, const unsigned long long* seeds, int* tokens, int* positions, const int* slots, const unsigned long long* pools, const int* places, float* x, float* q, float* out, float* h, float* partial, double* best, int* counters, int* generation, int* step, int* results, float* logits, int num_steps) { persistent_body<PERSISTENT_THREADS, Weight, Table, Head>(layers, num_layers, table, table_scale, table_minimum, embedding_factor, attention_scale, score_cap, factor, norm, head, head_scale, head_minimum, logit_scale, logit_cap, temperatures, seeds, tokens, positions, slots, pools, places, x, q, out, h, partial, best, counters, generation, step, results, logits, num_steps); }
