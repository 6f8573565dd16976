"""Weights as the compiled CPU kernels read them: in the order in which SIMD lanes want them.

The outputs lie in J blocks of 64 and a block is input-major, so that a vector of 16 neighbouring numbers belongs to 16
outputs and the same input: one number of x, broadcast, multiplies all 16, and nothing is added across lanes. Inputs are
padded to M', whole 32s, outputs to whole blocks, with zeros: no kernel needs a special last vector.

Codes lie in 32-bit words, and a word holds consecutive inputs of one output. Input k of them stands at bit
8·(k mod 4) + p·(k div 4), p bits wide. So `(word >> p·h) & mask` has the four inputs 4h ... 4h+3 in its four bytes, as
an integer dot product wants them, and one more shift gives one input of 16 outputs, as floats want it. 3, 5 and 6 bits
are two planes: the low 2 or 4 bits of all codes, and the high ones.

All matrices of a model lie one behind the other in few mappings of huge pages (`Arena`): the core then looks up a page
once in 2 MB and not once in 4 KB. Wins: a thread reads a fifth more bytes a second. Loses: a mapping goes back to the
system only when the last matrix in it does.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any, Self

import numpy as np

from tinyinfer.backends.cpu import mapped
from tinyinfer.backends.packed import LANES, W8A8
from tinyinfer.backends.packing import packed_size
from tinyinfer.backends.rows_in_lanes import to_lanes
from tinyinfer.model.quantized_matrix import QuantizedMatrix, QuantScheme, Scales, map_scales
from tinyinfer.model.weights import FloatMatrix, Floats, check_range

INPUTS = 32  # inputs are padded to whole 32s: a word of 1-bit codes
PLANES = {8: (8, 0), 4: (4, 0), 2: (2, 0), 3: (2, 1), 5: (4, 1), 6: (4, 2)}  # bits of a code: low plane, high plane
LINE = 64  # bytes of a cache line
PAGE = 2 << 20  # bytes of a huge page
CHUNK = 64 << 20  # bytes of a mapping: what is not used of them is not held either
Write = Callable[[np.ndarray, int, np.ndarray], None]  # (rows, first output, lanes)
TILE = 64  # blocks that are packed at a time: what lies between codes and words is a few MB then


class Arena:
    """Memory for weights, in mappings of huge pages where the system has them."""

    def __init__(self) -> None:
        self._free = np.empty(0, np.uint8)  # what is left of the newest mapping
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[Arena], tuple[()]]:
        """A copy has memory of its own, and none yet."""
        return Arena, ()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:  # -> shape
        """An array of zeros that begins at a cache line; its mapping is kept as long as an array in it is."""
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        size = -(-nbytes // LINE) * LINE
        with self._lock:
            if size > len(self._free):
                self._free = mapping(max(size, CHUNK))
            taken, self._free = self._free[:nbytes], self._free[size:]
        return taken.view(dtype).reshape(shape)


def mapping(size: int) -> np.ndarray:  # -> (size,)
    """So many bytes of zeros, from the beginning of a huge page on."""
    memory = mapped(size + PAGE)
    if hasattr(mmap, "MADV_HUGEPAGE"):  # Linux
        memory.madvise(mmap.MADV_HUGEPAGE)
    array = np.frombuffer(memory, np.uint8)
    start = -array.ctypes.data % PAGE
    return array[start : start + size]


def padded(inputs: int) -> int:
    """M': so many inputs, filled up to whole 32s."""
    return -(-inputs // INPUTS) * INPUTS


@dataclass(frozen=True)
class DenseLanes:
    """A float matrix of N outputs and M inputs in blocks of 64 outputs."""

    array: np.ndarray  # (J, M', 64) float32, bfloat16 or float16
    shape: tuple[int, int]  # (N, M)
    scheme: None = None

    @classmethod
    def pack(cls, matrix: FloatMatrix, dtype: Any, arena: Arena, write: Write | None = None) -> DenseLanes:
        """The floats of a matrix, a few rows at a time. Raises ModelError for one that dtype cannot hold.

        write: what `write_rows` is, compiled.
        """
        outputs, inputs = matrix.shape
        array = arena.empty((-(-outputs // LANES), padded(inputs), LANES), dtype)
        for first, rows in matrix.tiles():
            check_range(matrix, first, rows, dtype)
            (write or write_rows)(rows, first, array)
        return cls(array, matrix.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix, without padding: what a product needs to read."""
        return self.shape[0] * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes that looking up one output's weights reads."""
        return int(self.shape[1] * self.array.itemsize)

    def rows(self, ids: np.ndarray) -> np.ndarray:  # (T,) -> (T, M)
        return self.array[ids // LANES, : self.shape[1], ids % LANES].astype(np.float32)

    def dequantize(self, tile: slice) -> np.ndarray:  # -> (M, N)
        start, stop, _ = tile.indices(self.shape[0])
        blocks = slice(start // LANES, -(-stop // LANES))
        first = blocks.start * LANES
        return flat(self.array[blocks, : self.shape[1]])[:, start - first : stop - first].astype(np.float32)

    def matrix(self) -> Floats:
        return Floats("a weight in memory", flat(self.array[:, : self.shape[1]])[:, : self.shape[0]].T)


@dataclass(frozen=True)
class PackedLanes:
    """A quantized matrix of N outputs and M inputs, w = scale · code + minimum, G groups of inputs to an output.

    Codes are stored as code - scheme.lowest, from 0 on. A plane of p bits has M'·p/32 words for each output.
    """

    scheme: QuantScheme
    shape: tuple[int, int]  # (N, M)
    words: np.ndarray  # (J, W, 64) uint32: the low plane
    high: np.ndarray | None  # (J, W', 64) uint32: the high plane of 3, 5 and 6 bits
    scale: Scales  # (J, G, 64) float16, or Nested, both of whose arrays lie so
    minimum: Scales | None  # (J, G, 64) the same; None: symmetric

    @classmethod
    def pack(cls, matrix: QuantizedMatrix, arena: Arena) -> Self:
        """The codes, scales and minimums of a matrix in this layout."""
        low, high = PLANES[matrix.scheme.bits]
        blocks, width = -(-matrix.shape[0] // LANES), padded(matrix.shape[1])
        words, more = (arena.empty((blocks, width * bits // 32, LANES), np.uint32) for bits in (low, high))
        for first in range(0, blocks, TILE):
            tile = slice(first, first + TILE)
            codes = np.zeros((min(TILE, blocks - first) * LANES, width), np.uint8)  # (64·j, M')
            part = matrix.codes[first * LANES : (first + TILE) * LANES]  # (rows, M)
            np.subtract(part, matrix.scheme.lowest, out=codes[: len(part), : part.shape[1]], casting="unsafe")
            words[tile] = to_lanes(to_words(codes & np.uint8((1 << low) - 1), low))
            if high:
                more[tile] = to_lanes(to_words(codes >> np.uint8(low), high))

        def put(scales: np.ndarray) -> np.ndarray:  # (N, G) -> (J, G, 64)
            lanes = arena.empty((blocks, scales.shape[1], LANES), scales.dtype)
            lanes[...] = to_lanes(scales)
            return lanes

        scale, minimum = map_scales(matrix.scale, put), None
        if matrix.minimum is not None:
            minimum = map_scales(matrix.minimum, put)
        return cls(matrix.scheme, matrix.shape, words, more if high else None, scale, minimum)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and minimums of whole blocks; inputs that are only padding are not counted."""
        codes = packed_size(LANES, self.scheme.bits) * self.shape[1]
        return len(self.words) * (codes + LANES * self.scheme.scale_bytes(self.shape[1]))

    @property
    def row_bytes(self) -> int:
        """Bytes that looking up one output's weights reads: its codes, scales and minimums."""
        return packed_size(self.shape[1], self.scheme.bits) + self.scheme.scale_bytes(self.shape[1])

    def rows(self, ids: np.ndarray) -> np.ndarray:  # (T,) -> (T, M)
        return self.pick(ids).dequantize()

    def dequantize(self, tile: slice) -> np.ndarray:  # -> (M, N)
        return self.rows(np.arange(self.shape[0])[tile]).T

    def matrix(self) -> QuantizedMatrix:
        return self.pick(np.arange(self.shape[0]))

    def pick(self, ids: np.ndarray) -> QuantizedMatrix:  # (T,) ->
        """The outputs `ids` as a matrix of their own."""
        where = ids // LANES, slice(None), ids % LANES  # each output's block, and its place there
        low, high = PLANES[self.scheme.bits]
        codes = from_words(self.words[where], low).astype(np.int16)  # (T, M')
        if self.high is not None:
            codes |= from_words(self.high[where], high).astype(np.int16) << np.int16(low)
        codes += np.int16(self.scheme.lowest)
        scale, minimum = self.scale[where], None if self.minimum is None else self.minimum[where]  # (T, G), (T, G)
        return QuantizedMatrix(self.scheme, codes[:, : self.shape[1]], scale, minimum)


class PackedA8Lanes(PackedLanes):
    """The same, for products whose inputs are rounded to 8 bits group by group (int8_inputs.py)."""


class W8A8Lanes(PackedLanes):
    """8-bit codes with one scale for each output, whose inputs are rounded to 8 bits row by row: w = scale · code."""

    @classmethod
    def pack(cls, matrix: QuantizedMatrix, arena: Arena) -> Self:
        """The codes of a matrix. Raises ValueError for another scheme."""
        w = W8A8.pack(matrix, np)  # clips the codes, and knows which scheme it takes
        return super().pack(w.matrix(), arena)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales, without padding."""
        return self.shape[0] * self.row_bytes


def write_rows(rows: np.ndarray, first: int, lanes: np.ndarray) -> None:  # (n, M), (J, m, 64) ->
    """Writes rows as the outputs first ... first + n - 1 of the blocks of a float matrix, of m inputs padded."""
    for block, where, part in pieces(first, len(rows)):
        lanes[block, : rows.shape[1], where] = rows[part].T


def pieces(first: int, count: int) -> Iterator[tuple[int, slice, slice]]:
    """Outputs first ... first + count by blocks: the block, where in it, and which of the outputs."""
    stop = first + count
    while first < stop:
        block, lane = divmod(first, LANES)
        size = min(LANES - lane, stop - first)
        at = first - (stop - count)
        yield block, slice(lane, lane + size), slice(at, at + size)
        first += size


def flat(blocks: np.ndarray) -> np.ndarray:  # (J, n, 64) -> (n, 64*J)
    """Blocks of n columns beside one another: the columns that `to_lanes` made of rows."""
    return blocks.swapaxes(0, 1).reshape(blocks.shape[1], -1)


def to_words(codes: np.ndarray, bits: int) -> np.ndarray:  # (N, n) -> (N, n*bits/32)
    """n codes of 1, 2, 4 or 8 bits (uint8) for each output in words, as the head of this file says."""
    parts = codes.reshape(len(codes), -1, 8 // bits, 4)  # (N, W, 8/bits, 4): part h goes to bits bits·h of each byte
    words = np.zeros((*parts.shape[:2], 4), np.uint8)  # (N, W, 4), the lowest byte first
    for h in range(8 // bits):
        words |= parts[:, :, h] << np.uint8(bits * h)
    return words.view("<u4")[..., 0]


def from_words(words: np.ndarray, bits: int) -> np.ndarray:  # (N, n) -> (N, n*32/bits)
    """The codes in n words: the inverse of `to_words`."""
    packed = np.ascontiguousarray(words, "<u4").view(np.uint8).reshape(*words.shape, 1, 4)  # (N, W, 1, 4)
    shifts = bits * np.arange(8 // bits, dtype=np.uint8)[:, None]  # (8/bits, 1)
    return (packed >> shifts & np.uint8((1 << bits) - 1)).reshape(len(words), -1)
