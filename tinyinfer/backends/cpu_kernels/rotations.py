"""Cosines and sines of positions, kept: a decode step needs one row of them, and NumPy would take 20 us to make it.

Computed by ReferenceOps.cos_sin for 256 positions at a time, so every row has the reference's bits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from tinyinfer.model.weights import Rotation

CHUNK = 256  # positions that are computed together
KEPT = 64  # chunks

CosSin = Callable[[np.ndarray, np.ndarray, Rotation], tuple[np.ndarray, np.ndarray]]


class RotationTable:
    """Rows of cosines and sines of one rotation. cos_sin: the reference's formula."""

    def __init__(self, rotation: Rotation, cos_sin: CosSin) -> None:
        self.rotation, self.cos_sin = rotation, cos_sin
        self._chunks: OrderedDict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def fill(
        self, positions: np.ndarray, sets: np.ndarray, cos: np.ndarray, sin: np.ndarray
    ) -> None:  # (T,), (T,), (T, E), (T, E) ->
        """Writes the rows of these positions; many rows are computed at once."""
        if len(positions) > CHUNK:
            found = self.cos_sin(positions, sets, self.rotation)  # (T, 1, E), (T, 1, E)
            cos[:], sin[:] = found[0][:, 0], found[1][:, 0]
            return
        for row, (position, of) in enumerate(zip(positions.tolist(), sets.tolist(), strict=True)):
            chunk = self._chunk(of, position // CHUNK)
            cos[row], sin[row] = chunk[0][position % CHUNK], chunk[1][position % CHUNK]

    def _chunk(self, of: int, number: int) -> tuple[np.ndarray, np.ndarray]:  # -> (256, E), (256, E)
        key = (of, number)
        if key not in self._chunks:
            positions = np.arange(CHUNK) + CHUNK * number  # (256,)
            cos, sin = self.cos_sin(positions, np.full(CHUNK, of), self.rotation)  # (256, 1, E), (256, 1, E)
            self._chunks[key] = cos[:, 0], sin[:, 0]
            if len(self._chunks) > KEPT:
                self._chunks.popitem(last=False)
        return self._chunks[key]
