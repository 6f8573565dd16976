"""A tile of whole numbers: one group of inputs of 64 outputs, times one row or four, with every sum in a register.

Four rows are multiplied with a vector of weights once it is loaded, so that four rows read no more than one: 16 vectors
of sums, 4 of weights and one of x fit in the 32 registers of AVX-512, and each addition is 64 multiplications (dot.py).
With fewer registers, four rows take 16 outputs at a time. At the end of a group its sums become floats,

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
from tinyinfer.backends.cpu_kernels.dot import dot, has_pairs, signed_dot, small_dot
from tinyinfer.backends.cpu_kernels.integers import load_signed_bytes, prefetch, store_ints
from tinyinfer.backends.cpu_kernels.registers import fits
from tinyinfer.backends.cpu_kernels.scalars import float_at, int32_at
from tinyinfer.backends.cpu_kernels.vectors import load, load_half, load_ints, splat, splat_int, store, to_floats

VECTOR, BLOCK = 64, 256  # bytes of 16 numbers or words, and of the 64 of a block
HALF = 2  # bytes of a scale
EVERY_BYTE = 0x01010101
WIDE = fits(16)  # whether the sums of four rows and 64 outputs fit into registers
SIGNED, MIDDLE = has_pairs(), 128  # whether 8-bit codes are multiplied as code - 128, which has a sign
TOP_BITS = np.int32(-0x7F7F7F80)  # of four bytes


class Planes(NamedTuple):
    """A block's codes: addresses of both planes, and their bits; no bits: there is no high plane.

    ahead: bytes from words that are read to words that are asked for at the same time; 0: none are. small: whether all
    codes are below 128.
    """

    low: int
    high: int
    bits: int
    more: int
    ahead: int
    small: bool


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
def field(words, bits, h):
    """The codes of inputs 4·h ... 4·h + 3 of each word, in its four bytes."""
    if bits == 8:
        return words
    return (words >> splat_int(np.int32(bits * h))) & splat_int(np.int32(EVERY_BYTE * ((1 << bits) - 1)))


@njit(forceinline=True)
def high_words(plane, bits, k):
    """The words of a high plane that hold input k, moved so that its code comes first."""
    return load_ints(plane + BLOCK * (bits * k // 32)) >> splat_int(np.int32(bits * (k % (32 // bits) // 4)))


@njit(forceinline=True)
def codes_of(planes, v, k, h):
    """The codes of inputs k + 4·h ... k + 4·h + 3 of outputs 16·v ... 16·v + 15. k: a low word's first input."""
    low = field(load_ints(planes.low + VECTOR * v + BLOCK * (planes.bits * k // 32)), planes.bits, h)
    if planes.more == 0:
        return low
    high = field(high_words(planes.high + VECTOR * v, planes.more, k), planes.more, h)
    return low | (high << splat_int(np.int32(planes.bits)))


@njit(forceinline=True)
def codes_at(planes, k, h):
    """The same of all 64 outputs."""
    return codes_of(planes, 0, k, h), codes_of(planes, 1, k, h), codes_of(planes, 2, k, h), codes_of(planes, 3, k, h)


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
    plane = Planes(out - VECTOR * group.start, 0, 8, 0, 0, True)
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
def begin(planes, group, x):
    """16 sums that begin with lowest · Σ q, since what is stored of a code is code - lowest."""
    lowest = group.lowest + MIDDLE if SIGNED and not planes.small else group.lowest
    return splat_int(np.int32(lowest * int32_at(x.total)))


@njit(forceinline=True)
def add_dot(planes, total, codes, q):
    """16 sums, and the products of four inputs added."""
    if planes.small:
        return small_dot(total, codes, q)
    if SIGNED:
        return signed_dot(total, codes ^ splat_int(TOP_BITS), q)
    return dot(total, codes, q)


@njit(forceinline=True)
def dots(planes, sums, codes, at):
    """64 sums, and the products of four inputs added; at: where a row's four bytes are."""
    q = splat_int(int32_at(at))
    return (
        add_dot(planes, sums[0], codes[0], q), add_dot(planes, sums[1], codes[1], q),
        add_dot(planes, sums[2], codes[2], q), add_dot(planes, sums[3], codes[3], q),
    )  # fmt: skip


@njit(forceinline=True)
def end(y, total, scale, minimum, has_minimum, x):
    """y += s · (scale · sum + minimum · Σ q) for 16 outputs of a row."""
    value = to_floats(total) * scale
    if has_minimum:
        value = value + splat(np.float32(int32_at(x.total))) * minimum
    store(y, load(y) + value * splat(float_at(x.scale)))


@njit(forceinline=True)
def finish(y, sums, group, x):
    """The same for 64 outputs."""
    scales, minimums, more = group.scales, group.minimums, group.has_minimum
    end(y, sums[0], scales[0], minimums[0], more, x)
    end(y + VECTOR, sums[1], scales[1], minimums[1], more, x)
    end(y + 2 * VECTOR, sums[2], scales[2], minimums[2], more, x)
    end(y + 3 * VECTOR, sums[3], scales[3], minimums[3], more, x)


@njit(forceinline=True)
def below(x, rows):
    """The group in a row so many rows below."""
    return Inputs(x.codes + rows * x.stride, x.scale + rows * x.apart, x.total + rows * x.apart, x.stride, x.apart)


@njit(forceinline=True)
def one_row(y, x, planes, group):
    """Adds a group's products to 64 outputs of a row."""
    start = begin(planes, group, x)
    sums = start, start, start, start
    for k in range(group.start, group.stop, 32 // planes.bits):
        ask_ahead(planes, k)
        for h in range(8 // planes.bits):
            sums = dots(planes, sums, codes_at(planes, k, h), x.codes + k + 4 * h - group.start)
    finish(y, sums, group, x)


@njit(forceinline=True)
def four_rows(y, x_0, planes, group):
    """Adds a group's products to 64 outputs of each of four rows."""
    x_1, x_2, x_3 = below(x_0, 1), below(x_0, 2), below(x_0, 3)
    start_a, start_b = begin(planes, group, x_0), begin(planes, group, x_1)
    start_c, start_d = begin(planes, group, x_2), begin(planes, group, x_3)
    a, b = (start_a, start_a, start_a, start_a), (start_b, start_b, start_b, start_b)
    c, d = (start_c, start_c, start_c, start_c), (start_d, start_d, start_d, start_d)
    for k in range(group.start, group.stop, 32 // planes.bits):
        ask_ahead(planes, k)
        for h in range(8 // planes.bits):
            codes, at = codes_at(planes, k, h), k + 4 * h - group.start
            a, b = dots(planes, a, codes, x_0.codes + at), dots(planes, b, codes, x_1.codes + at)
            c, d = dots(planes, c, codes, x_2.codes + at), dots(planes, d, codes, x_3.codes + at)
    finish(y, a, group, x_0)
    finish(y + BLOCK, b, group, x_1)
    finish(y + 2 * BLOCK, c, group, x_2)
    finish(y + 3 * BLOCK, d, group, x_3)


@njit(forceinline=True)
def four_rows_of(v, y, x_0, planes, group):
    """The same for outputs 16·v ... 16·v + 15, which takes a quarter of the registers."""
    x_1, x_2, x_3 = below(x_0, 1), below(x_0, 2), below(x_0, 3)
    a, b = begin(planes, group, x_0), begin(planes, group, x_1)
    c, d = begin(planes, group, x_2), begin(planes, group, x_3)
    for k in range(group.start, group.stop, 32 // planes.bits):
        if planes.ahead:
            prefetch(planes.low + BLOCK * (planes.bits * k // 32) + VECTOR * v + planes.ahead)
        for h in range(8 // planes.bits):
            codes, at = codes_of(planes, v, k, h), k + 4 * h - group.start
            a = add_dot(planes, a, codes, splat_int(int32_at(x_0.codes + at)))
            b = add_dot(planes, b, codes, splat_int(int32_at(x_1.codes + at)))
            c = add_dot(planes, c, codes, splat_int(int32_at(x_2.codes + at)))
            d = add_dot(planes, d, codes, splat_int(int32_at(x_3.codes + at)))
    scale, minimum, more, y = group.scales[v], group.minimums[v], group.has_minimum, y + VECTOR * v
    end(y, a, scale, minimum, more, x_0)
    end(y + BLOCK, b, scale, minimum, more, x_1)
    end(y + 2 * BLOCK, c, scale, minimum, more, x_2)
    end(y + 3 * BLOCK, d, scale, minimum, more, x_3)


@njit(forceinline=True)
def all_rows(y, x, rows, planes, group):
    """Adds a group's products to 64 outputs of each row. Of three rows left, a fourth is computed, too: of zeros."""
    fours = rows + 1 & -4
    for row in range(0, fours, 4):
        if WIDE:
            four_rows(y + BLOCK * row, below(x, row), planes, group)
        else:
            for v in range(4):
                four_rows_of(v, y + BLOCK * row, below(x, row), planes, group)
    for row in range(fours, rows):
        one_row(y + BLOCK * row, below(x, row), planes, group)
