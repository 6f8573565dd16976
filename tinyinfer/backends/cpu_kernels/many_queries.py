"""Attention of many queries: a lane for each, so that softmax needs no sum across a vector.

In prefill a key meets hundreds of queries. Here 16 or 32 of them, rows and the heads that share a key head, stand side
by side in vectors, each number of theirs in a row of its own. A number of a key, loaded once and spread over a vector,
meets the same number of all of them: scores are a product of two small matrices, kept in registers 8 keys at a time;
the largest score and the sum of weights are single vectors; and the weighted values are a second such product.

Formula: attend_tile (backends/flash.py), full_attention (model/attention.py). Roofline: 4·E operations a query and key
against a few bytes, so the arithmetic is what limits it; exp adds about a seventh. Keys that no query of a piece sees
are not looked at. Loses: with few queries most lanes are empty (few_queries.py).
"""
# numba has no type hints
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.attention_work import (
    CAP,
    EDGE,
    LANES,
    LOWEST,
    MOST_LANES,
    SCRATCH,
    SCRATCH_ROW,
    SLOT,
    START,
    STOP,
    WINDOW,
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
from tinyinfer.backends.cpu_kernels.scalars import float_at, set_float
from tinyinfer.backends.cpu_kernels.sums import ROWS, add_outer, eight, scaled_rows, sixteen, store_rows
from tinyinfer.backends.cpu_kernels.vectors import load, splat, store

F = np.float32
STATE = 4  # rows of lanes: positions, m, totals, and what is multiplied with what was summed before


def scratch_floats(size: int) -> int:
    """Numbers of scratch memory that a thread needs: keys and values of a tile; queries, weights, sums and state."""
    row = -(-size // WIDTH) * WIDTH
    return 2 * TILE * row + MOST_LANES * (2 * row + TILE + STATE)


@njit
def prepare(a, item, queries, out, state, step):
    """Lays the queries side by side, `step` bytes from one number to the next, and begins the sums with zeros."""
    size, lanes = padded(a[SIZE]), piece(a, item, LANES)
    for lane in range(step // FLOAT):
        query, exists = query_of(a, item, lane), lane < lanes
        for n in range(size):
            set_float(queries + step * n + FLOAT * lane, float_at(query + FLOAT * n) if exists else F(0))
        position = F(position_of(a, item, lane)) if exists else F(-1)
        set_float(state + FLOAT * lane, position)
    for n in range(0, step, BYTES):
        store(state + step + n, splat(LOWEST))
        store(state + 2 * step + n, splat(F(0)))
        for e in range(size):
            store(out + step * e + n, splat(F(0)))


@njit
def score_tile(zeros, keys, count, queries, size, weights):
    """Products of all queries with the keys of a tile, eight keys at a time."""
    step = len(zeros) // ROWS * BYTES
    for key in range(0, count, ROWS):
        sums, row = zeros, keys + key * size * FLOAT
        for n in range(size):
            sums = add_outer(sums, row + FLOAT * n, size * FLOAT, queries + step * n)
        store_rows(sums, weights + step * key, step)


@njit
def hide_and_cap(a, weights, tile, count, state, step):
    """Caps the scores, and those of keys that a lane does not see become -inf."""
    for key in range(count):
        for n in range(0, step, BYTES):
            place = weights + step * key + n
            store(place, seen(a, capped(a, load(place)), splat(F(tile + key)), load(state + n)))


@njit
def weigh(weights, count, state, step):
    """Scores become weights, and the largest score and the total of each lane go on; vector by vector of lanes."""
    for n in range(0, step, BYTES):
        largest, scores = load(state + step + n), weights + n
        now = largest
        for key in range(count):
            now = larger(now, load(scores + step * key))
        before = exp(largest - now)
        total = load(state + 2 * step + n) * before
        for key in range(count):
            weight = exp(load(scores + step * key) - now)
            total = total + weight
            store(scores + step * key, weight)
        store(state + step + n, now)
        store(state + 2 * step + n, total)
        store(state + 3 * step + n, before)


@njit
def mix_values(zeros, values, count, weights, size, state, out):
    """What was summed before, scaled, and this tile's weights times its values, eight numbers of a head at a time."""
    step = len(zeros) // ROWS * BYTES
    for n in range(0, size, ROWS):
        sums = scaled_rows(zeros, state + 3 * step, out + step * n, step)
        for key in range(count):
            sums = add_outer(sums, values + (key * size + n) * FLOAT, FLOAT, weights + step * key)
        store_rows(sums, out + step * n, step)


@njit
def attend(a, item, thread, zeros):
    """All lanes of a piece over all its positions; zeros: eight rows of vectors, one vector for every 16 lanes."""
    size, step = padded(a[SIZE]), len(zeros) // ROWS * BYTES
    keys = a[SCRATCH] + thread * a[SCRATCH_ROW]
    values = keys + TILE * size * FLOAT
    weights = values + TILE * size * FLOAT
    queries = weights + TILE * step
    out = queries + size * step
    state = out + size * step
    slot, head, lanes, edge = piece(a, item, SLOT), item % a[HEADS], piece(a, item, LANES), piece(a, item, EDGE)
    prepare(a, item, queries, out, state, step)
    first, last = position_of(a, item, 0), position_of(a, item, lanes - 1)
    tile, stop = piece(a, item, START), piece(a, item, STOP)
    while tile < stop:
        count = min(TILE, stop - tile)
        k = rows_at(a, slot, head, 0, tile, count, edge, keys)
        v = rows_at(a, slot, head, 1, tile, count, edge, values)
        score_tile(zeros, k, count, queries, size, weights)
        if a[CAP] or tile + count - 1 > first or (a[WINDOW] and tile <= last - a[WINDOW]):
            hide_and_cap(a, weights, tile, count, state, step)
        weigh(weights, count, state, step)
        mix_values(zeros, v, count, weights, size, state, out)
        tile += count
    for lane in range(lanes):
        m, total = float_at(state + step + FLOAT * lane), float_at(state + 2 * step + FLOAT * lane)
        finish(a, item, lane, m, total, out + FLOAT * lane, step)


@kernel
def attend_many(a, item, thread):
    """Up to 32 lanes of one key head over a range of positions; see attention_work.py for the arguments."""
    if piece(a, item, LANES) <= WIDTH:
        attend(a, item, thread, eight(splat(F(0))))
    else:
        attend(a, item, thread, sixteen(splat(F(0))))
