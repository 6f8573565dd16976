// Rotary positions: numbers e and e + E/2 of a head are a pair, turned by position * frequency[e] (ReferenceOps.cos_sin
// and .rope). frequencies, amplitudes: [Z][E/2], of the rotation's Z sets; a pair that is not turned has frequency 0.
//
// The angle is rounded to float32, as NumPy's is: at position 131,071 another rounding moves it by 0.004. cosf and sinf
// are right for large angles, too; those of the hardware (__cosf) are not, from some hundred radians on.
#include "common.cuh"

struct Turn {
    float cos, sin;

    __device__ float first(float x, float y) const { return x * cos - y * sin; }
    __device__ float second(float x, float y) const { return y * cos + x * sin; }
};

__device__ inline Turn turn_of(int position, float frequency, float amplitude) {
    const float angle = (float)position * frequency;
    return {amplitude * cosf(angle), amplitude * sinf(angle)};
}
