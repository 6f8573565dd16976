"""Many sums in registers: tuples of vectors that one call adds to, so that no loop over them is left to the compiler.

A product is as fast as the registers it adds into are many: each addition waits for the one before it in the same
register, four cycles, and what is loaded once is used by several sums. So kernels keep 4 to 16 vectors of sums as one
tuple, and each function here is unrolled over the whole tuple.

    add_rows     sums[i] += x · vector i               a query meets 16 keys, or a weight a value: vectors along a head
    add_outer    sums[i] += number i · vector          many queries meet 8 keys: a lane for each query
    sums_of      16 vectors become the vector of their 16 sums
"""
# numba has no type hints, and its @intrinsic functions are called with types, not with values
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,no-any-return"

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tinyinfer.backends.cpu_kernels.vectors import F32, I32, I64, VF, WIDTH, Floats, _call, _pointer, _splat


def _parts(builder, sums):
    return [builder.extract_value(sums, i) for i in range(sums.type.count)]


def _tuple(builder, parts):
    whole = ir.Constant(ir.ArrayType(VF, len(parts)), ir.Undefined)
    for i, part in enumerate(parts):
        whole = builder.insert_value(whole, part, i)
    return whole


def _at(builder, address, stride, i):
    """The address of row i."""
    return builder.add(address, builder.mul(stride, ir.Constant(I64, i)))


def _vector(builder, address):
    return builder.load(_pointer(builder, address, VF), align=4)


def _number(builder, address):
    return _splat(builder, builder.load(_pointer(builder, address, F32), align=4), VF)


def _fma(builder, a, b, c):
    return _call(builder, "llvm.fma.v16f32", VF, [a, b, c])


def _repeated(n):
    """A vector, n times: the first sums."""

    @intrinsic
    def function(typing, x):
        def code(context, builder, signature, args):
            return _tuple(builder, [args[0]] * n)

        return types.UniTuple(Floats, n)(Floats), code

    return function


one, four, eight, sixteen = _repeated(1), _repeated(4), _repeated(8), _repeated(16)


@intrinsic
def add_rows(typing, sums, x, rows, stride):
    """sums[i] + x · vector i; rows: the address of vector 0; `stride` bytes from one to the next."""

    def code(context, builder, signature, args):
        sums, x, rows, stride = args
        vectors = [_vector(builder, _at(builder, rows, stride, i)) for i in range(sums.type.count)]
        return _tuple(builder, [_fma(builder, x, v, s) for v, s in zip(vectors, _parts(builder, sums), strict=True)])

    return sums(sums, Floats, types.int64, types.int64), code


@intrinsic
def add_outer(typing, sums, numbers, stride, vector):
    """sums[i] + number i · the vector; numbers: the address of number 0; `stride` bytes from one to the next."""

    def code(context, builder, signature, args):
        parts, vector = _parts(builder, args[0]), _vector(builder, args[3])
        numbers = [_number(builder, _at(builder, args[1], args[2], i)) for i in range(len(parts))]
        return _tuple(builder, [_fma(builder, n, vector, s) for n, s in zip(numbers, parts, strict=True)])

    return sums(sums, types.int64, types.int64, types.int64), code


@intrinsic
def scaled_rows(typing, sums, factor, rows, stride):
    """The vectors in as many rows as there are sums, times a factor."""

    def code(context, builder, signature, args):
        places = [_at(builder, args[2], args[3], i) for i in range(args[0].type.count)]
        return _tuple(builder, [builder.fmul(_vector(builder, place), args[1]) for place in places])

    return sums(sums, Floats, types.int64, types.int64), code


@intrinsic
def store_rows(typing, sums, rows, stride):
    """Writes sums, `stride` bytes from one to the next."""

    def code(context, builder, signature, args):
        for i, part in enumerate(_parts(builder, args[0])):
            builder.store(part, _pointer(builder, _at(builder, args[1], args[2], i), VF), align=4)
        return context.get_dummy_value()

    return types.none(sums, types.int64, types.int64), code


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
