"""The model's parameters as plain data: what they are, not how they are multiplied (that is the backend's, backends/).

A weight knows its shape, its size in memory and how to give back its numbers. Operations dispatch on its type, so
that a quantized matrix can take a dense one's place without the transformer noticing. Likewise a norm that a family
does not have is `NoNorm`, not a branch in the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tinyinfer.packing import pack, packed_size, pick, unpack

if TYPE_CHECKING:
    from tinyinfer.quantization.grid import Codes, Grid

Array = Any  # a NumPy or CuPy array

LANES = 64  # outputs in a block of a quantized matrix


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
class Quantized:
    """A matrix of N outputs and M inputs as packed codes q with w = d · q + m (quantization/grid.py).

    Outputs lie in B blocks of 64, the last one filled up, and inside a block input by input, so that a compiled product
    runs over 64 outputs side by side and needs no sum across them. G groups of inputs share d and m. Codes are stored
    as q - grid.low, from 0 on. In NumPy this saves memory and no time: every tile becomes floats before it is used.
    """

    grid: Grid
    shape: tuple[int, int]  # (N, M)
    codes: Array  # (B, M, 64·bits/8) uint8
    d: Array  # (B, G, 64) float16
    m: Array | None  # (B, G, 64) float16; None: symmetric
    xp: Any

    @classmethod
    def pack(cls, codes: Codes, xp: Any) -> Quantized:
        """The codes of a matrix, as it is kept in memory."""
        n, blocks = codes.q.shape[0], -(-codes.q.shape[0] // LANES)

        def blocked(array: Array, low: int = 0, dtype: Any = xp.float16) -> Any:  # (N, P) -> (B, P, 64)
            full = xp.zeros((blocks * LANES, array.shape[1]), dtype=dtype)
            xp.subtract(array, low, out=full[:n], casting="unsafe")
            return xp.ascontiguousarray(full.reshape(blocks, LANES, -1).swapaxes(1, 2))

        q = pack(blocked(codes.q, codes.grid.low, xp.uint8), codes.grid.bits, xp)
        m = None if codes.m is None else blocked(codes.m)
        return cls(codes.grid, codes.q.shape, q, blocked(codes.d), m, xp)

    @property
    def nbytes(self) -> int:
        """Bytes held in memory: codes, steps and minimums."""
        return int(self.codes.nbytes + self.d.nbytes + (0 if self.m is None else self.m.nbytes))

    @property
    def row_bytes(self) -> int:
        """Bytes that looking up one output's weights reads: its codes, steps and minimums."""
        scales = 2 * self.d.shape[1] * (1 if self.m is None else 2)
        return packed_size(self.shape[1], self.grid.bits) + scales

    def rows(self, ids: Array) -> Array:  # (T,) -> (T, M)
        """The weights of the outputs `ids` as float32: what an embedding looks up."""
        where = ids // LANES, ids % LANES
        q = pick(self.codes, self.grid.bits, LANES, where, self.xp)
        m = None if self.m is None else self.m[where[0], :, where[1], None]
        return self._restore(q[..., None], self.d[where[0], :, where[1], None], m)[..., 0]

    def dequantize(self, tile: slice) -> Array:  # -> (M, N)
        """The weights of the outputs in `tile`, inputs first, as float32."""
        start, stop, _ = tile.indices(self.shape[0])
        blocks = slice(start // LANES, -(-stop // LANES))
        q = unpack(self.codes[blocks], self.grid.bits, LANES, self.xp)
        w = self._restore(q, self.d[blocks], None if self.m is None else self.m[blocks])  # (B, M, 64)
        first = blocks.start * LANES
        return w.swapaxes(0, 1).reshape(self.shape[1], -1)[:, start - first : stop - first]

    def unpack(self) -> Codes:
        """The codes as the grid has them, for saving and for tests."""
        from tinyinfer.quantization.grid import Codes

        def flat(array: Array) -> Array:  # (B, P, 64) -> (N, P)
            return array.swapaxes(1, 2).reshape(-1, array.shape[1])[: self.shape[0]]

        q = flat(unpack(self.codes, self.grid.bits, LANES, self.xp)).astype(self.xp.int16)
        q += self.xp.int16(self.grid.low)
        return Codes(self.grid, q, flat(self.d), None if self.m is None else flat(self.m))

    def _restore(
        self, q: Array, d: Array, m: Array | None
    ) -> Array:  # (B, M, P), (B, G, P), (B, G, P) | None -> (B, M, P)
        """d · q + m of some blocks, P outputs each; a last group that is shorter comes by itself."""
        inputs, group = q.shape[1], self.grid.group or q.shape[1]
        whole = inputs // group
        w = self.xp.add(q, self.xp.float32(self.grid.low), dtype=self.xp.float32)
        d = d.astype(self.xp.float32)  # at once: mixed operands are converted piece by piece, eight times slower
        m = None if m is None else m.astype(self.xp.float32)
        for groups, part in (slice(whole), w[:, : whole * group]), (slice(whole, None), w[:, whole * group :]):
            if part.shape[1]:
                grouped = part.reshape(len(w), -1, min(group, part.shape[1]), w.shape[2])
                grouped *= d[:, groups, None]
                if m is not None:
                    grouped += m[:, groups, None]
        return w


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
class QuantizedExperts:
    """The same matrix of X experts, each packed by itself."""

    matrices: tuple[Quantized, ...]

    def __len__(self) -> int:
        return len(self.matrices)

    @property
    def nbytes(self) -> int:
        """Bytes held in memory by all experts together."""
        return sum(matrix.nbytes for matrix in self.matrices)

    def expert(self, index: int) -> Quantized:
        """One expert's matrix."""
        return self.matrices[index]


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
