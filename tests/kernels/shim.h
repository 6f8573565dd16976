// Words of CUDA C++ for g++: what a kernel's text may use, on a CPU. The threads themselves are made by shim.cpp.
//
// Static shared variables are thread-local ones of the library, so that all of them lie together, even those of
// templates; a block's are copied in and out when blocks take turns.
#pragma once
#include <stddef.h>
#include <stdio.h>
#include <string.h>

// math.h would bring half of the standard library, which takes longer to compile than any kernel.
#define SHIM_MATH(name) extern "C" float name##f(float); extern "C" double name(double);
#define SHIM_MATH_2(name) extern "C" float name##f(float, float); extern "C" double name(double, double);
SHIM_MATH(exp) SHIM_MATH(exp2) SHIM_MATH(expm1) SHIM_MATH(log) SHIM_MATH(log2) SHIM_MATH(log1p) SHIM_MATH(sqrt)
SHIM_MATH(sin) SHIM_MATH(cos) SHIM_MATH(tanh) SHIM_MATH(erf) SHIM_MATH(fabs) SHIM_MATH(floor) SHIM_MATH(ceil)
SHIM_MATH(rint) SHIM_MATH(trunc) SHIM_MATH(round)
SHIM_MATH_2(pow) SHIM_MATH_2(fmod) SHIM_MATH_2(fmax) SHIM_MATH_2(fmin) SHIM_MATH_2(copysign)
extern "C" float fmaf(float, float, float);
extern "C" double fma(double, double, double);
extern "C" int abs(int);
inline bool isnan(float x) { return x != x; }
inline bool isnan(double x) { return x != x; }
inline bool isinf(float x) { return fabsf(x) == __builtin_inff(); }
inline bool isinf(double x) { return fabs(x) == __builtin_inf(); }
inline bool isfinite(float x) { return fabsf(x) < __builtin_inff(); }
inline bool isfinite(double x) { return fabs(x) < __builtin_inf(); }

// Words of CUDA

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static __thread
#define DYNAMIC_SHARED(type, name) type* name = (type*)shim::dynamic_shared()
#define SPIN() shim::spin()

struct uint3 { unsigned x, y, z; };
typedef uint3 dim3;
struct __align__(8) float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
struct __align__(8) int2 { int x, y; };
struct __align__(16) int4 { int x, y, z, w; };
struct __align__(8) uint2 { unsigned x, y; };
struct __align__(16) uint4 { unsigned x, y, z, w; };
struct __align__(16) double2 { double x, y; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

#define SHIM_HIDDEN __attribute__((visibility("hidden")))
SHIM_HIDDEN extern uint3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

namespace shim {

typedef unsigned long long u64;
enum Kind { SHUFFLE, BALLOT, ALL, ANY, SYNC };

// The scheduler's part: shim.cpp

SHIM_HIDDEN void barrier(int line);
SHIM_HIDDEN u64 collective(int line, Kind kind, unsigned mask, u64 bits, int source);  // bits of the lane `source`
SHIM_HIDDEN void spin();     // another thread must do something first
SHIM_HIDDEN void fence();
SHIM_HIDDEN void before_atomic();
SHIM_HIDDEN void after_atomic(void* at, bool changed);
SHIM_HIDDEN void trap();
SHIM_HIDDEN void* dynamic_shared();
SHIM_HIDDEN size_t statics_size();
SHIM_HIDDEN const char* launch(void (*entry)(void**), void** values, unsigned grid, unsigned threads, size_t dynamic,
                               u64 seed, unsigned resident);

// What Python must know of a kernel: a letter per argument as in the module struct, P before a pointer, C if constant

template <class V> struct Letter { static constexpr char value = 'x'; };
#define SHIM_LETTER(type, letter) template <> struct Letter<type> { static constexpr char value = letter; };
SHIM_LETTER(void, 'v') SHIM_LETTER(float, 'f') SHIM_LETTER(double, 'd') SHIM_LETTER(int, 'i') SHIM_LETTER(unsigned, 'I')
SHIM_LETTER(long, 'q') SHIM_LETTER(unsigned long, 'Q') SHIM_LETTER(long long, 'q') SHIM_LETTER(unsigned long long, 'Q')
SHIM_LETTER(char, 'b') SHIM_LETTER(signed char, 'b') SHIM_LETTER(unsigned char, 'B') SHIM_LETTER(short, 'h')
SHIM_LETTER(unsigned short, 'H') SHIM_LETTER(bool, '?')

template <class V> constexpr int size_of() { return sizeof(V); }
template <> constexpr int size_of<void>() { return 0; }
template <class V> struct Describe {
    static int write(char* to) { return sprintf(to, "%c%d ", Letter<V>::value, size_of<V>()); }
};
template <class V> struct Describe<V*> {
    static int write(char* to) { return *to = 'P', 1 + Describe<V>::write(to + 1); }
};
template <class V> struct Describe<const V*> {
    static int write(char* to) { return memcpy(to, "PC", 2), 2 + Describe<V>::write(to + 2); }
};

template <int... I> struct Indices {};
template <int N, int... I> struct Count : Count<N - 1, N - 1, I...> {};
template <int... I> struct Count<0, I...> { typedef Indices<I...> type; };

template <class... A, int... I> void call(void (*f)(A...), void** values, Indices<I...>) {
    f(*(A*)values[I]...);
}
template <class... A> void call(void (*f)(A...), void** values) {
    call(f, values, typename Count<sizeof...(A)>::type());
}
template <class... A> const char* describe(void (*)(A...)) {
    static char text[1024];
    char* at = text;
    ((at += Describe<A>::write(at)), ...);
    *at = 0;
    return text;
}

// Operations

template <class V> u64 bits_of(V x) {
    static_assert(sizeof(V) <= 8, "a shuffle moves 4 or 8 bytes");
    u64 bits = 0;
    memcpy(&bits, &x, sizeof x);
    return bits;
}
template <class V> V value_of(u64 bits) {
    V x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
inline int lane() { return threadIdx.x % 32; }
inline int within(int source, int width) {  // a source outside the lane's section means the lane itself
    return source >= 0 && source / width == lane() / width ? source : lane();
}
template <class V> V shuffle(int line, unsigned mask, V x, int source) {
    return value_of<V>(collective(line, SHUFFLE, mask, bits_of(x), source & 31));
}
template <class V> V shfl(int line, unsigned mask, V x, int from, int width = 32) {
    return shuffle(line, mask, x, lane() / width * width + (from & (width - 1)));
}
template <class V> V shfl_xor(int line, unsigned mask, V x, int with, int width = 32) {
    return shuffle(line, mask, x, within(lane() ^ with, width));
}
template <class V> V shfl_down(int line, unsigned mask, V x, unsigned by, int width = 32) {
    return shuffle(line, mask, x, within(lane() + (int)by, width));
}
template <class V> V shfl_up(int line, unsigned mask, V x, unsigned by, int width = 32) {
    return shuffle(line, mask, x, within(lane() - (int)by, width));
}
inline unsigned vote(int line, Kind kind, unsigned mask, int predicate) {
    return (unsigned)collective(line, kind, mask, predicate != 0, 0);
}
template <class V, class F> __attribute__((no_sanitize("thread"))) V atomic(V* at, F change) {
    before_atomic();
    V old = *at;
    *at = change(old);
    after_atomic(at, *at != old);
    return old;
}

}  // namespace shim

#define __syncthreads() shim::barrier(__LINE__)
inline unsigned shim_mask(unsigned mask = ~0u) { return mask; }
#define __syncwarp(...) ((void)shim::vote(__LINE__, shim::SYNC, shim_mask(__VA_ARGS__), 1))
#define __shfl_sync(...) shim::shfl(__LINE__, __VA_ARGS__)
#define __shfl_xor_sync(...) shim::shfl_xor(__LINE__, __VA_ARGS__)
#define __shfl_down_sync(...) shim::shfl_down(__LINE__, __VA_ARGS__)
#define __shfl_up_sync(...) shim::shfl_up(__LINE__, __VA_ARGS__)
#define __ballot_sync(mask, predicate) shim::vote(__LINE__, shim::BALLOT, mask, predicate)
#define __any_sync(mask, predicate) ((int)shim::vote(__LINE__, shim::ANY, mask, predicate))
#define __all_sync(mask, predicate) ((int)shim::vote(__LINE__, shim::ALL, mask, predicate))

#define SHIM_ATOMICS(V) \
    inline V atomicAdd(V* at, V x) { return shim::atomic(at, [=](V old) { return (V)(old + x); }); } \
    inline V atomicExch(V* at, V x) { return shim::atomic(at, [=](V) { return x; }); }
#define SHIM_INTEGER_ATOMICS(V) \
    SHIM_ATOMICS(V) \
    inline V atomicMax(V* at, V x) { return shim::atomic(at, [=](V old) { return old > x ? old : x; }); } \
    inline V atomicMin(V* at, V x) { return shim::atomic(at, [=](V old) { return old < x ? old : x; }); } \
    inline V atomicOr(V* at, V x) { return shim::atomic(at, [=](V old) { return old | x; }); } \
    inline V atomicAnd(V* at, V x) { return shim::atomic(at, [=](V old) { return old & x; }); } \
    inline V atomicCAS(V* at, V expected, V x) { \
        return shim::atomic(at, [=](V old) { return old == expected ? x : old; }); \
    }
SHIM_ATOMICS(float)
SHIM_INTEGER_ATOMICS(int)
SHIM_INTEGER_ATOMICS(unsigned)
SHIM_INTEGER_ATOMICS(unsigned long long)
inline int atomicSub(int* at, int x) { return atomicAdd(at, -x); }

inline void __threadfence() { shim::fence(); }
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) { shim::spin(); }
inline void __trap() { shim::trap(); }

template <class V> V __ldg(const V* at) { return *at; }
template <class V> V __ldcg(const V* at) { return *at; }
template <class V> V __ldcs(const V* at) { return *at; }
template <class V> void __stcg(V* at, V x) { *at = x; }
template <class V> void __stcs(V* at, V x) { *at = x; }
inline int __float_as_int(float x) { return shim::value_of<int>(shim::bits_of(x)); }
inline unsigned __float_as_uint(float x) { return shim::value_of<unsigned>(shim::bits_of(x)); }
inline float __int_as_float(int x) { return shim::value_of<float>(shim::bits_of(x)); }
inline float __uint_as_float(unsigned x) { return shim::value_of<float>(shim::bits_of(x)); }
inline long long __double_as_longlong(double x) { return shim::value_of<long long>(shim::bits_of(x)); }
inline double __longlong_as_double(long long x) { return shim::value_of<double>(shim::bits_of(x)); }
inline unsigned __umulhi(unsigned x, unsigned y) { return (unsigned)((unsigned long long)x * y >> 32); }
inline int __mulhi(int x, int y) { return (int)((long long)x * y >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __float2int_rn(float x) { return (int)rintf(x); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
#define SHIM_MIN_MAX(V) \
    inline V min(V x, V y) { return x < y ? x : y; } \
    inline V max(V x, V y) { return x > y ? x : y; }
SHIM_MIN_MAX(int)
SHIM_MIN_MAX(unsigned)
SHIM_MIN_MAX(long long)
SHIM_MIN_MAX(unsigned long long)
inline float min(float x, float y) { return fminf(x, y); }
inline float max(float x, float y) { return fmaxf(x, y); }
inline double min(double x, double y) { return fmin(x, y); }
inline double max(double x, double y) { return fmax(x, y); }

#define SHIM_VISIBLE extern "C" __attribute__((visibility("default")))
#define SHIM_KERNEL(name, bound) \
    SHIM_VISIBLE const char* shim_launch_##name(void** values, unsigned grid, unsigned threads, size_t dynamic, \
                                              shim::u64 seed, unsigned resident) { \
        return shim::launch([](void** a) { shim::call(name, a); }, values, grid, threads, dynamic, seed, resident); \
    } \
    SHIM_VISIBLE const char* shim_arguments_##name() { return shim::describe(name); } \
    SHIM_VISIBLE unsigned shim_bound_##name() { return bound; } \
    SHIM_VISIBLE size_t shim_statics_##name() { return shim::statics_size(); }
