"""Products of packed codes with many rows of floats: weights become float32 once, in the thread's own memory.

Of a block of 64 outputs some hundred inputs are unpacked, scales included, into a panel that stays in the core's own
cache; then all rows of the item are multiplied with the panel, as with dense weights. Unpacking costs as much as some
three rows. What is multiplied are the numbers of `dequantize`, so this is also the way of groups that end inside a
word, for any number of rows.

Formula: ReferenceOps.linear. Roofline: the multiplying units, 32 operations a cycle and core, from some twenty rows on.
Wins: a prompt costs what it costs with float32 weights, whatever the bits. Loses: with few rows (packed_product.py).
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.buffers import Buffers, Rows
from tinyinfer.backends.cpu_kernels.dense_product import multiply_rows
from tinyinfer.backends.cpu_kernels.kernel import Kernel, Launch, kernel
from tinyinfer.backends.cpu_kernels.outputs import begin, common, end, row_parts, rows_of
from tinyinfer.backends.cpu_kernels.scalars import as_float
from tinyinfer.backends.cpu_kernels.scales import MINIMUMS, SCALES, layout, put_scales
from tinyinfer.backends.cpu_kernels.tiles import FLOAT, unit_of, unpack_units
from tinyinfer.backends.cpu_kernels.vectors import fma, load, splat, store
from tinyinfer.backends.lanes import PLANES, PackedLanes

PIECE = 256  # inputs of a panel at most: 64 KB
ONE_INPUT = 256  # bytes of 64 float32 numbers


@njit(forceinline=True)
def plain_scales(scales):
    """Scales of 1 and minimums of 0: a panel of codes as they are."""
    for v in range(0, ONE_INPUT, 64):
        store(scales + v, splat(np.float32(1)))
        store(scales + MINIMUMS + v, splat(np.float32(0)))


@njit(forceinline=True)
def scale_panel(a, at, block, first, count, panel, scales):
    """Makes a panel's codes weights, input by input."""
    groups, group = a[at + 5], a[at + 6]
    for k in range(count):
        if k == 0 or (first + k) % group == 0:
            put_scales(a, at, block, min((first + k) // group, groups - 1), scales, np.float32(1))
        for v in range(ONE_INPUT * k, ONE_INPUT * (k + 1), 64):
            scale, minimum = load(scales + v % ONE_INPUT), load(scales + MINIMUMS + v % ONE_INPUT)
            store(panel + v, fma(load(panel + v), scale, minimum))


def kernel_of(bits: int) -> Kernel:
    """The kernel for codes of so many bits."""
    (low, more), unit = PLANES[bits], unit_of(bits)

    @kernel
    def panel_product(a, item, thread):
        """64 outputs of some rows. a: as outputs.py says, then

        words, high plane, inputs (M'), memory of a thread, scales.layout, inputs of a panel, inputs that are unpacked
        at a time, whether groups end inside words.
        """
        block, rows, x, y = rows_of(a, item)
        begin(a, block, y, rows)
        inputs, scales = a[12], a[13] + thread * (4 * SCALES + PIECE * ONE_INPUT)
        words, high, panel = a[10] + 8 * low * block * inputs, a[11] + 8 * more * block * inputs, scales + 4 * SCALES
        plain_scales(scales)
        for start in range(0, inputs, a[22]):
            stop = min(start + a[22], inputs)
            for k in range(start, stop, a[23]):
                if not a[24]:
                    put_scales(a, 14, block, min(k // a[20], a[19] - 1), scales, np.float32(1))
                units, out = (min(stop - k, a[23])) // unit, panel + ONE_INPUT * (k - start)
                unpack_units(bits, words, high, k // unit, units, scales, out)
            if a[24]:
                scale_panel(a, 14, block, start, stop - start, panel, scales)
                plain_scales(scales)
            multiply_rows(FLOAT, x + 4 * start, a[1], panel, stop - start, y, a[3], rows, as_float(a[5]))
        end(a, block, y, rows)

    return panel_product


KERNELS = {bits: kernel_of(bits) for bits in PLANES}


def pieces(group: int, unit: int, width: int) -> tuple[int, int, bool]:
    """How many of M' inputs a panel has, how many are unpacked at a time, whether groups end inside words."""
    if group >= width:
        return PIECE, PIECE, False
    if group % unit:
        return PIECE, PIECE, True
    if group > PIECE:
        fitting = max(n for n in range(unit, PIECE + 1, unit) if group % n == 0)
        return fitting, fitting, False
    return PIECE // group * group, group, False


def panel_product(
    weight: PackedLanes, x: Rows, y: Rows, buffers: Buffers, bias: np.ndarray | None, add: float | None
) -> list[Launch]:
    """y = x Wᵀ + bias, or y += add · (x Wᵀ + bias)."""
    bits, blocks = weight.scheme.bits, len(weight.words)
    width = weight.words.shape[1] * 32 // PLANES[bits][0]
    parts = row_parts(blocks, len(x), buffers.threads)
    memory = buffers.array("panel of weights", (buffers.threads, SCALES + PIECE * 64))
    planes = weight.words, 0 if weight.high is None else weight.high, width, memory
    split = pieces(weight.scheme.group_size or weight.shape[1], unit_of(bits), width)
    arguments = (*common(x, y, bias, add, parts), *planes, *layout(weight), *split)
    return [Launch(KERNELS[bits], arguments, blocks * parts)]
