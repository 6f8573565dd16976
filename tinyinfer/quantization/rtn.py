"""The uniform grid: a group of weights becomes small whole numbers, a step and, unless symmetric, a minimum.

    w ≈ d · q + m

q has so many bits; d and m are float16 and belong to `group` consecutive inputs of one output. Asymmetric codes are
0 ... 2^bits - 1 and m is the group's minimum; symmetric ones are -2^(bits-1) ... 2^(bits-1) - 1 without m, and zero
stays zero. Round-to-nearest (RTN) fits the grid to each group's range and rounds; it needs no data. The other methods
(gptq.py, awq.py, hqq.py) choose codes or grids by what matters more than the single weight. Wins: bytes, and so the
time of whatever waits for memory. Loses: precision; a group's largest weight decides the step of all others.
"""

from __future__ import annotations

import numpy as np

from tinyinfer.model.weights import Codes, Grid, spread

HALF_MAX = 65504.0  # the largest float16
HALF_MIN = 6e-8  # about the smallest
TILE = 1 << 16  # weights rounded at a time: a quarter of a megabyte of float32


def round_to_nearest(w: np.ndarray, grid: Grid) -> Codes:  # (N, M) ->
    """Each group's range laid onto the grid, each weight rounded to the nearest code."""
    d, m = fit(w, grid)
    return Codes(grid, to_codes(w, d, m, grid), d, m)


def fit(w: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray | None]:  # (N, M) -> (N, G), (N, G) | None
    """The step and minimum of every group: its smallest and largest weight get the outermost codes."""
    starts = np.arange(0, w.shape[1], grid.group or w.shape[1])
    low, high = np.minimum.reduceat(w, starts, axis=1), np.maximum.reduceat(w, starts, axis=1)
    if grid.whole:
        low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
    if grid.symmetric:
        return half(np.maximum(high, -low) / grid.high), None
    m = half(low)
    return half((np.clip(high, None, HALF_MAX * grid.high) - m.astype(np.float32)) / grid.high), m


def to_codes(
    w: np.ndarray, d: np.ndarray, m: np.ndarray | None, grid: Grid
) -> np.ndarray:  # (N, M), (N, G), (N, G) | None -> (N, M)
    """The code nearest to each weight, given the steps and minimums that will be kept; some outputs at a time."""
    q = np.empty(w.shape, dtype=np.int16)
    count = max(1, TILE // w.shape[1])
    for start in range(0, len(w), count):
        rows = slice(start, start + count)
        step = spread(d[rows], grid, w.shape[1])
        x = w[rows] if m is None else w[rows] - spread(m[rows], grid, w.shape[1])
        exact = np.divide(x, step, out=np.zeros_like(x), where=step != 0)
        q[rows] = np.clip(np.rint(exact, out=exact), grid.low, grid.high, out=exact)
    return q


def half(x: np.ndarray) -> np.ndarray:  # (N, G) -> (N, G)
    """As float16, within its range."""
    return np.clip(x, -HALF_MAX, HALF_MAX).astype(np.float16)
