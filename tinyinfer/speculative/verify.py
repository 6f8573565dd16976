"""Verification of drafts: accepts drafts up to the first wrong one, and keeps exactly the target's distribution.

Row i of the logits follows the first i drafts. Let p be the target's distribution there and q the one that the draft
was drawn from. The draft x is accepted with probability min(1, p(x)/q(x)); a rejected draft is replaced by a draw from
max(p - q, 0), and no draft behind it counts. The tokens then follow p (Leviathan, Kalman & Matias 2023, appendix A.1).

A draft that was not drawn but certain (greedy, prompt lookup) is accepted if plain decoding chooses it, so that greedy
and sampled text alike are identical to plain decoding.
"""

from __future__ import annotations

import numpy as np

from tinyinfer.noise import uniform
from tinyinfer.sampling import Choice, choose, describe, distribution, draw
from tinyinfer.sequence import Draft, Sequence

ACCEPT_STREAM = 1  # the random stream of acceptance, beside the one that plain decoding draws from


def verify(logits: np.ndarray, seq: Sequence) -> list[Choice]:  # (R, V) ->
    """The next tokens of a sequence: the accepted drafts, and one more token after them.

    Penalties and filters see the drafts before each row as if they had come one at a time.
    """
    if not len(logits):  # the step computed a chunk that ends before the drafts
        return []
    params, prompt, new, seed = seq.sampling
    choices = []
    for row, draft in zip(logits[:-1], seq.drafts, strict=True):
        choice = judge(row, draft, seq, new)
        choices.append(choice)
        if choice.token != draft.token:  # rejected: the replacement is the last token of this step
            return choices
        new.append(choice.token)
    # All drafts are accepted. The row of the last draft is computed already: its token is a bonus.
    return [*choices, choose(logits[-1], params, prompt, new, seed)]


def judge(logits: np.ndarray, draft: Draft, seq: Sequence, new: list[int]) -> Choice:  # (V,) ->
    """The token after `new`: the draft's if the draft is accepted."""
    params, prompt, _, seed = seq.sampling
    if draft.probs is None:
        return choose(logits, params, prompt, new, seed)
    p = distribution(logits, params, prompt, new)  # (V,)
    token = accept_or_replace(p, draft.probs, draft.token, seed, len(prompt) + len(new))
    return describe(token, logits, params)


def accept_or_replace(
    p: np.ndarray, q: np.ndarray, token: int, seed: int, position: int
) -> int:  # (V,), (V,) ->
    """Turns a token that was drawn from q into one that is drawn from p (Leviathan et al. 2023, algorithm 1).

    q(token) <= p(token): always accepted. q(token) > p(token): accepted with probability p/q, else replaced.
    """
    if uniform(seed, position, ACCEPT_STREAM) * q[token] < p[token]:  # u < p/q, without dividing by q, which may be 0
        return token
    lacking = np.maximum(p - q, 0)  # (V,)
    lacking = lacking if lacking.any() else p  # p and q that differ by rounding lack nothing
    with np.errstate(divide="ignore"):  # log 0 is -inf, which is never drawn
        return draw(np.log(lacking), seed, position)
