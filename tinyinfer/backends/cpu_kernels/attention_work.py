"""What both kernels of attention share: a piece of work, the state of a softmax that is not over, and its end.

A piece of work is: lanes (pairs of a row and a query head, those of one row side by side) of one sequence and one key
head, over some of its positions. Over each next tile of keys the largest score m may grow; what was summed until then
is multiplied by exp(m before - m now) (online softmax; Milakov & Gimelshein 2018). Where several pieces share the keys
of a row, each leaves its m, its sum of weights and its weighted values, and `combine` adds them up.

    out = Σ exp(m_i - m) · values_i / (Σ exp(m_i - m) · total_i + exp(sink - m))
"""
# numba has no type hints
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.cached_rows import FLOAT, HEADS, PLACE, SIZE, WIDTH, WORD, padded
from tinyinfer.backends.cpu_kernels.functions import exp, tanh
from tinyinfer.backends.cpu_kernels.kernel import kernel
from tinyinfer.backends.cpu_kernels.scalars import as_float, float_at, int_at, quotient, remainder, set_float
from tinyinfer.backends.cpu_kernels.vectors import first_of, load, splat, store, where_less

F = np.float32
LOWEST = F(-1e30)  # a largest score before there is one: finite, so that its difference from -inf is no NaN
HIDDEN = F(-np.inf)
MOST_LANES = 16  # of a piece

# Arguments of the kernels of attention, behind those of the cache.
QUERIES, Q, Q_ROW, OUT, OUT_ROW, POSITIONS, WINDOW, CAP, SINKS = range(PLACE, PLACE + 9)
WORK, PARTIALS, SCRATCH, SCRATCH_ROW = range(PLACE + 9, PLACE + 13)

# A piece of work: its sequence's slot, first row and first lane (counted from that row's first one on), how many lanes,
# positions start ... stop, the number of its partial result (-1: the piece has all keys), first position read as float.
SLOT, FIRST_ROW, LANE, LANES, START, STOP, PARTIAL, EDGE, FIELDS = range(9)


@njit(forceinline=True)
def piece(a, item, number):
    """A field of an item's piece of work; each piece is as many items as there are key heads."""
    return int_at(a[WORK] + WORD * (quotient(item, a[HEADS]) * FIELDS + number))


@njit
def row_of(a, item, lane):
    """The batch's row that a lane belongs to."""
    group = quotient(a[QUERIES], a[HEADS])
    return piece(a, item, FIRST_ROW) + quotient(piece(a, item, LANE) + lane, group)


@njit
def head_of(a, item, lane):
    """The query head of a lane."""
    group = quotient(a[QUERIES], a[HEADS])
    return remainder(item, a[HEADS]) * group + remainder(piece(a, item, LANE) + lane, group)


@njit
def query_of(a, item, lane):
    """The address of a lane's query."""
    return a[Q] + row_of(a, item, lane) * a[Q_ROW] + head_of(a, item, lane) * padded(a[SIZE]) * FLOAT


@njit
def position_of(a, item, lane):
    """The position of a lane's query."""
    return int_at(a[POSITIONS] + WORD * row_of(a, item, lane))


@njit(forceinline=True)
def capped(a, score):
    """limit · tanh(score / limit), where scores have a limit (CAP: its bits, or 0)."""
    if a[CAP]:
        limit = splat(as_float(a[CAP]))
        return limit * tanh(score / limit)
    return score


@njit(forceinline=True)
def seen(a, score, key, query):
    """The score where the query's position sees the key's, else -inf; positions as floats."""
    score = where_less(query, key, splat(HIDDEN), score)
    if a[WINDOW]:
        score = where_less(key, query - splat(F(a[WINDOW] - 1)), splat(HIDDEN), score)
    return score


@njit
def number_exp(x):
    """e^x of one number."""
    return first_of(exp(splat(x)))


@njit
def finish(a, item, lane, m, total, values, step):
    """Writes a lane's result: into `out`, or for `combine`. values: its weighted sum, `step` bytes from each other."""
    size, row, head = a[SIZE], row_of(a, item, lane), head_of(a, item, lane)
    out, factor, partial = a[OUT] + row * a[OUT_ROW] + head * size * FLOAT, F(1), piece(a, item, PARTIAL)
    if partial < 0:
        factor = share(a, head, m, total)
    else:
        out = partial_of(a, partial, remainder(item, a[HEADS]), lane)
        set_float(out + padded(size) * FLOAT, m)
        set_float(out + padded(size) * FLOAT + FLOAT, total)
    for n in range(size):
        set_float(out + FLOAT * n, float_at(values + step * n) * factor)


@njit
def partial_of(a, partial, head, lane):
    """The address of a lane's partial result: its weighted values, then m and the total."""
    return a[PARTIALS] + ((partial * a[HEADS] + head) * MOST_LANES + lane) * (padded(a[SIZE]) + WIDTH) * FLOAT


@njit
def share(a, head, m, total):
    """What weighted values are multiplied by at the end: 1 / total, with the share of the head's sink in it."""
    if not a[SINKS]:
        return F(1) / total
    sink = float_at(a[SINKS] + FLOAT * head)
    largest = max(m, sink)
    before = number_exp(m - largest)
    return before / (total * before + number_exp(sink - largest))


@kernel
def combine(a, item, thread):
    """Adds up the partial results of a piece's lanes; the work here is the first piece of each, with how many follow.

    WORK: as for the other kernels, START: how many partial results. Moves a few KB.
    """
    size, n = padded(a[SIZE]), piece(a, item, START)
    for lane in range(piece(a, item, LANES)):
        head, first, step = remainder(item, a[HEADS]), piece(a, item, PARTIAL), FLOAT * size
        m = LOWEST
        for i in range(n):
            m = max(m, float_at(partial_of(a, first + i, head, lane) + step))
        total, out = F(0), partial_of(a, first, head, lane)
        for i in range(n):
            part = partial_of(a, first + i, head, lane)
            factor = number_exp(float_at(part + step) - m)
            total += float_at(part + step + FLOAT) * factor
            for e in range(0, size, WIDTH):
                before = splat(F(0)) if i == 0 else load(out + FLOAT * e)
                store(out + FLOAT * e, before + load(part + FLOAT * e) * splat(factor))
        factor, head = share(a, head_of(a, item, lane), m, total), head_of(a, item, lane)
        target = a[OUT] + row_of(a, item, lane) * a[OUT_ROW] + head * a[SIZE] * FLOAT
        for e in range(a[SIZE]):
            set_float(target + FLOAT * e, float_at(out + FLOAT * e) * factor)
