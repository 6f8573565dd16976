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

from collections.abc import Iterator
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
    all_told = np.stack(comm.all_gather(told))  # (ranks, R, 4)
    tokens, scores, low, high = np.moveaxis(all_told, -1, 0)  # each (ranks, R)
    largest = high.max(axis=0)  # (R,)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        heat = np.array([draw.temperature if draw else 0.0 for draw in draws])  # (R,)
        scores = np.where(heat > 0, scores + (high - largest) / np.where(heat > 0, heat, 1.0), high)  # (ranks, R)
    best = scores.argmax(axis=0)  # (R,): of equal ones the first rank's, whose tokens come first
    chosen = tokens[best, np.arange(len(best))].astype(np.int64)  # (R,)
    left = [n for n, draw in enumerate(draws) if draw is None]
    chosen[left] = HOST
    rows = None
    if left:
        rows = np.zeros((len(logits), vocabulary), logits.dtype)
        rows[left] = gathered(logits[left], comm, vocabulary)
    return Sampled(chosen, low.min(axis=0), largest, rows)


def best_of(
    row: np.ndarray, draw: Draw | None, first: int, vocabulary: int
) -> tuple[float, float, float, float]:  # (V,) ->
    """A rank's best token of a row, its score, the smallest and the largest logit. first: the rank's first token."""
    low, high = float(row.min()), float(row.max())
    if draw is None or draw.temperature == 0:
        return float(first + row.argmax()), 0.0, low, high
    with np.errstate(over="ignore", invalid="ignore"):
        scores = (row.astype(np.float64) - high) / draw.temperature  # (V,)
        scores = scores + gumbel(draw.seed, draw.position, vocabulary)[first : first + len(row)]
    best = int(scores.argmax())
    return float(first + best), float(scores[best]), low, high


def gathered(logits: np.ndarray, comm: Comm, vocabulary: int) -> np.ndarray:  # (R, V) -> (R, all)
    """The logits of all ranks side by side."""
    lengths = [len(part) for part in division(vocabulary, comm.size)]
    parts = comm.all_gather(np.ascontiguousarray(logits.T), lengths)
    return np.concatenate(parts).T
