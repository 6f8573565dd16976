"""What an item of a product computes, how its outputs begin and what is behind them: the part that all products share.

An item is a block of 64 outputs for some of the rows: for all of them, unless a prompt has so many that the threads'
shares come out more even when blocks are divided. A product's first ten arguments are

    x, its stride, y, its stride (in bytes), bias or 0, factor, whether to add, rows, rows of an item, outputs

and an item's outputs begin with factor · bias, or with that added to what they were; then the product adds to them.
What is padding behind the last output becomes zero again: where x is infinite or NaN, 0 · x has made it NaN.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.buffers import Rows, aligned, blocks
from tinyinfer.backends.cpu_kernels.scalars import as_float, bits_of, set_float
from tinyinfer.backends.cpu_kernels.vectors import load, splat, store

FEWEST, MOST = 24, 128  # rows of an item, where there are more: weights are unpacked once for each item
TILE = 6  # rows of the largest tile
SLACK = 1.05  # how much longer than its fair share the busiest thread may be


@njit(forceinline=True)
def rows_of(a, item):
    """An item's block of outputs, how many rows, and the addresses of its x and y."""
    parts = -(-a[7] // a[8])
    block, first = item // parts, item % parts * a[8]
    return block, min(a[8], a[7] - first), a[0] + a[1] * first, a[2] + a[3] * first + 256 * block


@njit(forceinline=True)
def begin(a, block, y, rows):
    """Writes what 64 outputs of some rows begin with."""
    factor = splat(as_float(a[5]))
    for v in range(0, 256, 64):
        start = splat(np.float32(0))
        if a[4]:
            start = load(a[4] + 256 * block + v) * factor
        for r in range(rows):
            at = y + a[3] * r + v
            store(at, load(at) + start if a[6] else start)


@njit(forceinline=True)
def end(a, block, y, rows):
    """Writes zeros behind the last output."""
    for r in range(rows):
        for i in range(min(64, a[9] - 64 * block), 64):
            set_float(y + a[3] * r + 4 * i, np.float32(0))


def common(
    x: Rows, y: Rows, bias: np.ndarray | None, add: float | None, parts: int
) -> tuple[int | np.ndarray, ...]:
    """The first ten arguments of a product whose rows are divided into so many parts."""
    each = -(-len(x) // (parts * TILE)) * TILE if parts > 1 else len(x)
    start: int | np.ndarray = 0
    if bias is not None:
        start = aligned((blocks(len(bias)) * 64,))
        start[: len(bias)] = bias
    factor = 1.0 if add is None else add
    strides = x.array.strides[0], y.array.strides[0]
    how = start, bits_of(factor), int(add is not None)
    return x.array, strides[0], y.array, strides[1], *how, len(x), each, y.width


def row_parts(blocks: int, rows: int, threads: int) -> int:
    """Into how many parts the rows are divided: as few as give every thread about as many items."""
    fewest = -(-rows // MOST)
    for parts in range(fewest, max(fewest, rows // FEWEST) + 1):
        items = blocks * parts
        if -(-items // threads) * threads <= SLACK * items:
            return parts
    return fewest
