"""Small work on rows between two products: rows gathered for the head, multiplied by a number, capped.

What NumPy does in an operation of a few microseconds, a thread that has just finished a product does in a fraction of
one. Formulas: ReferenceOps.gather, scale, cap. Limited by the bytes of the rows, which are in a cache.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from tinyinfer.backends.cpu_kernels.buffers import Rows
from tinyinfer.backends.cpu_kernels.functions import tanh
from tinyinfer.backends.cpu_kernels.kernel import Launch, kernel
from tinyinfer.backends.cpu_kernels.scalars import as_float, bits_of, int_at
from tinyinfer.backends.cpu_kernels.vectors import load, splat, store
from tinyinfer.model.heads import NoCap, SoftCap

FLOAT, VECTOR = 4, 64  # bytes of a number, and of a vector


@kernel
def gather_row(a, item, thread):
    """y[item] = factor · x[rows[item]]. a: x, y, rows, vectors, strides, factor."""
    x, y = a[0] + FLOAT * a[4] * int_at(a[2] + 8 * item), a[1] + FLOAT * a[5] * item
    factor = splat(as_float(a[6]))
    for i in range(a[3]):
        store(y + VECTOR * i, load(x + VECTOR * i) * factor)


def gather(x: Rows, y: Rows, rows: np.ndarray, factor: float = 1.0) -> list[Launch]:  # (R,) ->
    """y = factor · x[rows]."""
    arguments = (x.array, y.array, rows, y.stride // 16, x.stride, y.stride, bits_of(factor))
    return [Launch(gather_row, arguments, len(y))]


@kernel
def cap_block(a, item, thread):
    """x = limit · tanh(x / limit) in a row's block of 1,024 numbers. a: x, stride, blocks of a row, limit."""
    row, block = item // a[2], item % a[2]
    x, limit = a[0] + FLOAT * (a[1] * row + 1024 * block), splat(as_float(a[3]))
    for i in range(min(64, (a[1] - 1024 * block) // 16)):
        store(x + VECTOR * i, limit * tanh(load(x + VECTOR * i) / limit))


def cap(x: Rows, by: NoCap | SoftCap) -> list[Launch]:
    """Caps rows in place, where the family has a cap."""
    if isinstance(by, NoCap):
        return []
    parts = -(-x.stride // 1024)
    return [Launch(cap_block, (x.array, x.stride, parts, bits_of(by.limit)), parts * len(x))]
