"""Attention of a few queries: each key and value is read once, and meets every query that wants it while it is near.

In decode a key head has H/K queries and thousands of keys. Vectors lie along a head: a query's numbers meet 16 keys, so
that 16 sums grow side by side; three shuffles a key then make of them one vector of 16 scores, and softmax goes on in
vectors. While a tile is computed with, the next one is asked for, a few lines at a time: so arithmetic costs no time of
its own. One row has too few heads for all threads: its positions are split among them.

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
from tinyinfer.backends.cpu_kernels.cached_rows import (
    BYTES,
    FLOAT,
    HEADS,
    SIZE,
    TILE,
    WIDTH,
    WORD,
    fetch,
    fetch_ahead,
    padded,
    rows_at,
    tile_after,
)
from tinyinfer.backends.cpu_kernels.functions import exp, larger
from tinyinfer.backends.cpu_kernels.kernel import kernel
from tinyinfer.backends.cpu_kernels.registers import fits
from tinyinfer.backends.cpu_kernels.scalars import (
    float_at,
    int_at,
    quotient,
    remainder,
    set_float,
    set_int,
)
from tinyinfer.backends.cpu_kernels.sums import add_rows, four, one, scaled_rows, sixteen, store_rows, sums_of
from tinyinfer.backends.cpu_kernels.vectors import counting, load, reduce_add, reduce_max, splat, store

F = np.float32
MOST = 8  # queries of a piece
ALL = fits(16)  # whether the sums of 16 keys stay in registers
# Vectors of a piece's state: a number for each lane of these, then a vector for each lane of those.
LARGEST, NEW, BEFORE, POSITIONS, TOTALS, TOPS, ADDRESSES = 0, 1, 2, 3, 4, 4 + MOST, 4 + 2 * MOST
STATE = ADDRESSES + MOST * WORD // BYTES


def scratch_floats(size: int) -> int:
    """Numbers of scratch memory for a thread: keys and values of a tile, weights, the lanes' sums and state."""
    row = -(-size // WIDTH) * WIDTH
    return 2 * TILE * row + MOST * TILE + MOST * row + STATE * WIDTH


@njit(forceinline=True)
def score_keys(query, keys, size):
    """Products of a query with 16 keys: of all at once, or of four at a time where registers are few."""
    if ALL:
        return sums_of(meet(sixteen(splat(F(0))), query, keys, size))
    none, some = four(splat(F(0))), 4 * size * FLOAT
    first = meet(none, query, keys, size) + meet(none, query, keys + some, size)
    return sums_of(first + meet(none, query, keys + 2 * some, size) + meet(none, query, keys + 3 * some, size))


@njit(forceinline=True)
def meet(sums, query, keys, size):
    """Adds the products of a query's numbers with those of as many keys as there are sums."""
    for n in range(0, size, WIDTH):
        sums = add_rows(sums, load(query + FLOAT * n), keys + FLOAT * n, size * FLOAT)
    return sums


@njit(forceinline=True)
def fetch_share(rows, lane, lanes, size):
    """Lets a lane's share of 16 rows come out of memory."""
    share = quotient(WIDTH * size * FLOAT + BYTES * lanes - 1, BYTES * lanes) * BYTES
    fetch(rows + lane * share, share)


@njit
def score_tile(a, lanes, tile, count, keys, ahead, weights, state):
    """The scores of all lanes with the keys of a tile, and the largest of each lane. ahead: keys of the tile after."""
    size = padded(a[SIZE])
    for n in range(0, count, WIDTH):
        numbers = counting(F(tile + n))
        for lane in range(lanes):
            fetch_share(ahead + n * size * FLOAT, lane, lanes, size)
            query, position = int_at(state + ADDRESSES * BYTES + WORD * lane), state + POSITIONS * BYTES + FLOAT * lane
            scores = capped(a, score_keys(query, keys + n * size * FLOAT, size))
            scores = seen(a, scores, numbers, splat(float_at(position)))
            top = state + (TOPS + lane) * BYTES
            store(top, larger(load(top), scores) if n else scores)
            store(weights + FLOAT * (TILE * lane + n), scores)


@njit
def weigh(lanes, count, weights, state):
    """Scores become weights, and each lane's largest score and totals go on."""
    for lane in range(lanes):
        set_float(state + NEW * BYTES + FLOAT * lane, reduce_max(load(state + (TOPS + lane) * BYTES)))
    before = load(state + LARGEST * BYTES)
    now = larger(before, load(state + NEW * BYTES))
    store(state + BEFORE * BYTES, exp(before - now))
    store(state + LARGEST * BYTES, now)
    for lane in range(lanes):
        largest = splat(float_at(state + LARGEST * BYTES + FLOAT * lane))
        totals = state + (TOTALS + lane) * BYTES
        total = load(totals) * splat(float_at(state + BEFORE * BYTES + FLOAT * lane))
        for n in range(0, count, WIDTH):
            place = weights + FLOAT * (TILE * lane + n)
            weight = exp(load(place) - largest)
            store(place, weight)
            total = total + weight
        store(totals, total)


@njit(forceinline=True)
def add_values(sums, before, weights, values, count, stride, out):
    """out · before + Σ weight · value, of some vectors of a head."""
    sums = scaled_rows(sums, before, out, BYTES)
    for n in range(count):
        sums = add_rows(sums, splat(float_at(weights + FLOAT * n)), values + stride * n, BYTES)
    store_rows(sums, out, BYTES)


@njit
def mix_values(size, lanes, count, values, ahead, weights, state, out):
    """What was summed before, scaled, and the weights of all lanes times the values of a tile; 16 values at a time."""
    for first in range(0, count, WIDTH):
        some, here = min(WIDTH, count - first), values + first * size * FLOAT
        for lane in range(lanes):
            fetch_share(ahead + first * size * FLOAT, lane, lanes, size)
            before = splat(float_at(state + BEFORE * BYTES + FLOAT * lane) if first == 0 else F(1))
            mine, n = weights + FLOAT * (TILE * lane + first), 0
            while n < size:
                place = out + FLOAT * (size * lane + n)
                if n + 4 * WIDTH <= size:
                    add_values(four(before), before, mine, here + FLOAT * n, some, size * FLOAT, place)
                    n += 4 * WIDTH
                else:
                    add_values(one(before), before, mine, here + FLOAT * n, some, size * FLOAT, place)
                    n += WIDTH


@njit
def prepare(a, item, lanes, out, state):
    """Begins a piece: nothing is summed yet."""
    size = padded(a[SIZE])
    store(state + LARGEST * BYTES, splat(LOWEST))
    store(state + NEW * BYTES, splat(LOWEST))
    for lane in range(lanes):
        set_int(state + ADDRESSES * BYTES + WORD * lane, query_of(a, item, lane))
        set_float(state + POSITIONS * BYTES + FLOAT * lane, F(position_of(a, item, lane)))
        store(state + (TOTALS + lane) * BYTES, splat(F(0)))
        for n in range(0, size, WIDTH):
            store(out + (lane * size + n) * FLOAT, splat(F(0)))


@kernel
def attend_few(a, item, thread):
    """At most 8 lanes of one key head over a range of positions; see attention_work.py for the arguments."""
    size, lanes, slot, head = padded(a[SIZE]), piece(a, item, LANES), piece(a, item, SLOT), remainder(item, a[HEADS])
    keys = a[SCRATCH] + thread * a[SCRATCH_ROW]
    values = keys + TILE * size * FLOAT
    weights = values + TILE * size * FLOAT
    out = weights + MOST * TILE * FLOAT
    state = out + MOST * size * FLOAT
    prepare(a, item, lanes, out, state)
    tile, stop, edge = piece(a, item, START), piece(a, item, STOP), piece(a, item, EDGE)
    while tile < stop:
        count = min(TILE, stop - tile)  # never fewer where a cache's blocks end: else a sum depends on where they lie
        k = rows_at(a, slot, head, 0, tile, count, edge, keys)
        v = rows_at(a, slot, head, 1, tile, count, edge, values)
        if k == keys:
            fetch_ahead(a, slot, head, 0, tile + count, min(TILE, stop - tile - count), edge)
            fetch_ahead(a, slot, head, 1, tile + count, min(TILE, stop - tile - count), edge)
        next_k = tile_after(a, slot, head, 0, tile, stop, k, keys)
        next_v = tile_after(a, slot, head, 1, tile, stop, v, values)
        score_tile(a, lanes, tile, count, k, next_k, weights, state)
        weigh(lanes, count, weights, state)
        mix_values(size, lanes, count, v, next_v, weights, state, out)
        tile += count
    for lane in range(lanes):
        total = reduce_add(load(state + (TOTALS + lane) * BYTES))
        m = float_at(state + LARGEST * BYTES + FLOAT * lane)
        finish(a, item, lane, m, total, out + lane * size * FLOAT, FLOAT)
