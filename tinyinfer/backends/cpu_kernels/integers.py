"""Whole numbers in vectors: bytes in memory, and what is found among 16 of them; and memory asked for in advance.

An `Ints` is 16 int32 numbers in registers (vectors.py); in memory they are often bytes, which a load widens and a store
cuts. `|` joins bits and `^` turns them over, as `&`, `<<` and `>>` of vectors.py pick and move them.
"""
# numba has no type hints, and its @intrinsic functions are called with types, not with values
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,no-any-return"

from __future__ import annotations

import operator

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tinyinfer.backends.cpu_kernels.scalars import ask_for
from tinyinfer.backends.cpu_kernels.vectors import (
    I8,
    I32,
    VI,
    WIDTH,
    Ints,
    IntsType,
    _binary,
    _operator,
    _pointer,
    _splat,
)

BYTES = ir.VectorType(I8, WIDTH)


@intrinsic
def load_signed_bytes(typing, address):
    """16 bytes, -128 ... 127, as int32."""

    def code(context, builder, signature, args):
        return builder.sext(builder.load(_pointer(builder, args[0], BYTES), align=1), VI)

    return Ints(types.int64), code


@intrinsic
def store_bytes(typing, address, value):
    """Writes the low byte of each of 16 int32 numbers."""

    def code(context, builder, signature, args):
        builder.store(builder.trunc(args[1], BYTES), _pointer(builder, args[0], BYTES), align=1)
        return context.get_dummy_value()

    return types.none(types.int64, Ints), code


@intrinsic
def store_ints(typing, address, value):
    """Writes 16 int32 numbers, from this address on."""

    def code(context, builder, signature, args):
        builder.store(args[1], _pointer(builder, args[0], VI), align=4)
        return context.get_dummy_value()

    return types.none(types.int64, Ints), code


bits_or = _binary("or_", Ints)
bits_xor = _binary("xor", Ints)
_operator(operator.or_, bits_or, IntsType)
_operator(operator.xor, bits_xor, IntsType)


@intrinsic
def numbers_from(typing, first):
    """The int32 number, and the 15 after it."""

    def code(context, builder, signature, args):
        return builder.add(_splat(builder, args[0], VI), ir.Constant(VI, list(range(WIDTH))))

    return Ints(types.int32), code


def _larger(builder, a, b):
    return builder.select(builder.icmp_signed(">", a, b), a, b)


@intrinsic
def larger_ints(typing, a, b):
    """The larger one of each pair of int32 numbers."""

    def code(context, builder, signature, args):
        return _larger(builder, *args)

    return Ints(Ints, Ints), code


def half(builder, value, first):
    """Half of a vector's lanes, from the lane `first` on."""
    lanes = ir.Constant(ir.VectorType(I32, value.type.count // 2), list(range(first, first + value.type.count // 2)))
    return builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), lanes)


def _reduction(join):
    """What joins 16 int32 numbers to one, half with half."""

    @intrinsic
    def reduce(typing, value):
        def code(context, builder, signature, args):
            v = args[0]
            while v.type.count > 1:
                v = join(builder, half(builder, v, 0), half(builder, v, v.type.count // 2))
            return builder.extract_element(v, ir.Constant(I32, 0))

        return types.int32(Ints), code

    return reduce


sum_of_ints = _reduction(lambda builder, a, b: builder.add(a, b))
largest_of_ints = _reduction(_larger)


@intrinsic
def prefetch(typing, address):
    """Asks for the cache line at an address, which will be read soon."""

    def code(context, builder, signature, args):
        ask_for(builder, args[0], nearest=True)
        return context.get_dummy_value()

    return types.none(types.int64), code
