"""Vectors of 16 numbers as a type of numba: what a SIMD register holds, written out in a kernel.

A compiler turns a plain loop into vector instructions only where it can prove that nothing changes, and it keeps sums
in registers only where it sees that no array lies over another. Here a kernel says both itself. A `Floats` is 16
float32 numbers, an `Ints` 16 int32 numbers; LLVM makes of each what the machine has: one register of AVX-512, two of
AVX2, four of NEON. So the same source is right everywhere, and wide where the machine is.

Wins: a product keeps its 64 sums in registers whatever the compiler finds out. Loses: addresses and lanes are the
author's business, as in C. Functions take addresses as whole numbers, in bytes.
"""
# numba has no type hints, and its @intrinsic functions are called with types, not with values
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,no-any-return"

from __future__ import annotations

import operator

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

from tinyinfer.backends.cpu_kernels.halves import widened

WIDTH = 16  # numbers in a vector

F32, I32, I8, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(8), ir.IntType(64)
VF, VI = ir.VectorType(F32, WIDTH), ir.VectorType(I32, WIDTH)


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


def _call(builder, name, result, args):
    function = builder.module.declare_intrinsic(name, fnty=ir.FunctionType(result, [a.type for a in args]))
    return builder.call(function, args)


# Memory to vectors, and back.


@intrinsic
def load(typing, address):
    """16 float32 numbers, from this address on."""

    def code(context, builder, signature, args):
        value = builder.load(_pointer(builder, args[0], VF), align=4)
        return value

    return Floats(types.int64), code


@intrinsic
def load_half(typing, address):
    """16 float16 numbers, as float32."""

    def code(context, builder, signature, args):
        half = ir.VectorType(ir.HalfType(), WIDTH)
        value = builder.load(_pointer(builder, args[0], half), align=2)
        return widened(builder, value)

    return Floats(types.int64), code


@intrinsic
def load_ints(typing, address):
    """16 int32 numbers, from this address on."""

    def code(context, builder, signature, args):
        value = builder.load(_pointer(builder, args[0], VI), align=4)
        return value

    return Ints(types.int64), code


@intrinsic
def load_bytes(typing, address):
    """16 bytes, 0 ... 255, as int32."""

    def code(context, builder, signature, args):
        value = builder.load(_pointer(builder, args[0], ir.VectorType(I8, WIDTH)), align=1)
        return builder.zext(value, VI)

    return Ints(types.int64), code


@intrinsic
def store(typing, address, value):
    """Writes 16 float32 numbers."""

    def code(context, builder, signature, args):
        builder.store(args[1], _pointer(builder, args[0], VF), align=4)
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


def _binary(method, of):
    @intrinsic
    def function(typing, a, b):
        def code(context, builder, signature, args):
            return getattr(builder, method)(args[0], args[1])

        return of(of, of), code

    return function


add, sub = _binary("fadd", Floats), _binary("fsub", Floats)
mul, div = _binary("fmul", Floats), _binary("fdiv", Floats)
add_ints, sub_ints = _binary("add", Ints), _binary("sub", Ints)
shl, shr = _binary("shl", Ints), _binary("lshr", Ints)
shr_signed, bits_and = _binary("ashr", Ints), _binary("and_", Ints)


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
    """The same 16 numbers as float32."""

    def code(context, builder, signature, args):
        return builder.sitofp(args[0], VF)

    return Floats(Ints), code


@intrinsic
def bits_of_floats(typing, value):
    """The bits of 16 float32 numbers, as int32."""

    def code(context, builder, signature, args):
        return builder.bitcast(args[0], VI)

    return Ints(Floats), code


@intrinsic
def floats_of_bits(typing, value):
    """The 16 float32 numbers whose bits these are."""

    def code(context, builder, signature, args):
        return builder.bitcast(args[0], VF)

    return Floats(Ints), code


@intrinsic
def where_less(typing, a, b, x, y):
    """x where a < b, else y, which is also what a NaN gets: where_less(a, b, b, a) is the larger of both."""

    def code(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[2], args[3])

    return Floats(Floats, Floats, Floats, Floats), code


def _reduction(join):
    """What joins 16 numbers to one, half with half."""

    @intrinsic
    def reduce(typing, value):
        def code(context, builder, signature, args):
            v, n = args[0], WIDTH
            while n > 1:
                n //= 2
                halves = [ir.Constant(ir.VectorType(I32, n), list(range(first, first + n))) for first in (0, n)]
                v = join(builder, *(builder.shuffle_vector(v, ir.Constant(v.type, ir.Undefined), h) for h in halves))
            return builder.extract_element(v, ir.Constant(I32, 0))

        return types.float32(Floats), code

    return reduce


reduce_add = _reduction(lambda builder, a, b: builder.fadd(a, b))
reduce_min = _reduction(lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b))
reduce_max = _reduction(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


@intrinsic
def first_of(typing, value):
    """The first of 16 float32 numbers."""

    def code(context, builder, signature, args):
        return builder.extract_element(args[0], ir.Constant(I32, 0))

    return types.float32(Floats), code


@intrinsic
def counting(typing, first):
    """first, first + 1, first + 2 ... as float32."""

    def code(context, builder, signature, args):
        steps = ir.Constant(VF, [ir.Constant(F32, float(n)) for n in range(WIDTH)])
        return builder.fadd(_splat(builder, args[0], VF), steps)

    return Floats(types.float32), code
