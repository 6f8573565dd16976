"""Round-to-nearest (RTN): each group of weights gets a uniform grid, and each weight the nearest point of the grid.

    w ≈ scale · code + minimum

A code has 2 to 8 bits. Scale and minimum are float16 and belong to `group_size` consecutive inputs of one output.
Asymmetric codes are 0 ... 2^bits - 1, and minimum is the group's smallest weight. Symmetric codes are -2^(bits-1) ...
2^(bits-1) - 1 without a minimum, and zero stays zero. RTN fits the grid to each group's range and needs no data. The
other methods (hqq.py, gptq.py, awq.py) choose grids or codes by more than the single weight. Wins: bytes, and so the
time of a product that waits for memory. Loses: precision; a group's largest weight decides the scale of all others.
"""

from __future__ import annotations

import numpy as np

from tinyinfer.arrays import HALF_MAX
from tinyinfer.model.quantized_matrix import QuantizedMatrix, QuantScheme, expand

HALF_MIN = 6e-8  # about the smallest float16
WEIGHT_TILE = 1 << 16  # weights rounded at a time: a quarter of a megabyte of float32


def round_to_nearest(w: np.ndarray, scheme: QuantScheme) -> QuantizedMatrix:  # (N, M) ->
    """Fits the grid to each group's range, and rounds each weight to the nearest code."""
    scale, minimum = fit(w, scheme)  # (N, G), (N, G)
    return QuantizedMatrix(scheme, to_codes(w, scale, minimum, scheme), scale, minimum)


def fit(
    w: np.ndarray, scheme: QuantScheme
) -> tuple[np.ndarray, np.ndarray | None]:  # (N, M) -> (N, G), (N, G) | None
    """The scale and minimum of every group: its smallest and largest weight get the outermost codes."""
    starts = np.arange(0, w.shape[1], scheme.group_size or w.shape[1])  # (G,)
    low, high = np.minimum.reduceat(w, starts, axis=1), np.maximum.reduceat(w, starts, axis=1)  # (N, G), (N, G)
    if scheme.per_tensor:
        low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
    if scheme.symmetric:
        return to_half(np.maximum(high, -low) / scheme.highest), None
    minimum = to_half(low)  # (N, G)
    return to_half((high - minimum.astype(np.float32)) / scheme.highest), minimum


def to_codes(
    w: np.ndarray, scale: np.ndarray, minimum: np.ndarray | None, scheme: QuantScheme
) -> np.ndarray:  # (N, M), (N, G), (N, G) | None -> (N, M)
    """The code nearest to each weight, given the scales and minimums that will be kept; some outputs at a time."""
    q = np.empty(w.shape, dtype=np.int16)  # (N, M)
    count = max(1, WEIGHT_TILE // w.shape[1])
    for start in range(0, len(w), count):
        rows = slice(start, start + count)
        divisor = expand(scale[rows], scheme, w.shape[1])  # (rows, M), 0 where all weights of a group are equal
        x = w[rows] if minimum is None else w[rows] - expand(minimum[rows], scheme, w.shape[1])  # (rows, M)
        exact = np.divide(x, divisor, out=np.zeros_like(x), where=divisor != 0)  # (rows, M)
        q[rows] = np.clip(np.rint(exact, out=exact), scheme.lowest, scheme.highest, out=exact)
    return q


def to_half(x: np.ndarray) -> np.ndarray:  # (N, G) -> (N, G)
    """The numbers as float16, clipped to its range."""
    return np.clip(x, -HALF_MAX, HALF_MAX).astype(np.float16)
