"""The compiled CPU backend: products as fast as memory is read, and a whole pass as one plan of kernels.

Operations that are no products are NumPy's; but a pass of a model and cache that the kernels cover
(cpu_kernels/step.py) calls none of them. Wins: decode waits for memory and for nothing else, quantized weights save
time as they save bytes, and several sequences share what is read. Loses: the first use of a kernel compiles it; sums
are added in another order than the reference's.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.backends.cpu_kernels.buffers import Buffers
from tinyinfer.backends.cpu_kernels.head_pass import compile_head
from tinyinfer.backends.cpu_kernels.plan import Plan
from tinyinfer.backends.cpu_kernels.products import product
from tinyinfer.backends.cpu_kernels.step import compile_pass
from tinyinfer.backends.cpu_kernels.team import team
from tinyinfer.backends.cpu_kernels.transpose import prepare, rows_to_lanes
from tinyinfer.backends.lanes import Arena, DenseLanes, PackedA8Lanes, PackedLanes, W8A8Lanes
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.backends.reference import Products
from tinyinfer.backends.sparse_lanes import TwoOfFourLanes
from tinyinfer.backends.stacked import Stacked
from tinyinfer.ledger import Ledger
from tinyinfer.model.draft_head import DraftHead
from tinyinfer.model.interfaces import Compiled, CompiledHead, KVCache
from tinyinfer.model.quantized_matrix import QuantizedMatrix
from tinyinfer.model.transformer import Model
from tinyinfer.model.weights import TWO_OF_FOUR, Embedding, Matrix, MixedMatrix, SparseMatrix, Weight

MOST_LOADING = 4  # threads: each has a matrix of floats in memory while it rounds one
PACKED: dict[str, type[PackedLanes]] = {"float": PackedLanes, "int8": PackedA8Lanes}  # by the switch activations


class NumbaOps(NumpyOps):
    """The operations on NumPy arrays, products and whole passes compiled."""

    multiplies_codes = True

    def __init__(
        self, ledger: Ledger, dtype: Any = np.float32, threads: int | None = None, activations: str = "float"
    ) -> None:
        super().__init__(ledger, dtype, threads, activations)
        self.lanes, self.arena = PACKED[activations], Arena()
        self.loading_threads = min(self.threads, MOST_LOADING)
        prepare(dtype)

    def take(self, matrix: Matrix) -> Weight:
        if isinstance(matrix, QuantizedMatrix):
            return (W8A8Lanes if matrix.scheme.integer_inputs else self.lanes).pack(matrix, self.arena)
        if isinstance(matrix, MixedMatrix):
            return Stacked(tuple(map(self.take, matrix.parts)), np)
        if isinstance(matrix, SparseMatrix):
            if matrix.layout == TWO_OF_FOUR and not isinstance(matrix.matrix, QuantizedMatrix):
                return TwoOfFourLanes.pack(matrix, self.dtype, self.arena, rows_to_lanes)
            return self.take(matrix.matrix)  # zeros and all: no kernel takes masks, or codes without their zeros
        return DenseLanes.pack(matrix, self.dtype, self.arena, rows_to_lanes)

    def relative_cost(self, rows: int) -> float:
        """What a row more costs where rows are cheapest: too low is soon measured, too high is not."""
        return min(1 + 0.15 * (rows - 1), super().relative_cost(rows))

    def to_host(self, array: Array) -> np.ndarray:  # (...,) -> (...,)
        """A copy: the next pass writes its logits into the same array."""
        return np.array(array)

    def compiled_product(self, x: Array, weight: Weight) -> Array:  # (T, M) -> (T, N)
        """x Wᵀ by the kernels of the weight's type, as a plan of its own."""
        buffers = Buffers(len(x), self.threads)
        rows, y = buffers.rows("x", x.shape[1]), buffers.rows("y", weight.shape[0])
        rows.array[:, : rows.width] = x
        team().run(Plan(product(weight, rows, y, buffers)), self.threads)
        return y.array[:, : y.width]

    def compile(self, model: Model, cache: KVCache, rows: int = 1) -> Compiled | None:
        return compile_pass(model, cache, self, rows)

    def compile_head(self, head: DraftHead, embedding: Embedding) -> CompiledHead | None:
        return compile_head(head, embedding, self)

    products: ClassVar[Products] = MappingProxyType(
        dict.fromkeys(
            (DenseLanes, TwoOfFourLanes, PackedLanes, PackedA8Lanes, W8A8Lanes, Stacked), compiled_product
        )
    )
