"""What lies between the product of queries, keys and values and attention: norms, rotation, and the cache's new rows.

Operation by operation these are four passes over a few hundred numbers. Here a row is read once: its queries go where
attention reads them, already times its scale; its keys and values go where the cache keeps them. A cache that packs
blocks gets them as floats; `pack_blocks` then packs those that became full.

Formulas: ReferenceOps.norm, ReferenceOps.rope; the cache's append. Moves 8 bytes a number of a row, most of them from
one cache line to another, so one row takes less time than a launch.
"""
# numba has no type hints
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.buffers import Rows
from tinyinfer.backends.cpu_kernels.cached_rows import (
    BITS,
    FLOAT,
    GROUP,
    HEADS,
    KEY_SCALES,
    KEYS,
    PLACE,
    ROOM,
    ROW,
    SIZE,
    VALUE_SCALES,
    VALUES,
    WIDTH,
    WORD,
    array_of,
    copy_row,
    field,
    float_row,
    padded,
)
from tinyinfer.backends.cpu_kernels.cached_rows import BLOCK as BLOCK_SIZE
from tinyinfer.backends.cpu_kernels.kernel import Launch, kernel
from tinyinfer.backends.cpu_kernels.packed_rows import HALF, pack_codes, pack_group, packed_bytes
from tinyinfer.backends.cpu_kernels.pass_data import PassData
from tinyinfer.backends.cpu_kernels.scalars import as_float, bits_of, float_at, int_at, quotient, remainder, set_float
from tinyinfer.backends.cpu_kernels.vectors import fma, load, reduce_add, splat, store
from tinyinfer.model.heads import Heads
from tinyinfer.model.weights import Norm, RMSNorm

F = np.float32
Turn = tuple[np.ndarray, np.ndarray]
QKV, QKV_ROW, QUERIES, Q, Q_ROW, COS, SIN, NORM, EPS, SCALE, POSITIONS, ROW_SLOTS = range(PLACE, PLACE + 12)
CODES, FILLED = PLACE, PLACE + 1


@njit
def normalize(x, weight, size, eps):
    """x / sqrt(mean(x²) + eps) · weight, in place."""
    whole, squares = size & -WIDTH, splat(F(0))
    for n in range(0, whole, WIDTH):
        squares = fma(load(x + FLOAT * n), load(x + FLOAT * n), squares)
    total = reduce_add(squares)
    for n in range(whole, size):
        total += float_at(x + FLOAT * n) * float_at(x + FLOAT * n)
    factor = F(1) / np.sqrt(total / F(size) + eps)
    for n in range(0, whole, WIDTH):
        store(x + FLOAT * n, load(x + FLOAT * n) * splat(factor) * load(weight + FLOAT * n))
    for n in range(whole, size):
        set_float(x + FLOAT * n, float_at(x + FLOAT * n) * factor * float_at(weight + FLOAT * n))


@njit
def turn(x, cos, sin, size, scale, out):
    """Rotates a head: (a, b) -> (a·cos - b·sin, b·cos + a·sin), times scale; the first half's sine is negative."""
    half = size >> 1
    whole = half & -WIDTH
    for side in range(2):
        this, other = side * half, half - side * half
        for n in range(0, whole, WIDTH):
            here, there = load(x + FLOAT * (this + n)), load(x + FLOAT * (other + n))
            c, s = load(cos + FLOAT * (this + n)), load(sin + FLOAT * (this + n))
            store(out + FLOAT * (this + n), fma(there, s, here * c) * splat(scale))
        for n in range(whole, half):
            i, j = FLOAT * (this + n), FLOAT * (other + n)
            turned = float_at(x + i) * float_at(cos + i) + float_at(x + j) * float_at(sin + i)
            set_float(out + i, turned * scale)


@kernel
def turn_append_row(a, item, thread):
    """One row: queries and keys are normalized (NORM: the weights, or 0), turned, and put where they belong.

    QKV: (T, (H+2K)·E), Q: (T, H, padded E), their rows QKV_ROW and Q_ROW bytes apart. COS, SIN: (T, E). POSITIONS,
    ROW_SLOTS: (T,).
    """
    size, keys, queries, row = a[SIZE], a[HEADS], a[QUERIES], a[QKV] + item * a[QKV_ROW]
    head_bytes, eps = size * FLOAT, as_float(a[EPS])
    if a[NORM]:
        for head in range(queries + keys):
            normalize(row + head * head_bytes, a[NORM] + head * head_bytes, size, eps)
    cos, sin = a[COS] + item * head_bytes, a[SIN] + item * head_bytes
    for head in range(queries):
        out = a[Q] + item * a[Q_ROW] + head * padded(size) * FLOAT
        turn(row + head * head_bytes, cos, sin, size, as_float(a[SCALE]), out)
    slot, position = int_at(a[ROW_SLOTS] + WORD * item), int_at(a[POSITIONS] + WORD * item)
    for head in range(keys):
        key = row + (queries + head) * head_bytes
        turn(key, cos, sin, size, F(1), float_row(a, slot, head, position, 0))
        copy_row(key + keys * head_bytes, float_row(a, slot, head, position, 1), size)


@kernel
def pack_blocks(a, item, thread):
    """Packs the keys and values of one head of a block that is full: item = number of the block · K + head.

    FILLED: (blocks, 3): slot, block, first position. CODES: scratch for a block's codes, in bytes, of each thread.
    Equal to PackedBlocks.write bit by bit.
    """
    size, bits, group, head = a[SIZE], a[BITS], a[GROUP], remainder(item, a[HEADS])
    record = a[FILLED] + 3 * WORD * quotient(item, a[HEADS])
    slot, block, first = int_at(record), int_at(record + WORD), int_at(record + 2 * WORD)
    rows, blocks = field(a, slot, BLOCK_SIZE), field(a, slot, ROOM)
    nbytes, place = packed_bytes(rows * size, bits), head * blocks + block
    codes = a[CODES] + thread * rows * size
    key, value = float_row(a, slot, head, first, 0), float_row(a, slot, head, first, 1)

    scales, after = array_of(a, slot, KEY_SCALES) + place * size * HALF, a[HEADS] * blocks * size * HALF
    for n in range(size):
        scale = scales + n * HALF
        pack_group(key + n * FLOAT, a[ROW], rows, bits, codes + n, size, scale, scale + after)
    pack_codes(codes, rows * size, bits, array_of(a, slot, KEYS) + place * nbytes)

    groups = quotient(size, group)
    scales = array_of(a, slot, VALUE_SCALES) + place * rows * groups * HALF
    after = a[HEADS] * blocks * rows * groups * HALF
    for n in range(rows * groups):
        scale, source = scales + n * HALF, value + quotient(n, groups) * a[ROW] + remainder(n, groups) * group * FLOAT
        pack_group(source, FLOAT, group, bits, codes + n * group, 1, scale, scale + after)
    pack_codes(codes, rows * size, bits, array_of(a, slot, VALUES) + place * nbytes)


def turn_append(
    layer: int, qkv: Rows, norm: Norm, turn: Turn, heads: Heads, q: Rows, data: PassData
) -> list[Launch]:
    """Keys and values of the rows into the cache, and their queries into q, (T, H · padded E); qkv is used up.

    norm: of each head of queries and keys, an RMSNorm or none. turn: the rows' cosines and sines, (T, E) and (T, E).
    """
    weight, eps = (norm.weight, norm.eps) if isinstance(norm, RMSNorm) else (0, 0.0)
    place = data.place(layer, heads)
    arguments = (
        *place, qkv.array, qkv.stride * FLOAT, heads.queries, q.array, q.stride * FLOAT, *turn,
        weight, bits_of(eps), bits_of(heads.scale), data.positions, data.row_slots,
    )  # fmt: skip
    launches = [Launch(turn_append_row, arguments, len(qkv))]
    if data.block_size:
        codes = np.zeros((data.threads, data.block_size * heads.size), dtype=np.uint8)
        launches.append(Launch(pack_blocks, (*place, codes, data.filled), data.blocks_filled[layer]))
    return launches
