"""Products of packed codes with a few rows of floats on a CPU that multiplies bytes: codes never become floats.

    y[n] = Σ_g  scale[n, g] · Σ_k code[n, k] · x[k]  +  (minimum[n, g] + lowest · scale[n, g]) · Σ_k x[k]

as packed_product.py has it, but x comes as three bytes a number (three_bytes.py), and the first sum is three exact sums
of whole numbers. Formula: ReferenceOps.linear. Roofline: M·bits/8 bytes and the scales of an output, read once for all
rows; for 64 weights and each row three instructions with VNNI, some fifteen with AVX2's products of pairs, which codes
of up to 6 bits can have (dot.py). With VNNI one row waits for memory down to 4 bits.

Wins: over packed_product.py, with VNNI about twice the speed at 4 bits, with AVX2 1.5 times at 4 bits and 1.3 to 2
times at 3 and 5. Loses: to int8 activations, which need a third of the instructions, and are rounded for it; with
AVX2 alone to packed_product.py from four rows on, by a third (4 bits, 576 x 576, one thread: a row 21 us and 28, four
80 and 59, sixteen 241 and 180). But a row must get the bits that it gets alone, so one kernel has them all.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.buffers import Buffers, Rows
from tinyinfer.backends.cpu_kernels.digit_tile import digit_tile
from tinyinfer.backends.cpu_kernels.kernel import Kernel, Launch, kernel
from tinyinfer.backends.cpu_kernels.outputs import begin, common, end, rows_of
from tinyinfer.backends.cpu_kernels.scalars import as_float
from tinyinfer.backends.cpu_kernels.scales import SCALES, layout, put_scales
from tinyinfer.backends.cpu_kernels.three_bytes import DIGITS, split_rows
from tinyinfer.backends.cpu_kernels.tiles import unit_of
from tinyinfer.backends.lanes import PLANES, PackedLanes


@njit(inline="always")
def multiply_digits(bits, of_x, stride, words, high, first, units, scales, step, y, y_stride, rows):
    """Adds a group's part of the product for any number of rows, two by two. of_x: digits, scales, sums of a group."""
    digits, x_scales, x_sums = of_x
    while rows >= 2:
        digit_tile(2, bits, digits, stride, words, high, first, units, scales, x_scales, x_sums, step, y, y_stride)
        digits, x_scales, x_sums = digits + 2 * DIGITS * stride, x_scales + 2 * step, x_sums + 2 * step
        y, rows = y + 2 * y_stride, rows - 2
    if rows == 1:
        digit_tile(1, bits, digits, stride, words, high, first, units, scales, x_scales, x_sums, step, y, y_stride)


def kernel_of(bits: int) -> Kernel:
    """The kernel for codes of so many bits."""
    (low, more), unit = PLANES[bits], unit_of(bits)

    @kernel
    def digit_product(a, item, thread):
        """64 outputs. a: as outputs.py says (x: digits), then

        words, high plane, inputs (M'), scales of a thread, scales.layout, scales of digits, sums of inputs.
        """
        block, rows, digits, y = rows_of(a, item)
        begin(a, block, y, rows)
        inputs, group, scales, factor = a[12], a[20], a[13] + 4 * SCALES * thread, as_float(a[5])
        words, high = a[10] + 8 * low * block * inputs, a[11] + 8 * more * block * inputs
        for g in range(a[19]):
            k = g * group
            units = -(-min(group, inputs - k) // unit)
            put_scales(a, 14, block, g, scales, factor)
            of_x = digits + k, a[22] + 4 * g, a[23] + 4 * g
            multiply_digits(bits, of_x, a[1], words, high, k // unit, units, scales, 4 * a[19], y, a[3], rows)
        end(a, block, y, rows)

    return digit_product


KERNELS = {bits: kernel_of(bits) for bits in PLANES}


def digit_product(
    weight: PackedLanes, x: Rows, y: Rows, buffers: Buffers, bias: np.ndarray | None, add: float | None
) -> list[Launch]:
    """y = x Wᵀ + bias, or y += add · (x Wᵀ + bias), for groups that begin with a word of the low plane."""
    bits = weight.scheme.bits
    width = weight.words.shape[1] * 32 // PLANES[bits][0]
    group = min(weight.scheme.group_size or width, width)
    (digits, *of_x), launch = split_rows(x, min(width, group * weight.scheme.groups(weight.shape[1])), group, buffers)
    scales = buffers.array("scales", (buffers.threads, SCALES))
    planes = weight.words, 0 if weight.high is None else weight.high, width, scales
    first = digits, digits.strides[1], *common(x, y, bias, add, 1)[2:]
    return [launch, Launch(KERNELS[bits], (*first, *planes, *layout(weight), *of_x), len(weight.words))]
