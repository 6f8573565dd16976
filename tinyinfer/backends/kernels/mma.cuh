// Tensor cores: one instruction of a warp multiplies a 16 x 16 by a 16 x 8 matrix of halves and adds up in float32.
//
// Each lane holds a few numbers of each matrix (PTX manual, "mma.m16n8k16"). With group = lane / 4 and quad = lane % 4:
//
//     a[0], a[2]   row group,     columns 2 quad, 2 quad + 1, and the same plus 8      (two halves in a word)
//     a[1], a[3]   row group + 8
//     b[0], b[1]   column group,  rows    2 quad, 2 quad + 1, and the same plus 8
//     c[0], c[1]   row group,     columns 2 quad, 2 quad + 1                            (float32)
//     c[2], c[3]   row group + 8
//
// A sum does not mind its order: as long as a and b agree on which input is which, a lane may hold any four of 16.
#include "common.cuh"

template <typename Half> constexpr bool IS_BFLOAT16 = false;
template <> constexpr bool IS_BFLOAT16<bfloat16> = true;

// Two numbers rounded to halves, the first in the word's lower half.
template <typename Half> __device__ inline unsigned pair_of(float first, float second) {
#ifdef __CUDA_ARCH__
    unsigned word;
    if constexpr (IS_BFLOAT16<Half>) asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
    else asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
    return word;
#else
    return from_float<Half>(first).bits | (unsigned)from_float<Half>(second).bits << 16;
#endif
}

template <typename Half> __device__ inline float half_of(unsigned word, int which) {
    return to_float(Half{(unsigned short)(word >> 16 * which)});
}

// c += a b, by all lanes of a warp together.
template <typename Half> __device__ inline void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef __CUDA_ARCH__
#define MMA(TYPE) \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, " \
        "{%8, %9}, {%0, %1, %2, %3};" : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
    if constexpr (IS_BFLOAT16<Half>) MMA("bf16");
    else MMA("f16");
#undef MMA
#else
    const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
    for (int from = 0; from < 4; from++)      // the quad's lanes, who hold the row's other columns
        for (int word = 0; word < 2; word++) {
            const unsigned upper = __shfl_sync(ALL_LANES, a[2 * word], group * 4 + from);
            const unsigned lower = __shfl_sync(ALL_LANES, a[2 * word + 1], group * 4 + from);
            for (int column = 0; column < 2; column++) {
                const unsigned other = __shfl_sync(ALL_LANES, b[word], (2 * quad + column) * 4 + from);
                for (int i = 0; i < 2; i++) {
                    c[column] += half_of<Half>(upper, i) * half_of<Half>(other, i);
                    c[2 + column] += half_of<Half>(lower, i) * half_of<Half>(other, i);
                }
            }
        }
#endif
}
