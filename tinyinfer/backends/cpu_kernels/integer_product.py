"""Products of whole numbers: packed weights times activations in 8 bits, 64 outputs of several rows at a time."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.dot import dot
from tinyinfer.backends.cpu_kernels.kernel import kernel
from tinyinfer.backends.cpu_kernels.scalars import as_float, float_at, int32_at
from tinyinfer.backends.cpu_kernels.vectors import (
    load,
    load_half,
    load_ints,
    load_signed_bytes,
    splat,
    splat_int,
    store,
    store_ints,
    to_floats,
)

VECTOR, BLOCK = 64, 256  # bytes
ROWS = 64  # at most, of an item


@njit(forceinline=True)
def words_at(at):
    """The words of 64 outputs, as four vectors."""
    return load_ints(at), load_ints(at + 64), load_ints(at + 128), load_ints(at + 192)


@njit(forceinline=True)
def halves_at(at):
    return load_half(at), load_half(at + 32), load_half(at + 64), load_half(at + 96)


@njit(forceinline=True)
def scales_at(scale, step, nested, g, groups, item):
    at = item * groups + g
    if nested == 0:
        return halves_at(scale + 128 * at)
    c = scale + 64 * at
    a, b, d, e = halves_at(step + 128 * (item * (groups // nested) + g // nested))
    return (
        a * to_floats(load_signed_bytes(c)), b * to_floats(load_signed_bytes(c + 16)),
        d * to_floats(load_signed_bytes(c + 32)), e * to_floats(load_signed_bytes(c + 48)),
    )


@njit(forceinline=True)
def part(w, bits, h):
    """Codes of four inputs: byte by byte, of so many bits each."""
    if bits == 8:
        return w
    s, m = splat_int(np.int32(bits * h)), splat_int(np.int32(0x01010101 * ((1 << bits) - 1)))
    return (w[0] >> s) & m, (w[1] >> s) & m, (w[2] >> s) & m, (w[3] >> s) & m


@njit(forceinline=True)
def above(low, high, bits):
    s = splat_int(np.int32(bits))
    return low[0] | (high[0] << s), low[1] | (high[1] << s), low[2] | (high[2] << s), low[3] | (high[3] << s)


@njit(forceinline=True)
def dots(total, codes, x):
    """Adds to 64 sums of a row."""
    return dot(total[0], codes[0], x), dot(total[1], codes[1], x), dot(total[2], codes[2], x), dot(total[3], codes[3], x)


@njit(forceinline=True)
def finish_one(at, c, scale, lowering, s):
    store(at, load(at) + (to_floats(c) * scale + lowering) * s)


@njit(forceinline=True)
def finish(at, c, scale, minimum, has_minimum, s, total):
    """y += s · (scale · c + minimum · total) of a row's 64 outputs."""
    v = splat(s)
    t0, t1, t2, t3 = to_floats(c[0]) * scale[0], to_floats(c[1]) * scale[1], to_floats(c[2]) * scale[2], to_floats(c[3]) * scale[3]
    if has_minimum:
        n = splat(total)
        t0, t1, t2, t3 = t0 + n * minimum[0], t1 + n * minimum[1], t2 + n * minimum[2], t3 + n * minimum[3]
    store(at, load(at) + t0 * v)
    store(at + 64, load(at + 64) + t1 * v)
    store(at + 128, load(at + 128) + t2 * v)
    store(at + 192, load(at + 192) + t3 * v)


@njit(forceinline=True)
def begin(lowest, sums):
    c = splat_int(np.int32(lowest * int32_at(sums)))
    return c, c, c, c


@njit(forceinline=True)
def high_words(words, high, k):
    """The high bits of the inputs from k on, shifted to the beginning"""
    hi = words_at(words + BLOCK * (k * high // 32))
    s = splat_int(np.int32((k % (32 // high)) // 4 * high))
    return hi[0] >> s, hi[1] >> s, hi[2] >> s, hi[3] >> s


@njit(forceinline=True)
def unpack(out, words, highs, low, high, start, stop):
    """Inputs start ... stop as bytes"""
    per = 32 // low
    for k in range(start, stop, per):
        lo = words_at(words + BLOCK * (k // per))
        hi = lo
        if high:
            hi = high_words(highs, high, k)
        for h in range(per // 4):
            codes = part(lo, low, h)
            if high:
                codes = above(codes, part(hi, high, h), low)
            store_ints(out, codes[0])
            store_ints(out + 64, codes[1])
            store_ints(out + 128, codes[2])
            store_ints(out + 192, codes[3])
            out += BLOCK


@njit(forceinline=True)
def four_rows(x, stride, codes, quads, sums, ss, groups, lowest, acc, scales, minimums, minimum):
    x1, x2, x3 = x + stride, x + 2 * stride, x + 3 * stride
    n = 4 * groups
    c0, c1 = begin(lowest, sums), begin(lowest, sums + n)
    c2, c3 = begin(lowest, sums + 2 * n), begin(lowest, sums + 3 * n)
    for k in range(0, 4 * quads, 4):
        w = words_at(codes + 64 * k)
        c0 = dots(c0, w, splat_int(int32_at(x + k)))
        c1 = dots(c1, w, splat_int(int32_at(x1 + k)))
        c2 = dots(c2, w, splat_int(int32_at(x2 + k)))
        c3 = dots(c3, w, splat_int(int32_at(x3 + k)))
    finish(acc, c0, scales, minimums, minimum, float_at(ss), np.float32(int32_at(sums)))
    finish(acc + BLOCK, c1, scales, minimums, minimum, float_at(ss + n), np.float32(int32_at(sums + n)))
    finish(acc + 2 * BLOCK, c2, scales, minimums, minimum, float_at(ss + 2 * n), np.float32(int32_at(sums + 2 * n)))
    finish(acc + 3 * BLOCK, c3, scales, minimums, minimum, float_at(ss + 3 * n), np.float32(int32_at(sums + 3 * n)))


@njit(forceinline=True)
def one_row(x, codes, quads, sums, ss, lowest, acc, scales, minimums, minimum):
    c0 = begin(lowest, sums)
    for k in range(0, 4 * quads, 4):
        c0 = dots(c0, words_at(codes + 64 * k), splat_int(int32_at(x + k)))
    finish(acc, c0, scales, minimums, minimum, float_at(ss), np.float32(int32_at(sums)))


@njit(forceinline=True)
def multiply(a, item, thread, low, high):
    x, s, sums, words, highs, scale, step, nested = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
    minimum, mstep, lowest = a[8], a[9], a[10]
    inputs, group, groups, stride, rows = a[11], a[12], a[13], a[14], a[15]
    acc, y, ystride, bias, adding, add, chunks = a[16], a[17], a[18], a[19], a[20], as_float(a[21]), a[22]
    scratch = a[23] + thread * a[24]
    block, first = item // chunks, item % chunks * ROWS
    last = min(first + ROWS, rows)
    acc += thread * ROWS * BLOCK
    zero = splat(np.float32(0))
    for i in range(0, BLOCK * (last - first), VECTOR):
        store(acc + i, zero)
    words += block * (inputs * low // 32) * BLOCK
    if high:
        highs += block * (inputs * high // 32) * BLOCK
    for g in range(groups):
        start, stop = g * group, min(g * group + group, inputs)
        scales = scales_at(scale, step, nested, g, groups, block)
        minimums = scales
        if minimum:
            minimums = scales_at(minimum, mstep, nested, g, groups, block)
        codes = words + 64 * start
        if low != 8:
            codes = scratch
            unpack(scratch, words, highs, low, high, start, stop)
        row = first
        quads = (stop - start) // 4
        while row + 2 < last:
            at = 4 * (row * groups + g)
            four_rows(x + row * stride + start, stride, codes, quads, sums + at, s + at, groups, lowest, acc + BLOCK * (row - first), scales, minimums, minimum)
            row += 4
        while row < last:
            at = 4 * (row * groups + g)
            one_row(x + row * stride + start, codes, quads, sums + at, s + at, lowest, acc + BLOCK * (row - first), scales, minimums, minimum)
            row += 1
    for row in range(first, last):
        for i in range(0, BLOCK, VECTOR):
            v = load(acc + BLOCK * (row - first) + i)
            if bias:
                v = v + load(bias + BLOCK * block + i)
            at = y + row * ystride + BLOCK * block + i
            if adding:
                v = load(at) + splat(add) * v
            store(at, v)


def product_kernel(low, high):
    @kernel
    def integer_product(a, item, thread):
        multiply(a, item, thread, low, high)

    return integer_product
