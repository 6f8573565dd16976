"""Tokens chosen by all ranks together: none gathers the logits, which lie on the ranks by tokens (tensor.py).

A draw from softmax(logits / temperature) is the token with the largest score logit / temperature + noise, where the
noise is Gumbel's (the Gumbel-max trick: Maddison, Tarlow & Minka 2014, "A* Sampling", section 2). So a draw is a
maximum, and a maximum over all tokens is the largest of the ranks' own: each tells its best token and that one's score.

    greedy    the largest logit
    drawn     the largest score; the noise is a function of seed, position and token id (noise.py), so that each rank
              knows that of its own tokens, and the draw is the one of a single process
    left      filters, penalties and log-probabilities need the whole row: only such rows are gathered, for the host

Wins: four numbers of a row leave a rank in place of V/n logits. Loses: nothing here, but rows that are left cost all
their logits on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from typing import NamedTuple

import numpy as np

from tinyinfer.model.interfaces import HOST, Sampled
from tinyinfer.noise import gumbel
from tinyinfer.parallel.comm import Comm
from tinyinfer.parallel.shards import division
from tinyinfer.sampling import is_plain
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.sequence import Batch


class Draw(NamedTuple):
    """How a row's token is chosen: greedy (temperature 0), or with the noise of a seed and a position."""

    temperature: float
    seed: int
    position: int


NOTHING = Sampled(np.empty(0, np.int64), np.empty(0), np.empty(0))  # of no rows


def draw_of(params: SamplingParams, prompt: list[int], new: list[int], seed: int) -> Draw | None:
    """How a row's token is chosen by all ranks together; None where all logits are needed."""
    return Draw(params.temperature, seed, len(prompt) + len(new)) if is_plain(params) else None


def drawn_rows(batch: Batch) -> Iterator[int]:
    """The rows of logits by which drafts are judged that were drawn by themselves (verification=best-coupling)."""
    stop = 0
    for span in batch.spans:
        start, stop = stop, stop + span.wanted
        if any(draft.probs is not None for draft in span.seq.drafts):
            yield from range(start, stop)


def choose_together(
    logits: np.ndarray, draws: list[Draw | None], comm: Comm, vocabulary: int
) -> Sampled:  # (R, V) ->
    """Tokens (HOST where a row's draw is None), smallest and largest logits; all logits of such rows, the rest zeros.

    A rank tells of each row its best token and that token's score, and its smallest and largest logit. A score is
    (logit - largest logit) / temperature + noise: the ranks' own largest logits make scores comparable.
    """
    if not draws:  # a chunk of a prompt
        return NOTHING
    first = division(vocabulary, comm.size)[comm.rank].start
    told = np.array([best_of(row, draw, first, vocabulary) for row, draw in zip(logits, draws, strict=True)])  # (R, 4)
    all_told = zip(*(part.tolist() for part in comm.all_gather(told)), strict=True)  # of each row, of each rank
    chosen, low, high = zip(*map(best_of_all, all_told, draws), strict=True)  # each (R,)
    rows = None
    if left := [n for n, draw in enumerate(draws) if draw is None]:
        rows = np.zeros((len(logits), vocabulary), logits.dtype)
        rows[left] = gathered(logits[left], comm, vocabulary)
    return Sampled(np.array(chosen, np.int64), np.array(low), np.array(high), rows)


def best_of(
    row: np.ndarray, draw: Draw | None, first: int, vocabulary: int
) -> tuple[float, float, float, float]:  # (V,) ->
    """A rank's best token of a row, its score, the smallest and the largest logit. first: the rank's first token."""
    largest = int(row.argmax())
    low, high = float(row.min()), float(row[largest])
    if draw is None or draw.temperature == 0:
        return float(first + largest), 0.0, low, high
    with np.errstate(over="ignore", invalid="ignore"):
        scores = (row.astype(np.float64) - high) / draw.temperature  # (V,)
        scores = scores + gumbel(draw.seed, draw.position, vocabulary)[first : first + len(row)]
    best = int(scores.argmax())
    return float(first + best), float(scores[best]), low, high


def best_of_all(told: Iterable[list[float]], draw: Draw | None) -> tuple[int, float, float]:
    """The token of a row (HOST where there is no draw), its smallest and its largest logit. told: of each rank.

    Of equal scores the first rank's wins, whose tokens come first. In plain Python: NumPy would take
    longer to be called than a decode step's few numbers take.
    """
    tokens, scores, lows, highs = zip(*told, strict=True)  # each (ranks,)
    low, high = least(lows), -least([-one for one in highs])
    if draw is None:
        return HOST, low, high
    if draw.temperature > 0:
        highs = tuple(s + (own - high) / draw.temperature for s, own in zip(scores, highs, strict=True))
    return int(tokens[max(range(len(tokens)), key=highs.__getitem__)]), low, high


def least(numbers: Iterable[float]) -> float:
    """The smallest number; NaN, as in NumPy, where one of them is NaN."""
    found = inf
    for number in numbers:
        if number != number:
            return number
        found = min(found, number)
    return found


def gathered(logits: np.ndarray, comm: Comm, vocabulary: int) -> np.ndarray:  # (R, V) -> (R, all)
    """The logits of all ranks side by side."""
    lengths = [len(part) for part in division(vocabulary, comm.size)]
    parts = comm.all_gather(np.ascontiguousarray(logits.T), lengths)
    return np.concatenate(parts).T
