"""Products with float weights: y = x Wᵀ + bias, 64 outputs an item.

A block of 64 outputs is read once, some inputs at a time: so many weights stay in the core's nearest cache while all
rows are multiplied with them, tile after tile (tiles.py). The sums go to y after each piece of the inputs. The pieces
are the same for one row as for many, so a row's sums are too, bit for bit.

bfloat16 and float16 become float32 in registers where few rows use them, and once for all in the thread's own memory
where many do. Formula: ReferenceOps.linear. Roofline: 2·T operations for each weight of 4 or 2 bytes: one to five rows
wait for memory, which a core reads at some 6 bytes a cycle; a prompt waits for its 32 operations a cycle.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import ml_dtypes
import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.buffers import Buffers, Rows
from tinyinfer.backends.cpu_kernels.kernel import Kernel, Launch, kernel
from tinyinfer.backends.cpu_kernels.outputs import begin, common, end, row_parts, rows_of
from tinyinfer.backends.cpu_kernels.scalars import as_float
from tinyinfer.backends.cpu_kernels.tiles import BFLOAT, FLOAT, HALF, dense_tile, widen
from tinyinfer.backends.lanes import DenseLanes

PIECE = 128  # inputs at a time: 32 KB of float32 weights
FEW = 8  # rows for which weights are converted in registers, once for each tile
BLOCK = 64  # outputs
ONE_BLOCK = 256  # bytes of 64 float32 numbers


@njit(inline="always")
def multiply_rows(kind, x, x_stride, w, inputs, y, y_stride, rows, factor):
    """y += factor · x Wᵀ for any number of rows: tiles of 6, and one of what is left."""
    while rows >= 6:
        dense_tile(6, kind, x, x_stride, w, inputs, y, y_stride, factor)
        x, y, rows = x + 6 * x_stride, y + 6 * y_stride, rows - 6
    if rows == 5:
        dense_tile(5, kind, x, x_stride, w, inputs, y, y_stride, factor)
    elif rows == 4:
        dense_tile(4, kind, x, x_stride, w, inputs, y, y_stride, factor)
    elif rows == 3:
        dense_tile(3, kind, x, x_stride, w, inputs, y, y_stride, factor)
    elif rows == 2:
        dense_tile(2, kind, x, x_stride, w, inputs, y, y_stride, factor)
    elif rows == 1:
        dense_tile(1, kind, x, x_stride, w, inputs, y, y_stride, factor)


def kernel_of(kind: int) -> Kernel:
    """The kernel for one kind of floats."""
    size = abs(kind)

    @kernel
    def dense_product(a, item, thread):
        """64 outputs of some rows. a: as outputs.py says, then weights, inputs (M'), a panel for each thread."""
        block, rows, x, y = rows_of(a, item)
        begin(a, block, y, rows)
        w, inputs, panel, factor = a[10] + block * a[11] * BLOCK * size, a[11], a[12], as_float(a[5])
        for k in range(0, inputs, PIECE):
            count = min(PIECE, inputs - k)
            at = w + k * BLOCK * size
            if size != FLOAT and rows > FEW:
                at = panel + thread * PIECE * ONE_BLOCK
                widen(kind, w + k * BLOCK * size, count, at)
                multiply_rows(FLOAT, x + 4 * k, a[1], at, count, y, a[3], rows, factor)
            else:
                multiply_rows(kind, x + 4 * k, a[1], at, count, y, a[3], rows, factor)
        end(a, block, y, rows)

    return dense_product


KINDS = {np.float32: FLOAT, ml_dtypes.bfloat16: BFLOAT, np.float16: HALF}
KERNELS = {np.dtype(dtype): kernel_of(kind) for dtype, kind in KINDS.items()}


def dense_product(
    weight: DenseLanes, x: Rows, y: Rows, buffers: Buffers, bias: np.ndarray | None, add: float | None
) -> list[Launch]:
    """y = x Wᵀ + bias, or y += add · (x Wᵀ + bias)."""
    blocks, inputs, _ = weight.array.shape
    parts = row_parts(blocks, len(x), buffers.threads)
    panel = buffers.array("panel of floats", (buffers.threads, PIECE, BLOCK))
    arguments = (*common(x, y, bias, add, parts), weight.array, inputs, panel)
    return [Launch(KERNELS[weight.array.dtype], arguments, blocks * parts)]
