"""Products with float weights pruned 2:4: y = x Wᵀ + bias, 64 outputs an item.

Few rows multiply what is kept and nothing else (sparse_tile.py). For many rows what is saved of the multiplications is
spent on finding the places, tile after tile; so some inputs of a block become dense in the thread's own memory, zeros
and all, and are multiplied as such (dense_product.py). A zero adds nothing to a sum, and the others are added in the
same order, so a row has the same bits either way, as long as x is finite: infinity times a zero is NaN.

Formula: ReferenceOps.linear. Roofline: T operations for each weight, half of a dense product's where rows are few, and
17/32 of its bytes in float32, 9/16 in bfloat16 and float16. Wins: one to five rows wait for memory. Loses: nothing
against a dense product of the same weights but code; a prompt takes as long as with those.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.buffers import Buffers, Rows
from tinyinfer.backends.cpu_kernels.dense_product import KINDS
from tinyinfer.backends.cpu_kernels.dense_product import multiply_rows as multiply_dense
from tinyinfer.backends.cpu_kernels.kernel import Kernel, Launch, kernel
from tinyinfer.backends.cpu_kernels.outputs import begin, common, end, row_parts, rows_of
from tinyinfer.backends.cpu_kernels.scalars import as_float
from tinyinfer.backends.cpu_kernels.sparse_tile import LINE, picks, sparse_tile, unpack_fours
from tinyinfer.backends.cpu_kernels.tiles import FLOAT
from tinyinfer.backends.lanes import INPUTS
from tinyinfer.backends.packing import LANES
from tinyinfer.backends.sparse_lanes import TwoOfFourLanes

PIECE = 4  # words at a time: 128 inputs
KEPT = 16 * LANES  # weights of 64 outputs that belong to their words
FEW = {True: 30, False: 2}  # rows that pick their numbers, by whether one instruction does; more have a panel


@njit(inline="always")
def multiply_rows(kind, at_once, x, x_stride, values, places, words, y, y_stride, rows, factor):
    """y += factor · x Wᵀ for any number of rows: tiles of 6, and one of what is left."""
    while rows >= 6:
        sparse_tile(6, kind, at_once, x, x_stride, values, places, words, y, y_stride, factor)
        x, y, rows = x + 6 * x_stride, y + 6 * y_stride, rows - 6
    if rows == 5:
        sparse_tile(5, kind, at_once, x, x_stride, values, places, words, y, y_stride, factor)
    elif rows == 4:
        sparse_tile(4, kind, at_once, x, x_stride, values, places, words, y, y_stride, factor)
    elif rows == 3:
        sparse_tile(3, kind, at_once, x, x_stride, values, places, words, y, y_stride, factor)
    elif rows == 2:
        sparse_tile(2, kind, at_once, x, x_stride, values, places, words, y, y_stride, factor)
    elif rows == 1:
        sparse_tile(1, kind, at_once, x, x_stride, values, places, words, y, y_stride, factor)


def kernel_of(kind: int, at_once: bool) -> Kernel:
    """The kernel for one kind of floats."""
    size, few = abs(kind), FEW[at_once]

    @kernel
    def sparse_product(a, item, thread):
        """64 outputs of some rows. a: as outputs.py says, then kept weights, places, words (M'/32), panels."""
        block, rows, x, y = rows_of(a, item)
        begin(a, block, y, rows)
        words, factor, panel = a[12], as_float(a[5]), a[13] + thread * PIECE * INPUTS * LINE
        for word in range(0, words, PIECE):
            count, place = min(PIECE, words - word), block * words + word
            at, of, inputs = a[10] + place * KEPT * size, a[11] + place * LINE, x + 4 * INPUTS * word
            if rows > few:
                unpack_fours(kind, at, of, count, panel)
                multiply_dense(FLOAT, inputs, a[1], panel, INPUTS * count, y, a[3], rows, factor)
            else:
                multiply_rows(kind, at_once, inputs, a[1], at, of, count, y, a[3], rows, factor)
        end(a, block, y, rows)

    return sparse_product


KERNELS = {(np.dtype(t), at_once): kernel_of(kind, at_once) for t, kind in KINDS.items() for at_once in (False, True)}


def sparse_product(
    weight: TwoOfFourLanes, x: Rows, y: Rows, buffers: Buffers, bias: np.ndarray | None, add: float | None
) -> list[Launch]:
    """y = x Wᵀ + bias, or y += add · (x Wᵀ + bias)."""
    blocks, words, _ = weight.places.shape
    parts = row_parts(blocks, len(x), buffers.threads)
    panel = buffers.array("panel of floats", (buffers.threads, PIECE * INPUTS, LANES))
    arguments = (*common(x, y, bias, add, parts), weight.values, weight.places, words, panel)
    return [Launch(KERNELS[weight.values.dtype, picks()], arguments, blocks * parts)]
