"""The model's parameters as plain data: what they are, not how they are multiplied (that is the backend's, backends/).

A weight is a matrix as a backend holds it. A weight knows its shape, its bytes and how to give its numbers back;
operations dispatch on its type, so a quantized matrix takes a dense one's place and the transformer does not notice. A
norm that a family does not have is `NoNorm`, not a branch in the model.

What a backend *takes* is a `Matrix`: float rows out of a file, or whole numbers and their scales (quantized_matrix.py),
or both below one another. How a matrix lies in memory is the backend's choice (`Ops.take`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tinyinfer.arrays import Array, to_host
from tinyinfer.errors import ModelError
from tinyinfer.model.quantized_matrix import QuantizedMatrix, QuantScheme

# What a backend takes.


class FloatMatrix(Protocol):
    """A float matrix of N outputs and M inputs on its way into a backend, a few rows at a time."""

    @property
    def shape(self) -> tuple[int, int]:
        """(N, M): outputs, inputs."""

    def tiles(self) -> Iterator[tuple[int, np.ndarray]]:
        """Pairs (first output, float32 rows (rows, M)), in order. Raises ModelError for NaN and infinity."""

    def where(self, output: int) -> str:
        """Where that output comes from, for messages: file and tensor."""


@dataclass(frozen=True)
class Floats:
    """A float matrix that is in memory already."""

    name: str
    array: np.ndarray  # (N, M), of any float type

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape[0], self.array.shape[1]

    def tiles(self) -> Iterator[tuple[int, np.ndarray]]:
        yield 0, self.array.astype(np.float32, copy=False)

    def where(self, output: int) -> str:
        return self.name


@dataclass(frozen=True)
class MixedMatrix:
    """Matrices below one another that a file has rounded differently, each still as the file has it."""

    parts: tuple[Matrix, ...]


def check_range(matrix: FloatMatrix, first: int, rows: np.ndarray, dtype: Any) -> None:  # (rows, M) ->
    """Raises ModelError when a number of these rows, outputs first ... of the matrix, would be infinite in dtype."""
    if dtype == np.float32:
        return
    ends = np.array((rows.min(initial=0), rows.max(initial=0)))  # (2,)
    with np.errstate(over="ignore"):
        if np.isfinite(ends.astype(dtype)).all():
            return
    raise ModelError(
        f"{matrix.where(first)} holds {ends[np.abs(ends).argmax()]:.7g}, too large for {dtype}; "
        "choose float32, or bfloat16, which reaches to 3e38"
    )


MASK, TWO_OF_FOUR = "mask", "2:4"  # layouts of sparse matrices, by their names in files


@dataclass(frozen=True)
class SparseMatrix:
    """A matrix of N outputs and M inputs of which many weights are zero, and are not to be kept (pruning/).

    matrix: all weights, the zeros among them; codes must be symmetric, so that zero is a code. layout: TWO_OF_FOUR
    where of every 4 inputs of an output at most 2 have a weight other than zero, and a kernel may rely on that; else
    MASK.
    """

    matrix: FloatMatrix | QuantizedMatrix
    layout: str

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape


Matrix = FloatMatrix | QuantizedMatrix | MixedMatrix | SparseMatrix

# What a backend holds.


class Weight(Protocol):
    """A matrix of N outputs and M inputs, however a backend holds it."""

    @property
    def shape(self) -> tuple[int, int]:
        """(N, M): outputs, inputs."""

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""

    @property
    def row_bytes(self) -> int:
        """Bytes that looking up one output's weights reads."""

    @property
    def scheme(self) -> QuantScheme | None:
        """The QuantScheme of the weights; None for floats."""

    def rows(self, ids: Array) -> Array:  # (T,) -> (T, M)
        """The weights of the outputs `ids` as float32: what an embedding looks up."""

    def dequantize(self, tile: slice) -> Array:  # -> (M, N)
        """The weights of the outputs in `tile`, inputs first, as float32."""

    def matrix(self) -> Matrix:
        """The matrix that `Ops.take` makes this weight of, on the host: for saving it and for changing it."""


@dataclass(frozen=True)
class Dense:
    """A float matrix of N outputs and M inputs; x @ array is the product, in whatever order the backend laid it out."""

    array: Array  # (M, N) float32, bfloat16 or float16
    scheme: None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape[1], self.array.shape[0]

    @property
    def nbytes(self) -> int:
        return int(self.array.nbytes)

    @property
    def row_bytes(self) -> int:
        return int(self.array.shape[0] * self.array.itemsize)

    def rows(self, ids: Array) -> Array:  # (T,) -> (T, M)
        return self.array[:, ids].T.astype("float32", order="C")

    def dequantize(self, tile: slice) -> Array:  # -> (M, N)
        """A view, without a copy, when the weights are float32 already."""
        return self.array[:, tile].astype("float32", copy=False)

    def matrix(self) -> Floats:
        return Floats("a weight in memory", to_host(self.array).T)


@dataclass(frozen=True)
class Linear:
    """x Wᵀ + bias: a weight of any type that the backend knows, and a bias (N,) or none."""

    weight: Weight
    bias: Array | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held in memory, bias included."""
        return self.weight.nbytes + (0 if self.bias is None else int(self.bias.nbytes))


@dataclass(frozen=True)
class Experts:
    """The same linear layer of X experts, each by itself, so that only the chosen experts are read."""

    linears: tuple[Linear, ...]

    @property
    def nbytes(self) -> int:
        """Bytes held in memory by all experts together."""
        return sum(linear.nbytes for linear in self.linears)


@dataclass(frozen=True)
class RMSNorm:
    """x / sqrt(mean(x²) + eps) · weight over the last axis (Zhang & Sennrich 2019, equation 4).

    The weight may have more axes: (H+K, E) gives every head its own, as Qwen 3 and Gemma 3 do with queries and keys.
    """

    weight: Array
    eps: float

    @property
    def nbytes(self) -> int:
        return int(self.weight.nbytes)


@dataclass(frozen=True)
class LayerNorm:
    """(x - mean(x)) / sqrt(var(x) + eps) · weight + bias (Ba et al. 2016, equation 4)."""

    weight: Array
    bias: Array
    eps: float

    @property
    def nbytes(self) -> int:
        return int(self.weight.nbytes + self.bias.nbytes)


@dataclass(frozen=True)
class NoNorm:
    """Null object: the norm of a family that has none in this place, the identity."""

    nbytes: int = 0


@dataclass(frozen=True)
class FullQKNorm:
    """Norms of all query heads together, weight (H·E), and of all key heads together, (K·E) (OLMoE)."""

    query: RMSNorm
    key: RMSNorm

    @property
    def nbytes(self) -> int:
        return self.query.nbytes + self.key.nbytes


@dataclass(frozen=True)
class Embedding:
    """Token vectors, times `scale`, plus learned position vectors (max_position, D) where a family has them."""

    table: Weight
    positions: Array | None
    scale: float

    @property
    def nbytes(self) -> int:
        return self.table.nbytes + (0 if self.positions is None else int(self.positions.nbytes))


Norm = RMSNorm | LayerNorm | FullQKNorm | NoNorm


@dataclass(frozen=True)
class Rotation:
    """Rotary positions as data: Z sets of radians per position and of amplitudes, for the E/2 pairs of a head.

    One set is the rule (Z = 1); a family that changes its frequencies with the sequence's length has several, and each
    row says which one it uses. A pair of frequency 0 and amplitude 1 stays as it is.
    """

    frequencies: Array  # (Z, E/2) radians per position
    amplitudes: Array  # (Z, E/2)
