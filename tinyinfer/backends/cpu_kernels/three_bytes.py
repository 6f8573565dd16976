"""A float as three bytes, so that instructions for products of bytes multiply floats, too.

Rounded to 8 bits with its group (round_rows.py), a number leaves a remainder of at most half a step. The remainder is
rounded to 8 bits in its turn, in steps 254 times smaller, and what that leaves once more:

    x = s · (q1 + q2 / 254 + q3 / 254²) + rest,    |rest| ≤ largest |x| of the group · 2^-24

which is as near as float32 itself is to a number of that size. A product then has three whole-number sums where it had
one of floats, all of them exact, and they are put together once for each group.

Wins: with VNNI three such instructions multiply 64 codes, which as floats would take four multiplications and sixteen
operations of conversion; with AVX2 some fifteen do, where floats take 32. Loses: without such instructions, and with
dense weights, which are no bytes.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.buffers import Buffers, Rows
from tinyinfer.backends.cpu_kernels.integers import store_bytes
from tinyinfer.backends.cpu_kernels.kernel import Launch, kernel
from tinyinfer.backends.cpu_kernels.round_rows import ROUNDER, TOP, largest
from tinyinfer.backends.cpu_kernels.scalars import set_float
from tinyinfer.backends.cpu_kernels.vectors import (
    WIDTH,
    bits_of_floats,
    fma,
    load,
    reduce_add,
    splat,
    sub_ints,
)

DIGITS = 3
FINER = np.float32(1 / 254)  # a byte's step, in steps of the byte before it
FLOAT, LINE = 4, 64  # bytes of a number, and of a cache line
PIECE = 1024  # inputs of an item: a row of a small model is one item, which costs no wait (team.py)


class SplitRows(NamedTuple):
    """T rows in three bytes a number, G groups to a row; the launch that splits them fills it."""

    digits: np.ndarray  # (T, 3, stride) int8, zero behind the width
    scale: np.ndarray  # (T, G) float32: of the first bytes; the others' are 254 and 254² times smaller
    sums: np.ndarray  # (T, G) float32: of each group's inputs


@kernel
def split_groups(a, item, thread):
    """Splits some groups of a row.

    a: x, digits, scale, sums, inputs, group, groups, groups of an item, strides of x and of digits in bytes.
    """
    items = -(-a[6] // a[7])  # of a row
    row, first = item // items, item % items * a[7]
    x, digits = a[0] + row * a[8], a[1] + row * DIGITS * a[9]
    for g in range(first, min(first + a[7], a[6])):
        start, stop, at = g * a[5], min(g * a[5] + a[5], a[4]), FLOAT * (row * a[6] + g)
        scale = largest(x, start, stop) / TOP
        set_float(a[2] + at, scale)
        set_float(a[3] + at, split(digits, a[9], x, start, stop, scale))


@njit(forceinline=True)
def split(digits, stride, x, start, stop, scale):
    """Writes the digits of inputs start ... stop, and returns the sum of these inputs."""
    total, one = splat(np.float32(0)), np.float32(1)
    for k in range(start, stop, WIDTH):
        rest, step = load(x + FLOAT * k), scale
        total = total + rest
        for place in range(0, DIGITS * stride, stride):
            rounded = fma(rest, splat(one / step), splat(ROUNDER))  # 1.5 · 2^23 + the digit
            store_bytes(digits + place + k, sub_ints(bits_of_floats(rounded), bits_of_floats(splat(ROUNDER))))
            rest = fma(splat(ROUNDER) - rounded, splat(step), rest)
            step = step * FINER
    return reduce_add(total)


def split_rows(x: Rows, inputs: int, group: int, buffers: Buffers) -> tuple[SplitRows, Launch]:
    """The rows in three bytes, and the launch that splits them. inputs: a multiple of 16, zeros behind the width."""
    rows, groups = len(x), -(-inputs // group)
    stride = (-(-inputs // LINE) | 1) * LINE  # an odd number of lines, so that rows do not contend for cache lines
    rows_ = SplitRows(
        buffers.array("digits", (rows, DIGITS, stride), np.int8),
        buffers.array("scales of digits", (rows, groups)),
        buffers.array("sums of inputs", (rows, groups)),
    )
    each = max(1, PIECE // group)
    arguments = (x.array, *rows_, inputs, group, groups, each, x.array.strides[0], stride)
    return rows_, Launch(split_groups, arguments, rows * -(-groups // each))
