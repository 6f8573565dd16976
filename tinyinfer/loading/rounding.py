"""Quantizing while loading, by methods that need no data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tinyinfer.backends.packed import Quantized, QuantizedExperts
from tinyinfer.engine.config import EngineConfig
from tinyinfer.model.config import ModelConfig
from tinyinfer.model.weights import Experts, Weight
from tinyinfer.quantization.apply import Method, in_range
from tinyinfer.quantization.recipe import make_recipe
from tinyinfer.quantization.switches import QUANTIZE_METHODS
from tinyinfer.switches import resolve

if TYPE_CHECKING:
    from tinyinfer.loading.checkpoint import LazyTensor
    from tinyinfer.model.interfaces import Ops


class RoundingTaker:
    """Takes matrices out of a file and packs each at once, by a method that needs no data."""

    def __init__(self, ops: Ops, c: EngineConfig, model: ModelConfig) -> None:
        self.ops, self.recipe = ops, make_recipe(c, model)
        self.method: Method = resolve(QUANTIZE_METHODS, c.quantize_method)

    def matrix(self, name: str, *parts: LazyTensor) -> Weight:
        """The parts below one another, on the grid that the recipe has for this name."""
        grid = self.recipe.grid(name)
        if grid is None:
            return self.ops.take(*parts)
        codes = self.method(in_range(name, join(parts), grid), grid)
        return Quantized.pack(codes, self.ops.xp)

    def experts(self, name: str, *parts: LazyTensor) -> Experts | QuantizedExperts:
        """The parts below one another in each expert."""
        grid = self.recipe.grid(name)
        if grid is None:
            return self.ops.take_experts(*parts)
        matrices = []
        for e in range(parts[0].shape[0]):
            w = in_range(name, np.concatenate([part.rows(e, e + 1)[0] for part in parts]), grid)
            matrices.append(Quantized.pack(self.method(w, grid), self.ops.xp))
        return QuantizedExperts(tuple(matrices))


def join(parts: tuple[LazyTensor, ...]) -> np.ndarray:  # -> (N, M)
    """The parts, each (N_i, M), below one another in float32."""
    w = np.empty((sum(part.shape[0] for part in parts), parts[0].shape[1]), dtype=np.float32)
    row = 0
    for part in parts:
        for start, rows in part.tiles():
            w[row + start : row + start + len(rows)] = rows
        row += part.shape[0]
    return w
