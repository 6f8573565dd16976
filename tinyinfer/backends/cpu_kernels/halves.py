"""float16 on a CPU that cannot convert it: the same numbers by shifts and one product.

Most CPUs turn 8 or 16 of them into float32 by one instruction (F16C of x86 from 2012 on, AArch64). For others LLVM
calls a function that a compiled kernel does not find, and ends the process. A float16 has 5 bits of exponent and 10 of
mantissa where a float32 has 8 and 23: moved to the float32's places the number is 2^112 times too small, a subnormal
one, too.
"""
# numba has no type hints
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import platform

from llvmlite import ir

from tinyinfer.backends.cpu_kernels.registers import cpu_features

I16, I32, F32 = ir.IntType(16), ir.IntType(32), ir.FloatType()
INFINITE, EXPONENT = 0x0F800000, 0x7F800000  # an infinite float16's bits in a float32's places; a float32's exponent


def converts() -> bool:
    """Whether the CPU that numba compiles for has an instruction for float16."""
    return platform.machine() not in ("x86_64", "AMD64", "i686") or "+f16c" in cpu_features()


def widened(builder, halves):
    """LLVM's code for float16, one or a vector, as float32."""
    short, whole, real = (_like(halves.type, kind) for kind in (I16, I32, F32))
    if converts():
        return builder.fpext(halves, real)
    bits = builder.zext(builder.bitcast(halves, short), whole)
    size = builder.shl(builder.and_(bits, _constant(whole, 0x7FFF)), _constant(whole, 13))
    number = builder.bitcast(builder.fmul(builder.bitcast(size, real), _constant(real, 2.0**112)), whole)
    infinite = builder.icmp_unsigned(">=", size, _constant(whole, INFINITE))
    number = builder.select(infinite, builder.or_(size, _constant(whole, EXPONENT)), number)
    sign = builder.shl(builder.and_(bits, _constant(whole, 0x8000)), _constant(whole, 16))
    return builder.bitcast(builder.or_(number, sign), real)


def narrowed(builder, value):
    """LLVM's code for the bits, int16, of the float16 nearest to a float32; of two equally near ones the even one."""
    if converts():
        return builder.bitcast(builder.fptrunc(value, ir.HalfType()), I16)
    bits = builder.bitcast(value, I32)
    size = builder.and_(bits, I32(0x7FFFFFFF))
    odd = builder.and_(builder.lshr(size, I32(13)), I32(1))
    normal = builder.lshr(builder.add(builder.add(size, odd), I32(0xFFF - (112 << 23))), I32(13))
    half = builder.fadd(builder.bitcast(size, F32), F32(0.5))  # rounds to whole 2^-24, what a subnormal float16 counts
    small = builder.sub(builder.bitcast(half, I32), I32(0x3F000000))
    large = builder.select(builder.icmp_unsigned(">", size, I32(EXPONENT)), I32(0x7E00), I32(0x7C00))  # NaN, infinity
    found = builder.select(builder.icmp_unsigned("<", size, I32(0x38800000)), small, normal)  # below 2^-14
    found = builder.select(builder.icmp_unsigned(">=", size, I32(0x47800000)), large, found)  # 2^16 and more
    return builder.trunc(builder.or_(found, builder.lshr(builder.and_(bits, I32(0x80000000)), I32(16))), I16)


def _like(kind, element):
    """The type of an element, or of as many as a vector type has."""
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def _constant(kind, value):
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)
