// cap_logits: logits times a factor, and capped (ReferenceOps.scale, .cap), where the head's own kernel does not do it.
//
//     logits[i] = limit * tanh(factor * logits[i] / limit), limit 0: factor * logits[i]
//
// Reads and writes: logits (T, V). Items: T * V numbers, 256 to a block; sensible grid: all of them, rounded up.
// Shared memory: none. Roofline: 8 bytes and some 20 FLOPs a number; at V = 256,000 and 8 rows 16 MB, which the 50 MB
// of L2 hold: some 4 us. Wins: one small kernel for what few families need. Loses: against an epilogue of the head, a
// launch and the way through memory; rms_head_sample, which is that epilogue, cannot filter, and tensor cores' rows
// lack it.
#include "common.cuh"

constexpr int CAP_THREADS = 256;

template <int THREADS>
__device__ void cap_logits_body(float* logits, float factor, float limit) {
    const long long stride = gridDim.x * (long long)THREADS;
    for (long long i = blockIdx.x * (long long)THREADS + threadIdx.x; i < (long long)T * V; i += stride) {
        const float logit = factor * logits[i];
        logits[i] = limit > 0 ? limit * tanhf(logit / limit) : logit;
    }
}

extern "C" __global__ void __launch_bounds__(CAP_THREADS) cap_logits(float* logits, float factor, float limit) { cap_logits_body<CAP_THREADS>(logits, factor, limit); }
