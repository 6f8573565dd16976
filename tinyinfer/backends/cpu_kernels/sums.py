"""Many sums in registers: tuples of vectors that one call adds to, so that no loop over them is left to the compiler.

A product is as fast as the registers it adds into are many: each addition waits for the one before it in the same
register, four cycles, and what is loaded once is used by several sums. So kernels keep 4 to 16 vectors of sums as one
tuple, and each function here is unrolled over the whole tuple.

    add_rows     sums[i] += x · row i                  a few queries meet 16 keys: vectors along a head
    add_columns  sums[i] += factor · column i          their weights meet a value
    add_outer    sums[i, v] += number i · vector v     many queries meet 8 keys: a lane for each query
    sums_of      16 vectors become the vector of their 16 sums
"""
# numba has no type hints, and its @intrinsic functions are called with types, not with values
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,no-any-return"

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tinyinfer.backends.cpu_kernels.vectors import F32, I32, I64, VF, WIDTH, Floats, _call, _pointer, _splat

BYTES = 4 * WIDTH  # of a vector
ROWS = 8  # numbers that meet the same vectors in `add_outer`


def _load(builder, address):
    """16 float32 numbers."""
    return builder.load(_pointer(builder, address, VF), align=4)


def _parts(builder, sums):
    return [builder.extract_value(sums, i) for i in range(sums.type.count)]


def _tuple(builder, parts):
    whole = ir.Constant(ir.ArrayType(VF, len(parts)), ir.Undefined)
    for i, part in enumerate(parts):
        whole = builder.insert_value(whole, part, i)
    return whole


def _at(builder, address, *offsets):
    """An address and numbers behind it: constants, or pairs of a value and how many times it is taken."""
    for offset in offsets:
        if isinstance(offset, tuple):
            offset = builder.mul(offset[0], ir.Constant(I64, offset[1]))
        address = builder.add(address, offset if isinstance(offset, ir.Value) else ir.Constant(I64, offset))
    return address


def _number(builder, address):
    value = builder.load(_pointer(builder, address, F32))
    value.align = 4
    return _splat(builder, value, VF)


def _fma(builder, a, b, c):
    return _call(builder, "llvm.fma.v16f32", VF, [a, b, c])


def _repeated(n):
    @intrinsic
    def function(typing, x):
        def code(context, builder, signature, args):
            return _tuple(builder, [args[0]] * n)

        return types.UniTuple(Floats, n)(Floats), code

    function.__doc__ = f"A vector, {n} times: the first sums."
    return function


one, four, eight, sixteen = _repeated(1), _repeated(4), _repeated(8), _repeated(16)


@intrinsic
def add_rows(typing, sums, x, rows, stride):
    """sums[i] + x · the vector in row i; rows: the address of row 0."""

    def code(context, builder, signature, args):
        sums, x, rows, stride = args
        vectors = [_load(builder, _at(builder, rows, (stride, i))) for i in range(sums.type.count)]
        return _tuple(builder, [_fma(builder, x, v, s) for v, s in zip(vectors, _parts(builder, sums), strict=True)])

    return sums(sums, Floats, types.int64, types.int64), code


@intrinsic
def add_columns(typing, sums, number, row):
    """sums[i] + number · vector i of a row; number, row: addresses."""

    def code(context, builder, signature, args):
        factor = _number(builder, args[1])
        vectors = [_load(builder, _at(builder, args[2], BYTES * i)) for i in range(args[0].type.count)]
        pairs = zip(vectors, _parts(builder, args[0]), strict=True)
        return _tuple(builder, [_fma(builder, factor, v, s) for v, s in pairs])

    return sums(sums, types.int64, types.int64), code


@intrinsic
def add_outer(typing, sums, numbers, stride, row):
    """sums[i, v] + number i of 8 · vector v of a row; numbers: the address of number 0, `stride` bytes from each other."""

    def code(context, builder, signature, args):
        sums, numbers, stride, row = args
        width, parts = sums.type.count // ROWS, _parts(builder, sums)
        vectors = [_load(builder, _at(builder, row, BYTES * v)) for v in range(width)]
        for i in range(ROWS):
            number = _number(builder, _at(builder, numbers, (stride, i)))
            for v in range(width):
                parts[i * width + v] = _fma(builder, number, vectors[v], parts[i * width + v])
        return _tuple(builder, parts)

    return sums(sums, types.int64, types.int64, types.int64), code


@intrinsic
def scaled_rows(typing, sums, factors, rows, stride):
    """Eight rows of vectors, shaped as `sums`, vector v of each times factor v; factors, rows: addresses."""

    def code(context, builder, signature, args):
        sums, factors, rows, stride = args
        width = sums.type.count // ROWS
        scale = [_load(builder, _at(builder, factors, BYTES * v)) for v in range(width)]
        places = [(_at(builder, rows, (stride, i), BYTES * v), scale[v]) for i in range(ROWS) for v in range(width)]
        return _tuple(builder, [builder.fmul(_load(builder, place), by) for place, by in places])

    return sums(sums, types.int64, types.int64, types.int64), code


@intrinsic
def scaled_columns(typing, sums, factor, row):
    """The vectors of a row, as many as `sums` has, times a factor."""

    def code(context, builder, signature, args):
        places = [_at(builder, args[2], BYTES * i) for i in range(args[0].type.count)]
        return _tuple(builder, [builder.fmul(_load(builder, place), args[1]) for place in places])

    return sums(sums, Floats, types.int64), code


@intrinsic
def store_rows(typing, sums, rows, stride):
    """Writes sums in eight rows, `stride` bytes from each other."""

    def code(context, builder, signature, args):
        width = args[0].type.count // ROWS
        for n, part in enumerate(_parts(builder, args[0])):
            place = _at(builder, args[1], (args[2], n // width), BYTES * (n % width))
            builder.store(part, _pointer(builder, place, VF)).align = 4
        return context.get_dummy_value()

    return types.none(sums, types.int64, types.int64), code


@intrinsic
def store_columns(typing, sums, row):
    """Writes sums one behind the other."""

    def code(context, builder, signature, args):
        for n, part in enumerate(_parts(builder, args[0])):
            builder.store(part, _pointer(builder, _at(builder, args[1], BYTES * n), VF)).align = 4
        return context.get_dummy_value()

    return types.none(sums, types.int64), code


def _mask(quarters):
    return [4 * quarter + n for quarter in quarters for n in range(4)]


def _interleaved(*picks):
    """The same choice in each quarter of 4 numbers; a pick of 4 or more is one of the second vector."""
    return [4 * quarter + (pick if pick < 4 else 12 + pick) for quarter in range(4) for pick in picks]


# Pairs of choices from two vectors; to add what both choose halves the numbers a vector still has of each sum.
HALVINGS = [
    (_interleaved(0, 4, 1, 5), _interleaved(2, 6, 3, 7)),
    (_interleaved(0, 1, 4, 5), _interleaved(2, 3, 6, 7)),
    (_mask((0, 2, 4, 6)), _mask((1, 3, 5, 7))),
    (_mask((0, 2, 4, 6)), _mask((1, 3, 5, 7))),
]


@intrinsic
def sums_of(typing, sums):
    """The sums of the numbers of each of 16 vectors, as one vector."""

    def code(context, builder, signature, args):
        parts = _parts(builder, args[0])
        for low, high in HALVINGS:
            masks = [ir.Constant(ir.VectorType(I32, WIDTH), mask) for mask in (low, high)]
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [builder.fadd(*(builder.shuffle_vector(a, b, mask) for mask in masks)) for a, b in pairs]
        return parts[0]

    return Floats(sums), code
