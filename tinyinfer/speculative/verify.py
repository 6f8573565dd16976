"""Verification of drafts: accept the longest right prefix, keep exactly the target's distribution."""

from __future__ import annotations

import numpy as np

from tinyinfer.sampling import Choice, choose, describe, distribution, draw, uniform
from tinyinfer.sequence import Draft, Sequence

ACCEPT = 1  # the random stream of acceptance, beside the one that plain decoding draws from


def verify(logits: np.ndarray, seq: Sequence) -> list[Choice]:  # (R, V) ->
    """The next tokens of a sequence: its guesses as far as they stand, and one more after them.

    Row i holds the logits after the first i guesses. Penalties and filters see the guesses before it as if they had
    come one at a time.
    """
    new, choices = seq.new_tokens, []
    for row, draft in zip(logits, [*seq.drafts, None][: len(logits)], strict=True):
        choice = judge(row, draft, seq, new)
        choices.append(choice)
        if draft is None or choice.token != draft.token:
            break
        new.append(choice.token)
    return choices


def judge(logits: np.ndarray, draft: Draft | None, seq: Sequence, new: list[int]) -> Choice:  # (V,) ->
    """The token after `new`: the draft's if it stands."""
    if draft is None or draft.probs is None:
        return choose(logits, seq.params, seq.prompt, new, seq.seed)
    p = distribution(logits, seq.params, seq.prompt, new)
    token = accept_or_replace(p, draft.probs, draft.token, seq.seed, len(seq.prompt) + len(new))
    return describe(token, logits, seq.params)


def accept_or_replace(
    p: np.ndarray, q: np.ndarray, token: int, seed: int, position: int
) -> int:  # (V,), (V,) ->
    """A token drawn from q becomes one from p: kept with probability min(1, p/q), else drawn from max(p - q, 0)."""
    if uniform(seed, position, ACCEPT) * q[token] < p[token]:
        return token
    lacking = np.maximum(p - q, 0)
    return draw(lacking if lacking.any() else p, seed, position)  # nothing is lacking when p and q differ by rounding
