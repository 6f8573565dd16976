"""Attention of many queries: a lane for each, so that softmax needs no sum across a vector.

In prefill a key meets hundreds of queries. Here 16 of them, rows and the heads that share a key head, stand side by
side in a vector, each number of theirs in a row of its own. A number of a key, spread over a vector, meets the same
number of all of them: scores are a product of two small matrices, kept in registers 8 keys at a time, or 4 where
registers are few; the largest score and the sum of weights are single vectors; and the weighted values are a second
such product.

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
from tinyinfer.backends.cpu_kernels.cached_rows import (
    BYTES,
    FLOAT,
    HEADS,
    SIZE,
    TILE,
    WIDTH,
    fetch,
    padded,
    rows_at,
    tile_after,
)
from tinyinfer.backends.cpu_kernels.functions import exp, larger
from tinyinfer.backends.cpu_kernels.kernel import kernel
from tinyinfer.backends.cpu_kernels.registers import fits
from tinyinfer.backends.cpu_kernels.scalars import float_at, remainder, set_float
from tinyinfer.backends.cpu_kernels.sums import add_outer, eight, four, scaled_rows, store_rows
from tinyinfer.backends.cpu_kernels.vectors import load, splat, store

F = np.float32
ROWS = 8 if fits(8) else 4  # keys, or numbers of a value, whose sums are kept in registers
some = eight if ROWS == 8 else four
LARGEST, TOTAL, BEFORE, STATE = 1, 2, 3, 4  # vectors of the state; the first one are the queries' positions


def scratch_floats(size: int) -> int:
    """Numbers of scratch memory that a thread needs: keys and values of a tile; queries, weights, sums and state."""
    row = -(-size // WIDTH) * WIDTH
    return 2 * TILE * row + WIDTH * (2 * row + TILE + STATE)


@njit
def prepare(a, item, queries, out, state):
    """Lays the queries side by side, a vector for each of their numbers, and begins the sums with zeros."""
    size = padded(a[SIZE])
    for n in range(size):
        store(queries + BYTES * n, splat(F(0)))
        store(out + BYTES * n, splat(F(0)))
    store(state, splat(F(-1)))
    for lane in range(piece(a, item, LANES)):
        query = query_of(a, item, lane)
        for n in range(size):
            set_float(queries + BYTES * n + FLOAT * lane, float_at(query + FLOAT * n))
        set_float(state + FLOAT * lane, F(position_of(a, item, lane)))
    store(state + BYTES * LARGEST, splat(LOWEST))
    store(state + BYTES * TOTAL, splat(F(0)))


@njit
def score_tile(keys, ahead, count, queries, size, weights):
    """Products of all queries with the keys of a tile, some keys at a time. ahead: keys of the tile after."""
    for key in range(0, count, ROWS):
        fetch(ahead + key * size * FLOAT, ROWS * size * FLOAT)
        sums, row = some(splat(F(0))), keys + key * size * FLOAT
        for n in range(size):
            sums = add_outer(sums, row + FLOAT * n, size * FLOAT, queries + BYTES * n)
        store_rows(sums, weights + BYTES * key, BYTES)


@njit
def hide_and_cap(a, weights, tile, count, positions):
    """Caps the scores, and those of keys that a lane does not see become -inf."""
    for key in range(count):
        score = capped(a, load(weights + BYTES * key))
        store(weights + BYTES * key, seen(a, score, splat(F(tile + key)), positions))


@njit
def weigh(weights, count, state):
    """Scores become weights, and the largest score and the total of each lane go on."""
    before = now = load(state + BYTES * LARGEST)
    for key in range(count):
        now = larger(now, load(weights + BYTES * key))
    before = exp(before - now)
    total = load(state + BYTES * TOTAL) * before
    for key in range(count):
        weight = exp(load(weights + BYTES * key) - now)
        total = total + weight
        store(weights + BYTES * key, weight)
    store(state + BYTES * LARGEST, now)
    store(state + BYTES * TOTAL, total)
    store(state + BYTES * BEFORE, before)


@njit
def mix_values(values, ahead, count, weights, size, state, out):
    """What was summed before, scaled, and this tile's weights times its values, some numbers of a head at a time."""
    before = load(state + BYTES * BEFORE)
    for n in range(0, size, ROWS):
        fetch(ahead + n * TILE * FLOAT, ROWS * TILE * FLOAT)
        sums = scaled_rows(some(splat(F(0))), before, out + BYTES * n, BYTES)
        for key in range(count):
            sums = add_outer(sums, values + (key * size + n) * FLOAT, FLOAT, weights + BYTES * key)
        store_rows(sums, out + BYTES * n, BYTES)


@kernel
def attend_many(a, item, thread):
    """Up to 16 lanes of one key head over a range of positions; see attention_work.py for the arguments."""
    size = padded(a[SIZE])
    keys = a[SCRATCH] + thread * a[SCRATCH_ROW]
    values = keys + TILE * size * FLOAT
    weights = values + TILE * size * FLOAT
    queries = weights + TILE * BYTES
    out = queries + size * BYTES
    state = out + size * BYTES
    slot, head, lanes = piece(a, item, SLOT), remainder(item, a[HEADS]), piece(a, item, LANES)
    edge = piece(a, item, EDGE)
    prepare(a, item, queries, out, state)
    first, last = position_of(a, item, 0), position_of(a, item, lanes - 1)
    tile, stop = piece(a, item, START), piece(a, item, STOP)
    while tile < stop:
        count = min(TILE, stop - tile)
        k = rows_at(a, slot, head, 0, tile, count, edge, keys)
        v = rows_at(a, slot, head, 1, tile, count, edge, values)
        score_tile(k, tile_after(a, slot, head, 0, tile, stop, k, keys), count, queries, size, weights)
        if a[CAP] or tile + count - 1 > first or (a[WINDOW] and tile <= last - a[WINDOW]):
            hide_and_cap(a, weights, tile, count, load(state))
        weigh(weights, count, state)
        next_v = tile_after(a, slot, head, 1, tile, stop, v, values)
        mix_values(v, next_v, count, weights, size, state, out)
        tile += count
    for lane in range(lanes):
        m, total = float_at(state + BYTES * LARGEST + FLOAT * lane), float_at(state + BYTES * TOTAL + FLOAT * lane)
        finish(a, item, lane, m, total, out + FLOAT * lane, BYTES)
