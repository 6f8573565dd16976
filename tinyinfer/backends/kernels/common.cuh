// What every kernel needs: the weights' number types, loads that pass by the L1 cache, sums and maxima over threads.
//
// No CUDA header is included anywhere, so that a machine without a GPU can execute the same text: a half-precision
// number is its 16 bits, and one function gives its value. Where a GPU has an instruction for something, the
// instruction stands behind __CUDA_ARCH__ and plain C++ that computes the same beside it.
//
// Letters as in the package: T rows of a pass, D features, H query heads, K key heads, E numbers in a head, F inner
// features of an MLP, V tokens, L layers; M inputs and N outputs of a product.
#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(TYPE, NAME) \
    extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
    TYPE* NAME = (TYPE*)dynamic_shared
#endif
#define INFINITE from_bits(0x7f800000u)
#define ALL_LANES 0xffffffffu

union Bits { unsigned bits; float value; };
__device__ inline float from_bits(unsigned bits) { Bits both; both.bits = bits; return both.value; }
__device__ inline unsigned to_bits(float value) { Bits both; both.value = value; return both.bits; }

struct float32 { unsigned bits; };
struct bfloat16 { unsigned short bits; };  // the upper half of a float32
struct float16 { unsigned short bits; };

__device__ inline float to_float(float32 number) { return from_bits(number.bits); }
__device__ inline float to_float(bfloat16 number) { return from_bits((unsigned)number.bits << 16); }
__device__ inline float to_float(float16 number) {
    float value;
#ifdef __CUDA_ARCH__
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(number.bits));
#else
    union { unsigned short bits; _Float16 value; } both;
    both.bits = number.bits;
    value = (float)both.value;
#endif
    return value;
}

template <typename Number> __device__ inline Number from_float(float value);  // to the nearest, ties to even
template <> __device__ inline float32 from_float<float32>(float value) { return {to_bits(value)}; }
template <> __device__ inline bfloat16 from_float<bfloat16>(float value) {
    const unsigned bits = to_bits(value), half = 0x7fffu + (bits >> 16 & 1);  // half of the last place that stays
    return {(unsigned short)(value == value ? (bits + half) >> 16 : bits >> 16 | 0x40)};  // a NaN stays a NaN
}
template <> __device__ inline float16 from_float<float16>(float value) {
#ifdef __CUDA_ARCH__
    float16 number;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(number.bits) : "f"(value));
    return number;
#else
    union { unsigned short bits; _Float16 value; } both;
    both.value = (_Float16)value;
    return {both.bits};
#endif
}

// SIZE bytes of a weight as 32-bit words, read once and never again: the load leaves no trace in L1, where activations
// lie. The pointer is aligned to SIZE. `volatile` keeps the load where it is written: before the barrier, not behind.
template <int SIZE> struct Bytes { unsigned words[(SIZE + 3) / 4]; };
template <int SIZE> __device__ inline Bytes<SIZE> stream(const void* from) {
    Bytes<SIZE> to;
#ifdef __CUDA_ARCH__
    unsigned short small;
    if constexpr (SIZE == 16)
        asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
            : "=r"(to.words[0]), "=r"(to.words[1]), "=r"(to.words[2]), "=r"(to.words[3]) : "l"(from));
    else if constexpr (SIZE == 8)
        asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];"
            : "=r"(to.words[0]), "=r"(to.words[1]) : "l"(from));
    else if constexpr (SIZE == 4)
        asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(to.words[0]) : "l"(from));
    else if constexpr (SIZE == 2) {
        asm volatile("ld.global.nc.L1::no_allocate.u16 %0, [%1];" : "=h"(small) : "l"(from));
        to.words[0] = small;
    } else to.words[0] = *(const unsigned char*)from;
#else
    const bool aligned = (unsigned long long)from % SIZE == 0;  // a GPU stops here; all ones are NaN, or no right code
    to.words[(SIZE - 1) / 4] = 0;
    for (int i = 0; i < SIZE; i++) ((unsigned char*)to.words)[i] = aligned ? ((const unsigned char*)from)[i] : 255;
#endif
    return to;
}

struct Sum { __device__ float operator()(float a, float b) const { return a + b; } };
struct Largest { __device__ float operator()(float a, float b) const { return a > b ? a : b; } };  // NaN never wins

// Over LANES neighbouring lanes of a warp; every one of them gets the result.
template <int LANES = 32, typename Join> __device__ inline float across(float value, Join join) {
    for (int distance = LANES / 2; distance; distance /= 2)
        value = join(value, __shfl_xor_sync(ALL_LANES, value, distance));
    return value;
}
template <int LANES = 32> __device__ inline float warp_sum(float value) { return across<LANES>(value, Sum()); }
template <int LANES = 32> __device__ inline float warp_max(float value) { return across<LANES>(value, Largest()); }

// Over all threads of a block, through one number per warp in shared memory; every thread gets the result.
template <typename Join> __device__ inline float across_block(float value, Join join) {
    __shared__ float warps[32];
    value = across(value, join);
    __syncthreads();  // whoever called before has read its numbers
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    value = warps[0];
    for (int warp = 1; warp < blockDim.x / 32; warp++) value = join(value, warps[warp]);
    return value;
}
__device__ inline float block_sum(float value) { return across_block(value, Sum()); }
