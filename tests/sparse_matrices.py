"""Random matrices of which 2 of every 4 weights are kept, and their weights in lanes."""

from __future__ import annotations

import numpy as np

from tinyinfer.backends.lanes import Arena
from tinyinfer.backends.sparse_lanes import TwoOfFourLanes
from tinyinfer.model.weights import TWO_OF_FOUR, Floats, SparseMatrix


def two_of_four(n: int, m: int) -> np.ndarray:
    """Random weights of which two of four are zero; of some fours one more, or all."""
    rng = np.random.default_rng(n)
    w = rng.standard_normal((n, m)).astype(np.float32)  # (N, M)
    order = np.argsort(rng.random((n, m // 4, 4)), axis=2)
    np.put_along_axis(w.reshape(n, -1, 4), order[..., :2], 0, axis=2)
    w[rng.random(w.shape) < 0.1] = 0
    w[n // 2] = 0
    return w


def packed(w: np.ndarray, dtype: type = np.float32) -> TwoOfFourLanes:
    """The matrix as compiled kernels read it."""
    return TwoOfFourLanes.pack(SparseMatrix(Floats("w", w), TWO_OF_FOUR), np.dtype(dtype), Arena())
