"""A fused matrix whose parts a file has rounded differently: each part stays as it is, and is multiplied by itself.

Fusing q, k and v into one matrix saves calls. A file that mixes types (GGUF's 'Q4_K_M' gives half of the layers' v more
bits than q and k) has no single grid for the three, and floats would take seven times the bytes. Wins: those bytes, and
not one weight is rounded anew. Loses: as many products as there are parts, and a copy that joins their outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinyinfer.arrays import Array, HoldsModule, Xp
from tinyinfer.model.weights import MixedMatrix, Weight


@dataclass(frozen=True)
class Stacked(HoldsModule):
    """Weights of the same M inputs, their outputs one below another: N together."""

    parts: tuple[Weight, ...]
    xp: Xp
    scheme: None = None  # each part has its own

    @property
    def shape(self) -> tuple[int, int]:
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes held in memory by all parts."""
        return sum(part.nbytes for part in self.parts)

    @property
    def row_bytes(self) -> int:
        """Bytes that looking up one output's weights reads, at most: of the part with the most."""
        return max(part.row_bytes for part in self.parts)

    def rows(self, ids: Array) -> Array:  # (T,) -> (T, M)
        return self.dequantize(slice(0, self.shape[0]))[:, ids].T.astype("float32", order="C")

    def dequantize(self, tile: slice) -> Array:  # -> (M, N)
        start, stop, _ = tile.indices(self.shape[0])
        tiles, first = [], 0
        for part in self.parts:
            if first < stop and start < first + part.shape[0]:
                tiles.append(part.dequantize(slice(max(0, start - first), stop - first)))
            first += part.shape[0]
        return self.xp.concatenate(tiles, axis=1)

    def matrix(self) -> MixedMatrix:
        return MixedMatrix(tuple(part.matrix() for part in self.parts))


def stacked_product(ops: Any, x: Array, weight: Stacked) -> Array:  # (T, M) -> (T, N)
    """x Wᵀ, the outputs of each part by the product of its type."""
    return ops.xp.concatenate([ops.products[type(part)](ops, x, part) for part in weight.parts], axis=1)
