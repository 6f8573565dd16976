"""Packed weights as the GPU reads them: codes of 8 to 2 bits row by row, w = scale · code + minimum.

`packed.Packed` lies in blocks of 64 outputs, because a core of a CPU computes many outputs at once. On a GPU
neighbouring threads read neighbouring bytes, so one output's codes lie in a row, and a product (kernels/product.cuh)
reads the row in pieces of 16 bytes. Wins: bytes, and so the time of a decode step. Loses: in products of many rows,
which multiply floats that `dequantize` makes again, and where a row of codes is no whole number of pieces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyinfer.arrays import Array, HoldsModule, Xp, to_host
from tinyinfer.backends.packing import pack, packed_size, unpack
from tinyinfer.model.quantized_matrix import QuantizedMatrix, QuantScheme, Scales, float_scales, map_scales

FILL = 8  # inputs: each row is filled up to a multiple of 8 codes, which are whole bytes whatever the bits


@dataclass(frozen=True)
class PackedRows(HoldsModule):
    """A matrix of N outputs and M inputs as packed codes. Codes are stored as code - scheme.lowest, from 0 on.

    C = ceil(M / 8) · bits, bytes of a row. Byte c holds the codes of inputs c, c + C, c + 2C ... (packing.py; of 3
    bits, the two low ones in the first two thirds of the row and the high one in the last). G groups of inputs share
    scale and minimum, which may be nested.
    """

    scheme: QuantScheme
    shape: tuple[int, int]  # (N, M)
    codes: Array  # (N, C) uint8
    scale: Scales  # (N, G) float16, or Nested
    minimum: Scales | None  # (N, G) the same; None: symmetric
    xp: Xp

    @classmethod
    def pack(cls, matrix: QuantizedMatrix, xp: Xp) -> PackedRows:
        """The codes, scales and minimums of a matrix in this layout, in arrays of xp."""
        outputs, inputs = matrix.shape
        full = np.zeros((outputs, -(-inputs // FILL) * FILL), dtype=np.uint8)
        np.subtract(matrix.codes, matrix.scheme.lowest, out=full[:, :inputs], casting="unsafe")

        def put(array: np.ndarray) -> Array:
            return xp.asarray(np.ascontiguousarray(array))

        codes, scale = put(pack(full, matrix.scheme.bits, np)), map_scales(matrix.scale, put)  # (N, C), (N, G)
        minimum = None if matrix.minimum is None else map_scales(matrix.minimum, put)  # (N, G)
        return cls(matrix.scheme, matrix.shape, codes, scale, minimum, xp)

    @property
    def nbytes(self) -> int:
        """Bytes held in memory: codes, scales and minimums."""
        return self.shape[0] * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes that looking up one output's weights reads: its codes, scales and minimums."""
        codes = packed_size(-(-self.shape[1] // FILL) * FILL, self.scheme.bits)
        return codes + self.scheme.scale_bytes(self.shape[1])

    def rows(self, ids: Array) -> Array:  # (T,) -> (T, M)
        minimum = None if self.minimum is None else self.minimum[ids]  # (T, G)
        return self._restore(self.codes[ids], self.scale[ids], minimum)

    def dequantize(self, tile: slice) -> Array:  # -> (M, N)
        minimum = None if self.minimum is None else self.minimum[tile]  # (N, G)
        return self._restore(self.codes[tile], self.scale[tile], minimum).T

    def matrix(self) -> QuantizedMatrix:
        codes = to_host(self._unpack(self.codes)).astype(np.int16)  # (N, M)
        codes += np.int16(self.scheme.lowest)
        minimum = None if self.minimum is None else map_scales(self.minimum, to_host)  # (N, G)
        return QuantizedMatrix(self.scheme, codes, map_scales(self.scale, to_host), minimum)

    def _unpack(self, codes: Array) -> Array:  # (n, C) -> (n, M)
        """The codes of n rows, from 0 on."""
        inputs = self.shape[1]
        return unpack(codes, self.scheme.bits, -(-inputs // FILL) * FILL, self.xp)[:, :inputs]

    def _restore(
        self, codes: Array, scale: Scales, minimum: Scales | None
    ) -> Array:  # (n, C), (n, G), (n, G) | None -> (n, M)
        """scale · code + minimum of n rows; the last group may be shorter than the others."""
        xp, inputs = self.xp, self.shape[1]
        w = xp.add(self._unpack(codes), xp.float32(self.scheme.lowest), dtype=xp.float32)  # (n, M)
        group = xp.arange(inputs) // (self.scheme.group_size or inputs)  # (M,): the group of each input
        w *= float_scales(scale)[:, group]
        if minimum is not None:
            w += float_scales(minimum)[:, group]
        return w
