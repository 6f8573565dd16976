"""A register tile: a few rows times 64 outputs, with every sum in a register.

A weight that is in a register can be multiplied with several rows at once, so that several rows cost memory no more
than one. R rows times 4 vectors of outputs are 4·R sums; a core with 32 vector registers keeps those of up to 6 rows,
and one with fewer takes the 4 vectors in turns (registers.py):

    for each input k:  w = some vectors of weights;  for each row r:  sum[r] += w · x[r, k]

If a vector held numbers of one row, its lanes would have to be added to one another at the end. Here 16 lanes are 16
outputs, and x[r, k] is one number, broadcast. The loops over rows and vectors run while the tile is compiled: they are
written in Python, and what is left of them are 4·R multiplications, one after the other.

Codes become floats in registers, too: shift, mask, convert, three operations beside each multiplication, by units that
do not multiply. So with four rows the conversion is nearly hidden, and with one row it is most of the work.

Wins: several rows, and codes of any size, at nearly the speed of the multiplying units. Loses: each number of rows is
machine code of its own, and compiled for itself.
"""
# numba has no type hints, and its @intrinsic functions are called with types, not with values
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,no-any-return"

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinyinfer.backends.cpu_kernels.halves import widened
from tinyinfer.backends.cpu_kernels.registers import columns
from tinyinfer.backends.cpu_kernels.scalars import ask_for
from tinyinfer.backends.cpu_kernels.vectors import F32, I64, VF, VI, WIDTH
from tinyinfer.backends.lanes import PLANES

VECTORS = 4  # of a block of 64 outputs
MOST_ROWS = 6  # of a tile
FLOAT, HALF, BFLOAT = 4, 2, -2  # kinds of float weights; the size is a number's bytes
TURN = {FLOAT: 4, HALF: 16, BFLOAT: 16}  # inputs of a turn, where there are several and few rows
QUAD = ir.VectorType(F32, 4)
# How far ahead narrow weights are asked for: where they become floats first, a core looks too few of them ahead to wait
# for memory and to compute at the same time (8-bit codes, one thread, AVX2: 13.9 ms a model, and 8.7 so).
AHEAD = 2048  # bytes
# The same for float32 in turns (3072 outputs, two threads: a row 340 us; 2, 3 and 4 rows 430, 456 and 657, and so 404,
# 411 and 457).
FLOATS_AHEAD = 4096


class Maker:
    """Writes instructions: a builder of LLVM with the few that tiles need. Addresses are numbers, in bytes."""

    def __init__(self, builder):
        self.builder = builder

    def at(self, address, offset, times=None):
        """address + offset, or address + offset · times."""
        step = ir.Constant(I64, offset)
        return self.builder.add(address, step if times is None else self.builder.mul(times, step))

    def load(self, address, kind):
        """What lies at an address, aligned like its elements."""
        element = getattr(kind, "element", kind)
        align = element.width // 8 if isinstance(element, ir.IntType) else 2 if element == ir.HalfType() else 4
        return self.builder.load(self.builder.inttoptr(address, kind.as_pointer()), align=align)

    def store(self, address, value):
        """Writes a vector of float32."""
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer()), align=4)

    def prefetch(self, address, ahead=AHEAD):
        """Asks for the line at an address so many bytes further, so that it is near when it is read."""
        ask_for(self.builder, self.at(address, ahead), nearest=True)

    def splat(self, value):
        """The float32 number, 16 times."""
        one = self.builder.insert_element(ir.Constant(VF, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(one, ir.Constant(VF, ir.Undefined), ir.Constant(VI, [0] * WIDTH))

    def splat_int(self, value):
        """The int32 number, 16 times."""
        one = self.builder.insert_element(ir.Constant(VI, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(one, ir.Constant(VI, ir.Undefined), ir.Constant(VI, [0] * WIDTH))

    def fma(self, a, b, c):
        """a · b + c, rounded once."""
        kind = ir.FunctionType(VF, [VF] * 3)
        return self.builder.call(self.builder.module.declare_intrinsic("llvm.fma.v16f32", fnty=kind), [a, b, c])

    def total(self, quad):
        """The sum of 4 numbers."""
        numbers = [self.builder.extract_element(quad, ir.Constant(ir.IntType(32), i)) for i in range(4)]
        first, second = (self.builder.fadd(*numbers[i : i + 2]) for i in (0, 2))
        return self.builder.fadd(first, second)


def turns(sums):
    """The vectors of a block that a tile takes at a time, turn after turn; sums: how many each of them has."""
    some = columns(sums)
    return [range(first, first + some) for first in range(0, VECTORS, some)]


class Sums:
    """The sums of a tile of some rows and vectors, in registers."""

    def __init__(self, make, x, x_stride, rows, vectors):
        builder = make.builder
        zero = ir.Constant(VF, [0.0] * WIDTH)
        self.make, self.vectors = make, vectors
        self.rows = [builder.add(x, builder.mul(x_stride, ir.Constant(I64, r))) for r in range(rows)]
        # LLVM keeps what is allocated so in registers
        self.places = [[cgutils.alloca_once_value(builder, zero) for _ in vectors] for _ in range(rows)]

    def add(self, offset, weights):
        """sum[r] += w · x[r, k] for the vectors of weights; offset: where input k stands in a row."""
        make, b = self.make, self.make.builder
        for row, places in zip(self.rows, self.places, strict=True):
            x = make.splat(make.load(b.add(row, offset), F32))
            for place, w in zip(places, weights, strict=True):
                b.store(make.fma(w, x, b.load(place)), place)

    def change(self, function):
        """Puts the function of a row's vectors in their place."""
        b = self.make.builder
        for places in self.places:
            for place, value in zip(places, function([b.load(place) for place in places]), strict=True):
                b.store(value, place)

    def put(self, y, y_stride, scale, minimum=None, inputs=None):
        """y += scale · sums + minimum · inputs; scale and minimum: 4 vectors; inputs: the sum of each row's inputs."""
        make, b = self.make, self.make.builder
        for r, places in enumerate(self.places):
            row = b.add(y, b.mul(y_stride, ir.Constant(I64, r)))
            for v, place in zip(self.vectors, places, strict=True):
                at = make.at(row, 64 * v)
                value = make.fma(b.load(place), scale[v], make.load(at, VF))
                make.store(at, value if minimum is None else make.fma(inputs[r], minimum[v], value))


class InputSums:
    """For each row of a tile the sum of its inputs, in registers."""

    def __init__(self, make, rows):
        self.make, none = make, ir.Constant(QUAD, [0.0] * 4)
        self.places = [cgutils.alloca_once_value(make.builder, none) for _ in range(rows)]

    def add(self, rows, offset):
        """Adds 4 inputs of each row; rows: where they begin."""
        make, b = self.make, self.make.builder
        for row, place in zip(rows, self.places, strict=True):
            b.store(b.fadd(b.load(place), make.load(b.add(row, offset), QUAD)), place)

    def totals(self):
        """The sum of each row, in all lanes of a vector."""
        make, b = self.make, self.make.builder
        return [make.splat(make.total(b.load(place))) for place in self.places]


def float_weights(make, address, kind, vectors):
    """16 weights of a kind as float32 for each of some vectors of a block, in the order that `in_order` undoes."""
    at = [make.at(address, WIDTH * abs(kind) * v) for v in vectors]
    if kind == FLOAT:
        return [make.load(one, VF) for one in at]
    if kind == HALF:
        return [widened(make.builder, make.load(one, ir.VectorType(ir.HalfType(), WIDTH))) for one in at]
    return [half for one in at[::together(at)] for half in bfloats(make, one, together(at))]


def together(vectors):
    """How many vectors of bfloat16 are taken at a time: a word has two numbers, so two where there are two."""
    return 2 - len(vectors) % 2


def bfloats(make, address, count):
    """One or two vectors of bfloat16 as float32: the numbers at even places, then those at odd ones.

    A bfloat16 is the upper half of a float32. Of the two in a word one is moved up, and one is left where it is: two
    instructions for two numbers, where widening each needs two for one.
    """
    b, kind = make.builder, ir.VectorType(VI.element, WIDTH * count // 2)
    words = make.load(address, kind)
    even = b.shl(words, ir.Constant(kind, [16] * kind.count))
    odd = b.and_(words, ir.Constant(kind, [-65536] * kind.count))
    if count == 1:
        return [b.bitcast(shuffle(b, even, odd, range(WIDTH)), VF)]
    return [b.bitcast(even, VF), b.bitcast(odd, VF)]


def in_order(make, values, kind):
    """The vectors that were computed with `float_weights`, each output in its place again."""
    b, half = make.builder, WIDTH // 2
    if kind != BFLOAT:
        return values
    if together(values) == 1:
        return [shuffle(b, v, v, [i // 2 + half * (i % 2) for i in range(WIDTH)]) for v in values]
    return [shuffle(b, even, odd, [first + i // 2 + WIDTH * (i % 2) for i in range(WIDTH)])
            for even, odd in zip(values[::2], values[1::2], strict=True) for first in (0, half)]  # fmt: skip


def shuffle(builder, a, b, places):
    """Numbers of two vectors, by their places in both."""
    mask = ir.Constant(ir.VectorType(VI.element, len(places)), list(places))
    return builder.shuffle_vector(a, b, mask)


@intrinsic(prefer_literal=True)
def dense_tile(typing, rows, kind, x, x_stride, w, inputs, y, y_stride, factor):
    """y += factor · x Wᵀ for so many rows and inputs, from the addresses x, w and y on; strides in bytes."""
    count, number = rows.literal_value, kind.literal_value

    def code(context, builder, signature, args):
        _, _, x, x_stride, w, inputs, y, y_stride, factor = args
        make, size = Maker(builder), WIDTH * abs(number)

        def add(sums, first, inputs):
            """Adds the products of some inputs, from the input `first` on."""
            with cgutils.for_range(builder, inputs) as loop:
                k = builder.add(first, loop.index)
                at = make.at(w, VECTORS * size, k)
                if number != FLOAT:
                    for line in range(sums.vectors[0] * size, (sums.vectors[-1] + 1) * size, 64):
                        make.prefetch(make.at(at, line))
                elif in_turns and sums is parts[0]:
                    for line in range(0, VECTORS * size, 64):
                        make.prefetch(make.at(at, line), FLOATS_AHEAD)
                weights = float_weights(make, at, number, sums.vectors)
                sums.add(builder.mul(k, ir.Constant(I64, 4)), weights)

        parts = [Sums(make, x, x_stride, count, vectors) for vectors in turns(count)]
        in_turns = len(parts) > 1 and count < MOST_ROWS  # few rows wait for memory, which is read best in its order
        if not in_turns:
            for sums in parts:
                add(sums, ir.Constant(I64, 0), inputs)
        else:
            turn = ir.Constant(I64, TURN[number])
            whole = builder.mul(builder.udiv(inputs, turn), turn)
            with cgutils.for_range(builder, builder.udiv(inputs, turn)) as loop:
                for sums in parts:
                    add(sums, builder.mul(loop.index, turn), turn)
            for sums in parts:
                add(sums, whole, builder.sub(inputs, whole))
        for sums in parts:
            sums.change(lambda values: in_order(make, values, number))
            sums.put(y, y_stride, [make.splat(factor)] * VECTORS)
        return context.get_dummy_value()

    return types.none(rows, kind, *[types.int64] * 6, types.float32), code


@intrinsic(prefer_literal=True)
def widen(typing, kind, w, inputs, panel):
    """Writes weights of a kind, of 64 outputs and so many inputs, as float32."""
    number = kind.literal_value

    def code(context, builder, signature, args):
        _, w, inputs, panel = args
        make, size = Maker(builder), WIDTH * abs(number)
        with cgutils.for_range(builder, inputs) as loop:
            at, out = make.at(w, VECTORS * size, loop.index), make.at(panel, 256, loop.index)
            for v, weights in enumerate(in_order(make, float_weights(make, at, number, range(VECTORS)), number)):
                make.store(make.at(out, 64 * v), weights)
        return context.get_dummy_value()

    return types.none(kind, *[types.int64] * 3), code


def constant(value):
    """The int32 number, 16 times."""
    return ir.Constant(VI, [value] * WIDTH)


def unit_of(bits):
    """The inputs that a word of the low plane covers: so many are unpacked at a time."""
    return 32 // PLANES[bits][0]


class Codes:
    """The codes of some vectors of outputs, word after word of the low plane, as vectors of float32.

    words, high: addresses of both planes of their block of 64 outputs.
    """

    def __init__(self, make, words, high, bits, vectors=range(VECTORS)):
        self.make, self.words, self.high, self.bits, self.unit = make, words, high, bits, unit_of(bits)
        self.vectors = vectors

    def bytes(self, unit):
        """The inputs of a unit, four by four, in the four bytes of vectors of words. unit: which one of the block."""
        b, (low, more) = self.make.builder, PLANES[self.bits]
        words = self.low_words(unit)
        uppers = self.upper(unit, more) if more else words
        for quad in range(self.unit // 4):
            values = [self.fields(word, low * quad, low) for word in words]
            if more:
                parts = zip(values, (self.fields(word, more * quad, more) for word in uppers), strict=True)
                values = [b.or_(value, b.shl(upper, constant(low))) for value, upper in parts]
            yield values

    def quads(self, unit):
        """The inputs of a unit, four by four: each as vectors of float32."""
        b, (low, more) = self.make.builder, PLANES[self.bits]
        if more:  # both planes of four codes are joined at once
            joined, size = [(values, 0) for values in self.bytes(unit)], 8
        else:
            joined, size = [(self.low_words(unit), low * quad) for quad in range(self.unit // 4)], low
        mask = constant((1 << size) - 1)
        for values, position in joined:
            yield [[b.sitofp(b.and_(b.lshr(value, constant(position + 8 * i)), mask), VF) for value in values]
                   for i in range(4)]  # fmt: skip

    def low_words(self, unit):
        """The words of the low plane that hold a unit."""
        make = self.make
        at = [make.at(make.at(self.words, 256, unit), 64 * v) for v in self.vectors]
        for one in at:
            make.prefetch(one)
        return [make.load(one, VI) for one in at]

    def upper(self, unit, bits):
        """The words of the high plane that the unit's codes are in, moved so that the first of them comes first."""
        make, b = self.make, self.make.builder
        units = ir.Constant(I64, 32 // (bits * self.unit))  # of a word of the high plane
        at = make.at(self.high, 256, b.udiv(unit, units))
        shift = b.mul(b.urem(unit, units), ir.Constant(I64, bits * self.unit // 4))
        by = make.splat_int(b.trunc(shift, VI.element))
        return [b.lshr(make.load(make.at(at, 64 * v), VI), by) for v in self.vectors]

    def fields(self, word, position, bits):
        """The fields at a position of all four bytes, each at the bottom of its byte."""
        b = self.make.builder
        return b.and_(b.lshr(word, constant(position)), constant(((1 << bits) - 1) * 0x01010101))


@intrinsic(prefer_literal=True)
def packed_tile(typing, rows, bits, x, x_stride, words, high, first, units, scales, y, y_stride):
    """y += scale · (x Cᵀ) + minimum · Σ x for so many rows and the units of one group; C: codes, from 0 on.

    words, high: addresses of a block's planes. first: the block's first unit that is meant; x begins with its inputs.
    scales: the address of 64 scales and 64 minimums in float32. Strides in bytes.
    """
    count, number = rows.literal_value, bits.literal_value

    def code(context, builder, signature, args):
        _, _, x, x_stride, words, high, first, units, scales, y, y_stride = args
        make = Maker(builder)
        of_inputs, totals = InputSums(make, count), None
        for vectors in turns(count):
            sums, codes = Sums(make, x, x_stride, count, vectors), Codes(make, words, high, number, vectors)
            with cgutils.for_range(builder, units) as loop:
                start = builder.mul(loop.index, ir.Constant(I64, 4 * codes.unit))
                for quad, inputs in enumerate(codes.quads(builder.add(first, loop.index))):
                    for i, weights in enumerate(inputs):
                        sums.add(make.at(start, 16 * quad + 4 * i), weights)
                    if totals is None:
                        of_inputs.add(sums.rows, make.at(start, 16 * quad))
            totals = totals or of_inputs.totals()
            both = [make.load(make.at(scales, 64 * v), VF) for v in range(2 * VECTORS)]
            sums.put(y, y_stride, both[:VECTORS], both[VECTORS:], totals)
        return context.get_dummy_value()

    return types.none(rows, bits, *[types.int64] * 9), code


@intrinsic(prefer_literal=True)
def unpack_units(typing, bits, words, high, first, units, scales, panel):
    """Writes scale · code + minimum, as float32, of 64 outputs and the inputs of some units, input-major."""
    number = bits.literal_value

    def code(context, builder, signature, args):
        _, words, high, first, units, scales, panel = args
        make = Maker(builder)
        codes = Codes(make, words, high, number)
        vectors = [make.load(make.at(scales, 64 * v), VF) for v in range(2 * VECTORS)]
        with cgutils.for_range(builder, units) as loop:
            out = make.at(panel, 256 * codes.unit, loop.index)
            for quad, inputs in enumerate(codes.quads(builder.add(first, loop.index))):
                for i, weights in enumerate(inputs):
                    for v, code in enumerate(weights):
                        w = make.fma(code, vectors[v], vectors[VECTORS + v])
                        make.store(make.at(out, 256 * (4 * quad + i) + 64 * v), w)
        return context.get_dummy_value()

    return types.none(bits, *[types.int64] * 6), code
