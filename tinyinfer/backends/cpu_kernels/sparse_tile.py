"""A few rows times 64 outputs of a matrix pruned 2:4, all sums in registers.

16 kept weights belong to 16 outputs and the same four inputs, but each to an input of its own. So four numbers of x
take the place of one: they are repeated through a vector, each lane picks the one that its two bits say, and what is
picked is multiplied as any other vector (tiles.py):

    for each four inputs k:  for both kept weights:  w = 64 weights, p = 64 places
        for each row r:  sum[r] += w · x[r, k ... k+3][p]

x86-64 picks by one instruction from AVX on, which looks at two bits of each lane and at no other: nothing is masked.
Elsewhere three choices by one bit do it, which LLVM writes for any CPU.

For many rows weights become dense first (`unpack_fours`).

Wins: half of the multiplications, and half of the loads of weights. Loses: a pick for each multiplication, so that
where nothing waits for memory less is gained, and with many rows nothing.
"""
# numba has no type hints, and its @intrinsic functions are called with types, not with values
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,no-any-return"

from __future__ import annotations

import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinyinfer.backends.cpu_kernels.registers import cpu_features
from tinyinfer.backends.cpu_kernels.tiles import (
    AHEAD,
    BFLOAT,
    FLOAT,
    FLOATS_AHEAD,
    MOST_ROWS,
    QUAD,
    VECTORS,
    Maker,
    Sums,
    constant,
    float_weights,
    in_order,
    shuffle,
    together,
    turns,
)
from tinyinfer.backends.cpu_kernels.vectors import F32, I64, VF, VI, WIDTH
from tinyinfer.backends.lanes import INPUTS

FOURS = INPUTS // 4  # groups of four inputs in a word of places
HALF = WIDTH // 2
LINE = 256  # bytes of a block's 64 words, and of 64 float32 numbers


def picks() -> bool:
    """Whether the CPU that numba compiles for picks among four numbers by one instruction."""
    return platform.machine() in ("x86_64", "AMD64") and "+avx" in cpu_features()


def picked(builder, four, places, at_once):
    """Of four numbers, which are repeated through a vector, for each lane the one that the lowest two bits say."""
    if at_once:
        kind = ir.FunctionType(ir.VectorType(F32, HALF), [ir.VectorType(F32, HALF), ir.VectorType(VI.element, HALF)])
        pick = builder.module.declare_intrinsic("llvm.x86.avx.vpermilvar.ps.256", fnty=kind)
        parts = [range(first, first + HALF) for first in (0, HALF)]
        low, high = (builder.call(pick, [shuffle(builder, v, v, part) for v in (four, places)]) for part in parts)
        return shuffle(builder, low, high, range(WIDTH))
    numbers = [shuffle(builder, four, four, [place] * WIDTH) for place in range(4)]
    bits = ir.VectorType(ir.IntType(1), WIDTH)
    odd, upper = builder.trunc(places, bits), builder.trunc(builder.lshr(places, constant(1)), bits)
    low, high = (builder.select(odd, *numbers[first : first + 2][::-1]) for first in (0, 2))
    return builder.select(upper, high, low)


def words_as_weights(make, words, kind):
    """Words of some vectors of outputs in the order in which `float_weights` has these."""
    b = make.builder
    if kind != BFLOAT:
        return words
    if together(words) == 1:
        return [shuffle(b, w, w, [*range(0, WIDTH, 2), *range(1, WIDTH, 2)]) for w in words]
    pairs = zip(words[::2], words[1::2], strict=True)
    return [shuffle(b, *pair, range(first, 2 * WIDTH, 2)) for pair in pairs for first in (0, 1)]


class Fours:
    """What a word's 32 inputs add to the sums of some vectors of a block, four inputs after the other."""

    def __init__(self, make, kind, sums, at_once):
        self.make, self.kind, self.sums, self.at_once = make, kind, sums, at_once
        self.line = VECTORS * WIDTH * abs(kind)  # bytes of 64 kept weights

    def add(self, values, places, start):
        """values, places: addresses of 64 outputs' kept weights and word; start: where the inputs stand in a row."""
        make, b, vectors = self.make, self.make.builder, self.sums.vectors
        words = [make.load(make.at(places, 64 * v), VI) for v in vectors]
        left = [cgutils.alloca_once(b, VI) for _ in vectors]  # of the words: what is not used yet
        for word, place in zip(words_as_weights(make, words, self.kind), left, strict=True):
            b.store(word, place)
        with cgutils.for_range(b, ir.Constant(I64, FOURS)) as loop:
            fours = [self.four(b.add(row, make.at(start, 16, loop.index))) for row in self.sums.rows]
            for second in (0, 1):
                at = make.at(make.at(values, second * self.line), 2 * self.line, loop.index)
                self.ask_ahead(at)
                self.multiply(fours, float_weights(make, at, self.kind, vectors), [b.load(place) for place in left])
                for place in left:
                    b.store(b.lshr(b.load(place), constant(2)), place)

    def four(self, address):
        """Four numbers of a row, repeated through a vector."""
        quad = self.make.load(address, QUAD)
        return shuffle(self.make.builder, quad, quad, [*range(4)] * 4)

    def ask_ahead(self, at):
        """Asks for weights behind those at an address, where a core looks too few of them ahead by itself."""
        vectors, size = self.sums.vectors, WIDTH * abs(self.kind)
        if self.kind != FLOAT or len(vectors) == 1:
            for line in range(vectors[0] * size, (vectors[-1] + 1) * size, 64):
                self.make.prefetch(self.make.at(at, line), FLOATS_AHEAD if self.kind == FLOAT else AHEAD)

    def multiply(self, fours, weights, places):
        """sum[r] += w · what each lane picks of the row's four."""
        make, b = self.make, self.make.builder
        for four, sums in zip(fours, self.sums.places, strict=True):
            for to, w, place in zip(sums, weights, places, strict=True):
                b.store(make.fma(w, picked(b, four, place, self.at_once), b.load(to)), to)


@intrinsic(prefer_literal=True)
def sparse_tile(typing, rows, kind, at_once, x, x_stride, values, places, words, y, y_stride, factor):
    """y += factor · x Wᵀ for so many rows and words of places. at_once: whether one instruction picks.

    x, values, places, y: addresses of the first input, of what is kept of 64 outputs, of these. Strides in bytes.
    """
    count, number, picking = rows.literal_value, kind.literal_value, bool(at_once.literal_value)

    def code(context, builder, signature, args):
        _, _, _, x, x_stride, values, places, words, y, y_stride, factor = args
        make = Maker(builder)
        parts = [Fours(make, number, Sums(make, x, x_stride, count, vectors), picking) for vectors in turns(count)]
        # few rows wait for memory, which is read best in its order
        for some in [parts] if count < MOST_ROWS else [[part] for part in parts]:
            with cgutils.for_range(builder, words) as loop:
                at, of = make.at(values, 2 * FOURS * parts[0].line, loop.index), make.at(places, LINE, loop.index)
                for part in some:
                    part.add(at, of, builder.mul(loop.index, ir.Constant(I64, 4 * INPUTS)))
        for part in parts:
            part.sums.change(lambda found: in_order(make, found, number))
            part.sums.put(y, y_stride, [make.splat(factor)] * VECTORS)
        return context.get_dummy_value()

    return types.none(rows, kind, at_once, *[types.int64] * 7, types.float32), code


@intrinsic(prefer_literal=True)
def unpack_fours(typing, kind, values, places, words, panel):
    """Writes weights of 64 outputs and the inputs of some words, zeros among them, as float32, input-major."""
    number = kind.literal_value

    def code(context, builder, signature, args):
        _, values, places, words, panel = args
        make, size = Maker(builder), VECTORS * WIDTH * abs(number)
        with cgutils.for_range(builder, builder.mul(words, ir.Constant(I64, FOURS))) as loop:
            at, out = make.at(values, 2 * size, loop.index), make.at(panel, 4 * LINE, loop.index)
            word = make.at(places, LINE, builder.udiv(loop.index, ir.Constant(I64, FOURS)))
            bits = builder.mul(builder.urem(loop.index, ir.Constant(I64, FOURS)), ir.Constant(I64, 4))
            shift = make.splat_int(builder.trunc(bits, VI.element))
            lines = [float_weights(make, make.at(at, size * second), number, range(VECTORS)) for second in (0, 1)]
            kept = zip(*(in_order(make, line, number) for line in lines), strict=True)
            for v, both in enumerate(kept):
                pair = builder.lshr(make.load(make.at(word, 64 * v), VI), shift)
                for i, w in enumerate(four_weights(builder, both, pair)):
                    make.store(make.at(out, LINE * i + 64 * v), w)
        return context.get_dummy_value()

    return types.none(kind, *[types.int64] * 4), code


def four_weights(builder, kept, pair):
    """The weights of four inputs, of 16 outputs each, two of four zero. pair: both places, the lower one first."""
    first, second = (builder.and_(pair, constant(3 << 2 * n)) for n in (0, 1))
    zero = ir.Constant(VF, [0.0] * WIDTH)
    for i in range(4):
        w = builder.select(builder.icmp_unsigned("==", second, constant(i << 2)), kept[1], zero)
        yield builder.select(builder.icmp_unsigned("==", first, constant(i)), kept[0], w)
