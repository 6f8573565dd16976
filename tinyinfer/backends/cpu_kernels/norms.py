"""Norms: each row divided by its own size, one row an item.

A norm reads a few kilobytes that are in the core's cache already, and its weight. One row is done in a tenth of a
microsecond by the thread that finished the product before it, so a norm is a launch of its own and costs no wait.
Formulas: ReferenceOps.rms_norm, layer_norm, full_qk_norm. Limited by the latency of additions, not by memory.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.buffers import Rows, aligned, blocks
from tinyinfer.backends.cpu_kernels.kernel import Launch, kernel
from tinyinfer.backends.cpu_kernels.scalars import as_float, bits_of, float_at, set_float
from tinyinfer.backends.cpu_kernels.vectors import fma, load, reduce_add, splat, store
from tinyinfer.model.weights import FullQKNorm, LayerNorm, NoNorm, Norm, RMSNorm

FLOAT, VECTOR = 4, 64  # bytes of a number, and of a vector


@njit(forceinline=True)
def sum_of_squares(x, width):
    """Σ x² over `width` numbers at the address x."""
    total = splat(np.float32(0))
    for i in range(width // 16):
        v = load(x + VECTOR * i)
        total = fma(v, v, total)
    rest = np.float32(0)
    for i in range(width // 16 * 16, width):
        rest += float_at(x + FLOAT * i) * float_at(x + FLOAT * i)
    return reduce_add(total) + rest


@njit(forceinline=True)
def reciprocal_root(squares, width, eps):
    """1 / sqrt(mean + eps)."""
    return np.float32(1) / np.float32(math.sqrt(np.float32(squares / np.float32(width)) + eps))


@kernel
def rms_norm(a, item, thread):
    """y = x / sqrt(mean(x²) + eps) · weight. a: x, y, weight, width, stride of x, stride of y, vectors, eps."""
    x, y, weight = a[0] + FLOAT * a[4] * item, a[1] + FLOAT * a[5] * item, a[2]
    factor = splat(reciprocal_root(sum_of_squares(x, a[3]), a[3], as_float(a[7])))
    for i in range(a[6]):
        at = VECTOR * i
        store(y + at, load(x + at) * factor * load(weight + at))


@kernel
def rms_norm_add(a, item, thread):
    """x += scale · rms(h) · weight: a norm behind a sub-layer. a: h, x, weight, width, strides, vectors, eps, scale."""
    h, x, weight = a[0] + FLOAT * a[4] * item, a[1] + FLOAT * a[5] * item, a[2]
    factor = splat(reciprocal_root(sum_of_squares(h, a[3]), a[3], as_float(a[7])))
    scale = splat(as_float(a[8]))
    for i in range(a[6]):
        at = VECTOR * i
        store(x + at, fma(load(h + at) * factor * load(weight + at), scale, load(x + at)))


@njit(forceinline=True)
def layer_norm_row(x, y, weight, bias, width, vectors, eps):
    """(x - mean) / sqrt(var + eps) · weight + bias of one row."""
    total, rest = splat(np.float32(0)), np.float32(0)
    for i in range(width // 16):
        total = total + load(x + VECTOR * i)
    for i in range(width // 16 * 16, width):
        rest += float_at(x + FLOAT * i)
    mean = np.float32((reduce_add(total) + rest) / np.float32(width))
    squares, center, rest = splat(np.float32(0)), splat(mean), np.float32(0)
    for i in range(width // 16):
        v = load(x + VECTOR * i) - center
        squares = fma(v, v, squares)
    for i in range(width // 16 * 16, width):
        v = float_at(x + FLOAT * i) - mean
        rest += v * v
    factor = splat(reciprocal_root(reduce_add(squares) + rest, width, eps))
    for i in range(vectors):
        at = VECTOR * i
        store(y + at, fma((load(x + at) - center) * factor, load(weight + at), load(bias + at)))


@kernel
def layer_norm(a, item, thread):
    """y = (x - mean) / sqrt(var + eps) · weight + bias. a: x, y, weight, width, strides, vectors, eps, bias."""
    x, y = a[0] + FLOAT * a[4] * item, a[1] + FLOAT * a[5] * item
    layer_norm_row(x, y, a[2], a[8], a[3], a[6], as_float(a[7]))


def norm(x: Rows, y: Rows, by: Norm) -> list[Launch]:
    """y = by(x), for a norm of whole rows; without a norm y must be x, and nothing is launched."""
    vectors = blocks(x.width) * 4
    if isinstance(by, RMSNorm):
        weight = padded(by.weight, x.width)
        arguments = (x.array, y.array, weight, x.width, x.stride, y.stride, vectors, bits_of(by.eps))
        return [Launch(rms_norm, arguments, len(x))]
    if isinstance(by, LayerNorm):
        weight, bias = padded(by.weight, x.width), padded(by.bias, x.width)
        sizes = x.width, x.stride, y.stride, vectors
        return [Launch(layer_norm, (x.array, y.array, weight, *sizes, bits_of(by.eps), bias), len(x))]
    assert isinstance(by, NoNorm), f"{type(by)} is no norm of rows"
    return []


@kernel
def add_row(a, item, thread):
    """x += scale · h. a: h, x, strides, vectors, scale."""
    h, x, scale = a[0] + FLOAT * a[2] * item, a[1] + FLOAT * a[3] * item, splat(as_float(a[5]))
    for i in range(a[4]):
        at = VECTOR * i
        store(x + at, fma(load(h + at), scale, load(x + at)))


def norm_add(h: Rows, x: Rows, by: Norm, scale: float) -> list[Launch]:
    """x += scale · by(h); h may be another afterwards."""
    vectors = blocks(x.width) * 4
    if not isinstance(by, RMSNorm):  # no family has a LayerNorm there
        added = Launch(add_row, (h.array, x.array, h.stride, x.stride, vectors, bits_of(scale)), len(x))
        return [*norm(h, h, by), added]
    weight = padded(by.weight, x.width)
    arguments = (h.array, x.array, weight, x.width, h.stride, x.stride, vectors, bits_of(by.eps), bits_of(scale))
    return [Launch(rms_norm_add, arguments, len(x))]


@kernel
def part_norm(a, item, thread):
    """x = x / sqrt(mean(x²) + eps) · weight for a part of each row. a: x, weight, first, width, stride, eps."""
    x, weight, width = a[0] + FLOAT * (a[4] * item + a[2]), a[1], a[3]
    factor = reciprocal_root(sum_of_squares(x, width), width, as_float(a[5]))
    for i in range(width):
        at = FLOAT * i
        set_float(x + at, float_at(x + at) * factor * float_at(weight + at))


def full_qk_norm(qkv: Rows, by: FullQKNorm) -> list[Launch]:
    """All query heads of a row as one vector, and all key heads as another, normalized in place."""
    launches, first = [], 0
    for part in (by.query, by.key):
        weight = np.ascontiguousarray(part.weight)
        arguments = (qkv.array, weight, first, len(weight), qkv.stride, bits_of(part.eps))
        launches.append(Launch(part_norm, arguments, len(qkv)))
        first += len(weight)
    return launches


def padded(array: np.ndarray, width: int) -> np.ndarray:  # (...,) -> (n,)
    """The numbers, and zeros up to a whole block."""
    full = aligned((blocks(width) * 64,))
    full[:width] = array.reshape(-1)
    return full
