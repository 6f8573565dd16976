"""Magnitude pruning: the smallest weights go.

A weight near zero changes an output little, whatever its input is; so the score is |w|, and the weights of a whole
matrix are compared (Han et al. 2015, section 3). Wins: no text is read, and so it takes seconds; the yardstick of every
other method. Loses: inputs differ in size by a factor of a hundred in a language model, and a small weight of a large
input is not small: half of SmolLM2's weights removed so leave nothing that can be used, where wanda.py leaves a model.
"""

from __future__ import annotations

import numpy as np

from tinyinfer.pruning.patterns import Pattern


def magnitude(w: np.ndarray, pattern: Pattern) -> np.ndarray:  # (N, M) -> (N, M)
    """The matrix with its smallest weights set to zero; the others stay as they are."""
    return np.where(pattern.kept(np.abs(w)), w, np.float32(0))
