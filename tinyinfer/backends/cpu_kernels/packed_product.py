"""Products of packed codes with a few rows of floats: y = x Wᵀ + bias, w = scale · code + minimum, 64 outputs an item.

Scales leave the sum of a group, so that a weight costs one multiplication and not two:

    y[n] = Σ_g  scale[n, g] · Σ_k code[n, k] · x[k]  +  (minimum[n, g] + lowest · scale[n, g]) · Σ_k x[k]

where code counts from 0 on and k runs over the inputs of group g. Codes are multiplied as they come out of their words
(tiles.py); nothing is written but the sums, at the end of each group.

Formula: ReferenceOps.linear. Roofline: M·bits/8 bytes and the scales of an output, read once for all rows, and for each
weight two operations a row. Four more (shift, mask, convert) are shared by up to four rows: with one row, codes below 8
bits wait for these and not for memory. Wins: bytes; the second row is nearly free. Loses: beside whole numbers
(int8 activations), which need no conversion, and with many rows, where panel_product.py unpacks once for all.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.buffers import Buffers, Rows
from tinyinfer.backends.cpu_kernels.kernel import Kernel, Launch, kernel
from tinyinfer.backends.cpu_kernels.outputs import begin, common, end, rows_of
from tinyinfer.backends.cpu_kernels.scalars import as_float
from tinyinfer.backends.cpu_kernels.scales import SCALES, layout, put_scales
from tinyinfer.backends.cpu_kernels.tiles import packed_tile, unit_of
from tinyinfer.backends.lanes import PLANES, PackedLanes


@njit(inline="always")
def multiply_codes(bits, x, x_stride, words, high, first, units, scales, y, y_stride, rows):
    """Adds a group's part of the product for any number of rows: tiles of 4, and what is left."""
    while rows >= 4:
        packed_tile(4, bits, x, x_stride, words, high, first, units, scales, y, y_stride)
        x, y, rows = x + 4 * x_stride, y + 4 * y_stride, rows - 4
    if rows >= 2:
        packed_tile(2, bits, x, x_stride, words, high, first, units, scales, y, y_stride)
        x, y, rows = x + 2 * x_stride, y + 2 * y_stride, rows - 2
    if rows == 1:
        packed_tile(1, bits, x, x_stride, words, high, first, units, scales, y, y_stride)


def kernel_of(bits: int) -> Kernel:
    """The kernel for codes of so many bits."""
    (low, more), unit = PLANES[bits], unit_of(bits)

    @kernel
    def packed_product(a, item, thread):
        """64 outputs. a: as outputs.py says, then words, high plane, inputs (M'), scales of a thread, scales.layout."""
        block, rows, x, y = rows_of(a, item)
        begin(a, block, y, rows)
        inputs, group, scales, factor = a[12], a[20], a[13] + 4 * SCALES * thread, as_float(a[5])
        words, high = a[10] + 8 * low * block * inputs, a[11] + 8 * more * block * inputs
        for g in range(a[19]):
            k = g * group
            units = -(-min(group, inputs - k) // unit)
            put_scales(a, 14, block, g, scales, factor)
            multiply_codes(bits, x + 4 * k, a[1], words, high, k // unit, units, scales, y, a[3], rows)
        end(a, block, y, rows)

    return packed_product


KERNELS = {bits: kernel_of(bits) for bits in PLANES}


def packed_product(
    weight: PackedLanes, x: Rows, y: Rows, buffers: Buffers, bias: np.ndarray | None, add: float | None
) -> list[Launch]:
    """y = x Wᵀ + bias, or y += add · (x Wᵀ + bias), for groups that begin with a word of the low plane."""
    bits = weight.scheme.bits
    scales = buffers.array("scales", (buffers.threads, SCALES))
    high = 0 if weight.high is None else weight.high
    width = weight.words.shape[1] * 32 // PLANES[bits][0]
    arguments = (*common(x, y, bias, add, 1), weight.words, high, width, scales, *layout(weight))
    return [Launch(KERNELS[bits], arguments, len(weight.words))]
