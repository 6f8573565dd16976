"""Products: which kernel multiplies rows with a weight.

    dense_product.py     float32, bfloat16 and float16
    sparse_product.py    the same pruned 2:4
    digit_product.py     codes of 2 to 8 bits, few rows, on a CPU that multiplies such bytes
    packed_product.py    the same on any CPU
    panel_product.py     codes with many rows, or with groups that end inside a word
    integer_product.py   codes with inputs rounded to 8 bits
    stacked_product.py   a matrix whose parts have different types

By the weight's type, as in every backend. What a plan asks for is one of two things: y = x Wᵀ + bias, or, where a
sub-layer's change goes to the residual stream, y += add · (x Wᵀ + bias).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from tinyinfer.backends.cpu_kernels.buffers import Buffers, Rows
from tinyinfer.backends.cpu_kernels.dense_product import dense_product
from tinyinfer.backends.cpu_kernels.digit_product import digit_product
from tinyinfer.backends.cpu_kernels.dot import adds_pairs, dot_bits
from tinyinfer.backends.cpu_kernels.integer_product import integer_product
from tinyinfer.backends.cpu_kernels.kernel import Launch
from tinyinfer.backends.cpu_kernels.packed_product import packed_product
from tinyinfer.backends.cpu_kernels.panel_product import panel_product
from tinyinfer.backends.cpu_kernels.sparse_product import sparse_product
from tinyinfer.backends.cpu_kernels.stacked_product import stacked_product
from tinyinfer.backends.cpu_kernels.tiles import unit_of
from tinyinfer.backends.lanes import DenseLanes, PackedA8Lanes, PackedLanes, W8A8Lanes
from tinyinfer.backends.sparse_lanes import TwoOfFourLanes
from tinyinfer.backends.stacked import Stacked
from tinyinfer.model.weights import Weight

FEW = 16  # rows for which codes need no panel: one kernel for all of them, so that a row gets the bits it gets alone
DIGIT_ROWS = 24  # rows for which floats are multiplied as three bytes, where one instruction does so (else FEW)
VECTOR = 16  # numbers: inputs are split into digits so many at a time
Builder = Callable[[Any, Rows, Rows, Buffers, np.ndarray | None, float | None], list[Launch]]


def product_of_codes(
    weight: PackedLanes, x: Rows, y: Rows, buffers: Buffers, bias: np.ndarray | None, add: float | None
) -> list[Launch]:
    """y = x Wᵀ + bias, or y += add · (x Wᵀ + bias), by the fastest kernel for so many rows on this CPU."""
    return builder_of_codes(weight, len(x), rows_as_bytes(weight.scheme.bits))(weight, x, y, buffers, bias, add)


def rows_as_bytes(bits: int) -> int:
    """Up to how many rows are multiplied as bytes with codes of so many bits on this CPU; 0: none."""
    if dot_bits():
        return DIGIT_ROWS
    return FEW if adds_pairs(bits) else 0


def builder_of_codes(weight: PackedLanes, rows: int, as_bytes: int) -> Builder:
    """Which kernel multiplies floats with codes. as_bytes: `rows_as_bytes` of the weight's codes."""
    scheme = weight.scheme
    group = scheme.group_size if scheme.groups(weight.shape[1]) > 1 else None  # None: all inputs
    if (group or 0) % unit_of(scheme.bits):
        return panel_product
    if as_bytes and (group or 0) % VECTOR == 0:
        return digit_product if rows <= as_bytes else panel_product
    return packed_product if rows <= FEW else panel_product


BUILDERS: Mapping[type, Builder] = MappingProxyType({
    DenseLanes: dense_product, PackedLanes: product_of_codes,
    PackedA8Lanes: integer_product, W8A8Lanes: integer_product, TwoOfFourLanes: sparse_product,
})  # fmt: skip


def product(
    weight: Weight, x: Rows, y: Rows, buffers: Buffers, bias: np.ndarray | None = None, add: float | None = None
) -> list[Launch]:
    """y = x Wᵀ + bias, or y += add · (x Wᵀ + bias)."""
    if isinstance(weight, Stacked):
        return stacked_product(product, weight, x, y, buffers, bias, add)
    return BUILDERS[type(weight)](weight, x, y, buffers, bias, add)
