"""AWQ: the weights of the inputs that matter are rounded more finely, because they are scaled up first.

One in a hundred inputs carries most of a layer's output. Multiplying such an input's weights by s > 1 (and dividing
the input by s, which costs nothing, see folding.py) makes their rounding errors s times smaller, as long as they do
not become their group's largest and widen its scale. How far to go is searched: s = mean|x|^a, with the a between 0
(plain rounding) and 1 whose output is closest to the float layer's (Lin et al. 2024, AWQ, equations 4 and 5). Wins:
costs nothing at inference, and hardly overfits its text, of which it learns only the sizes of inputs; of SmolLM2's loss
in perplexity (int4, groups of 64) three quarters are gone. Loses: only inputs whose division can be folded away gain
(not those of `o` with grouped queries: with one scale for all queries of a key head, SmolLM2 lost more), and no weight
makes up for another, as in GPTQ.
"""

from __future__ import annotations

import numpy as np

from tinyinfer.model.quantized_matrix import QuantizedMatrix, QuantScheme
from tinyinfer.quantization.rtn import round_to_nearest

STEPS = 20  # how many exponents a are tried: 0, 1/20 ... 19/20, as in the paper


def search_scales(
    w: np.ndarray, hessian: np.ndarray, mean: np.ndarray, scheme: QuantScheme
) -> np.ndarray:  # (N, M), (M, M), (M,) -> (M,)
    """The scale of each input that makes the layer's rounded output best; all 1 when no other helps.

    hessian: sum of x xᵀ over the inputs. mean: of |x| for each input.
    """
    tried = [input_scale(mean, i / STEPS) for i in range(STEPS)]  # each (M,)
    errors = [scaled_error(w, scale, hessian, scheme) for scale in tried]
    return tried[int(np.argmin(errors))]


def input_scale(mean: np.ndarray, exponent: float) -> np.ndarray:  # (M,) -> (M,)
    """mean^exponent, brought to lie around 1; inputs that are always zero count as the smallest that is not."""
    if not mean.any():
        return np.ones(len(mean), dtype=np.float32)
    scale = np.maximum(mean, mean[mean > 0].min()) ** exponent  # (M,)
    return (scale / np.sqrt(scale.max() * scale.min())).astype(np.float32)


def scaled_error(
    w: np.ndarray, scale: np.ndarray, hessian: np.ndarray, scheme: QuantScheme
) -> float:  # (N, M), (M,), (M, M) ->
    """‖(W - Q) X‖² of the whole layer, Q being W scaled, rounded and scaled back."""
    error = w - round_to_nearest(w * scale, scheme).dequantize() / scale  # (N, M)
    return float(np.vdot(error.T @ error, hessian))  # tr(E H Eᵀ), with the product that BLAS knows to be symmetric


def awq(
    w: np.ndarray, hessian: np.ndarray, mean: np.ndarray, scheme: QuantScheme
) -> tuple[QuantizedMatrix, np.ndarray]:  # (N, M), (M, M), (M,) ->
    """The codes of w times the best scale, and that scale (M,), by which the inputs are to be divided."""
    scale = search_scales(w, hessian, mean, scheme)  # (M,)
    return round_to_nearest(w * scale, scheme), scale
