"""W8A8: weights and activations in 8 bits, so that products are sums of whole numbers.

A row of activations gets one scale when it comes by, an output's weights have had one since loading, and between them
only integers are multiplied and added: y = (q_x · q_w) · d_x · d_w, the sum exact. Hardware has fast instructions for
that; NumPy has none, but a float32 product of integers is exact as long as every partial sum stays below 2^24, and
127² · 1040 does. So longer rows are cut into slices of 1040, whose sums are added as integers.

Activations have a few channels that are a hundred times larger than the rest and leave these no resolution. They are
the same channels at every token, so their size can be moved into the weights, which have resolution to spare:
x / s and W s with s = max|x|^a / max|W|^(1-a) (Xiao et al. 2023, SmoothQuant, equation 4), the division folded away
(folding.py); a, 0.5 in the paper, is searched for each layer. Wins: half of bfloat16's bytes, and integer arithmetic
where there is any. Loses: no time is won in NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyinfer.quantization.grid import Codes, Grid, round_to_nearest
from tinyinfer.weights import Array

LIMIT = 127  # the largest code, of either sign
SLICE = 1040  # inputs whose products sum exactly in float32: 127² · 1040 < 2^24
TILE = 1 << 18  # numbers of a weight widened at a time: a megabyte of float32
SHARES = tuple(i / 10 for i in range(1, 10))  # the a above: those that are tried
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


def search_scale(w: np.ndarray, sample: np.ndarray, largest: np.ndarray) -> np.ndarray:  # (N, M), (n, M), (M,) -> (M,)
    """The migration, or none, after which the rows of a sample come out best, each counted by its own size."""
    scales = [np.ones(w.shape[1], dtype=np.float32), *(migrate(w, largest, share) for share in SHARES)]
    return scales[int(np.argmin([rounded_error(w, sample, scale) for scale in scales]))]


def rounded_error(w: np.ndarray, x: np.ndarray, scale: np.ndarray) -> float:  # (N, M), (n, M), (M,) ->
    """The squared error of each row's product after both roundings, as a share of the row's own square, summed."""
    y, weight = x @ w.T, W8A8.pack(round_to_nearest(w * scale, GRID), np)
    error = w8a8_product(x / scale, weight) - y
    size = np.vecdot(y, y)
    return float(np.divide(np.vecdot(error, error), size, out=np.zeros_like(size), where=size > 0).sum())


def migrate(w: np.ndarray, largest: np.ndarray, share: float) -> np.ndarray:  # (N, M), (M,) -> (M,)
    """SmoothQuant's scale: what an input is divided by, and its weights multiplied with.

    largest: of |x| for each input. An input or a column of weights that is always zero keeps scale 1.
    """
    columns = np.abs(w).max(axis=0)
    used = (largest > 0) & (columns > 0)
    scale = np.ones(len(columns), dtype=np.float32)
    scale[used] = largest[used] ** share / columns[used] ** (1 - share)
    return scale
