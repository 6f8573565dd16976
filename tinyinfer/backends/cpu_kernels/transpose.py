"""Rows to lanes: float32 rows written as outputs of blocks of 64, input-major, as `DenseLanes` has them.

NumPy copies a transposed array number by number, and turns float32 into bfloat16 by a loop of its own. Here 8 rows of
8 numbers are in registers, and change places there: three times, numbers that are 1, 2 and 4 rows apart in vectors that
are as far apart. bfloat16 is rounded on the way, to the nearest, of two equally near ones to the even. 16 numbers of 16
rows are a turn, so that a line of memory is read, and a line of float32 written, as a whole.

Formula: lanes.write_rows. Roofline: memory. Wins: a model opens sooner, for all its floats pass here. Loses: nothing
while tokens are computed.
"""
# numba has no type hints, and its @intrinsic functions are called with types, not with values
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,no-any-return"

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from tinyinfer.backends.compiling import compiling
from tinyinfer.backends.cpu_kernels.kernel import Native, native
from tinyinfer.backends.cpu_kernels.scalars import I16, I32, I64, int32_at, set_half_bits, set_int32
from tinyinfer.backends.cpu_kernels.tiles import BFLOAT, FLOAT, Maker, shuffle
from tinyinfer.backends.lanes import write_rows
from tinyinfer.backends.packing import LANES

SIDE = 8  # rows and numbers of each that are in registers
TURN = 2 * SIDE  # rows, and numbers of each: a line of float32


@intrinsic(prefer_literal=True)
def transpose_tile(typing, kind, source, stride, target):
    """Writes 8 numbers of 8 float32 rows as 8 inputs of 8 outputs. stride: from row to row, in bytes."""
    number = kind.literal_value

    def code(context, builder, signature, args):
        _, source, stride, target = args
        make, row = Maker(builder), ir.VectorType(I32, SIDE)
        vectors = [make.load(builder.add(source, builder.mul(stride, I64(r))), row) for r in range(SIDE)]
        for apart in (1, 2, 4):
            vectors = exchanged(builder, vectors, apart)
        for i, vector in enumerate(vectors):
            at = make.at(target, i * LANES * abs(number))
            narrow = vector if number == FLOAT else rounded(builder, vector)
            builder.store(narrow, builder.inttoptr(at, narrow.type.as_pointer()), align=abs(number))
        return context.get_dummy_value()

    return types.none(kind, *[types.int64] * 3), code


def exchanged(builder, vectors, apart):
    """Vectors i and i + apart exchange their numbers j + apart and j, for all i and j without that bit."""
    changed = list(vectors)
    for i, j in ((i, i + apart) for i in range(SIDE) if not i & apart):
        for to, bit in ((i, 0), (j, apart)):
            places = [n + SIDE * bool(n & apart) - (n & apart) + bit for n in range(SIDE)]
            changed[to] = shuffle(builder, vectors[i], vectors[j], places)
    return changed


def rounded(builder, bits):
    """The bits of the bfloat16 numbers nearest to float32 numbers, both as vectors of whole numbers."""

    def same(value):
        return ir.Constant(bits.type, [value] * SIDE)

    odd = builder.and_(builder.lshr(bits, same(16)), same(1))
    nearest = builder.lshr(builder.add(builder.add(bits, odd), same(0x7FFF)), same(16))
    return builder.trunc(nearest, ir.VectorType(I16, SIDE))


@njit(inline="always")
def put(kind, source, at):
    """Writes the float32 number at an address as a number of a kind."""
    bits = int32_at(source)
    if kind == FLOAT:
        set_int32(at, bits)
    else:
        set_half_bits(at, (bits + (bits >> 16 & 1) + 0x7FFF) >> 16)


def native_of(kind: int) -> Native:
    """The function that writes numbers of a kind."""
    size = abs(kind)

    @native(types.void, 6)
    def rows_to_lanes(rows, count, inputs, lanes, width, first):
        """Writes `count` rows as the outputs from `first` on. rows, lanes: addresses; width: inputs, padded."""
        stride, row = 4 * inputs, 0
        while row < count:
            block, lane = divmod(first + row, LANES)
            some = min(TURN, LANES - lane, count - row)
            source, target = rows + row * stride, lanes + size * (block * width * LANES + lane)
            for k in range(0, inputs, TURN):
                at, to = source + 4 * k, target + size * LANES * k
                if some == TURN and inputs - k >= TURN:
                    for r in range(0, TURN, SIDE):
                        for i in range(0, TURN, SIDE):
                            transpose_tile(kind, at + r * stride + 4 * i, stride, to + size * (r + LANES * i))
                else:
                    for r in range(some):
                        for i in range(min(TURN, inputs - k)):
                            put(kind, at + r * stride + 4 * i, to + size * (r + LANES * i))
            row += some

    return rows_to_lanes


NATIVES = {np.dtype(dtype): native_of(kind) for dtype, kind in ((np.float32, FLOAT), (ml_dtypes.bfloat16, BFLOAT))}


def prepare(dtype: Any) -> None:
    """Compiles what writes numbers of a type: the threads that load a model then find it compiled."""
    if function := NATIVES.get(np.dtype(dtype)):
        for one in compiling.each([function]):
            one.ready()


def rows_to_lanes(rows: np.ndarray, first: int, lanes: np.ndarray) -> None:  # (n, M), (J, m, 64) ->
    """Writes float32 rows as the outputs first ... first + n - 1 of the blocks of a float matrix, of m inputs padded.

    The numbers are finite: `DenseLanes.pack` has refused others. Calls give up the GIL, so that several threads may
    write the rows of several matrices.
    """
    if lanes.dtype not in NATIVES:
        write_rows(rows, first, lanes)
        return
    rows = np.ascontiguousarray(rows, np.float32)
    function = NATIVES[lanes.dtype]
    function.call(rows.ctypes.data, len(rows), rows.shape[1], lanes.ctypes.data, lanes.shape[1], first)
