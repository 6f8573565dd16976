"""Single numbers at addresses: what a kernel reads and writes where a vector would be too many.

A kernel's arguments are whole numbers, so a float among them travels as its bits (`bits_of`, `as_float`).
"""
# numba has no type hints, and its @intrinsic functions are called with types, not with values
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,no-any-return"

from __future__ import annotations

import struct

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tinyinfer.backends.cpu_kernels.halves import narrowed, widened

AS_FLOAT, AS_BITS = struct.Struct("<f").pack, struct.Struct("<I").unpack
I8, I16, I32, I64, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()


def bits_of(value: float) -> int:
    """The bits of a float32, as an argument of a launch."""
    return int(AS_BITS(AS_FLOAT(value))[0])


@intrinsic
def as_float(typing, bits):
    """The float32 whose bits an argument is."""

    def code(context, builder, signature, args):
        return builder.bitcast(builder.trunc(args[0], ir.IntType(32)), ir.FloatType())

    return types.float32(types.int64), code


def _read_half(widen):
    @intrinsic
    def read(typing, address):
        def code(context, builder, signature, args):
            return widen(builder, builder.load(builder.inttoptr(args[0], I16.as_pointer()), align=2))

        return types.float32(types.int64), code

    return read


half_at = _read_half(lambda builder, bits: widened(builder, builder.bitcast(bits, ir.HalfType())))
bfloat_at = _read_half(
    lambda builder, bits: builder.bitcast(builder.shl(builder.zext(bits, I32), ir.Constant(I32, 16)), F32)
)


def _reader(kind, element, align):
    """What reads a number of this type, of numba and of LLVM, at an address."""

    @intrinsic
    def read(typing, address):
        def code(context, builder, signature, args):
            return builder.load(builder.inttoptr(args[0], element.as_pointer()), align=align)

        return kind(types.int64), code

    return read


def _writer(kind, element, align):
    """What writes a number of this type, of numba and of LLVM, at an address."""

    @intrinsic
    def write(typing, address, value):
        def code(context, builder, signature, args):
            builder.store(args[1], builder.inttoptr(args[0], element.as_pointer()), align=align)
            return context.get_dummy_value()

        return types.none(types.int64, kind), code

    return write


float_at, set_float = _reader(types.float32, F32, 4), _writer(types.float32, F32, 4)
int_at, set_int = _reader(types.int64, I64, 8), _writer(types.int64, I64, 8)
int32_at, set_int32 = _reader(types.int32, I32, 4), _writer(types.int32, I32, 4)
byte_at, set_byte = _reader(types.uint8, I8, 1), _writer(types.uint8, I8, 1)
set_half_bits = _writer(types.uint16, I16, 2)


@intrinsic
def half_of_bits(typing, bits):
    """The float16 whose bits these are, as float32."""

    def code(context, builder, signature, args):
        half = builder.bitcast(builder.trunc(args[0], ir.IntType(16)), ir.HalfType())
        return widened(builder, half)

    return types.float32(types.int64), code


@intrinsic
def half_bits(typing, value):
    """The bits of the float16 nearest to a float32."""

    def code(context, builder, signature, args):
        return builder.zext(narrowed(builder, args[0]), I64)

    return types.int64(types.float32), code


def _unsigned(method):
    """An operation on whole numbers that are not negative: one instruction, where // and % of any sign need a dozen."""

    @intrinsic
    def function(typing, a, b):
        def code(context, builder, signature, args):
            return getattr(builder, method)(*args)

        return types.int64(types.int64, types.int64), code

    return function


quotient, remainder = _unsigned("udiv"), _unsigned("urem")


def ask_for(builder, address, nearest):
    """LLVM's code that asks for the line at an address. nearest: into the nearest cache, too."""
    place = builder.inttoptr(address, I8.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [place.type, I32, I32, I32])
    fetch = builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind)
    builder.call(fetch, [place, *(ir.Constant(I32, n) for n in (0, 3 if nearest else 1, 1))])  # to read, data


@intrinsic
def prefetch(typing, address):
    """Lets the line at an address come out of memory while something else is computed; any address will do."""

    def code(context, builder, signature, args):
        ask_for(builder, args[0], nearest=False)
        return context.get_dummy_value()

    return types.none(types.int64), code
