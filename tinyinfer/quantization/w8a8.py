"""W8A8: weights and activations in 8 bits, so that products are sums of whole numbers.

A row of activations gets one scale in each product, an output's weights got one at loading, and between the two only
integers are multiplied and added: y = (code_x · code_w) · scale_x · scale_w, the sum exact. Hardware has fast
instructions for that; each backend makes the sum exact in its own way (backends/).

Activations have a few channels that are a hundred times larger than the rest and leave these no resolution. The large
channels are the same at every token, so their size can be moved into the weights, which have resolution to spare:
x / s and W s with s = max|x|^a / max|W|^(1-a) (Xiao et al. 2023, SmoothQuant, equation 4), the division folded away
(folding.py); a, 0.5 in the paper, is searched for each layer.

Rounding counts for more than in floats. The layers' sums are exact, so that a batch changes nothing in them. But the
attention of several rows at once (a chunk, drafts, a preempted sequence computed again) has other last bits, and an
activation at the edge between two codes then gets the other code. That moves the codes of all layers behind it: with
drafts of 4, SmolLM2's logits move by up to 2.5, and 4 draws in 100 change, where floats change 2 in a million
(benchmarks/same_seed.py). So a seed seldom gives the same long text there.

Wins: half of bfloat16's bytes, and integer arithmetic where there is any. Loses: no time is won in NumPy; the same text
with drafts and without.
"""

from __future__ import annotations

import numpy as np

from tinyinfer.backends.packed import round_rows
from tinyinfer.model.quantized_matrix import W8A8_SCHEME
from tinyinfer.quantization.rtn import round_to_nearest

SHARES = tuple(i / 10 for i in range(1, 10))  # the a above: those that are tried


def search_scale(w: np.ndarray, sample: np.ndarray, largest: np.ndarray) -> np.ndarray:  # (N, M), (n, M), (M,) -> (M,)
    """The scale of inputs, maybe 1, after which the n rows of a sample come out best, each counted by its own size."""
    # Each (M,).
    scales = [np.ones(w.shape[1], dtype=np.float32), *(migrate(w, largest, share) for share in SHARES)]
    return scales[int(np.argmin([rounded_error(w, sample, scale) for scale in scales]))]


def rounded_error(w: np.ndarray, x: np.ndarray, scale: np.ndarray) -> float:  # (N, M), (n, M), (M,) ->
    """The squared errors of n rows' products after both roundings, each as a share of the product's square, summed."""
    y, rounded = x @ w.T, round_to_nearest(w * scale, W8A8_SCHEME)  # (n, N)
    codes, size = round_rows(x / scale, np)  # (n, M), (n, 1)
    error = (codes @ rounded.codes.T.astype(np.float32)) * size * rounded.scale.T.astype(np.float32) - y  # (n, N)
    square = np.vecdot(y, y)  # (n,)
    return float(np.divide(np.vecdot(error, error), square, out=np.zeros_like(square), where=square > 0).sum())


def migrate(w: np.ndarray, largest: np.ndarray, share: float) -> np.ndarray:  # (N, M), (M,) -> (M,)
    """SmoothQuant's scale: what an input is divided by, and its weights multiplied with.

    largest: of |x| for each input. An input or a column of weights that is always zero keeps scale 1.
    """
    columns = np.abs(w).max(axis=0)  # (M,)
    used = (largest > 0) & (columns > 0)  # (M,)
    scale = np.ones(len(columns), dtype=np.float32)  # (M,)
    scale[used] = largest[used] ** share / columns[used] ** (1 - share)
    return scale
