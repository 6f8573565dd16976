"""The product with a fused matrix whose parts have different types: a launch for each part, into its place in a row.

Formula: backends/stacked.py. Where a part begins inside a block of 64 outputs, its product goes to rows of its own
first, because kernels write whole blocks, and from there to its place.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinyinfer.backends.cpu_kernels.buffers import BLOCK, Buffers, Rows
from tinyinfer.backends.cpu_kernels.kernel import Launch, kernel
from tinyinfer.backends.cpu_kernels.scalars import as_float, bits_of, float_at, set_float
from tinyinfer.backends.stacked import Stacked

Product = Callable[..., list[Launch]]


@kernel
def move_row(a, item, thread):
    """y = x, or y += factor · x, for some numbers of a row. a: x, y, count, strides, whether it adds, factor."""
    x, y = a[0] + 4 * a[3] * item, a[1] + 4 * a[4] * item
    for i in range(a[2]):
        value = float_at(x + 4 * i)
        if a[5]:
            value = float_at(y + 4 * i) + as_float(a[6]) * value
        set_float(y + 4 * i, value)


def stacked_product(
    product: Product, weight: Stacked, x: Rows, y: Rows, buffers: Buffers, bias: np.ndarray | None, add: float | None
) -> list[Launch]:
    """The launches of all parts. product: the builder for a part's own type."""
    launches, first = [], 0
    for n, part in enumerate(weight.parts):
        width = part.shape[0]
        own = None if bias is None else np.ascontiguousarray(bias[first : first + width])
        if first % BLOCK or (width % BLOCK and n + 1 < len(weight.parts)):
            rows = buffers.rows(f"part {n} of {y.width}", width)
            launches += product(part, x, rows, buffers, own)
            to = y.array[:, first:]
            arguments = (rows.array, to, width, rows.stride, y.stride, add is not None, bits_of(add or 0.0))
            launches.append(Launch(move_row, arguments, len(x)))
        else:
            launches += product(part, x, y.columns(first, width), buffers, own, add)
        first += width
    return launches
