"""Which weights go, once each has a score: those with the lowest, in one of two patterns.

    0.5     this share of the weights that are compared, wherever they stand
    2:4     of every 4 neighbouring inputs of an output the best 2 stay: N:M keeps N of M (Mishra et al. 2021)

A share gives the method the most freedom, and any loss of it shows: 2:4 removes as much and hurts more. A kernel gains
from 2:4 only, because every 4 inputs then have their 2 weights at a known place (backends/sparse.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyinfer.pruning.switches import read_sparsity


@dataclass(frozen=True)
class Pattern:
    """A share of weights that go; kept_of: (N, M), N of every M neighbouring inputs stay, and share is 1 - N/M."""

    share: float
    kept_of: tuple[int, int] | None = None

    def divides(self, inputs: int) -> bool:
        """Whether a matrix with so many inputs can have the pattern."""
        return self.kept_of is None or inputs % self.kept_of[1] == 0

    def kept(self, scores: np.ndarray) -> np.ndarray:  # (N, M) -> (N, M)
        """True for the weights that stay: of those compared (all of them, or M neighbours) the ones that score high.

        Of equal scores the first ones go. Raises ValueError for a number of inputs that the pattern does not divide.
        """
        if self.kept_of is None:
            return ~lowest(scores.reshape(-1), self.share).reshape(scores.shape)
        keep, group = self.kept_of
        if not self.divides(scores.shape[1]):
            raise ValueError(f"{keep}:{group} needs a multiple of {group} inputs, not {scores.shape[1]}")
        groups = scores.reshape(len(scores), -1, group)  # (N, M/group, group)
        return ~lowest(groups, 1 - keep / group).reshape(scores.shape)


def lowest(scores: np.ndarray, share: float) -> np.ndarray:  # (...,) -> (...,)
    """True for this share of the scores along the last axis, rounded down to whole scores: the lowest."""
    count = int(scores.shape[-1] * share + 1e-6)  # 0.29 of 100 is 29, though 100 * 0.29 is a little less
    found = np.zeros(scores.shape, dtype=bool)  # (...,)
    np.put_along_axis(found, np.argsort(scores, axis=-1, kind="stable")[..., :count], True, axis=-1)
    return found


def read_pattern(text: str | float) -> Pattern:
    """The pattern that "0.5" or "2:4" means. Raises ValueError, saying what is wrong, for any other text."""
    return Pattern(*read_sparsity(text))
