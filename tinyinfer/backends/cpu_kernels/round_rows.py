"""Integer activations: each row of x as whole numbers -127 ... 127 in bytes, group by group, before a product.

The formula is `packed.round_groups`, bit for bit: in float32, S the largest |x| of a group (at least 2^-100),

    code = rint(x · (127 / S)), half to even    scale = S / 127

and the sum of a group's codes, which a product needs wherever a weight's codes do not begin at zero. Floats without
their sign keep their order when their bits are read as whole numbers, and NaN comes above infinity: so the largest one
is found among bits, and a NaN is not lost. Adding 1.5 · 2^23 rounds to a whole number, half to even, and leaves it in
the lowest bits.

Codes lie where a product wants them: each group begins where the whole vector of inputs begins that its first one is
in. So groups that fill no vectors have zeros before and behind their own codes, and take some room more.

Limited by the instructions of a group's maximum, divisions and sum: 7 ns a group of 32.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.buffers import Buffers, Rows
from tinyinfer.backends.cpu_kernels.integers import larger_ints, largest_of_ints, numbers_from, store_bytes, sum_of_ints
from tinyinfer.backends.cpu_kernels.kernel import Launch, kernel
from tinyinfer.backends.cpu_kernels.scalars import as_float, bits_of, set_float, set_int32
from tinyinfer.backends.cpu_kernels.vectors import (
    WIDTH,
    bits_of_floats,
    floats_of_bits,
    load,
    shr_signed,
    splat,
    splat_int,
    sub_ints,
)
from tinyinfer.backends.packed import LARGEST, SMALLEST

FLOAT, LINE = 4, 64  # bytes of a number, and of a cache line
PIECE = 1024  # inputs of an item: enough work for one claim, little enough for several threads to share a row
MAGNITUDE = np.int32(0x7FFFFFFF)  # all bits of a float but its sign
SIGN = np.int32(31)  # where the sign of an int32 is
USUAL = 32  # inputs of a group, mostly: loops over so many are unrolled, and take three fifths of the time
TOP, LEAST = np.float32(LARGEST), np.int32(bits_of(SMALLEST))
ROUNDER = np.float32(1.5 * 2**23)


class RoundedRows(NamedTuple):
    """T rows in 8 bits, G groups to a row, the last of which may be shorter; the launch that rounds them fills it."""

    codes: np.ndarray  # (T, stride) int8: group g from g · span on
    scale: np.ndarray  # (T, G) float32
    sums: np.ndarray  # (T, G) int32: of each group's codes
    span: int  # bytes from a group to the next one


@kernel
def round_groups(a, item, thread):
    """Rounds some groups of a row; an item reads some KB from the core's cache.

    a: x, codes, scale, sums, span, inputs, inputs of a group, groups, groups an item, strides of x and codes in bytes.
    """
    items = -(-a[7] // a[8])  # of a row
    row, first = item // items, item % items * a[8]
    x, codes = a[0] + row * a[9], a[1] + row * a[10]
    for g in range(first, min(first + a[8], a[7])):
        start, stop, at = g * a[6], min(g * a[6] + a[6], a[5]), FLOAT * (row * a[7] + g)
        if start % WIDTH == 0 and stop - start == USUAL:
            round_group(codes + g * a[4], a[2] + at, a[3] + at, x + FLOAT * start, 0, USUAL)
        else:
            round_group(codes + g * a[4], a[2] + at, a[3] + at, x, start, stop)


@njit(forceinline=True)
def round_group(codes, scale, total, x, start, stop):
    """Rounds the inputs start ... stop of a row, and writes their codes, scale and sum."""
    size = largest(x, start, stop)
    set_float(scale, size / TOP)
    set_int32(total, write_codes(codes, x, start, stop, TOP / size))


@njit(forceinline=True)
def inputs_at(x, k, start, stop):
    """16 inputs from k on; zero for those that are not of the group start ... stop."""
    bits = bits_of_floats(load(x + FLOAT * k))
    if (start | stop) % WIDTH:  # one answer for all vectors of a group
        place = numbers_from(np.int32(k))  # both differences are negative inside the group: all bits are their sign's
        inside = sub_ints(splat_int(np.int32(start - 1)), place) & sub_ints(place, splat_int(np.int32(stop)))
        bits = bits & shr_signed(inside, splat_int(SIGN))
    return bits


@njit(forceinline=True)
def largest(x, start, stop):
    """The largest |x| of a group, at least SMALLEST."""
    bits = splat_int(LEAST)
    for k in range(start // WIDTH * WIDTH, stop, WIDTH):
        bits = larger_ints(bits, inputs_at(x, k, start, stop) & splat_int(MAGNITUDE))
    return as_float(np.int64(largest_of_ints(bits)))


@njit(forceinline=True)
def write_codes(codes, x, start, stop, factor):
    """Writes the codes of a group, and returns their sum."""
    by, rounder, total = splat(factor), splat(ROUNDER), splat_int(np.int32(0))
    first = start // WIDTH * WIDTH
    for k in range(first, stop, WIDTH):
        scaled = floats_of_bits(inputs_at(x, k, start, stop)) * by
        code = sub_ints(bits_of_floats(scaled + rounder), bits_of_floats(rounder))
        store_bytes(codes + k - first, code)
        total = total + code
    return sum_of_ints(total)


def round_rows(x: Rows, inputs: int, group: int | None, buffers: Buffers) -> tuple[RoundedRows, Launch]:
    """The rows in 8 bits, and the launch that rounds them. inputs: the width with zeros behind it, whole vectors.

    The arrays have whole fours of rows, zeros behind the last one. Products one after the other share them.
    """
    size, rows = group or inputs, len(x)
    groups, fours = -(-x.width // size), -(-rows // 4) * 4
    span = size if size % WIDTH == 0 or groups == 1 else size // WIDTH * WIDTH + 2 * WIDTH
    stride = (-(-groups * span // LINE) | 1) * LINE  # an odd number of lines: rows do not contend for cache lines
    rounded = RoundedRows(
        buffers.array("rounded codes", (fours, stride), np.int8),
        buffers.array("rounded scales", (fours, groups)),
        buffers.array("rounded sums", (fours, groups), np.int32),
        span,
    )
    each = max(1, PIECE // size)
    arguments = (x.array, *rounded, inputs, size, groups, each, FLOAT * x.stride, stride)
    return rounded, Launch(round_groups, arguments, rows * -(-groups // each))
