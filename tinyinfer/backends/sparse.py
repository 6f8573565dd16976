"""Sparse weights: a matrix whose zeros are not kept; the others are floats, or codes of a few bits.

Where the others stand must be kept, too. There are two ways, and each takes one bit for each weight of the whole:

    Bitmask     a bit that says whether the weight is there; rows may have as many weights as they like
    TwoOfFour   of every 4 inputs 2 weights and their two-bit places: every row has as many weights as any other, so
                that a kernel knows where a row begins, and multiplies without counting bits (Mishra et al. 2021,
                Accelerating Sparse Deep Neural Networks, section 3: NVIDIA's sparse tensor cores)

Wins: memory; with half of the weights gone, bfloat16 takes 9 bits instead of 16. Loses: the fewer bits a weight has,
the less there is to leave out (4 bits become 3); and time on a backend without a kernel for these types, because some
outputs at a time become dense before they are multiplied. The compiled CPU kernels have one for floats pruned 2:4
(sparse_lanes.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from tinyinfer.arrays import Array, HoldsModule, Xp, to_host
from tinyinfer.backends.packing import pack, unpack
from tinyinfer.model.quantized_matrix import QuantizedMatrix, QuantScheme, float_scales
from tinyinfer.model.weights import MASK, TWO_OF_FOUR, Floats, SparseMatrix, check_range

EIGHT = 8  # codes that are packed together: of any bits they are whole bytes
PACK_TILE = 1 << 20  # weights packed at a time


@dataclass(frozen=True)
class Bitmask:
    """Where the kept weights of N outputs stand: a bit for each of M inputs, and where each output's weights begin."""

    places: Array  # (N, C) uint8, C = M/8: a bit a weight
    starts: np.ndarray  # (N+1,) int64, on the host: of each output's kept weights among all
    inputs: int  # M

    @classmethod
    def of(cls, kept: np.ndarray, xp: Xp) -> Self:  # (N, M) ->
        """The places that are True."""
        return cls(xp.asarray(pack(kept.astype(np.uint8), 1, np)), starts_of(kept), kept.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return int(self.places.nbytes + self.starts.nbytes)

    def first(self, output: int) -> int:
        """How many weights are kept before those of an output."""
        return int(self.starts[output])

    def outputs(self, start: int, stop: int) -> Bitmask:
        """The places in the outputs start ... stop only."""
        return Bitmask(self.places[start:stop], self.starts[start : stop + 1] - self.starts[start], self.inputs)

    def where(self, start: int, stop: int, xp: Xp) -> Array:  # -> (kept,)
        """The kept places of outputs start ... stop, counted through these outputs' inputs."""
        bits = unpack(self.places[start:stop], 1, self.inputs, xp)  # (rows, M)
        return xp.flatnonzero(bits.view(xp.bool_))  # ten times as fast as of numbers


def starts_of(kept: np.ndarray) -> np.ndarray:  # (N, M) -> (N+1,)
    """Where each output's kept weights begin among all, and where the last ones end."""
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(kept.sum(axis=1, dtype=np.int64))))


@dataclass(frozen=True)
class TwoOfFour:
    """Where the kept weights of N outputs stand: for each 4 of M inputs the places, 0 to 3, of two."""

    places: Array  # (N, C) uint8, C = M/8: two bits a kept weight
    inputs: int  # M, a multiple of 4

    @classmethod
    def of(cls, kept: np.ndarray, xp: Xp) -> Self:  # (N, M) ->
        """The places that are True; where there are fewer than two of four, zeros are kept, too.

        Raises ValueError for more than two, and for a number of inputs that 4 does not divide.
        """
        if kept.shape[1] % 4:
            raise ValueError(f"2:4 needs a multiple of 4 inputs, not {kept.shape[1]}")
        step = max(1, PACK_TILE // kept.shape[1])
        packed = [pack_places(kept[start : start + step]) for start in range(0, len(kept), step)]  # (rows, C) each
        return cls(xp.asarray(np.concatenate(packed)), kept.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return int(self.places.nbytes)

    def first(self, output: int) -> int:
        """How many weights are kept before those of an output."""
        return output * self.inputs // 2

    def outputs(self, start: int, stop: int) -> TwoOfFour:
        """The places in the outputs start ... stop only."""
        return TwoOfFour(self.places[start:stop], self.inputs)

    def where(self, start: int, stop: int, xp: Xp) -> Array:  # -> (kept,)
        """The kept places of outputs start ... stop, counted through these outputs' inputs."""
        places = unpack(self.places[start:stop], 2, self.inputs // 2, xp).reshape(-1, 2)  # (pairs, 2)
        return (xp.arange(0, 4 * len(places), 4)[:, None] + places).reshape(-1)


def pack_places(kept: np.ndarray) -> np.ndarray:  # (N, M) -> (N, C)
    """The places of the two of every four that are True. Raises ValueError where there are more."""
    fours = kept.reshape(len(kept), -1, 4)  # (N, M/4, 4)
    if (fours.sum(axis=2) > 2).any():
        raise ValueError("2:4 needs two zeros among every four inputs")
    chosen = np.sort(np.argsort(~fours, axis=2, kind="stable")[..., :2], axis=2)  # (N, M/4, 2)
    return pack(chosen.reshape(len(kept), -1).astype(np.uint8), 2, np)


Places = Bitmask | TwoOfFour


@dataclass(frozen=True)
class Sparse(HoldsModule):
    """A matrix of N outputs and M inputs without its zeros: their places and the others, output by output.

    values: floats (kept,), or codes (eights, bits), 8 of them in as many bytes as a code has bits; scale: of codes.
    """

    shape: tuple[int, int]  # (N, M)
    places: Places
    values: Array
    scheme: QuantScheme | None  # symmetric; None: floats
    scale: Array | None  # (N, G) float16; None: floats
    xp: Xp

    @classmethod
    def pack(cls, sparse: SparseMatrix, dtype: Any, xp: Xp) -> Self:
        """A matrix in this layout, floats as dtype. Raises ModelError for a float that dtype cannot hold.

        Raises ValueError for codes among which zero has none, and as TwoOfFour.of does.
        """
        matrix = sparse.matrix
        scheme = matrix.scheme if isinstance(matrix, QuantizedMatrix) else None
        if scheme is not None and (not scheme.symmetric or scheme.nested):
            raise ValueError("a sparse matrix needs symmetric codes with one scale a group: zero must stay zero")
        kept = np.concatenate([rows != 0 for _, rows in tiles(sparse)])  # (N, M)
        places = (TwoOfFour if sparse.layout == TWO_OF_FOUR else Bitmask).of(kept, xp)
        parts = []
        for start, rows in tiles(sparse):
            if not isinstance(matrix, QuantizedMatrix):
                check_range(matrix, start, rows, dtype)
            parts.append(rows.reshape(-1)[to_host(places.where(start, start + len(rows), xp))])
        values = np.concatenate(parts)  # (kept,)
        if isinstance(matrix, QuantizedMatrix):
            codes = (values - matrix.scheme.lowest).astype(np.uint8)  # (kept,)
            packed = xp.asarray(pack_eights(codes, matrix.scheme.bits, np))  # (eights, bits)
            return cls(matrix.shape, places, packed, scheme, xp.asarray(matrix.scale), xp)
        return cls(matrix.shape, places, xp.asarray(values.astype(dtype)), None, None, xp)

    @property
    def nbytes(self) -> int:
        """Bytes held in memory: places, values and scales."""
        return int(self.places.nbytes + self.values.nbytes + (0 if self.scale is None else self.scale.nbytes))

    @property
    def row_bytes(self) -> int:
        """Bytes that looking up one output's weights reads, on average."""
        return -(-self.nbytes // self.shape[0])

    @property
    def layout(self) -> str:
        """How the places are kept: MASK or TWO_OF_FOUR."""
        return TWO_OF_FOUR if isinstance(self.places, TwoOfFour) else MASK

    def rows(self, ids: Array) -> Array:  # (T,) -> (T, M)
        return self.dequantize(slice(0, self.shape[0]))[:, ids].T.astype("float32", order="C")

    def dequantize(self, tile: slice) -> Array:  # -> (M, N)
        start, stop, _ = tile.indices(self.shape[0])
        w = self._dense(start, max(start, stop)).astype("float32", copy=False)  # (rows, M)
        if self.scheme is not None and self.scale is not None:
            scale = float_scales(self.scale[start:stop])  # (rows, G)
            w *= scale.repeat(self.scheme.group_size or self.shape[1], axis=1)[:, : self.shape[1]]
        return w.T

    def matrix(self) -> SparseMatrix:
        w = to_host(self._dense(0, self.shape[0]))  # (N, M)
        if self.scheme is None:
            return SparseMatrix(Floats("a weight in memory", w), self.layout)
        return SparseMatrix(QuantizedMatrix(self.scheme, w, to_host(self.scale), None), self.layout)

    def outputs(self, start: int, stop: int) -> Sparse:
        """Only the outputs start ... stop of the matrix."""
        values = self.kept(start, stop)  # (kept,)
        if self.scheme is not None:
            values = pack_eights(values, self.scheme.bits, self.xp)  # (eights, bits)
        scale = None if self.scale is None else self.scale[start:stop]
        shape = stop - start, self.shape[1]
        return Sparse(shape, self.places.outputs(start, stop), values, self.scheme, scale, self.xp)

    def kept(self, start: int, stop: int) -> Array:  # -> (kept,)
        """The kept weights of outputs start ... stop: floats, or codes from 0 on (uint8)."""
        first, last = self.places.first(start), self.places.first(stop)
        if self.scheme is None:
            return self.values[first:last]
        packed = self.values[first // EIGHT : -(-last // EIGHT)]  # (eights, bits)
        return unpack_eights(packed, self.scheme.bits, first % EIGHT, last - first, self.xp)

    def _dense(self, start: int, stop: int) -> Array:  # -> (rows, M)
        """The floats, or the codes (int16), of outputs start ... stop, zeros among them."""
        values = self.kept(start, stop)  # (kept,)
        if self.scheme is not None:
            values = values.astype("int16") + self.xp.int16(self.scheme.lowest)
        w = self.xp.zeros((stop - start) * self.shape[1], values.dtype)  # (rows·M,)
        w[self.places.where(start, stop, self.xp)] = values
        return w.reshape(stop - start, self.shape[1])


def pack_eights(codes: Array, bits: int, xp: Xp) -> Array:  # (codes,) -> (eights, bits)
    """Codes (uint8) 8 by 8, so that they can be read from any multiple of 8 on; zeros fill up the last ones."""
    full = xp.zeros((-(-len(codes) // EIGHT), EIGHT), xp.uint8)  # (eights, 8)
    full.reshape(-1)[: len(codes)] = codes
    return pack(full, bits, xp)


def unpack_eights(packed: Array, bits: int, skip: int, count: int, xp: Xp) -> Array:  # (eights, bits) -> (count,)
    """`count` codes behind the first `skip` ones: the inverse of pack_eights."""
    return unpack(packed, bits, EIGHT, xp).reshape(-1)[skip : skip + count]


def tiles(sparse: SparseMatrix) -> Iterator[tuple[int, np.ndarray]]:
    """Pairs (first output, rows (rows, M)): floats, or codes."""
    if not isinstance(sparse.matrix, QuantizedMatrix):
        yield from sparse.matrix.tiles()
        return
    step = max(1, PACK_TILE // sparse.shape[1])
    for start in range(0, sparse.shape[0], step):
        yield start, sparse.matrix.codes[start : start + step]
