"""Products of whole numbers: packed weights times activations in 8 bits, for one row, a batch, or a prompt.

The formula is int8_inputs.grouped_product, and w8a8_product where all inputs are one group. Two launches: rows are
rounded (round_rows.py), then each item computes a block of 64 outputs for up to 64 rows, group after group: a group of
weights is read once, is then in the nearest cache, and is multiplied with four rows at a time (integer_tile.py).

One row waits for memory: M·bits/8 bytes an output, and two operations for each weight. From some eight rows on, the
instruction `dot` is the limit: one a cycle and core, 64 multiplications each.

Wins: a CPU with this instruction computes 16 rows in about twice the time of one, where float weights make it ten
times, and a prompt three times as fast as floats. Loses: activations are rounded, too (docs/quantization.md says what
that costs); a CPU with AVX2 alone gains half as much again over floats, and one with less only saves bytes.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.buffers import BLOCK as LANES
from tinyinfer.backends.cpu_kernels.buffers import Buffers, Rows, aligned
from tinyinfer.backends.cpu_kernels.integer_tile import (
    BLOCK,
    VECTOR,
    Group,
    Inputs,
    Planes,
    all_rows,
    below,
    scales_at,
    unpacked,
)
from tinyinfer.backends.cpu_kernels.kernel import Kernel, Launch, kernel
from tinyinfer.backends.cpu_kernels.round_rows import round_rows
from tinyinfer.backends.cpu_kernels.scalars import as_float, bits_of, set_float
from tinyinfer.backends.cpu_kernels.scales import layout
from tinyinfer.backends.cpu_kernels.vectors import WIDTH, load, splat, store
from tinyinfer.backends.lanes import PLANES, PackedLanes, padded

FLOAT = 4  # bytes of a number
# How far ahead words are asked for: where arithmetic comes between, a core lags behind with what a stream reads next
# (two threads, one row, AVX2: 8.9 ms a model of 8 bits, and 6.9 so; of 4 bits 5.1 and 4.0).
AHEAD = 4096  # bytes
MOST_ROWS, FEWEST_ROWS = 64, 4  # of an item
ITEMS = 8  # for each thread, where there are rows enough: so threads finish at about the same time


# Where what stands among a launch's arguments.
X, X_SCALES, X_SUMS, SPAN, X_STRIDE, X_APART = 0, 1, 2, 3, 4, 5  # RoundedRows, bytes from a row's to the next row's
LOW, HIGH, INPUTS, ROWS, ROWS_OF_ITEM = 6, 7, 8, 9, 10  # the weight's planes; sizes
SCALE, MINIMUM, STEP, MINIMUM_STEP, NESTED, GROUPS, GROUP, LOWEST = 11, 12, 13, 14, 15, 16, 17, 18  # scales.layout
TOTALS, SCRATCH, SCRATCH_SIZE = 19, 20, 21  # memory of threads
Y, Y_STRIDE, OUTPUTS, BIAS, ADDS, FACTOR = 22, 23, 24, 25, 26, 27  # what becomes of the product


@njit(forceinline=True)
def group_of(a, block, g):
    """Group g of a block: its inputs, in whole vectors, and its scales and minimums."""
    place, start = block * a[GROUPS] + g, g * a[GROUP] // WIDTH * WIDTH
    stop = -(-min((g + 1) * a[GROUP], a[INPUTS]) // WIDTH) * WIDTH
    scales = scales_at(a[SCALE], a[STEP], a[NESTED], place)
    minimums = scales_at(a[MINIMUM], a[MINIMUM_STEP], a[NESTED], place) if a[MINIMUM] else scales
    return Group(start, stop, a[LOWEST], scales, minimums, a[MINIMUM])


@njit(forceinline=True)
def multiply(a, totals, scratch, planes, block, first, rows):
    """totals = x Wᵀ for 64 outputs and some rows, group after group."""
    for at in range(0, rows * BLOCK, VECTOR):
        store(totals + at, splat(np.float32(0)))
    x = below(Inputs(a[X], a[X_SCALES], a[X_SUMS], a[X_STRIDE], a[X_APART]), first)
    for g in range(a[GROUPS]):
        group = group_of(a, block, g)
        part = Inputs(x.codes + a[SPAN] * g, x.scale + FLOAT * g, x.total + FLOAT * g, x.stride, x.apart)
        if planes.more and rows > 8:  # so many rows pay for the work
            all_rows(totals, part, rows, unpacked(scratch, planes, group), group)
        else:
            all_rows(totals, part, rows, planes, group)


@njit(forceinline=True)
def write(a, totals, block, first, rows):
    """y = totals + bias, or y += factor · (totals + bias). Behind the last output zeros stay, whatever x was."""
    factor = splat(as_float(a[FACTOR]))
    for row in range(rows):
        y = a[Y] + a[Y_STRIDE] * (first + row) + BLOCK * block
        for at in range(0, BLOCK, VECTOR):
            value = load(totals + BLOCK * row + at)
            if a[BIAS]:
                value = value + load(a[BIAS] + BLOCK * block + at)
            store(y + at, load(y + at) + value * factor if a[ADDS] else value)
        for lane in range(a[OUTPUTS] - block * LANES, LANES):
            set_float(y + FLOAT * lane, np.float32(0))


def product_kernel(bits: int, more: int) -> Kernel:
    """The kernel for codes with so many bits in their low plane, and so many in their high one (0: there is none)."""

    @kernel
    def integer_product(a, item, thread):
        """x Wᵀ for 64 outputs and up to 64 rows. a: the arguments named above."""
        items = -(-a[ROWS] // a[ROWS_OF_ITEM])  # of a block
        block, first = item // items, item % items * a[ROWS_OF_ITEM]
        rows = min(a[ROWS_OF_ITEM], a[ROWS] - first)
        words = block * BLOCK * (a[INPUTS] // 32)  # bytes of a plane of one bit in the blocks before
        planes = Planes(a[LOW] + bits * words, a[HIGH] + more * words, bits, more, AHEAD, bits + more < 8)
        totals, scratch = a[TOTALS] + thread * MOST_ROWS * BLOCK, a[SCRATCH] + thread * a[SCRATCH_SIZE]
        multiply(a, totals, scratch, planes, block, first, rows)
        write(a, totals, block, first, rows)

    return integer_product


KERNELS = {bits: product_kernel(*planes) for bits, planes in PLANES.items()}


def integer_product(
    weight: PackedLanes, x: Rows, y: Rows, buffers: Buffers, bias: np.ndarray | None = None, add: float | None = None
) -> list[Launch]:
    """Launches that compute y = x Wᵀ + bias, or y += add · (x Wᵀ + bias), x rounded to 8 bits group by group."""
    scheme, rows, blocks = weight.scheme, len(x), len(weight.words)
    inputs = padded(weight.shape[1])
    rounded, rounding = round_rows(x, inputs, scheme.group_size, buffers)
    each = rows_of_item(rows, blocks, buffers.threads)
    size = padded(rounded.span) * LANES
    arguments = (
        *rounded, rounded.codes.shape[1], FLOAT * rounded.scale.shape[1],
        weight.words, 0 if weight.high is None else weight.high, inputs, rows, each, *layout(weight),
        buffers.array("integer sums", (buffers.threads, MOST_ROWS, LANES)),
        buffers.array("unpacked codes", (buffers.threads, size), np.uint8), size,
        y.array, FLOAT * y.stride, weight.shape[0],
        0 if bias is None else whole_blocks(bias), add is not None, bits_of(add or 0),
    )  # fmt: skip
    return [rounding, Launch(KERNELS[scheme.bits], arguments, blocks * -(-rows // each))]


def rows_of_item(rows: int, blocks: int, threads: int) -> int:
    """How many rows an item has: as many as are useful, but so that all threads have some items."""
    each = MOST_ROWS
    while each > FEWEST_ROWS and blocks * -(-rows // each) < ITEMS * threads:
        each //= 2
    return each


def whole_blocks(bias: np.ndarray) -> np.ndarray:  # (N,) -> (64*J,)
    """The bias of each output, zeros behind the last one."""
    array = aligned((-(-len(bias) // LANES) * LANES,))
    array[: len(bias)] = bias
    return array
