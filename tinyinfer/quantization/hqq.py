"""HQQ: a better grid without any data. Most weights are ordinary, a few are far out, and these need not fit well.

Round-to-nearest gives each group's smallest and largest weight the outermost codes, and all others what this leaves.
HQQ asks for a small sum of |error|^p, p < 2, which a few large errors raise less, and finds the grid by taking turns
(half-quadratic; Badri & Shaji 2023): which part of each error is an outlier, to be left out (generalized soft
thresholding), and then which minimum and scale fit what is left best, by least squares. The authors take p = 0.7 for
large models, which have more outliers. In SmolLM2 (int4, groups of 64, 4,096 tokens of WikiText-2 from its end) that
leaves 70% of round-to-nearest's loss in perplexity, p = 1.5 63%, and p = 2, which knows no outliers, 61%. Wins:
seconds, and no text that could be the wrong one. Loses: it knows nothing of which inputs matter; GPTQ and AWQ do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyinfer.model.quantized_matrix import QuantizedMatrix, QuantScheme, expand
from tinyinfer.quantization.rtn import WEIGHT_TILE, fit, to_codes, to_half

P = 1.5  # of the norm
BETA = 2.0  # where outliers begin: here with errors of a quarter of the scale; the larger, the more is left out
ROUNDS = 20  # turns at most


def hqq(w: np.ndarray, scheme: QuantScheme, rounds: int = ROUNDS) -> QuantizedMatrix:  # (N, M) ->
    """The codes of w on grids that make each group's sum of |error|^p small; never larger than round-to-nearest's.

    A symmetric grid has no minimum, so only its scale is fitted. Raises ValueError for one grid over the whole matrix.
    """
    if scheme.per_tensor:
        raise ValueError("hqq fits a grid to each group, not one to the whole matrix; choose groups, or rtn")
    rows = max(1, WEIGHT_TILE // w.shape[1])
    parts = [improve(w[start : start + rows], scheme, rounds) for start in range(0, len(w), rows)]
    q, scale = (np.concatenate([part[i] for part in parts]) for i in (0, 1))  # (N, M), (N, G)
    minimum = None if scheme.symmetric else np.concatenate([part[2] for part in parts])  # (N, G)
    return QuantizedMatrix(scheme, q, scale, minimum)


def improve(w: np.ndarray, scheme: QuantScheme, rounds: int) -> tuple[np.ndarray, np.ndarray, Any]:
    """Codes, scales and minimums of some rows (N, M): round-to-nearest's, refitted as long as a group's loss falls."""
    scale, minimum = fit(w, scheme)  # (N, G), (N, G)
    q, loss, error = round_and_measure(w, scale, minimum, scheme)  # (N, M), (N, G), (N, M)
    for _ in range(rounds):
        ordinary = w - outliers(error, expand(scale, scheme, w.shape[1]))  # (N, M)
        new_scale, new_minimum = refit(ordinary, q, scale, minimum, scheme)  # (N, G), (N, G)
        # (N, M), (N, G), (N, M)
        new_q, new_loss, new_error = round_and_measure(w, new_scale, new_minimum, scheme)
        better = new_loss < loss  # (N, G): each group keeps the best scale that it had
        if not better.any():
            break
        scale = np.where(better, new_scale, scale)  # (N, G)
        minimum = None if minimum is None or new_minimum is None else np.where(better, new_minimum, minimum)
        loss, wide = np.where(better, new_loss, loss), expand(better, scheme, w.shape[1]) > 0  # (N, G), (N, M)
        q, error = np.where(wide, new_q, q), np.where(wide, new_error, error)  # (N, M), (N, M)
    return q, scale, minimum


def round_and_measure(
    w: np.ndarray, scale: np.ndarray, minimum: np.ndarray | None, scheme: QuantScheme
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # (N, M), (N, G), (N, G) -> (N, M), (N, G), (N, M)
    """Rounds w to the codes of this grid; returns the codes, each group's sum of |error|^p, and the errors."""
    q = to_codes(w, scale, minimum, scheme)  # (N, M)
    error = w - QuantizedMatrix(scheme, q, scale, minimum).dequantize()  # (N, M)
    return q, group_sums(np.abs(error) ** np.float32(P), scheme), error


def outliers(error: np.ndarray, scale: np.ndarray) -> np.ndarray:  # (N, M), (N, M) -> (N, M)
    """The part of each error that is left out: sign(e) · max(|e| - |e|^(p-1) / beta, 0), |e| in units of the scale."""
    size = np.abs(error) / np.maximum(scale, np.finfo(np.float32).tiny)  # (N, M)
    size = np.maximum(size, np.float32(1e-6))  # with p < 1 the power is negative, and 0 has none
    kept = np.maximum(size - size ** np.float32(P - 1) / np.float32(BETA), 0)  # (N, M)
    return np.sign(error) * kept * scale


def refit(
    w: np.ndarray, q: np.ndarray, scale: np.ndarray, minimum: np.ndarray | None, scheme: QuantScheme
) -> tuple[np.ndarray, np.ndarray | None]:  # (N, M), (N, M), (N, G), (N, G) -> (N, G), (N, G)
    """The scales and minimums of least squares for these codes; a group whose codes are all equal keeps its scale."""
    q = q.astype(np.float32)  # (N, M)
    if minimum is None:
        return slope(group_sums(w * q, scheme), group_sums(q * q, scheme), scale), None
    count = group_sums(np.ones_like(w[:1]), scheme)  # (1, G): the last group may be shorter
    mean_w, mean_q = group_sums(w, scheme) / count, group_sums(q, scheme) / count  # (N, G), (N, G)
    w, q = w - expand(mean_w, scheme, w.shape[1]), q - expand(mean_q, scheme, w.shape[1])  # (N, M), (N, M)
    scale = slope(group_sums(w * q, scheme), group_sums(q * q, scheme), scale)  # (N, G)
    return scale, to_half(mean_w - scale * mean_q)


def slope(
    products: np.ndarray, squares: np.ndarray, scale: np.ndarray
) -> np.ndarray:  # (N, G), (N, G), (N, G) -> (N, G)
    """Σwq / Σq², or the scale as it was where there is nothing to divide by."""
    return to_half(np.divide(products, squares, out=scale.astype(np.float32), where=squares > 0))


def group_sums(x: np.ndarray, scheme: QuantScheme) -> np.ndarray:  # (N, M) -> (N, G)
    """The sum of each group of inputs."""
    # reduceat sums from each start to the next one, so that a shorter last group needs no padding.
    return np.add.reduceat(x, np.arange(0, x.shape[1], scheme.group_size or x.shape[1]), axis=1)
