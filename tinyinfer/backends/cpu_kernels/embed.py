"""The embedding: each token's vector out of a table that lies in blocks of 64 tokens, one row an item.

A row's numbers lie 64 places apart, so each comes with a cache line of its own: some 600 lines for a row of SmolLM2,
which the core fetches many at a time, while NumPy would first gather, then convert, then multiply. Formula:
ReferenceOps.embed. Limited by the latency of memory: some microseconds a row.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.buffers import Rows
from tinyinfer.backends.cpu_kernels.kernel import Launch, kernel
from tinyinfer.backends.cpu_kernels.scalars import (
    as_float,
    bfloat_at,
    bits_of,
    float_at,
    half_at,
    int32_at,
    int_at,
    set_float,
)
from tinyinfer.backends.lanes import PLANES, DenseLanes, PackedLanes
from tinyinfer.model.weights import Embedding

FLOAT, HALF, LANES = 4, 2, 64


@njit(forceinline=True)
def place(a, item):
    """Where a row's vector goes, the first number of its token's block and its lane. a: tokens, x, stride, M, M'."""
    token = int_at(a[0] + 8 * item)
    return a[1] + FLOAT * a[2] * item, token // LANES, token % LANES


@kernel
def embed_float(a, item, thread):
    """x = factor · table[token] of float32. a: tokens, x, stride, M, M', table, factor."""
    x, block, lane = place(a, item)
    row, factor = a[5] + FLOAT * (block * a[4] * LANES + lane), as_float(a[6])
    for k in range(a[3]):
        set_float(x + FLOAT * k, float_at(row + FLOAT * LANES * k) * factor)


@kernel
def embed_bfloat(a, item, thread):
    """x = factor · table[token] of bfloat16. a: tokens, x, stride, M, M', table, factor."""
    x, block, lane = place(a, item)
    row, factor = a[5] + HALF * (block * a[4] * LANES + lane), as_float(a[6])
    for k in range(a[3]):
        set_float(x + FLOAT * k, bfloat_at(row + HALF * LANES * k) * factor)


@kernel
def embed_half(a, item, thread):
    """x = factor · table[token] of float16. a: tokens, x, stride, M, M', table, factor."""
    x, block, lane = place(a, item)
    row, factor = a[5] + HALF * (block * a[4] * LANES + lane), as_float(a[6])
    for k in range(a[3]):
        set_float(x + FLOAT * k, half_at(row + HALF * LANES * k) * factor)


@njit(forceinline=True)
def code_at(words, count, bits, block, lane, k):
    """The k-th code of a plane of so many bits, of `count` words an output (lanes.py)."""
    each = 32 // bits
    word = int32_at(words + FLOAT * ((block * count + k // each) * LANES + lane))
    shift = 8 * (k % 4) + bits * (k % each // 4)
    return (np.int64(word) >> shift) & ((1 << bits) - 1)


@kernel
def embed_packed(a, item, thread):
    """x = factor · (scale · code + minimum) of a token.

    a: tokens, x, stride, M, M', words, factor, bits, high plane or 0, its bits, lowest code, scales, minimums or 0,
    inputs in a group, groups.
    """
    x, block, lane = place(a, item)
    factor, bits, high, more, lowest = as_float(a[6]), a[7], a[8], a[9], a[10]
    scales, minimums, group, groups = a[11], a[12], a[13], a[14]
    for k in range(a[3]):
        code = code_at(a[5], a[4] * bits // 32, bits, block, lane, k)
        if high:
            code += code_at(high, a[4] * more // 32, more, block, lane, k) << bits
        at = HALF * ((block * groups + k // group) * LANES + lane)
        w = np.float32(code + lowest) * half_at(scales + at)
        if minimums:
            w += half_at(minimums + at)
        set_float(x + FLOAT * k, w * factor)


@kernel
def add_position(a, item, thread):
    """x += the learned vector of the row's position. a: positions, x, stride, D, vectors of positions."""
    x, row = a[1] + FLOAT * a[2] * item, a[4] + FLOAT * a[3] * int_at(a[0] + 8 * item)
    for k in range(a[3]):
        set_float(x + FLOAT * k, float_at(x + FLOAT * k) + float_at(row + FLOAT * k))


DENSE = {"float32": embed_float, "bfloat16": embed_bfloat, "float16": embed_half}


def embed(embedding: Embedding, tokens: np.ndarray, positions: np.ndarray, x: Rows) -> list[Launch]:  # (T,), (T,) ->
    """x = each token's vector, plus that of its position where the family learned one."""
    table, arguments = embedding.table, (tokens, x.array, x.stride, x.width)
    if isinstance(table, DenseLanes):
        array = table.array
        by = DENSE[array.dtype.name], (*arguments, array.shape[1], array, bits_of(embedding.scale))
    else:
        assert isinstance(table, PackedLanes)
        by = embed_packed, (*arguments, *packed_arguments(table, bits_of(embedding.scale)))
    launches = [Launch(*by, len(x))]
    if embedding.positions is not None:
        launches.append(Launch(add_position, (positions, *arguments[1:], embedding.positions), len(x)))
    return launches


def packed_arguments(table: PackedLanes, factor: int) -> tuple[int | np.ndarray, ...]:
    """What embed_packed must know of a table, from M' on."""
    (low, high), scheme = PLANES[table.scheme.bits], table.scheme
    inputs = table.words.shape[1] * 32 // low
    planes = table.words, factor, low, 0 if table.high is None else table.high, high, scheme.lowest
    minimum = 0 if table.minimum is None else table.minimum
    group = scheme.group_size or table.shape[1]
    return inputs, *planes, table.scale, minimum, group, table.scale.shape[1]
