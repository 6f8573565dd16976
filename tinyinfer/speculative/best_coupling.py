"""Verification by accepting or replacing: as many sampled drafts are accepted as any rule can accept.

Let p be the target's distribution of a token and q the one that the draft was drawn from. The draft x is accepted with
probability min(1, p(x)/q(x)); a rejected draft is replaced by a draw from max(p - q, 0). The token then follows p, and
the draft is accepted with probability sum(min(p, q)), which is 1 less the total variation distance (Leviathan, Kalman
& Matias 2023, algorithm 1 and appendix A.1).

Wins: some drafts in a hundred more than verification=same-text, where a model draws them. Loses: a sampled text depends
on the drafter, on the number of drafts and so on every switch of this folder; only its law is that of plain decoding.
And q, one number for each token of the vocabulary, is computed and kept for every draft.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np

from tinyinfer.noise import uniform
from tinyinfer.sampling import Choice, describe, distribution, draw, filtered, softmax
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.sequence import Draft, Sequence

ACCEPT_STREAM, DRAFT_STREAM = 1, 2  # random streams beside 0, which plain decoding and replacements draw from


def drawn(logits: np.ndarray, params: SamplingParams, prompt: Seq[int], new: Seq[int], seed: int) -> Draft:  # (V,) ->
    """A draft that is drawn by itself, with the distribution that it was drawn from."""
    s = filtered(logits, params, prompt, new)  # (V,)
    return Draft(draw(s, seed, len(prompt) + len(new), DRAFT_STREAM), softmax(s))


def judge_drawn(logits: np.ndarray, draft: Draft, seq: Sequence, new: list[int]) -> Choice:  # (V,) ->
    """The token after `new`: the draft's if the draft is accepted, else its replacement."""
    params, prompt, _, seed = seq.sampling
    p = distribution(logits, params, prompt, new)  # (V,)
    assert draft.probs is not None
    token = accept_or_replace(p, draft.probs, draft.token, seed, len(prompt) + len(new))
    return describe(token, logits, params)


def accept_or_replace(
    p: np.ndarray, q: np.ndarray, token: int, seed: int, position: int
) -> int:  # (V,), (V,) ->
    """Turns a token that was drawn from q into one that is drawn from p.

    q(token) <= p(token): always accepted. q(token) > p(token): accepted with probability p/q, else replaced.
    """
    if uniform(seed, position, ACCEPT_STREAM) * q[token] < p[token]:  # u < p/q, without dividing by q, which may be 0
        return token
    lacking = np.maximum(p - q, 0)  # (V,)
    lacking = lacking if lacking.any() else p  # p and q that differ by rounding lack nothing
    with np.errstate(divide="ignore"):  # log 0 is -inf, which is never drawn
        return draw(np.log(lacking), seed, position)
