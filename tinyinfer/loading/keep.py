"""What a file holds in a few bits stays as it is: its codes are laid out for the backend and never were floats.

That is `--quantize keep` with a GGUF file, whose Q8_0, Q4_0 and Q4_1 lie on our grid, and every folder that tinyinfer
has quantized itself. Parts that are joined in memory (queries, keys and values; gate and up) must lie on the same grid;
where they do not, and for every other type, floats are made of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tinyinfer.backends.packed import GRID as W8A8_GRID
from tinyinfer.backends.packed import W8A8, Quantized, QuantizedExperts, w8a8_product
from tinyinfer.model.weights import Codes, Dense, Experts
from tinyinfer.quantization.recipe import Recipe, held_matrices

if TYPE_CHECKING:
    from tinyinfer.loading.checkpoint import Checkpoint


if TYPE_CHECKING:
    from tinyinfer.loading.checkpoint import LazyTensor
    from tinyinfer.model.interfaces import Ops


class KeepTaker:
    """Takes matrices out of a file as they are in it."""

    def __init__(self, ops: Ops, *others: object) -> None:
        self.ops = ops

    def matrix(self, name: str, *parts: LazyTensor) -> Dense | Quantized | W8A8:
        """The parts, each (N_i, M), below one another. Raises ModelError for NaN and infinity in scales."""
        if not can_keep(parts):
            return self.ops.take(*parts)
        joined = join([part.quantized(0, part.shape[0]) for part in parts])
        if not parts[0].integer_inputs:
            return Quantized.pack(joined, self.ops.xp)
        self.ops.products[W8A8] = w8a8_product
        return W8A8.pack(joined, self.ops.xp)

    def experts(self, name: str, *parts: LazyTensor) -> Experts | QuantizedExperts:
        """The parts, each (X, N_i, M), below one another in each expert. Raises as `matrix` does."""
        if not can_keep(parts):
            return self.ops.take_experts(*parts)
        return QuantizedExperts(tuple(self._expert(e, parts) for e in range(parts[0].shape[0])))

    def _expert(self, e: int, parts: tuple[LazyTensor, ...]) -> Quantized:
        codes = [part.quantized(e * part.shape[1], (e + 1) * part.shape[1]) for part in parts]
        return Quantized.pack(join(codes), self.ops.xp)


def can_keep(parts: tuple[LazyTensor, ...]) -> bool:
    """Whether the parts can lie below one another in one matrix: all are quantized, and in the same way."""
    return parts[0].codes is not None and len({(part.grid, part.integer_inputs) for part in parts}) == 1


def join(parts: list[Codes]) -> Codes:
    """Matrices on the same grid as one, below one another."""
    q, d = np.concatenate([part.q for part in parts]), np.concatenate([part.d for part in parts])
    minimums = [part.m for part in parts if part.m is not None]
    return Codes(parts[0].grid, q, d, np.concatenate(minimums) if minimums else None)


def cut(codes: Codes, rows: slice) -> Codes:
    """Some outputs of a matrix."""
    return Codes(codes.grid, codes.q[rows], codes.d[rows], None if codes.m is None else codes.m[rows])


def kept_recipe(checkpoint: Checkpoint) -> Recipe:
    """What quantize=keep makes of a file: the grids that it has, where joined matrices agree on one."""
    tensors, rules = checkpoint.tensors, []
    for matrix in held_matrices(checkpoint.config):
        parts = [tensors[part] for part in matrix.parts]
        grids = {W8A8_GRID if part.integer_inputs else part.grid for part in parts}
        rules.append((matrix.name, grids.pop() if len(grids) == 1 else None))
    return Recipe(tuple(rules), any(tensor.integer_inputs for tensor in tensors.values()))
