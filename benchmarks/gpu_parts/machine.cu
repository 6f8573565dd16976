// Kernels that do as little as possible: they show what a device can read, and what it costs to begin work.
//
//     read_all   reads n pieces of 16 bytes once; its time is the bandwidth's
//     nothing    its time is that of a launch, or of a node in a graph
//     barriers   all blocks wait for each other so many times; all must be resident at once, so at most one a processor

struct alignas(16) Words { unsigned int a, b, c, d; };
__device__ void read_all_body(const void* data, long long n, unsigned int* out) {
    const Words* words = (const Words*)data;
    unsigned int sum = 0;
    long long stride = (long long)gridDim.x * blockDim.x;
    #pragma unroll 8
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
        Words w = words[i];
        sum ^= w.a ^ w.b ^ w.c ^ w.d;
    }
    if (sum == 12345) out[0] = sum;  // never: the compiler must not leave the loads out
}
extern "C" __global__ void __launch_bounds__(256) read_all(const void* data, long long n, unsigned int* out) { read_all_body(data, n, out); }
extern "C" __global__ void __launch_bounds__(256) nothing(unsigned int* out) { if (out == nullptr) return; }
__device__ void barriers_body(int* arrived, int rounds) {
    for (int round = 1; round <= rounds; round++) {
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            atomicAdd(arrived, 1);
            while (*(volatile int*)arrived < round * (int)gridDim.x) {}
            __threadfence();
        }
        __syncthreads();
    }
}
extern "C" __global__ void __launch_bounds__(256) barriers(int* arrived, int rounds) { barriers_body(arrived, rounds); }
