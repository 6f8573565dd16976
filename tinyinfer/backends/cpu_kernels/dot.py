"""The product of bytes: the one instruction that no plain loop becomes, and the same numbers without it.

`dot` multiplies 64 bytes with 64 bytes and adds the products four by four to 16 sums. `vpdpbusd` of AVX-512 VNNI does
so at once, and without saturation: a CPU multiplies four times as many 8-bit numbers in a second as floats. AVX-VNNI
does half of it at a time. Where a CPU has neither, each 16-bit half of a lane becomes two numbers, and products of
16-bit numbers are added in pairs, which is exact, too, and about as fast as floats. Which of them is taken is decided
while a kernel is compiled, for the CPU that the machine code is made for.
"""
# numba has no type hints, and its @intrinsic functions are called with types, not with values
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,no-any-return"

from __future__ import annotations

from llvmlite import ir
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from tinyinfer.backends.cpu_kernels.integers import half
from tinyinfer.backends.cpu_kernels.vectors import I8, I32, WIDTH, Ints, _call

VNNI = {"+avx512vnni": 512, "+avxvnni": 256}  # features that have the instruction, and its bits


def dot_bits() -> int:
    """Bits of the instruction that multiplies bytes, on the CPU that numba compiles for; 0: there is none."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return max((bits for name, bits in VNNI.items() if name in features.split(",")), default=0)


@intrinsic
def dot(typing, total, unsigned, signed):
    """total + the products of each lane's four bytes: `unsigned` 0 ... 255, `signed` -128 ... 127; exact."""

    def code(context, builder, signature, args):
        return (by_instruction if dot_bits() else by_products)(builder, *args)

    return Ints(Ints, Ints, Ints), code


@intrinsic
def dot_by_products(typing, total, unsigned, signed):
    """What `dot` is where the CPU has no instruction for it."""

    def code(context, builder, signature, args):
        return by_products(builder, *args)

    return Ints(Ints, Ints, Ints), code


def by_instruction(builder, total, unsigned, signed):
    """LLVM's code of `dot`: one instruction, or one for each half of the lanes."""
    count = total.type.count
    if count > dot_bits() // 32:
        halves = [[half(builder, v, first) for v in (total, unsigned, signed)] for first in (0, count // 2)]
        return builder.shuffle_vector(*(by_instruction(builder, *some) for some in halves), _lanes(range(count)))
    bytes_ = [builder.bitcast(v, ir.VectorType(I8, 4 * count)) for v in (unsigned, signed)]
    return _call(builder, f"llvm.x86.avx512.vpdpbusd.{32 * count}", total.type, [total, *bytes_])


def by_products(builder, total, unsigned, signed):
    """LLVM's code of `dot` from products of 16-bit numbers: first of all even bytes, then of all odd ones."""
    short, wide = ir.VectorType(ir.IntType(16), 2 * WIDTH), ir.VectorType(I32, 2 * WIDTH)
    a, b = builder.bitcast(unsigned, short), builder.bitcast(signed, short)  # each number holds two bytes
    eight, byte = ir.Constant(short, [8] * short.count), ir.Constant(short, [255] * short.count)
    even = builder.and_(a, byte), builder.ashr(builder.shl(b, eight), eight)
    odd = builder.lshr(a, eight), builder.ashr(b, eight)
    for pair in (even, odd):
        products = builder.mul(*(builder.sext(x, wide) for x in pair))
        for first in (0, 1):
            lanes = _lanes(range(first, 2 * WIDTH, 2))
            total = builder.add(total, builder.shuffle_vector(products, ir.Constant(wide, ir.Undefined), lanes))
    return total


def _lanes(numbers):
    return ir.Constant(ir.VectorType(I32, len(numbers)), list(numbers))
