"""A matrix pruned 2:4 as the compiled CPU kernels read it: kept weights and their places, in blocks of 64 outputs.

Of every 4 inputs of an output 2 weights are kept, and 2 bits for each say which of the four it belongs to
(backends/sparse.py). Every output has as many, at the same places in memory, so blocks lie as those of dense weights do
(lanes.py): a vector of 16 kept weights belongs to 16 outputs and the same 4 inputs. The 16 places of 32 inputs fill a
word of their output, the first in the lowest bits.

Wins: float32 takes 17 bits a weight for 32, bfloat16 9 for 16, and decode waits for fewer bytes. Loses: with many rows
the places are found in vain, for a dense product has as many multiplications as a core can do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyinfer.backends.lanes import INPUTS, Arena, Write, padded, write_rows
from tinyinfer.backends.packing import LANES, pack
from tinyinfer.backends.sparse import Sparse, TwoOfFour
from tinyinfer.model.quantized_matrix import QuantizedMatrix
from tinyinfer.model.weights import TWO_OF_FOUR, Floats, SparseMatrix, check_range

WORD = INPUTS // 2  # places in a word, two bits each


@dataclass(frozen=True)
class TwoOfFourLanes:
    """A float matrix of N outputs and M inputs, 2 weights of every 4 inputs, in blocks of 64 outputs."""

    values: np.ndarray  # (J, M'/2, 64) float32, bfloat16 or float16
    places: np.ndarray  # (J, M'/32, 64) uint32
    shape: tuple[int, int]  # (N, M)
    scheme: None = None
    layout = TWO_OF_FOUR

    @classmethod
    def pack(cls, sparse: SparseMatrix, dtype: Any, arena: Arena, write: Write | None = None) -> TwoOfFourLanes:
        """The floats of a matrix, a few rows at a time. Raises ModelError for one that dtype cannot hold.

        write: as in `DenseLanes.pack`. Raises ValueError as TwoOfFour.of does.
        """
        matrix, (outputs, inputs) = sparse.matrix, sparse.shape
        assert not isinstance(matrix, QuantizedMatrix)
        blocks, width = -(-outputs // LANES), padded(inputs)
        values = arena.empty((blocks, width // 2, LANES), dtype)
        places = arena.empty((blocks, width // INPUTS, LANES), np.uint32)
        for first, rows in matrix.tiles():
            check_range(matrix, first, rows, dtype)
            words = words_of(rows != 0)
            where = places_in(words, inputs)  # (rows, M/4, 2)
            kept = np.take_along_axis(rows.reshape(*where.shape[:2], 4), where, axis=2)
            (write or write_rows)(kept.reshape(len(rows), inputs // 2), first, values)
            write_rows(words, first, places)
        return cls(values, places, matrix.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of kept weights and places, without padding: what a product needs to read."""
        return self.shape[0] * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes that looking up one output's weights reads."""
        return self.shape[1] // 2 * self.values.itemsize + -(-self.shape[1] // 8)

    def rows(self, ids: np.ndarray) -> np.ndarray:  # (T,) -> (T, M)
        return self._dense(ids).astype(np.float32)

    def dequantize(self, tile: slice) -> np.ndarray:  # -> (M, N)
        return self.rows(np.arange(self.shape[0])[tile]).T

    def matrix(self) -> SparseMatrix:
        return SparseMatrix(Floats("a weight in memory", self._dense(np.arange(self.shape[0]))), TWO_OF_FOUR)

    def outputs(self, start: int, stop: int) -> Sparse:
        """The outputs start ... stop in the layout of files: output by output."""
        values, places = self._kept(np.arange(start, stop))  # (rows, M/2), (rows, M/4, 2)
        packed = pack(places.reshape(values.shape), 2, np)  # (rows, C)
        of_four = TwoOfFour(packed, self.shape[1])
        return Sparse((stop - start, self.shape[1]), of_four, values.reshape(-1), None, None, np)

    def _kept(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (T,) -> ((T, n), (T, m, 2))
        """The n kept weights of each of the outputs `ids`, and their places in its m fours."""
        where = ids // LANES, slice(None), ids % LANES
        return self.values[where][:, : self.shape[1] // 2], places_in(self.places[where], self.shape[1])

    def _dense(self, ids: np.ndarray) -> np.ndarray:  # (T,) -> (T, M)
        """The outputs `ids` with their zeros."""
        values, places = self._kept(ids)
        w = np.zeros((*places.shape[:2], 4), values.dtype)  # (T, M/4, 4)
        np.put_along_axis(w, places, values.reshape(places.shape), axis=2)
        return w.reshape(len(ids), self.shape[1])


def eights() -> np.ndarray:
    """For each byte that says which of 8 inputs are kept: the four places, in a byte. -1: more than two of four."""
    fours = np.full(16, -1, np.int16)  # (16,)
    for bits in range(16):
        kept = [place for place in range(4) if bits >> place & 1]
        others = [place for place in range(4) if place not in kept]  # where kept ones lack, zeros are kept
        if len(kept) <= 2:
            first, second = sorted((kept + others)[:2])
            fours[bits] = first | second << 2
    low, high = np.tile(fours, 16), fours.repeat(16)  # (256,), (256,)
    return np.where((low < 0) | (high < 0), np.int16(-1), low | high << 4)


EIGHTS = eights()


def words_of(kept: np.ndarray) -> np.ndarray:  # (N, M) -> (N, n)
    """The places that are True, in n words of 16, one for 32 inputs. Raises ValueError as TwoOfFour.of does."""
    if kept.shape[1] % 4:
        raise ValueError(f"2:4 needs a multiple of 4 inputs, not {kept.shape[1]}")
    bits = np.zeros((len(kept), padded(kept.shape[1]) // 8), np.uint8)  # (N, M'/8)
    found = np.packbits(kept, axis=1, bitorder="little")  # (N, C)
    bits[:, : found.shape[1]] = found
    places = EIGHTS[bits]  # (N, M'/8)
    if (places < 0).any():
        raise ValueError("2:4 needs two zeros among every four inputs")
    return places.astype(np.uint8).view("<u4")


def places_in(words: np.ndarray, inputs: int) -> np.ndarray:  # (N, n) -> (N, inputs/4, 2)
    """The places, 0 to 3, in the n words of so many inputs: the inverse of `words_of`."""
    shifts = 2 * np.arange(WORD, dtype=np.uint32)
    places = (words[..., None] >> shifts & np.uint32(3)).astype(np.uint8)  # (N, M'/32, 16)
    kept = places.reshape(len(words), WORD * words.shape[1])[:, : inputs // 2]  # (N, M/2)
    return kept.reshape(len(words), inputs // 4, 2)
