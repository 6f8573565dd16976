"""A pipeline on paper: when each stage begins each micro-batch, and how long it is idle.

Stage s begins micro-batch i when stage s - 1 has ended it, and when stage s has ended micro-batch i - 1:

    begin[s, i] = max(begin[s-1, i] + seconds[s-1, i],  begin[s, i-1] + seconds[s, i-1])

With equal times and m micro-batches each of p stages is idle for (p-1)/(m+p-1) of the time, the bubble of GPipe (Huang
et al. 2019, section 2.3). A decode step needs the token of the step before it, so a group of sequences comes back to
stage 0 only when the last stage has ended it. With as many groups as stages no stage waits any more.

Wins: a schedule before anything runs. Loses: a message takes no time here (measure/split.py counts it).
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from itertools import accumulate, combinations

import numpy as np


def begin_times(seconds: np.ndarray) -> np.ndarray:  # (p, m) -> (p, m)
    """When each of p stages begins each of m micro-batches, which follow one another in their order; the first at 0."""
    begin = np.zeros(seconds.shape)
    for s, i in np.ndindex(*seconds.shape):
        if s > 0:
            begin[s, i] = begin[s - 1, i] + seconds[s - 1, i]
        if i > 0:
            begin[s, i] = max(begin[s, i], begin[s, i - 1] + seconds[s, i - 1])
    return begin


def decode_times(seconds: np.ndarray, steps: int) -> np.ndarray:  # (p, m) -> (n, p, m)
    """When each of p stages begins each of n decode steps of m groups, which take turns and wait for their tokens."""
    stages, groups = seconds.shape
    begin = np.zeros((steps, stages, groups))
    free = np.zeros(stages)  # when each stage has ended what it was given
    token = np.zeros(groups)  # when each group's token is there
    for n in range(steps):
        for g in range(groups):
            ready = token[g]
            for s in range(stages):
                begin[n, s, g] = max(ready, free[s])
                ready = free[s] = begin[n, s, g] + seconds[s, g]
            token[g] = ready
    return begin


def idle_share(begin: np.ndarray, seconds: np.ndarray) -> float:  # (p, m), (p, m) ->
    """The bubble of m micro-batches in p stages: the share of the time in which a stage idles, on average.

    The time goes from the first begin to the last end.
    """
    total = (begin + seconds).max() - begin.min()
    return float(1 - seconds.sum() / (len(seconds) * total))


def even_stages(costs: Seq[float], stages: int) -> list[int]:
    """How many layers each stage has, so that the slowest stage is as fast as it can be. costs: of each layer.

    Layers stay in their order, and each stage has one at least. Of several such divisions it is the one whose first
    stage has most layers; of those the one whose second stage has most, and so on.
    """
    layers = len(costs)
    for limit in sorted(sum(costs[i:j]) for i, j in combinations(range(layers + 1), 2)):
        sizes: list[int] = []
        rest = list(costs)
        for later in reversed(range(stages)):  # each takes what it can, and leaves a layer for each later one
            loads = accumulate(rest[: len(rest) - later])
            sizes.append(sum(load <= limit for load in loads))
            rest = rest[sizes[-1] :]
        if not rest:
            break
    return sizes
