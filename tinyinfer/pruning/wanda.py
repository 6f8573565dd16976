"""Wanda: the weights go that move an output least, given how large their inputs are.

The score of a weight is |w| · ‖x‖, the norm of its input over some text, and the weights of one output are compared
with each other only (Sun et al. 2024, A Simple and Effective Pruning Approach for Large Language Models, equation 1 and
section 3). With inputs that do not hang together, that is the least loss that a choice of weights alone can have. Wins:
as fast as reading the text; the weights that stay keep their values. Loses: inputs do hang together, and what a removed
weight did could be done by others in part: sparsegpt.py.
"""

from __future__ import annotations

import numpy as np

from tinyinfer.pruning.patterns import Pattern, lowest


def wanda(w: np.ndarray, hessian: np.ndarray, pattern: Pattern) -> np.ndarray:  # (N, M), (M, M) -> (N, M)
    """The matrix with the weights of the lowest scores set to zero. hessian: sum of x xᵀ over the inputs."""
    scores = np.abs(w) * np.sqrt(np.diag(hessian))  # (N, M)
    kept = pattern.kept(scores) if pattern.kept_of else ~lowest(scores, pattern.share)  # (N, M)
    return np.where(kept, w, np.float32(0))
