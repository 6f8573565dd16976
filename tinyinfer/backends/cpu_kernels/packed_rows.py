"""Keys and values in 8, 4 or 2 bits: how a row is unpacked, and how a block that became full is packed.

The codes, scales and minimums are those of kv_cache/packed_blocks.py, bit by bit: a key's channel has a scale in each
block, a value has one for each group of its channels. Code i of a block of n codes lies in byte i % C of its C bytes,
`bits` · (i // C) bits up, so that vectors of codes are vectors of bytes, shifted.

    x = scale · code + minimum

Wins: a position's bytes are read from memory in 1/3.4 (8 bits) to 1/9 (2 bits) of the time. Loses: four instructions
more for each vector, so a single sequence, whose keys arrive fast enough in floats, gains little.
"""
# numba has no type hints
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.scalars import (
    byte_at,
    float_at,
    half_at,
    half_bits,
    half_of_bits,
    quotient,
    remainder,
    set_byte,
    set_float,
    set_half_bits,
)
from tinyinfer.backends.cpu_kernels.vectors import (
    bits_and,
    fma,
    load_bytes,
    load_half,
    shr,
    splat,
    splat_int,
    store,
    to_floats,
)

F = np.float32
FLOAT, HALF, WIDTH = 4, 2, 16
HALF_MAX, SIGN = F(65504), 1 << 15
ROUNDER = F(12582912)  # a float32 of this size has no fraction


@njit(forceinline=True)
def packed_bytes(count, bits):
    """Bytes of so many codes."""
    return quotient(count * bits + 7, 8)


@njit(forceinline=True)
def code_at(codes, nbytes, bits, i):
    """One code of a block."""
    return (byte_at(codes + remainder(i, nbytes)) >> (bits * quotient(i, nbytes))) & ((1 << bits) - 1)


@njit(forceinline=True)
def codes_at(codes, nbytes, bits, i):
    """16 codes of a block as floats; `nbytes` and i are whole numbers of vectors."""
    if bits == 8:
        return to_floats(load_bytes(codes + i))
    shift, mask = splat_int(np.int32(bits * quotient(i, nbytes))), splat_int(np.int32((1 << bits) - 1))
    return to_floats(bits_and(shr(load_bytes(codes + remainder(i, nbytes)), shift), mask))


@njit
def unpack_keys(codes, nbytes, bits, first, count, size, scales, minimums, out, stride):
    """`count` keys, whose codes begin at code `first`: a scale and a minimum for each of their numbers."""
    whole = size if (size | nbytes) & (WIDTH - 1) == 0 else 0
    for n in range(0, whole, WIDTH):
        scale, minimum = load_half(scales + HALF * n), load_half(minimums + HALF * n)
        for row in range(count):
            code = codes_at(codes, nbytes, bits, first + row * size + n)
            store(out + stride * row + FLOAT * n, fma(code, scale, minimum))
    for n in range(whole, size):
        scale, minimum = half_at(scales + HALF * n), half_at(minimums + HALF * n)
        for row in range(count):
            code = F(code_at(codes, nbytes, bits, first + row * size + n))
            set_float(out + stride * row + FLOAT * n, code * scale + minimum)


@njit
def unpack_values(codes, nbytes, bits, first, count, size, group, scales, minimums, out, stride):
    """`count` values, whose codes begin at code `first`: a scale and a minimum for each group of their numbers."""
    vectors, groups = (group | nbytes) & (WIDTH - 1) == 0, quotient(size, group)
    for i in range(count * groups):
        row, start = quotient(i, groups), remainder(i, groups) * group
        scale, minimum = half_at(scales + HALF * i), half_at(minimums + HALF * i)
        code, place = first + row * size + start, out + stride * row + FLOAT * start
        if vectors:
            for n in range(0, group, WIDTH):
                store(place + FLOAT * n, fma(codes_at(codes, nbytes, bits, code + n), splat(scale), splat(minimum)))
        else:
            for n in range(group):
                set_float(place + FLOAT * n, F(code_at(codes, nbytes, bits, code + n)) * scale + minimum)


@njit
def half_above(x):
    """The bits of the smallest float16 that is no smaller than the number, within the range of float16."""
    x = min(max(x, -HALF_MAX), HALF_MAX)
    bits = half_bits(x)
    if half_of_bits(bits) < x:
        bits += 1 if bits < SIGN else -1
    return bits


@njit
def pack_group(source, step, count, bits, codes, stride, scale, minimum):
    """Rounds `count` numbers, `step` bytes from each other, to codes of a byte each, `stride` bytes from each other."""
    low = high = float_at(source)
    for n in range(1, count):
        low, high = min(low, float_at(source + n * step)), max(high, float_at(source + n * step))
    most, below = F((1 << bits) - 1), half_above(-low) ^ SIGN
    low = half_of_bits(below)
    above = half_above((high - low) / most)
    divisor = half_of_bits(above) if above else F(1)  # equal numbers have scale 0
    for n in range(count):
        code = min((float_at(source + n * step) - low) / divisor, most) + ROUNDER - ROUNDER
        set_byte(codes + n * stride, np.uint8(max(code, F(0))))
    set_half_bits(scale, above)
    set_half_bits(minimum, below)


@njit
def pack_codes(codes, count, bits, out):
    """Packs `count` codes of a byte each."""
    nbytes = packed_bytes(count, bits)
    for n in range(nbytes):
        byte = 0
        for plane in range(quotient(8, bits)):
            i = n + plane * nbytes
            byte |= (byte_at(codes + i) if i < count else 0) << (bits * plane)
        set_byte(out + n, byte)
