"""The model's parameters as plain data: what they are, not how they are multiplied (that is the backend's, backends/).

A weight knows its shape, its size in memory and how to give back its numbers. Operations dispatch on its type, so
that a quantized matrix can take a dense one's place without the transformer noticing. Likewise a norm that a family
does not have is `NoNorm`, not a branch in the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Array = Any  # a NumPy or CuPy array


@dataclass(frozen=True)
class Dense:
    """A float matrix of N outputs and M inputs; x @ array is the product, in whatever order the backend laid it out."""

    array: Array  # (M, N) float32, bfloat16 or float16

    @property
    def shape(self) -> tuple[int, int]:
        """(N, M): outputs, inputs."""
        return self.array.shape[1], self.array.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return int(self.array.nbytes)

    def rows(self, ids: Array) -> Array:  # (T,) -> (T, M)
        """The weights of the outputs `ids` as float32: what an embedding looks up."""
        return self.array[:, ids].T.astype("float32", order="C")

    def dequantize(self, tile: slice) -> Array:  # -> (M, N)
        """The weights of the outputs in `tile`, inputs first, as float32 (a view when they are that already)."""
        return self.array[:, tile].astype("float32", copy=False)


@dataclass(frozen=True)
class Experts:
    """The same matrix of X experts, stacked: `array` (X, M, N), each expert as in Dense."""

    array: Array

    def __len__(self) -> int:
        return int(self.array.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes held in memory by all experts together."""
        return int(self.array.nbytes)

    def expert(self, index: int) -> Dense:
        """One expert's matrix, a view."""
        return Dense(self.array[index])


@dataclass(frozen=True)
class Linear:
    """x @ weight + bias; the weight is Dense (or any type the backend knows), the bias (N,) or absent."""

    weight: Dense
    bias: Array | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held in memory, bias included."""
        return self.weight.nbytes + (0 if self.bias is None else int(self.bias.nbytes))


@dataclass(frozen=True)
class RMSNorm:
    """x / sqrt(mean(x²) + eps) · weight over the last axis (Zhang & Sennrich 2019, equation 4).

    The weight may have more axes: (H+K, E) gives every head its own, as Qwen 3 and Gemma 3 do with queries and keys.
    """

    weight: Array
    eps: float

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return int(self.weight.nbytes)


@dataclass(frozen=True)
class LayerNorm:
    """(x - mean(x)) / sqrt(var(x) + eps) · weight + bias (Ba et al. 2016, equation 4)."""

    weight: Array
    bias: Array
    eps: float

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return int(self.weight.nbytes + self.bias.nbytes)


@dataclass(frozen=True)
class NoNorm:
    """The norm of a family that has none in this place: the identity."""

    nbytes: int = 0


@dataclass(frozen=True)
class FullQKNorm:
    """Norms of all query heads together, weight (H·E), and of all key heads together, (K·E) (OLMoE)."""

    query: RMSNorm
    key: RMSNorm

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return self.query.nbytes + self.key.nbytes


@dataclass(frozen=True)
class Embedding:
    """Token vectors, times `scale`, plus learned position vectors (P, D) where a family has them."""

    table: Dense
    positions: Array | None
    scale: float

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return self.table.nbytes + (0 if self.positions is None else int(self.positions.nbytes))


Norm = RMSNorm | LayerNorm | FullQKNorm | NoNorm
