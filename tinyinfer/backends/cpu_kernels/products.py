"""Products: which kernel multiplies rows with a weight.

    dense_product.py     float32, bfloat16 and float16
    packed_product.py    codes of 2 to 8 bits with float inputs, few rows; panel_product.py: many
    integer_product.py   codes with inputs of 8 bits
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
from tinyinfer.backends.cpu_kernels.integer_product import integer_product
from tinyinfer.backends.cpu_kernels.kernel import Launch
from tinyinfer.backends.cpu_kernels.packed_product import packed_product
from tinyinfer.backends.cpu_kernels.stacked_product import stacked_product
from tinyinfer.backends.lanes import DenseLanes, PackedA8Lanes, PackedLanes, W8A8Lanes
from tinyinfer.backends.stacked import Stacked
from tinyinfer.model.weights import Weight

Builder = Callable[[Any, Rows, Rows, Buffers, np.ndarray | None, float | None], list[Launch]]
BUILDERS: Mapping[type, Builder] = MappingProxyType({
    DenseLanes: dense_product, PackedLanes: packed_product,
    PackedA8Lanes: integer_product, W8A8Lanes: integer_product,
})  # fmt: skip


def product(
    weight: Weight, x: Rows, y: Rows, buffers: Buffers, bias: np.ndarray | None = None, add: float | None = None
) -> list[Launch]:
    """y = x Wᵀ + bias, or y += add · (x Wᵀ + bias)."""
    if isinstance(weight, Stacked):
        return stacked_product(product, weight, x, y, buffers, bias, add)
    return BUILDERS[type(weight)](weight, x, y, buffers, bias, add)
