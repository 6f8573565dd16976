"""float16 to float32 on any CPU.

Nearly every CPU has an instruction for it. For an x86 CPU without one (before 2013) LLVM would call a function that
numba does not have, so there it is arithmetic on bits. A float16 has 5 bits of exponent, around 15, and 10 of fraction;
a float32 has 8, around 127, and 23. So the bits move up by 13, and 2^(127 - 15) is what the exponent lacks: a product
with that is exact, also for numbers below the smallest exponent. Infinity and NaN keep their fraction.
"""
# numba has no type hints
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

from llvmlite import ir
from numba.core.registry import cpu_target

from tinyinfer.backends.cpu_kernels.atomics import X86

SIGN, MAGNITUDE, INFINITE = 0x8000, 0x7FFF, 0x7C00  # bits of a float16: the sign, all others, the exponent of infinity
UP = 23 - 10  # bits that a fraction moves


def has_halves() -> bool:
    """Whether the CPU that numba compiles for converts float16 by itself."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return not X86 or "+f16c" in features.split(",")


def halves_to_floats(builder, bits):
    """The float32 numbers that float16 numbers are; bits: an int16, or a vector of them."""
    if has_halves():
        return builder.fpext(builder.bitcast(bits, like(bits.type, ir.HalfType())), like(bits.type, ir.FloatType()))
    return by_bits(builder, bits)


def by_bits(builder, bits):
    """What `halves_to_floats` is where the CPU has no instruction for it."""
    wide, floats = like(bits.type, ir.IntType(32)), like(bits.type, ir.FloatType())
    word = builder.zext(bits, wide)
    size = builder.shl(builder.and_(word, filled(wide, MAGNITUDE)), filled(wide, UP))
    finite = builder.bitcast(builder.fmul(builder.bitcast(size, floats), filled(floats, 2.0**112)), wide)
    is_infinite = builder.icmp_unsigned(">=", size, filled(wide, INFINITE << UP))
    size = builder.select(is_infinite, builder.or_(size, filled(wide, 0xFF << 23)), finite)
    sign = builder.shl(builder.and_(word, filled(wide, SIGN)), filled(wide, 16))
    return builder.bitcast(builder.or_(size, sign), floats)


def like(kind, element):
    """The type of as many elements."""
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def filled(kind, value):
    """A constant of a type, the same number everywhere."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)
