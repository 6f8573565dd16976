"""Packed weights: quantized matrices as the backends lay them out in memory.

`Packed` holds codes of 8 to 2 bits with float activations (int8_inputs.py: with rounded ones); `W8A8` holds 8-bit
codes that are multiplied with 8-bit activations. Wins: bytes, and so the time of a compiled kernel that waits for
memory. Loses: in NumPy time, because codes must become floats before NumPy can multiply them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyinfer.arrays import Array, HoldsModule, Xp, to_host
from tinyinfer.backends.packing import LANES, pack, packed_size, pick, unpack
from tinyinfer.backends.rows_in_lanes import from_lanes, to_lanes
from tinyinfer.model.quantized_matrix import (
    W8A8_SCHEME,
    QuantizedMatrix,
    QuantScheme,
    Scales,
    float_scales,
    map_scales,
)

LARGEST = 127  # the largest code of W8A8 and of rounded activations, of either sign
SMALLEST = 2.0**-100  # activations are rounded as if one were at least so large, since 127 / 0 is no factor


@dataclass(frozen=True)
class Packed(HoldsModule):
    """A matrix of N outputs and M inputs as packed codes, w = scale · code + minimum.

    Memory layout: outputs in J blocks of 64, the last one zero-padded; inside a block input-major, so that a
    compiled kernel computes 64 outputs in one SIMD loop without a horizontal sum. G groups of inputs share scale and
    minimum. Codes are stored as code - scheme.lowest, from 0 on. Nested scales have their steps (J, S, 64) and their
    codes (J, G, 64) laid out in the same way.
    """

    scheme: QuantScheme
    shape: tuple[int, int]  # (N, M)
    codes: Array  # (J, M, C) uint8, C = 64·bits/8
    scale: Scales  # (J, G, 64) float16, or Nested
    minimum: Scales | None  # (J, G, 64) the same; None: symmetric
    xp: Xp

    @classmethod
    def pack(cls, matrix: QuantizedMatrix, xp: Xp) -> Packed:
        """The codes, scales and minimums of a matrix in this layout, in arrays of xp."""

        def blocked(array: np.ndarray, low: int = 0, dtype: Any = None) -> np.ndarray:  # (N, n) -> (J, n, 64)
            """The rows in lanes, from `low` on; n is M for codes and G for scales."""
            rows = np.empty(array.shape, dtype or array.dtype)  # (N, n)
            return to_lanes(np.subtract(array, low, out=rows, casting="unsafe"))  # cast on the way, not before

        def put(scales: np.ndarray) -> Array:  # (N, G) -> (J, G, 64)
            return xp.asarray(blocked(scales))

        scheme = matrix.scheme
        codes = pack(blocked(matrix.codes, scheme.lowest, np.uint8), scheme.bits, np)  # (J, M, C)
        minimum = None if matrix.minimum is None else map_scales(matrix.minimum, put)  # (J, G, 64)
        return cls(scheme, matrix.shape, xp.asarray(codes), map_scales(matrix.scale, put), minimum, xp)

    @property
    def nbytes(self) -> int:
        """Bytes held in memory: codes, scales and minimums."""
        return int(self.codes.nbytes + self.scale.nbytes + (0 if self.minimum is None else self.minimum.nbytes))

    @property
    def row_bytes(self) -> int:
        """Bytes that looking up one output's weights reads: its codes, scales and minimums."""
        return packed_size(self.shape[1], self.scheme.bits) + self.scheme.scale_bytes(self.shape[1])

    def rows(self, ids: Array) -> Array:  # (T,) -> (T, M)
        where = ids // LANES, ids % LANES  # (T,), (T,): each row's block, and its place there
        codes = pick(self.codes, self.scheme.bits, LANES, where, self.xp)  # (T, M)
        scale = self.scale[where[0], :, where[1]][..., None]  # (T, G, 1)
        minimum = None if self.minimum is None else self.minimum[where[0], :, where[1]][..., None]  # (T, G, 1)
        return self._restore(codes[..., None], scale, minimum)[..., 0]

    def dequantize(self, tile: slice) -> Array:  # -> (M, N)
        start, stop, _ = tile.indices(self.shape[0])
        blocks = slice(start // LANES, -(-stop // LANES))
        codes = unpack(self.codes[blocks], self.scheme.bits, LANES, self.xp)  # (J, M, 64)
        minimum = None if self.minimum is None else self.minimum[blocks]  # (J, G, 64)
        w = self._restore(codes, self.scale[blocks], minimum)  # (J, M, 64)
        first = blocks.start * LANES
        return w.swapaxes(0, 1).reshape(self.shape[1], -1)[:, start - first : stop - first]

    def matrix(self) -> QuantizedMatrix:
        def flat(array: Array) -> np.ndarray:  # (J, n, 64) -> (N, n)
            """The inverse of `to_lanes`; n is M for codes and G for scales."""
            return from_lanes(to_host(array), self.shape[0])

        codes = flat(unpack(self.codes, self.scheme.bits, LANES, self.xp)).astype(np.int16)  # (N, M)
        codes += np.int16(self.scheme.lowest)
        minimum = None if self.minimum is None else map_scales(self.minimum, flat)  # (N, G)
        return QuantizedMatrix(self.scheme, codes, map_scales(self.scale, flat), minimum)

    def _restore(
        self, codes: Array, scale: Scales, minimum: Scales | None
    ) -> Array:  # (n, M, j), (n, G, j), (n, G, j) | None -> (n, M, j)
        """scale · code + minimum of n blocks of j outputs (64), or of n looked-up rows (j = 1).

        A last group that is shorter than the others is restored by itself.
        """
        xp, inputs = self.xp, codes.shape[1]
        group = self.scheme.group_size or inputs
        whole = inputs // group
        w = xp.add(codes, xp.float32(self.scheme.lowest), dtype=xp.float32)  # (n, M, j)
        scale = float_scales(scale)  # (n, G, j), at once: mixed operands are converted in pieces, 8x slower
        minimum = None if minimum is None else float_scales(minimum)  # (n, G, j)
        # part: (n, inputs, j), a view of w
        for groups, part in (slice(whole), w[:, : whole * group]), (slice(whole, None), w[:, whole * group :]):
            if part.shape[1]:
                grouped = part.reshape(len(w), -1, min(group, part.shape[1]), w.shape[2])  # (n, G, M/G, j)
                grouped *= scale[:, groups, None]  # changes w: to split an axis gives a view
                if minimum is not None:
                    grouped += minimum[:, groups, None]
        return w


@dataclass(frozen=True)
class W8A8:
    """A matrix of N outputs and M inputs in 8 bits, whose inputs are rounded to 8 bits too: w = scale · code."""

    codes: Array  # (M, N) int8, -127 ... 127
    scale: Array  # (N,) float16
    scheme: QuantScheme = W8A8_SCHEME

    @classmethod
    def pack(cls, matrix: QuantizedMatrix, xp: Xp) -> W8A8:
        """The codes of a matrix, symmetric, one scale for each output. Raises ValueError for another scheme."""
        if matrix.scheme != W8A8_SCHEME:
            raise ValueError(f"w8a8 needs 8 symmetric bits and one scale for each output, not {matrix.scheme}")
        codes = np.clip(matrix.codes, -LARGEST, LARGEST).astype(np.int8)  # (N, M), no -128: a product is at most 127²
        return cls(xp.asarray(np.ascontiguousarray(codes.T)), xp.asarray(matrix.scale[:, 0]))

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[1], self.codes.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes held in memory: codes and scales."""
        return int(self.codes.nbytes + self.scale.nbytes)

    @property
    def row_bytes(self) -> int:
        """Bytes that looking up one output's weights reads."""
        return int(self.codes.shape[0] + self.scale.itemsize)

    def rows(self, ids: Array) -> Array:  # (T,) -> (T, M)
        return self.codes[:, ids].T.astype("float32", order="C") * self.scale[ids][:, None].astype("float32")

    def dequantize(self, tile: slice) -> Array:  # -> (M, N)
        return self.codes[:, tile].astype("float32") * self.scale[tile].astype("float32")

    def matrix(self) -> QuantizedMatrix:
        return QuantizedMatrix(W8A8_SCHEME, to_host(self.codes).T.astype(np.int16), to_host(self.scale)[:, None], None)


def round_rows(x: Array, xp: Xp) -> tuple[Array, Array]:  # (T, M) -> (T, M), (T, 1)
    """Each row of activations as whole numbers -127 ... 127, in float32, and the scale that restores the row."""
    return round_groups(x, None, xp)


def round_groups(x: Array, group: int | None, xp: Xp) -> tuple[Array, Array]:  # (T, M) -> (T, M), (T, G)
    """Each row of activations as whole numbers -127 ... 127, in float32, and the scale that restores each group.

    group: consecutive inputs that share a scale, of which the last group may have fewer; None: all inputs. In float32,
    each step rounded to nearest, so that a compiled loop gives the same whole numbers:

        S = max(SMALLEST, |x| of the group)    code = rint(x · (127 / S)), half to even    scale = S / 127

    127 / S is rounded before x is multiplied, and no code is beyond 127. S is NaN or infinite where an x is, and so is
    the scale; the codes are then without meaning.
    """
    rows, inputs = x.shape
    size = group or inputs
    groups = -(-inputs // size)
    full = xp.zeros((rows, groups * size), dtype=xp.float32)  # (T, M and zeros)
    full[:, :inputs] = x
    grouped = full.reshape(rows, groups, size)  # (T, G, M/G)
    largest = xp.maximum(xp.abs(grouped).max(axis=2), xp.float32(SMALLEST))  # (T, G)
    codes = xp.rint(grouped * (xp.float32(LARGEST) / largest)[..., None])  # (T, G, M/G)
    return codes.reshape(full.shape)[:, :inputs], largest / xp.float32(LARGEST)
