"""exp, tanh, sigmoid and erf of 16 numbers at once: what a softmax and a gate need between two products.

A library computes one exponential at a time, which would cost more than the products beside it. Here each function is a
dozen vector operations: exp takes out whole powers of 2, which are only bits of a float32, and leaves a number so small
that a short polynomial is exact to the last bit; the others are made of exp.

    e^x = 2^n · e^r,    n = round(x / ln 2),    r = x - n · ln 2 in -0.35 ... 0.35

Wins: an exponential costs about as much as a dozen multiplications of a product. Loses: the last bit or two may differ
from NumPy's, which rounds a little better.
"""
# numba has no type hints
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.vectors import (
    add_ints,
    bits_and,
    bits_of_floats,
    floats_of_bits,
    fma,
    shl,
    shr_signed,
    splat,
    splat_int,
    sub_ints,
    where_less,
)

F = np.float32
LOG2_E = F(1.4426950408889634)
LN2_HIGH, LN2_LOW = F(0.693359375), F(-2.12194440e-4)  # ln 2 in two parts: n times the first one is exact
ROUNDER = F(12582912.0)  # 1.5 · 2^23: a float32 of this size has no fraction, so that adding it rounds
# e^r = 1 + r + r² · (these, lowest power first), fitted to the least relative error, 3e-9
P0, P1, P2, P3, P4 = F(0.49999994), F(0.16666521), F(0.041668389), F(0.0083687166), F(0.0013814599)
SMALLEST, LARGEST = F(-150.0), F(130.0)  # beyond them e^x is 0 or infinite anyway
SIGN, MAGNITUDE = np.int32(-(1 << 31)), np.int32((1 << 31) - 1)


@njit(forceinline=True)
def larger(a, b):
    """The larger of two numbers; b, where a is no number."""
    return where_less(b, a, a, b)


@njit(forceinline=True)
def smaller(a, b):
    """The smaller of two numbers; b, where a is no number."""
    return where_less(a, b, a, b)


@njit(forceinline=True)
def _reduced(x):
    """n as a whole number and r as a float32, of x = n · ln 2 + r."""
    rounded = fma(x, splat(LOG2_E), splat(ROUNDER))
    n = rounded - splat(ROUNDER)
    r = fma(n, splat(-LN2_LOW), fma(n, splat(-LN2_HIGH), x))
    return sub_ints(bits_of_floats(rounded), bits_of_floats(splat(ROUNDER))), r


@njit(forceinline=True)
def _less_one(r):
    """e^r - 1 of a small r."""
    p = fma(fma(fma(fma(splat(P4), r, splat(P3)), r, splat(P2)), r, splat(P1)), r, splat(P0))
    return fma(p, r * r, r)


@njit(forceinline=True)
def _power(n):
    """2^n, written into the exponent's bits: n from -126 to 127."""
    return floats_of_bits(shl(add_ints(n, splat_int(np.int32(127))), splat_int(np.int32(23))))


@njit(forceinline=True)
def exp(x):
    """e^x: 0 far below, infinite far above, NaN of NaN. In two factors, as 2^n alone need not be a float32."""
    n, r = _reduced(larger(splat(SMALLEST), smaller(splat(LARGEST), x)))
    half = shr_signed(n, splat_int(np.int32(1)))
    return (_less_one(r) + splat(F(1))) * _power(half) * _power(sub_ints(n, half))


@njit(forceinline=True)
def with_sign(size, x):
    """A number that is not negative, with the sign of another."""
    sign = bits_and(bits_of_floats(x), splat_int(SIGN))
    return floats_of_bits(add_ints(bits_of_floats(size), sign))


@njit(forceinline=True)
def magnitude(x):
    """|x|, the size without the sign."""
    return floats_of_bits(bits_and(bits_of_floats(x), splat_int(MAGNITUDE)))


@njit(forceinline=True)
def tanh(x):
    """(1 - e^-2|x|) / (1 + e^-2|x|), with the sign of x; of a small x, 1 is never added, so that no digits are lost."""
    n, r = _reduced(larger(splat(F(-40)), magnitude(x) * splat(F(-2))))
    power = _power(n)
    less = fma(power, _less_one(r), power - splat(F(1)))  # e^-2|x| - 1, from -1 to 0
    return with_sign(less / (splat(F(-2)) - less), x)


@njit(forceinline=True)
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return splat(F(1)) / (splat(F(1)) + exp(splat(F(0)) - x))


@njit(forceinline=True)
def erf(x):
    """The error function, by the formula of reference.py's error_function."""
    size = magnitude(x)
    t = splat(F(1)) / fma(splat(F(0.3275911)), size, splat(F(1)))
    series = fma(splat(F(1.061405429)), t, splat(F(-1.453152027)))
    series = fma(fma(fma(series, t, splat(F(1.421413741))), t, splat(F(-0.284496736))), t, splat(F(0.254829592)))
    return with_sign(splat(F(1)) - series * t * exp(splat(F(0)) - size * size), x)
