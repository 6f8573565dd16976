"""The ends of each row of logits: the smallest, the largest, and where the largest stands, which is the greedy token.

NumPy walks three times over a row of 49,152 logits that a kernel has just written; here eight parts of a row are looked
at once, side by side on all threads, while they are still in a cache. Formula: ReferenceOps.sample, and sampling.py's
greedy choice: of equal logits the one with the lowest id. A logit that is no number makes both ends no number.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from tinyinfer.backends.cpu_kernels.buffers import Buffers, Rows
from tinyinfer.backends.cpu_kernels.functions import larger, smaller
from tinyinfer.backends.cpu_kernels.kernel import Launch, kernel
from tinyinfer.backends.cpu_kernels.scalars import float_at, set_float, set_int
from tinyinfer.backends.cpu_kernels.vectors import load, reduce_add, reduce_max, reduce_min, splat

PARTS = 8  # of a row


@kernel
def ends_of_part(a, item, thread):
    """Smallest, largest and its id in one part of a row. a: logits, stride, width, ends (R, 8, 2), ids (R, 8)."""
    row, part = item // PARTS, item % PARTS
    size = (a[2] + PARTS - 1) // PARTS
    first, stop = min(a[2], part * size), min(a[2], (part + 1) * size)
    logits = a[0] + 4 * a[1] * row
    lows, highs, odd = splat(np.float32(np.inf)), splat(np.float32(-np.inf)), splat(np.float32(0))
    whole = first + (stop - first) // 16 * 16
    for i in range(first, whole, 16):
        v = load(logits + 4 * i)
        lows, highs, odd = smaller(v, lows), larger(v, highs), odd + (v - v)
    low, high, bad, best = reduce_min(lows), reduce_max(highs), reduce_add(odd), first
    for i in range(whole, stop):
        value = float_at(logits + 4 * i)
        low, high, bad = min(low, value), max(high, value), bad + (value - value)
    for i in range(first, stop):
        if float_at(logits + 4 * i) == high:
            best = i
            break
    if bad != bad and high - high == 0 and low - low == 0:  # no infinity, so there is a NaN
        low = high = np.float32(np.nan)
    set_float(a[3] + 8 * item, low)
    set_float(a[3] + 8 * item + 4, high)
    set_int(a[4] + 8 * item, best)


def ends_of(logits: Rows, buffers: Buffers) -> tuple[list[Launch], np.ndarray, np.ndarray]:
    """The launch, and its results: (R, 8, 2) smallest and largest of each part, (R, 8) the largest one's id."""
    ends = buffers.array("ends", (len(logits), PARTS, 2))
    ids = buffers.array("ids", (len(logits), PARTS), np.int64)
    arguments = (logits.array, logits.stride, logits.width, ends, ids)
    return [Launch(ends_of_part, arguments, PARTS * len(logits))], ends, ids


def joined(ends: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all parts together, (R,) each: the id of the largest, the smallest, the largest."""
    part = ends[:, :, 1].argmax(axis=1)  # (R,); of equal ones the first
    return ids[np.arange(len(ids)), part], ends[:, :, 0].min(axis=1), ends[:, :, 1].max(axis=1)
