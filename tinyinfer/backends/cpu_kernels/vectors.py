"""Vectors of 16 numbers as a type of numba: what a SIMD register holds, written out in a kernel.

A compiler turns a plain loop into vector instructions only where it can prove that nothing changes, and it keeps sums in
registers only where it sees that no array lies over another. Here a kernel says both itself. A `Floats` is 16 float32
numbers, an `Ints` 16 int32 numbers; LLVM makes of each what the machine has: one register of AVX-512, two of AVX2, four
of NEON. So the same source is right everywhere, and wide where the machine is.

Wins: a product keeps its 64 sums in registers whatever the compiler guesses. Loses: addresses and lanes are the
author's business, as in C. Functions take addresses as whole numbers, in bytes (views.py).

`dot` is the one instruction that no plain loop becomes: 64 products of bytes at a time, added four by four to 16 sums
(`vpdpbusd` of AVX-512 VNNI); elsewhere the same numbers come out of ordinary instructions.
"""
# numba has no type hints, and its @intrinsic functions are called with types, not with values
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,no-any-return"

from __future__ import annotations

import operator

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

WIDTH = 16  # numbers in a vector

F32, I32, I8, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(8), ir.IntType(64)
VF, VI, VB = ir.VectorType(F32, WIDTH), ir.VectorType(I32, WIDTH), ir.VectorType(I8, 4 * WIDTH)


class FloatsType(types.Type):
    """The type of 16 float32 numbers."""


class IntsType(types.Type):
    """The type of 16 int32 numbers."""


Floats, Ints = FloatsType("Floats"), IntsType("Ints")


@register_model(FloatsType)
class FloatsModel(models.PrimitiveModel):
    """How LLVM holds a Floats."""

    def __init__(self, manager, kind):
        super().__init__(manager, kind, VF)


@register_model(IntsType)
class IntsModel(models.PrimitiveModel):
    """How LLVM holds an Ints."""

    def __init__(self, manager, kind):
        super().__init__(manager, kind, VI)


def _pointer(builder, address, element):
    return builder.inttoptr(address, element.as_pointer())


def _splat(builder, value, vector):
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(I32, 0))
    zeros = ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


def _load(builder, address, vector):
    value = builder.load(_pointer(builder, address, vector))
    value.align = vector.element.width // 8 if isinstance(vector.element, ir.IntType) else 4
    return value


def _call(builder, name, result, args):
    function = builder.module.declare_intrinsic(name, fnty=ir.FunctionType(result, [a.type for a in args]))
    return builder.call(function, args)


# Memory to vectors, and back.


@intrinsic
def load(typing, address):
    """16 float32 numbers."""

    def code(context, builder, signature, args):
        value = builder.load(_pointer(builder, args[0], VF))
        value.align = 4
        return value

    return Floats(types.int64), code


@intrinsic
def load_half(typing, address):
    """16 float16 numbers, as float32."""

    def code(context, builder, signature, args):
        half = ir.VectorType(ir.HalfType(), WIDTH)
        value = builder.load(_pointer(builder, args[0], half))
        value.align = 2
        return builder.fpext(value, VF)

    return Floats(types.int64), code


@intrinsic
def load_bfloat(typing, address):
    """16 bfloat16 numbers, as float32: a bfloat16 is the upper half of a float32."""

    def code(context, builder, signature, args):
        value = builder.load(_pointer(builder, args[0], ir.VectorType(ir.IntType(16), WIDTH)))
        value.align = 2
        return builder.bitcast(builder.shl(builder.zext(value, VI), _splat(builder, ir.Constant(I32, 16), VI)), VF)

    return Floats(types.int64), code


@intrinsic
def load_ints(typing, address):
    """16 int32 numbers."""

    def code(context, builder, signature, args):
        value = builder.load(_pointer(builder, args[0], VI))
        value.align = 4
        return value

    return Ints(types.int64), code


@intrinsic
def load_bytes(typing, address):
    """16 bytes, 0 ... 255, as int32."""

    def code(context, builder, signature, args):
        value = builder.load(_pointer(builder, args[0], ir.VectorType(I8, WIDTH)))
        value.align = 1
        return builder.zext(value, VI)

    return Ints(types.int64), code


@intrinsic
def store(typing, address, value):
    """Writes 16 float32 numbers."""

    def code(context, builder, signature, args):
        done = builder.store(args[1], _pointer(builder, args[0], VF))
        done.align = 4
        return context.get_dummy_value()

    return types.none(types.int64, Floats), code


@intrinsic
def splat(typing, value):
    """The float32 number, 16 times."""

    def code(context, builder, signature, args):
        return _splat(builder, args[0], VF)

    return Floats(types.float32), code


@intrinsic
def splat_int(typing, value):
    """The int32 number, 16 times."""

    def code(context, builder, signature, args):
        return _splat(builder, args[0], VI)

    return Ints(types.int32), code


# Arithmetic.


@intrinsic
def fma(typing, a, b, c):
    """a · b + c, rounded once."""

    def code(context, builder, signature, args):
        return _call(builder, "llvm.fma.v16f32", VF, args)

    return Floats(Floats, Floats, Floats), code


def _binary(name, method, of):
    @intrinsic
    def function(typing, a, b):
        def code(context, builder, signature, args):
            return getattr(builder, method)(args[0], args[1])

        return of(of, of), code

    function.__name__ = name
    return function


add, sub, mul, div = (_binary(n, m, Floats) for n, m in (("add", "fadd"), ("sub", "fsub"), ("mul", "fmul"), ("div", "fdiv")))
add_ints, shl, shr, bits_and = (_binary(n, m, Ints) for n, m in (("add_ints", "add"), ("shl", "shl"), ("shr", "lshr"), ("bits_and", "and_")))


def _operator(op, function, kind):
    @overload(op)
    def of_vectors(a, b):
        if isinstance(a, kind) and isinstance(b, kind):
            return lambda a, b: function(a, b)
        return None


for _op, _function, _kind in (
    (operator.add, add, FloatsType), (operator.sub, sub, FloatsType), (operator.mul, mul, FloatsType),
    (operator.truediv, div, FloatsType), (operator.add, add_ints, IntsType), (operator.lshift, shl, IntsType),
    (operator.rshift, shr, IntsType), (operator.and_, bits_and, IntsType),
):  # fmt: skip
    _operator(_op, _function, _kind)


@intrinsic
def to_floats(typing, value):
    """int32 to float32."""

    def code(context, builder, signature, args):
        return builder.sitofp(args[0], VF)

    return Floats(Ints), code


def has_vnni() -> bool:
    """Whether the CPU multiplies bytes by `vpdpbusd` on 512 bits."""
    return bool(llvm.get_host_cpu_features().get("avx512vnni", False))


@intrinsic
def dot(typing, total, unsigned, signed):
    """total + the products of each lane's four bytes: `unsigned` 0 ... 255, `signed` -128 ... 127; exact."""

    def by_instruction(context, builder, signature, args):
        total, a, b = args
        bytes_ = [builder.bitcast(x, VB) for x in (a, b)]
        return _call(builder, "llvm.x86.avx512.vpdpbusd.512", VI, [total, *bytes_])

    return Ints(Ints, Ints, Ints), by_instruction


@intrinsic
def reduce_add(typing, value):
    """The sum of 16 float32 numbers, added pair by pair."""

    def code(context, builder, signature, args):
        v, n = args[0], WIDTH
        while n > 1:
            n //= 2
            low = ir.Constant(ir.VectorType(I32, n), list(range(n)))
            high = ir.Constant(ir.VectorType(I32, n), list(range(n, 2 * n)))
            undefined = ir.Constant(v.type, ir.Undefined)
            v = builder.fadd(builder.shuffle_vector(v, undefined, low), builder.shuffle_vector(v, undefined, high))
        return builder.extract_element(v, ir.Constant(I32, 0))

    return types.float32(Floats), code
