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
    byte_at,
    float_at,
    half_at,
    int32_at,
    int_at,
    set_float,
)
from tinyinfer.backends.cpu_kernels.scales import layout
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


@njit(forceinline=True)
def scale_of(array, steps, nested, block, groups, g, lane):
    """The scale (or minimum) of a group of one token."""
    if nested == 0:
        return half_at(array + HALF * ((block * groups + g) * LANES + lane))
    code = np.int8(byte_at(array + (block * groups + g) * LANES + lane))
    return half_at(steps + HALF * ((block * (groups // nested) + g // nested) * LANES + lane)) * np.float32(code)


@kernel
def embed_packed(a, item, thread):
    """x = factor · (scale · code + minimum) of a token.

    a: tokens, x, stride, M, M', words, factor, bits, high plane or 0, its bits, scales.layout.
    """
    x, block, lane = place(a, item)
    factor, bits, high, more, lowest = as_float(a[6]), a[7], a[8], a[9], a[17]
    groups, group = a[15], a[16]
    scale, minimum = np.float32(0), np.float32(0)
    for k in range(a[3]):
        if k % group == 0:
            scale = scale_of(a[10], a[12], a[14], block, groups, k // group, lane)
            if a[11]:
                minimum = scale_of(a[11], a[13], a[14], block, groups, k // group, lane)
        code = code_at(a[5], a[4] * bits // 32, bits, block, lane, k)
        if high:
            code += code_at(high, a[4] * more // 32, more, block, lane, k) << bits
        set_float(x + FLOAT * k, (np.float32(code + lowest) * scale + minimum) * factor)


@kernel
def add_position(a, item, thread):
    """x += the learned vector of the row's position. a: positions, x, stride, D, vectors of positions."""
    x, row = a[1] + FLOAT * a[2] * item, a[4] + FLOAT * a[3] * int_at(a[0] + 8 * item)
    for k in range(a[3]):
        set_float(x + FLOAT * k, float_at(x + FLOAT * k) + float_at(row + FLOAT * k))


DENSE = {"float32": embed_float, "bfloat16": embed_bfloat, "float16": embed_half}


def looked_up(embedding: Embedding) -> bool:
    """Whether a kernel looks up the table's rows: not those of a sparse one, which only a stranger's file has."""
    return isinstance(embedding.table, DenseLanes | PackedLanes)


def embed(embedding: Embedding, tokens: np.ndarray, positions: np.ndarray, x: Rows) -> list[Launch]:  # (T,), (T,) ->
    """x = each token's vector, plus that of its position where the family learned one."""
    table, arguments = embedding.table, (tokens, x.array, x.stride, x.width)
    if isinstance(table, DenseLanes):
        array = table.array
        by, numbers = DENSE[array.dtype.name], (array.shape[1], array, bits_of(embedding.scale))
        launches = [Launch(by, (*arguments, *numbers), len(x))]
    else:
        assert isinstance(table, PackedLanes)
        of_table = packed_arguments(table, bits_of(embedding.scale))
        launches = [Launch(embed_packed, (*arguments, *of_table), len(x))]
    if embedding.positions is not None:
        launches.append(Launch(add_position, (positions, *arguments[1:], embedding.positions), len(x)))
    return launches


def packed_arguments(table: PackedLanes, factor: int) -> tuple[int | np.ndarray, ...]:
    """What embed_packed must know of a table, from M' on."""
    low, high = PLANES[table.scheme.bits]
    inputs = table.words.shape[1] * 32 // low
    return inputs, table.words, factor, low, 0 if table.high is None else table.high, high, *layout(table)
