"""Single numbers at addresses: what a kernel reads and writes where a vector would be too many.

A kernel's arguments are whole numbers, so a float among them travels as its bits (`bits_of`, `as_float`).
"""
# numba has no type hints, and its @intrinsic functions are called with types, not with values
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,no-any-return"

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def bits_of(value: float) -> int:
    """The bits of a float32, as an argument of a launch."""
    return int(np.float32(value).view(np.uint32))


@intrinsic
def as_float(typing, bits):
    """The float32 whose bits an argument is."""

    def code(context, builder, signature, args):
        return builder.bitcast(builder.trunc(args[0], ir.IntType(32)), ir.FloatType())

    return types.float32(types.int64), code


def _reader(name, kind, element, doc):
    @intrinsic
    def read(typing, address):
        def code(context, builder, signature, args):
            value = builder.load(builder.inttoptr(args[0], element.as_pointer()))
            value.align = element.width // 8 if isinstance(element, ir.IntType) else 4
            return value

        return kind(types.int64), code

    read.__name__, read.__doc__ = name, doc
    return read


def _writer(name, kind, element, doc):
    @intrinsic
    def write(typing, address, value):
        def code(context, builder, signature, args):
            done = builder.store(args[1], builder.inttoptr(args[0], element.as_pointer()))
            done.align = element.width // 8 if isinstance(element, ir.IntType) else 4
            return context.get_dummy_value()

        return types.none(types.int64, kind), code

    write.__name__, write.__doc__ = name, doc
    return write


float_at = _reader("float_at", types.float32, ir.FloatType(), "The float32 at an address.")
int_at = _reader("int_at", types.int64, ir.IntType(64), "The int64 at an address.")
int32_at = _reader("int32_at", types.int32, ir.IntType(32), "The int32 at an address.")
byte_at = _reader("byte_at", types.uint8, ir.IntType(8), "The uint8 at an address.")
set_float = _writer("set_float", types.float32, ir.FloatType(), "Writes a float32.")
set_int = _writer("set_int", types.int64, ir.IntType(64), "Writes an int64.")
set_int32 = _writer("set_int32", types.int32, ir.IntType(32), "Writes an int32.")
set_byte = _writer("set_byte", types.uint8, ir.IntType(8), "Writes a uint8.")
