"""Verification of drafts: accepts drafts up to the first wrong one, and changes no token.

Row i of the logits follows the first i drafts. The draft there is accepted if and only if it is the token that plain
decoding would choose: the largest of the target's scores with the noise of the request's seed and of the position
(noise.py), at temperature 0 the largest without noise. The first token that is no draft is the last of the step. So
greedy and sampled text alike are the same text with drafts and without, but for rounding (sampling.py).

A draft model adds the same noise to its own scores, and target and drafter often choose the same token without a word
between them (Daliri, Musco & Suresh 2024, "Coupling without communication and drafter-invariant speculative decoding").
If the two distributions have the total variation distance d, a drawn draft is accepted with probability at least
(1 - d) / (1 + d). best_coupling.py reaches 1 - d, the most that any rule can, and gives up the text for it.

This rule (verification=same-text) is the default: a text that depends on its seed alone can be compared, repeated and
computed again under other switches. It costs nothing for greedy text and for prompt lookup. Where a model's drafts are
drawn, it accepts 86 of 100 where best-coupling accepts 89 (d = 0.11), 69 for 75 (d = 0.25), 43 for 50 (d = 0.50), on
the pairs of benchmarks/acceptance.py.
"""

from __future__ import annotations

import numpy as np

from tinyinfer.sampling import Choice, choose
from tinyinfer.sequence import Draft, Sequence
from tinyinfer.speculative.best_coupling import judge_drawn


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
        if choice.token != draft.token:  # rejected: the token in its place is the last of this step
            return choices
        new.append(choice.token)
    # All drafts are accepted. The row of the last draft is computed already: its token is a bonus.
    return [*choices, choose(logits[-1], params, prompt, new, seed)]


def judge(logits: np.ndarray, draft: Draft, seq: Sequence, new: list[int]) -> Choice:  # (V,) ->
    """The token after `new`: the draft's if the draft is accepted."""
    if draft.probs is not None:
        return judge_drawn(logits, draft, seq, new)
    params, prompt, _, seed = seq.sampling
    return choose(logits, params, prompt, new, seed)
