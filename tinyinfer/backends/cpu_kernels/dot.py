"""The product of bytes: the one instruction that no plain loop becomes, and the same numbers without it.

`dot` multiplies 64 bytes with 64 bytes and adds the products four by four to 16 sums. `vpdpbusd` (AVX-512 VNNI, AVX-VNNI)
does so at once, without saturation: so a CPU multiplies four times as many 8-bit numbers in a second as floats. Where
the CPU has no such instruction, each 16-bit half of a lane becomes two numbers, and products of 16-bit numbers are added
in pairs. The choice is made while a kernel is compiled, for the CPU that the code is made for.
"""
# numba has no type hints, and its @intrinsic functions are called with types, not with values
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,no-any-return"

from __future__ import annotations

from llvmlite import ir
from numba.extending import intrinsic

from tinyinfer.backends.cpu_kernels.vectors import I8, I32, WIDTH, Ints, call, indices, lanes


def vnni_bits(context) -> int:
    """How many bits wide a `vpdpbusd` the CPU has for which code is made: 512, 256, or none (0)."""
    features = set(context.codegen().magic_tuple()[2].split(","))
    if "+avx512vnni" in features:
        return 512
    return 256 if "+avxvnni" in features else 0


def _dot_by_instruction(builder, bits, total, a, b):
    width, sums = bits // 32, []
    for first in range(0, WIDTH, width):
        part = [lanes(builder, v, range(first, first + width)) for v in (total, a, b)]
        kind = ir.VectorType(I8, 4 * width)
        part[1:] = [builder.bitcast(v, kind) for v in part[1:]]
        sums.append(call(builder, f"llvm.x86.avx512.vpdpbusd.{bits}", part[0].type, part))
    return sums[0] if len(sums) == 1 else builder.shuffle_vector(*sums, indices(range(WIDTH)))


def _dot_by_products(builder, total, a, b):
    half, wide = ir.VectorType(ir.IntType(16), 2 * WIDTH), ir.VectorType(I32, 2 * WIDTH)
    a, b = builder.bitcast(a, half), builder.bitcast(b, half)  # each number holds two bytes
    eight = ir.Constant(half, [8] * half.count)
    for x, y in (
        (builder.and_(a, ir.Constant(half, [255] * half.count)), builder.ashr(builder.shl(b, eight), eight)),
        (builder.lshr(a, eight), builder.ashr(b, eight)),
    ):
        products = builder.mul(builder.sext(x, wide), builder.sext(y, wide))
        for first in (0, 1):
            total = builder.add(total, lanes(builder, products, range(first, 2 * WIDTH, 2)))
    return total


@intrinsic
def dot(typing, total, unsigned, signed):
    """total + the products of each lane's four bytes: `unsigned` 0 ... 255, `signed` -128 ... 127; exact."""

    def code(context, builder, signature, args):
        bits = vnni_bits(context)
        return _dot_by_instruction(builder, bits, *args) if bits else _dot_by_products(builder, *args)

    return Ints(Ints, Ints, Ints), code


@intrinsic
def dot_by_products(typing, total, unsigned, signed):
    """The same as `dot`, as a CPU without the instruction computes it: a product of two 16-bit numbers at a time."""

    def code(context, builder, signature, args):
        return _dot_by_products(builder, *args)

    return Ints(Ints, Ints, Ints), code
