"""The model's parameters as plain data: what they are, not how they are multiplied (that is the backend's, backends/).

A weight knows its shape, its size in memory and how to give back its numbers. Operations dispatch on its type, so
that a quantized matrix can take a dense one's place without the transformer noticing. Likewise a norm that a family
does not have is `NoNorm`, not a branch in the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tinyinfer.arrays import Array


class FloatMatrix(Protocol):
    """A float matrix of N outputs and M inputs as it comes out of a file, to be taken by a backend."""

    @property
    def shape(self) -> tuple[int, int]:
        """(N, M): outputs, inputs."""

    @property
    def name(self) -> str:
        """What messages call it: the file and the tensor."""

    def tiles(self) -> Iterator[tuple[int, np.ndarray]]:
        """Pairs (first output, float32 rows (n, M)), in order, a few at a time. Raises ModelError for NaN, infinity."""


class Weight(Protocol):
    """A matrix of N outputs and M inputs, however it is kept."""

    @property
    def shape(self) -> tuple[int, int]:
        """(N, M): outputs, inputs."""

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""

    @property
    def row_bytes(self) -> int:
        """Bytes that looking up one output's weights reads."""

    def rows(self, ids: Array) -> Array:  # (T,) -> (T, M)
        """The weights of the outputs `ids` as float32: what an embedding looks up."""

    def dequantize(self, tile: slice) -> Array:  # -> (M, N)
        """The weights of the outputs in `tile`, inputs first, as float32."""


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

    @property
    def row_bytes(self) -> int:
        """Bytes that looking up one output's weights reads."""
        return int(self.array.shape[0] * self.array.itemsize)

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
    """x @ weight + bias; the weight of any type the backend knows, the bias (N,) or absent."""

    weight: Weight
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

    table: Weight
    positions: Array | None
    scale: float

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return self.table.nbytes + (0 if self.positions is None else int(self.positions.nbytes))


Norm = RMSNorm | LayerNorm | FullQKNorm | NoNorm


@dataclass(frozen=True)
class Heads:
    """How a layer attends."""

    queries: int  # H
    keys: int  # K: H/K query heads share a key head
    size: int  # E
    scale: float  # multiplies the scores
    window: int | None  # how many positions back a query sees, itself included; None: all


@dataclass(frozen=True)
class Grid:
    """How to round. bits: 2, 3, 4 or 8. group: inputs that share a step; None: all of an output's (per channel).

    whole: all groups get the same step and minimum, those of the whole matrix (per tensor).
    """

    bits: int
    group: int | None
    symmetric: bool
    whole: bool = False

    @property
    def low(self) -> int:
        """The smallest code."""
        return -(1 << (self.bits - 1)) if self.symmetric else 0

    @property
    def high(self) -> int:
        """The largest code."""
        return self.low + (1 << self.bits) - 1


@dataclass(frozen=True)
class Codes:
    """A matrix (N, M) on a grid. q: (N, M) int16. d, m: (N, G) float16, G groups, the last of which may be shorter.

    m is None when symmetric.
    """

    grid: Grid
    q: np.ndarray
    d: np.ndarray
    m: np.ndarray | None

    def dequantize(self) -> np.ndarray:  # -> (N, M)
        """d · q + m in float32."""
        inputs = self.q.shape[1]
        w = self.q * spread(self.d, self.grid, inputs)
        return w if self.m is None else w + spread(self.m, self.grid, inputs)


def spread(scales: np.ndarray, grid: Grid, inputs: int) -> np.ndarray:  # (N, G) -> (N, inputs)
    """A group's number for each of its inputs, in float32."""
    return np.repeat(scales.astype(np.float32), grid.group or inputs, axis=1)[:, :inputs]


@dataclass(frozen=True)
class Rotation:
    """Rotary positions as data: S sets of radians per position and of amplitudes, for the E/2 pairs of a head.

    One set is the rule (S = 1); a family that changes its frequencies with the sequence's length has several, and each
    row says which one it uses. A pair of frequency 0 and amplitude 1 stays as it is.
    """

    frequencies: Array  # (S, E/2)
    amplitudes: Array  # (S, E/2)


Matrix = FloatMatrix | Codes
