"""SparseGPT: removes one input's weights after another, and lets the inputs still to come make up for each removal.

GPTQ's step with zero as the only code (quantization/gptq.py): removing w[j] costs w[j]² / U[j, j]² in ‖(W - W') X‖²,
once the weights of all later inputs have moved by -w[j] / U[j, j] · U[j, j:], where UᵀU = H⁻¹ and H = X Xᵀ. So the cost
is the score, and of some inputs at a time, with the values that they have by then, the cheapest weights go (Frantar &
Alistarh 2023, SparseGPT, algorithm 1). Wins: the best of the methods that do not train. Loses: a minute instead of
seconds, and the weights are fitted to the text that is read: other text gains less.
"""

from __future__ import annotations

import numpy as np

from tinyinfer.pruning.patterns import Pattern
from tinyinfer.quantization.gptq import inverse_factor

BLOCK = 128  # inputs whose weights are compared with each other, as in the paper (section 3.2)


def sparsegpt(
    w: np.ndarray, hessian: np.ndarray, pattern: Pattern, damp: float = 0.01
) -> np.ndarray:  # (N, M), (M, M) -> (N, M)
    """The matrix with the cheapest weights zero and the others changed to make up for them.

    hessian: sum of x xᵀ over the inputs. damp: this share of the mean of its diagonal is added to it. Raises ValueError
    for a hessian that is not finite or, with damp 0, has no inverse.
    """
    factor = inverse_factor(hessian, damp)  # (M, M)
    columns = np.ascontiguousarray(w.T, dtype=np.float32)  # (M, N): an input's weights side by side
    group = pattern.kept_of[1] if pattern.kept_of else BLOCK
    size = max(1, BLOCK // group) * group  # inputs of a block: whole groups
    for start in range(0, len(columns), size):
        stop = min(start + size, len(columns))
        errors = prune_block(columns[start:stop], factor[start:stop, start:stop], pattern)
        columns[stop:] -= factor[start:stop, stop:].T @ errors  # the same for all inputs behind the block
    return np.ascontiguousarray(columns.T)


def prune_block(
    columns: np.ndarray, factor: np.ndarray, pattern: Pattern
) -> np.ndarray:  # (inputs, N), (inputs, inputs) -> (inputs, N)
    """Prunes some neighbouring inputs in place; returns the errors by which the inputs behind them are to be moved."""
    scale, errors = np.diag(factor), np.empty_like(columns)  # (inputs,), (inputs, N)
    group = pattern.kept_of[1] if pattern.kept_of else len(columns)
    for first in range(0, len(columns), group):
        part = slice(first, first + group)
        kept = pattern.kept((columns[part] / scale[part, None]).T ** 2).T  # (group, N), by the values of now
        for i, stays in enumerate(kept, first):  # stays: (N,)
            errors[i] = np.where(stays, np.float32(0), columns[i] / scale[i])
            columns[i] *= stays
            columns[i + 1 :] -= factor[i, i + 1 :, None] * errors[i]
    return errors
