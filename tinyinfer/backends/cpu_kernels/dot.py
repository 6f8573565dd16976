"""The product of bytes: the one instruction that no plain loop becomes, and the same numbers without it.

`dot` multiplies 64 bytes with 64 bytes and adds the products four by four to 16 sums. `vpdpbusd` of AVX-512 VNNI does
so at once, and without saturation: a CPU multiplies four times as many 8-bit numbers in a second as floats. AVX-VNNI
does half of it at a time. Which way is taken is decided while a kernel is compiled, for the CPU that the machine code
is made for.

AVX2 alone has `vpmaddubsw`, which adds products in pairs to 16 bits, and `vpmaddwd`, which adds such pairs to 32. A
pair must fit into 16 bits: it does where one factor is below 128 (`small_dot`), as the codes of up to 6 bits are, and
for two factors with signs it is made to, by moving the sign of one to the other (`signed_dot`). On any other CPU each
16-bit half of a lane becomes two numbers, and products of 16-bit numbers are added in pairs: as fast as floats.
"""
# numba has no type hints, and its @intrinsic functions are called with types, not with values
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,no-any-return"

from __future__ import annotations

from functools import reduce

from llvmlite import ir
from numba.extending import intrinsic

from tinyinfer.backends.cpu_kernels.integers import half
from tinyinfer.backends.cpu_kernels.registers import cpu_features
from tinyinfer.backends.cpu_kernels.vectors import I8, I32, WIDTH, Ints, _call

SHORTS = ir.VectorType(ir.IntType(16), 16)
# Bits of codes up to which 16 bits hold their products with bytes in pairs, those of all codes of a word added.
PAIR_BITS = 6
VNNI = {"+avx512vnni": 512, "+avxvnni": 256}  # features that have the instruction, and its bits


def dot_bits() -> int:
    """Bits of the instruction that multiplies bytes, on the CPU that numba compiles for; 0: there is none."""
    features = cpu_features()
    return max((bits for name, bits in VNNI.items() if name in features), default=0)


def has_pairs() -> bool:
    """Whether that CPU has AVX2's instructions for pairs of bytes, and nothing better."""
    return not dot_bits() and "+avx2" in cpu_features()


def adds_pairs(bits: int) -> bool:
    """Whether that CPU multiplies codes of so many bits, from 0 on, with bytes in pairs, and adds pairs in 16 bits."""
    return has_pairs() and bits <= PAIR_BITS


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


@intrinsic
def small_dot(typing, total, unsigned, signed):
    """The same as `dot`, for `unsigned` bytes 0 ... 127."""

    def code(context, builder, signature, args):
        return of_small(builder, *args)

    return Ints(Ints, Ints, Ints), code


@intrinsic
def signed_dot(typing, total, first, second):
    """total + the products of each lane's four bytes: `first` -128 ... 127, `second` -127 ... 127; exact."""

    def code(context, builder, signature, args):
        return by_signs(builder, *args) if has_pairs() else by_products(builder, *args, has_sign=True)

    return Ints(Ints, Ints, Ints), code


def of_small(builder, total, unsigned, signed):
    """LLVM's code of `small_dot`."""
    way = by_instruction if dot_bits() else by_pairs if has_pairs() else by_products
    return way(builder, total, unsigned, signed)


def sum_of_codes(builder, total, codes, signed, bits):
    """LLVM's code of `dot` of some words; codes: of so many bits, from 0 on; signed: -127 ... 127."""
    if adds_pairs(bits):
        return by_pairs(builder, total, *codes, *signed)
    for both in zip(codes, signed, strict=True):
        total = (by_instruction if dot_bits() else by_products)(builder, total, *both)
    return total


def by_instruction(builder, total, unsigned, signed):
    """LLVM's code of `dot`: one instruction, or one for each half of the lanes."""
    count = total.type.count
    if count > dot_bits() // 32:
        halves = [[half(builder, v, first) for v in (total, unsigned, signed)] for first in (0, count // 2)]
        return builder.shuffle_vector(*(by_instruction(builder, *some) for some in halves), _lanes(range(count)))
    bytes_ = [builder.bitcast(v, ir.VectorType(I8, 4 * count)) for v in (unsigned, signed)]
    return _call(builder, f"llvm.x86.avx512.vpdpbusd.{32 * count}", total.type, [total, *bytes_])


def in_halves(code):
    """LLVM's code for 16 lanes from code for 8 of them, which a register of AVX2 holds."""

    def both(builder, *vectors):
        parts = [code(builder, *(half(builder, v, first) for v in vectors)) for first in (0, 8)]
        return builder.shuffle_vector(*parts, _lanes(range(WIDTH)))

    return both


@in_halves
def by_pairs(builder, total, *words):
    """LLVM's code of `small_dot` for AVX2, of a word, or of several: first all unsigned ones, then all signed ones.

    Pairs of products, and the sums of several words' pairs, must fit into 16 bits.
    """
    shorts = [pairs(builder, *both) for both in zip(words[: len(words) // 2], words[len(words) // 2 :], strict=True)]
    return builder.add(total, _sum_pairs(builder, reduce(builder.add, shorts)))


@in_halves
def by_signs(builder, total, first, second):
    """LLVM's code of `signed_dot` for AVX2: the sign of the first factor goes to the second one."""
    bytes_ = ir.VectorType(I8, 32)
    first, second = (builder.bitcast(v, bytes_) for v in (first, second))
    size = _call(builder, "llvm.abs.v32i8", bytes_, [first, ir.Constant(ir.IntType(1), 0)])
    turned = _call(builder, "llvm.x86.avx2.psign.b", bytes_, [second, first])
    return builder.add(total, _sum_pairs(builder, pairs(builder, size, turned)))


def pairs(builder, unsigned, signed):
    """LLVM's code for 16 sums of two products, of 32 bytes and 32 bytes, as 16-bit numbers."""
    bytes_ = [builder.bitcast(v, ir.VectorType(I8, 32)) for v in (unsigned, signed)]
    return _call(builder, "llvm.x86.avx2.pmadd.ub.sw", SHORTS, bytes_)


def _sum_pairs(builder, shorts):
    """Neighbours of 16 16-bit numbers, added, as 8 32-bit numbers."""
    return _call(builder, "llvm.x86.avx2.pmadd.wd", ir.VectorType(I32, 8), [shorts, ir.Constant(SHORTS, [1] * 16)])


def by_products(builder, total, unsigned, signed, has_sign=False):
    """LLVM's code of `dot` from products of 16-bit numbers: first of all even bytes, then of all odd ones.

    has_sign: the first factor has a sign, too, as in `signed_dot`.
    """
    short, wide = ir.VectorType(ir.IntType(16), 2 * WIDTH), ir.VectorType(I32, 2 * WIDTH)
    a, b = builder.bitcast(unsigned, short), builder.bitcast(signed, short)  # each number holds two bytes
    eight, byte = ir.Constant(short, [8] * short.count), ir.Constant(short, [255] * short.count)
    even = builder.and_(a, byte), builder.ashr(builder.shl(b, eight), eight)
    odd = builder.lshr(a, eight), builder.ashr(b, eight)
    if has_sign:
        even, odd = (builder.ashr(builder.shl(a, eight), eight), even[1]), (builder.ashr(a, eight), odd[1])
    for pair in (even, odd):
        products = builder.mul(*(builder.sext(x, wide) for x in pair))
        for first in (0, 1):
            lanes = _lanes(range(first, 2 * WIDTH, 2))
            total = builder.add(total, builder.shuffle_vector(products, ir.Constant(wide, ir.Undefined), lanes))
    return total


def _lanes(numbers):
    return ir.Constant(ir.VectorType(I32, len(numbers)), list(numbers))
