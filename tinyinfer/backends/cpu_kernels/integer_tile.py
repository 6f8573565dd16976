"""A tile of whole numbers: one group of inputs of 64 outputs, times one row or four, with every sum in a register.

Four rows are multiplied with a vector of weights once it is loaded, so that four rows read no more than one: 16 vectors
of sums, 4 of weights and one of x fit in the 32 registers of AVX-512, and each addition is 64 multiplications (dot.py).
At the end of a group its sums become floats,

    y += s · (scale · Σ q·code + minimum · Σ q)

each operation rounded by itself, as int8_inputs.sum_of_groups does, so that the result is the same bit for bit.

A code of fewer than 8 bits is a field of a byte: one shift and one mask on the way into the register, which other units
of the core do than those that multiply. Codes of two planes (lanes.py) take five such steps. For many rows, a group of
them is unpacked once into a few kilobytes that stay in the nearest cache, and is then multiplied as 8-bit codes are.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.buffers import BLOCK as LANES
from tinyinfer.backends.cpu_kernels.dot import dot
from tinyinfer.backends.cpu_kernels.integers import load_signed_bytes, prefetch, store_ints
from tinyinfer.backends.cpu_kernels.scalars import float_at, int32_at
from tinyinfer.backends.cpu_kernels.vectors import load, load_half, load_ints, splat, splat_int, store, to_floats

VECTOR, BLOCK = 64, 256  # bytes of 16 numbers or words, and of the 64 of a block
HALF = 2  # bytes of a scale
EVERY_BYTE = 0x01010101


class Planes(NamedTuple):
    """A block's codes: addresses of both planes, and their bits; no bits: there is no high plane.

    ahead: bytes from words that are read to words that are asked for at the same time; 0: none are.
    """

    low: int
    high: int
    bits: int
    more: int
    ahead: int


class Group(NamedTuple):
    """Inputs start ... stop of a block, what the least code is, and four vectors of scales and of minimums."""

    start: int
    stop: int
    lowest: int
    scales: tuple[Any, Any, Any, Any]
    minimums: tuple[Any, Any, Any, Any]
    has_minimum: bool


class Inputs(NamedTuple):
    """A group of a row of x: addresses of its codes, its scale and its sum; bytes from a row's to the next row's."""

    codes: int
    scale: int
    total: int
    stride: int
    apart: int


# Weights.


@njit(forceinline=True)
def words_at(at):
    """The words of 64 outputs at an address, as four vectors."""
    return load_ints(at), load_ints(at + VECTOR), load_ints(at + 2 * VECTOR), load_ints(at + 3 * VECTOR)


@njit(forceinline=True)
def field(words, bits, h):
    """The codes of inputs 4·h ... 4·h + 3 of each word, in its four bytes."""
    if bits == 8:
        return words
    by, mask = splat_int(np.int32(bits * h)), splat_int(np.int32(EVERY_BYTE * ((1 << bits) - 1)))
    return (words[0] >> by) & mask, (words[1] >> by) & mask, (words[2] >> by) & mask, (words[3] >> by) & mask


@njit(forceinline=True)
def joined(low, high, bits):
    """Codes whose low `bits` bits and high bits come from two planes."""
    by = splat_int(np.int32(bits))
    return low[0] | (high[0] << by), low[1] | (high[1] << by), low[2] | (high[2] << by), low[3] | (high[3] << by)


@njit(forceinline=True)
def high_words(plane, bits, k):
    """The words of a high plane that hold input k, moved so that its code comes first."""
    words, by = words_at(plane + BLOCK * (bits * k // 32)), splat_int(np.int32(bits * (k % (32 // bits) // 4)))
    return words[0] >> by, words[1] >> by, words[2] >> by, words[3] >> by


@njit(forceinline=True)
def codes_at(planes, k, h):
    """The codes of inputs k + 4·h ... k + 4·h + 3. k: the first input of a word of the low plane."""
    codes = field(words_at(planes.low + BLOCK * (planes.bits * k // 32)), planes.bits, h)
    if planes.more == 0:
        return codes
    return joined(codes, field(high_words(planes.high, planes.more, k), planes.more, h), planes.bits)


@njit(forceinline=True)
def ask_ahead(planes, k):
    """Asks for words that are read some time after those of input k, so that they are near by then."""
    if planes.ahead:
        at = planes.low + BLOCK * (planes.bits * k // 32) + planes.ahead
        prefetch(at)
        prefetch(at + VECTOR)
        prefetch(at + 2 * VECTOR)
        prefetch(at + 3 * VECTOR)


@njit(forceinline=True)
def unpacked(out, planes, group):
    """Writes a group's codes as an 8-bit plane, and returns the plane."""
    plane = Planes(out - VECTOR * group.start, 0, 8, 0, 0)
    for k in range(group.start, group.stop, 32 // planes.bits):
        for h in range(8 // planes.bits):
            codes = codes_at(planes, k, h)
            store_ints(out, codes[0])
            store_ints(out + VECTOR, codes[1])
            store_ints(out + 2 * VECTOR, codes[2])
            store_ints(out + 3 * VECTOR, codes[3])
            out += BLOCK
    return plane


@njit(forceinline=True)
def scales_at(scale, step, nested, group):
    """Scales or minimums of 64 outputs in a group. nested: groups that share a step; 0: scales are plain float16."""
    if nested == 0:
        return halves_at(scale + LANES * HALF * group)
    at, steps = scale + LANES * group, halves_at(step + LANES * HALF * (group // nested))
    return (
        steps[0] * to_floats(load_signed_bytes(at)),
        steps[1] * to_floats(load_signed_bytes(at + 16)),
        steps[2] * to_floats(load_signed_bytes(at + 32)),
        steps[3] * to_floats(load_signed_bytes(at + 48)),
    )


@njit(forceinline=True)
def halves_at(at):
    """64 float16 numbers at an address, as float32."""
    return load_half(at), load_half(at + 32), load_half(at + 64), load_half(at + 96)


# Sums.


@njit(forceinline=True)
def begin(group, x):
    """64 sums that begin with lowest · Σ q, since what is stored of a code is code - lowest."""
    total = splat_int(np.int32(group.lowest * int32_at(x.total)))
    return total, total, total, total


@njit(forceinline=True)
def dots(sums, codes, at):
    """64 sums, and the products of four inputs added; at: where a row's four bytes are."""
    q = splat_int(int32_at(at))
    return dot(sums[0], codes[0], q), dot(sums[1], codes[1], q), dot(sums[2], codes[2], q), dot(sums[3], codes[3], q)


@njit(forceinline=True)
def finish(y, sums, group, x):
    """y += s · (scale · sums + minimum · Σ q) for 64 outputs of a row."""
    scales, minimums, s = group.scales, group.minimums, splat(float_at(x.scale))
    a, b = to_floats(sums[0]) * scales[0], to_floats(sums[1]) * scales[1]
    c, d = to_floats(sums[2]) * scales[2], to_floats(sums[3]) * scales[3]
    if group.has_minimum:
        q = splat(np.float32(int32_at(x.total)))
        a, b, c, d = a + q * minimums[0], b + q * minimums[1], c + q * minimums[2], d + q * minimums[3]
    store(y, load(y) + a * s)
    store(y + VECTOR, load(y + VECTOR) + b * s)
    store(y + 2 * VECTOR, load(y + 2 * VECTOR) + c * s)
    store(y + 3 * VECTOR, load(y + 3 * VECTOR) + d * s)


@njit(forceinline=True)
def below(x, rows):
    """The group in a row so many rows below."""
    return Inputs(x.codes + rows * x.stride, x.scale + rows * x.apart, x.total + rows * x.apart, x.stride, x.apart)


@njit(forceinline=True)
def one_row(y, x, planes, group):
    """Adds a group's products to 64 outputs of a row."""
    sums = begin(group, x)
    for k in range(group.start, group.stop, 32 // planes.bits):
        ask_ahead(planes, k)
        for h in range(8 // planes.bits):
            sums = dots(sums, codes_at(planes, k, h), x.codes + k + 4 * h - group.start)
    finish(y, sums, group, x)


@njit(forceinline=True)
def four_rows(y, x_0, planes, group):
    """Adds a group's products to 64 outputs of each of four rows."""
    x_1, x_2, x_3 = below(x_0, 1), below(x_0, 2), below(x_0, 3)
    a, b, c, d = begin(group, x_0), begin(group, x_1), begin(group, x_2), begin(group, x_3)
    for k in range(group.start, group.stop, 32 // planes.bits):
        ask_ahead(planes, k)
        for h in range(8 // planes.bits):
            codes, at = codes_at(planes, k, h), k + 4 * h - group.start
            a, b = dots(a, codes, x_0.codes + at), dots(b, codes, x_1.codes + at)
            c, d = dots(c, codes, x_2.codes + at), dots(d, codes, x_3.codes + at)
    finish(y, a, group, x_0)
    finish(y + BLOCK, b, group, x_1)
    finish(y + 2 * BLOCK, c, group, x_2)
    finish(y + 3 * BLOCK, d, group, x_3)


@njit(forceinline=True)
def all_rows(y, x, rows, planes, group):
    """Adds a group's products to 64 outputs of each row. Of three rows left, a fourth is computed, too: of zeros."""
    fours = rows + 1 & -4
    for row in range(0, fours, 4):
        four_rows(y + BLOCK * row, below(x, row), planes, group)
    for row in range(fours, rows):
        one_row(y + BLOCK * row, below(x, row), planes, group)
