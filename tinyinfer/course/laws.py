"""Whether drawn tokens follow a law: chi-square and counts, judged by bounds that need no table.

Of N draws from p, the distance X = sum((count - N p)^2 / (N p)) is nearly chi-square distributed with k degrees of
freedom, one fewer than cells, and P(X >= k + 2 sqrt(k x) + 2 x) <= exp(-x) (Laurent & Massart 2000, lemma 1). A count
of N trials of probability p is more than t away from N p with probability at most 2 exp(-t^2 / (2 N p (1 - p) + 2 t/3))
(Bernstein). With x = log(1e6), a right sampler is called wrong about once in a million tests.

Wins: any generator of random numbers is accepted, if only its law is right. Loses: a small difference needs many draws;
what is written as a function of the seed is better compared exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tinyinfer.course.compare import Failure
from tinyinfer.units import show

FALSE_ALARM = 1e-6
LEAST_EXPECTED = 5  # draws in a cell: below, the chi-square distribution is no good approximation


def same_law(
    tokens: Sequence[Any], p: np.ndarray, what: str, usual: Iterable[tuple[np.ndarray, str]] = ()
) -> None:  # (V,) ->
    """Raises Failure unless drawn tokens follow p. usual: pairs (another law, the hint where the tokens follow it)."""
    for token in tokens:
        if type(token) is not int or not 0 <= token < len(p):
            raise Failure(f"{what}: {show(token)} came out, and a token is a whole number from 0 to {len(p) - 1}")
    counts = np.bincount(tokens, minlength=len(p))  # (V,)
    if follows(counts, p):
        return
    worst = int(np.abs(counts - len(tokens) * p).argmax())
    sentence = f"{what}: token {worst} came out {counts[worst]} times in {len(tokens)} draws; "
    sentence += f"its probability is {p[worst]:.3f}, so that about {len(tokens) * p[worst]:.0f} are expected"
    raise Failure(sentence, next((hint for law, hint in usual if follows(counts, law)), ""))


def follows(counts: np.ndarray, p: np.ndarray) -> bool:  # (V,), (V,) ->
    """Whether counts of draws may come from p; rare tokens count as one cell."""
    if counts[p == 0].any():
        return False
    expected = counts.sum() * p  # (V,)
    order = np.argsort(-expected, kind="stable")  # (V,)
    cells = max(1, int((expected >= LEAST_EXPECTED).sum()))
    found, wanted = (np.add.reduceat(x[order], range(cells)) for x in (counts, expected))  # (cells,), (cells,)
    distance = ((found - wanted) ** 2 / wanted).sum()
    k, x = cells - 1, -math.log(FALSE_ALARM)
    return bool(distance <= k + 2 * math.sqrt(k * x) + 2 * x)


def same_share(hits: int, trials: int, share: float, what: str, low: str = "", high: str = "") -> None:
    """Raises Failure where a count of trials is no count of that probability; low, high: the hint for each side."""
    off = hits - trials * share
    if abs(off) > most_off(trials, share):
        sentence = f"{what}: {hits} of {trials}; with probability {share:.3f} about {trials * share:.0f} are expected"
        raise Failure(sentence, low if off < 0 else high)


def most_off(trials: int, share: float) -> float:
    """How far a count may lie from its expectation, by Bernstein's inequality."""
    x = math.log(2 / FALSE_ALARM)
    return x / 3 + math.sqrt(x * x / 9 + 2 * x * trials * share * (1 - share))
