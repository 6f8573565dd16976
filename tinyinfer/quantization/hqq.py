"""HQQ: a better grid without any data. Most weights are ordinary, a few are far out, and these need not fit well.

Round-to-nearest gives each group's smallest and largest weight the outermost codes, and all others what this leaves.
HQQ asks for a small sum of |error|^p, p < 2, which a few large errors raise less, and finds the grid by taking turns
(half-quadratic; Badri & Shaji 2023): which part of each error is an outlier, to be left out (generalized soft
thresholding), and then which minimum and step fit what is left best, by least squares. The authors take p = 0.7 for
large models, which have more outliers. In SmolLM2 (int4, groups of 64, 4,096 tokens of WikiText-2 from its end) that
leaves 70% of round-to-nearest's loss in perplexity, p = 1.5 63%, and p = 2, which knows no outliers, 61%. Wins:
seconds, and no text that could be the wrong one. Loses: it knows nothing of which inputs matter; GPTQ and AWQ do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyinfer.model.weights import Codes, Grid, spread
from tinyinfer.quantization.rtn import fit, half, to_codes

P = 1.5  # of the norm
BETA = 2.0  # where outliers begin: here with errors of a quarter of a step; the larger, the more is left out
ROUNDS = 20  # turns at most
TILE = 1 << 16  # weights worked on at a time: they stay in a core's cache


def hqq(w: np.ndarray, grid: Grid, rounds: int = ROUNDS) -> Codes:  # (N, M) ->
    """The codes of w on grids that make each group's sum of |error|^p small; never larger than round-to-nearest's.

    A symmetric grid has no minimum, so only its step is fitted. Raises ValueError for one grid over the whole matrix.
    """
    if grid.whole:
        raise ValueError("hqq fits a grid to each group; with group_size=tensor choose rtn")
    rows = max(1, TILE // w.shape[1])
    parts = [improve(w[start : start + rows], grid, rounds) for start in range(0, len(w), rows)]
    q, d = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    m = None if grid.symmetric else np.concatenate([part[2] for part in parts])
    return Codes(grid, q, d, m)


def improve(w: np.ndarray, grid: Grid, rounds: int) -> tuple[np.ndarray, np.ndarray, Any]:
    """Codes, steps and minimums of some rows (N, M): round-to-nearest's, refitted as long as a group's loss falls."""
    d, m = fit(w, grid)
    q, loss, error = judge(w, d, m, grid)
    for _ in range(rounds):
        new_d, new_m = refit(w - outliers(error, spread(d, grid, w.shape[1])), q, d, m, grid)
        new_q, new_loss, new_error = judge(w, new_d, new_m, grid)
        better = new_loss < loss
        if not better.any():
            break
        d = np.where(better, new_d, d)
        m = None if m is None or new_m is None else np.where(better, new_m, m)
        loss, wide = np.where(better, new_loss, loss), spread(better, grid, w.shape[1]) > 0
        q, error = np.where(wide, new_q, q), np.where(wide, new_error, error)
    return q, d, m


def judge(
    w: np.ndarray, d: np.ndarray, m: np.ndarray | None, grid: Grid
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # (N, M), (N, G), (N, G) -> (N, M), (N, G), (N, M)
    """The codes on this grid, each group's sum of |error|^p, and the errors."""
    q = to_codes(w, d, m, grid)
    error = w - Codes(grid, q, d, m).dequantize()
    return q, group_sums(np.abs(error) ** np.float32(P), grid), error


def outliers(error: np.ndarray, step: np.ndarray) -> np.ndarray:  # (N, M), (N, M) -> (N, M)
    """The part of each error that is left out: sign(e) · max(|e| - |e|^(p-1) / beta, 0), |e| counted in steps."""
    size = np.abs(error) / np.maximum(step, np.finfo(np.float32).tiny)
    size = np.maximum(size, np.float32(1e-6))
    kept = np.maximum(size - size ** np.float32(P - 1) / np.float32(BETA), 0)
    return np.sign(error) * kept * step


def refit(
    w: np.ndarray, q: np.ndarray, d: np.ndarray, m: np.ndarray | None, grid: Grid
) -> tuple[np.ndarray, np.ndarray | None]:  # (N, M), (N, M), (N, G), (N, G) -> (N, G), (N, G)
    """The steps and minimums of least squares for these codes; a group whose codes are all equal keeps its step."""
    q = q.astype(np.float32)
    if m is None:
        return slope(group_sums(w * q, grid), group_sums(q * q, grid), d), None
    count = group_sums(np.ones_like(w[:1]), grid)
    mean_w, mean_q = group_sums(w, grid) / count, group_sums(q, grid) / count
    w, q = w - spread(mean_w, grid, w.shape[1]), q - spread(mean_q, grid, w.shape[1])
    d = slope(group_sums(w * q, grid), group_sums(q * q, grid), d)
    return d, half(mean_w - d * mean_q)


def slope(products: np.ndarray, squares: np.ndarray, d: np.ndarray) -> np.ndarray:  # (N, G), (N, G), (N, G) -> (N, G)
    """Σwq / Σq², or the step as it was where there is nothing to divide by."""
    return half(np.divide(products, squares, out=d.astype(np.float32), where=squares > 0))


def group_sums(x: np.ndarray, grid: Grid) -> np.ndarray:  # (N, M) -> (N, G)
    """The sum of each group of inputs."""
    return np.add.reduceat(x, np.arange(0, x.shape[1], grid.group or x.shape[1]), axis=1)
