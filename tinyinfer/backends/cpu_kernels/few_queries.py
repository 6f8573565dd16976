"""Attention of a few queries: each key and value is read once, and meets every query that wants it while it is near.

In decode a key head has H/K queries and thousands of keys. Vectors lie along a head: a query's numbers stay in
registers and meet 16 keys, so that 16 sums grow side by side; three shuffles a key then make of them one vector of 16
scores, and softmax goes on in vectors. One row has too few heads for all threads: its positions are split among them.

Formula: full_attention (model/attention.py). Roofline: 8·K·E bytes a position, read once, against 4·H·E operations: at
9 query heads on 3 key heads the arithmetic takes about two thirds of the time that memory takes. Loses: with more than
a handful of queries a key head the arithmetic is what is waited for (many_queries.py).
"""
# numba has no type hints
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.attention_work import (
    EDGE,
    HIDDEN,
    LANES,
    LOWEST,
    SCRATCH,
    SCRATCH_ROW,
    SLOT,
    START,
    STOP,
    capped,
    finish,
    piece,
    position_of,
    query_of,
    seen,
)
from tinyinfer.backends.cpu_kernels.cached_rows import BYTES, FLOAT, HEADS, SIZE, TILE, WIDTH, padded, rows_at
from tinyinfer.backends.cpu_kernels.functions import exp, larger
from tinyinfer.backends.cpu_kernels.kernel import kernel
from tinyinfer.backends.cpu_kernels.scalars import float_at, remainder, set_float
from tinyinfer.backends.cpu_kernels.sums import (
    add_rows,
    four,
    one,
    scaled_rows,
    sixteen,
    store_rows,
    sums_of,
)
from tinyinfer.backends.cpu_kernels.vectors import counting, first_of, load, reduce_add, reduce_max, splat, store

F = np.float32
MOST = 8  # queries of a piece
STATE = 2 * WIDTH  # floats of scratch for the m and the totals of all lanes


def scratch_floats(size: int) -> int:
    """Numbers of scratch memory for a thread: keys and values of a tile, weights, the lanes' values and state."""
    row = -(-size // WIDTH) * WIDTH
    return 2 * TILE * row + TILE + MOST * row + STATE


@njit(forceinline=True)
def score_keys(query, keys, size):
    """Products of a query with 16 keys."""
    sums = sixteen(splat(F(0)))
    for n in range(0, size, WIDTH):
        sums = add_rows(sums, load(query + FLOAT * n), keys + FLOAT * n, size * FLOAT)
    return sums_of(sums)


@njit
def add_values(sums, before, weights, values, count, stride, out):
    """out · before + Σ weight · value, of some vectors of a head."""
    sums = scaled_rows(sums, before, out, BYTES)
    for n in range(count):
        sums = add_rows(sums, splat(float_at(weights + FLOAT * n)), values + stride * n, BYTES)
    store_rows(sums, out, BYTES)


@njit
def attend_tile(a, item, lane, tile, count, keys, values, weights, state, out):
    """One query meets the keys of a tile and their values."""
    size, largest = padded(a[SIZE]), splat(HIDDEN)
    query, position = query_of(a, item, lane), splat(F(position_of(a, item, lane)))
    for n in range(0, count, WIDTH):
        scores = capped(a, score_keys(query, keys + n * size * FLOAT, size))
        scores = seen(a, scores, counting(F(tile + n)), position)
        largest = larger(largest, scores)
        store(weights + FLOAT * n, scores)
    m = float_at(state + FLOAT * lane)
    now = splat(max(m, reduce_max(largest)))
    total = splat(F(0))
    for n in range(0, count, WIDTH):
        weight = exp(load(weights + FLOAT * n) - now)
        total = total + weight
        store(weights + FLOAT * n, weight)
    before = exp(splat(m) - now)
    set_float(state + FLOAT * lane, first_of(now))
    totals = state + FLOAT * (WIDTH + lane)
    set_float(totals, float_at(totals) * first_of(before) + reduce_add(total))
    n = 0
    while n < size:
        if n + 4 * WIDTH <= size:
            add_values(four(before), before, weights, values + FLOAT * n, count, size * FLOAT, out + FLOAT * n)
            n += 4 * WIDTH
        else:
            add_values(one(before), before, weights, values + FLOAT * n, count, size * FLOAT, out + FLOAT * n)
            n += WIDTH


@kernel
def attend_few(a, item, thread):
    """At most 8 lanes of one key head over a range of positions; see attention_work.py for the arguments."""
    size = padded(a[SIZE])
    keys = a[SCRATCH] + thread * a[SCRATCH_ROW]
    values = keys + TILE * size * FLOAT
    weights = values + TILE * size * FLOAT
    out = weights + TILE * FLOAT
    state = out + MOST * size * FLOAT
    slot, head, lanes = piece(a, item, SLOT), remainder(item, a[HEADS]), piece(a, item, LANES)
    for lane in range(lanes):
        set_float(state + FLOAT * lane, LOWEST)
        set_float(state + FLOAT * (WIDTH + lane), F(0))
        for n in range(0, size, WIDTH):
            store(out + (lane * size + n) * FLOAT, splat(F(0)))
    tile, stop, edge = piece(a, item, START), piece(a, item, STOP), piece(a, item, EDGE)
    while tile < stop:
        count = min(TILE, stop - tile)
        k = rows_at(a, slot, head, 0, tile, count, edge, keys)
        v = rows_at(a, slot, head, 1, tile, count, edge, values)
        for lane in range(lanes):
            attend_tile(a, item, lane, tile, count, k, v, weights, state, out + lane * size * FLOAT)
        tile += count
    for lane in range(lanes):
        m, total = float_at(state + FLOAT * lane), float_at(state + FLOAT * (WIDTH + lane))
        finish(a, item, lane, m, total, out + lane * size * FLOAT, FLOAT)
