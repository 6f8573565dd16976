"""Packed weights: quantized matrices as the CPU backends lay them out in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinyinfer.backends.packing import pack, packed_size, pick, unpack

if TYPE_CHECKING:
    from tinyinfer.model.weights import Codes, Grid

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.model.weights import Codes, Grid

LANES = 64  # outputs in a block of a quantized matrix


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
        from tinyinfer.model.weights import Codes

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


LIMIT = 127  # the largest code, of either sign


SLICE = 1040  # inputs whose products sum exactly in float32: 127² · 1040 < 2^24


TILE = 1 << 18  # numbers of a weight widened at a time: a megabyte of float32


GRID = Grid(8, None, True)


@dataclass(frozen=True)
class W8A8:
    """A matrix of N outputs and M inputs in 8 bits, whose inputs are to be rounded to 8 bits too: w = d · q."""

    codes: Array  # (M, N) int8, -127 ... 127
    d: Array  # (N,) float16

    @classmethod
    def pack(cls, codes: Codes, xp: Any) -> W8A8:
        """The codes of a matrix, symmetric and one step for each output. Raises ValueError for another grid."""
        if codes.grid != GRID:
            raise ValueError(f"w8a8 needs 8 symmetric bits and one step for each output, not {codes.grid}")
        q = np.clip(codes.q, -LIMIT, LIMIT).astype(np.int8)
        return cls(xp.ascontiguousarray(xp.asarray(q.T)), xp.asarray(codes.d[:, 0]))

    def unpack(self) -> Codes:
        """The codes as the grid has them, for saving and for tests."""
        return Codes(GRID, self.codes.T.astype(np.int16), self.d[:, None], None)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, M): outputs, inputs."""
        return self.codes.shape[1], self.codes.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes held in memory: codes and steps."""
        return int(self.codes.nbytes + self.d.nbytes)

    @property
    def row_bytes(self) -> int:
        """Bytes that looking up one output's weights reads."""
        return int(self.codes.shape[0] + self.d.itemsize)

    def rows(self, ids: Array) -> Array:  # (T,) -> (T, M)
        """The weights of the outputs `ids` as float32."""
        return self.codes[:, ids].T.astype("float32", order="C") * self.d[ids, None].astype("float32")

    def dequantize(self, tile: slice) -> Array:  # -> (M, N)
        """The weights of the outputs in `tile`, inputs first, as float32."""
        return self.codes[:, tile].astype("float32") * self.d[tile].astype("float32")


def w8a8_product(x: Array, weight: W8A8) -> Array:  # (T, M) -> (T, N)
    """x @ weight, x rounded to 8 bits row by row, everything between the roundings exact."""
    q, scale = round_rows(x)
    return integer_product(q, weight.codes) * scale * weight.d.astype(np.float32)


def round_rows(x: Array) -> tuple[Array, Array]:  # (T, M) -> (T, M), (T, 1)
    """Each row as whole numbers -127 ... 127, in float32, and the scale that brings them back."""
    scale = np.abs(x).max(axis=1, keepdims=True, initial=0) / np.float32(LIMIT)
    q = np.divide(x, scale, out=np.zeros_like(x), where=scale > 0)
    return np.rint(q, out=q), scale


def integer_product(q: Array, codes: Array) -> Array:  # (T, M), (M, N) -> (T, N)
    """The product of whole numbers up to 127 in size, exact in int32, by float32 products of slices of inputs."""
    inputs, outputs = codes.shape
    y = np.zeros((len(q), outputs), dtype=np.int32)
    step = max(1, TILE // min(inputs, SLICE))
    for start in range(0, outputs, step):
        tile = slice(start, start + step)
        for first in range(0, inputs, SLICE):
            part = slice(first, first + SLICE)
            y[:, tile] += (q[:, part] @ codes[part, tile].astype(np.float32)).astype(np.int32)
    return y
