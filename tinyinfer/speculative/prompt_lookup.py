"""Prompt lookup: drafts are copied from what followed the same tokens before (Saxena 2023).

No model proposes the drafts, so they cost little but the rows that verify them. Wins: text that repeats its prompt
(summaries, code, quotations). Loses: new text, in which the newest tokens never occurred together before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tinyinfer.sequence import Draft, Sequence
from tinyinfer.speculative.base import DraftCost, DraftSettings, Target
from tinyinfer.speculative.costs import MeasuredCosts
from tinyinfer.speculative.draft_length import DraftLengths, LearnedLengths, most_drafts

if TYPE_CHECKING:
    from tinyinfer.model.draft_head import DraftHead
    from tinyinfer.model.interfaces import Ops
    from tinyinfer.model.transformer import Model


class PromptLookup(LearnedLengths):
    """Copies what followed the last place where the newest tokens occurred together.

    candidates: how many such places, with different tokens behind them, are copied from. longest: how many of the
    newest tokens are looked up together.
    """

    def __init__(self, lengths: DraftLengths, candidates: int = 1, longest: int = 3) -> None:
        super().__init__(lengths)
        self.candidates, self.longest = candidates, longest

    def propose(self, sequences: list[Sequence]) -> None:
        """The first continuation found becomes the drafts; the others become candidates."""
        with self.lengths.cost.proposing(len(sequences)):
            for seq in sequences:
                if not seq.drafts and (n := self.lengths.of(seq)) > 0:
                    continuations = self.lookup(seq.tokens, n)
                    first, *others = [[Draft(token) for token in tokens] for tokens in continuations] or [[]]
                    seq.set_drafts(first, others)

    def lookup(self, tokens: list[int], n: int) -> list[list[int]]:
        """The n tokens behind earlier places of the longest ending found, the latest first, then of shorter endings.

        An ending has at most `longest` tokens. No two results begin with the same token: of such, one is enough.
        """
        text, continuations = np.array(tokens), dict[int, list[int]]()  # (tokens,); first token -> continuation
        for size in range(min(self.longest, len(tokens) - 1), 0, -1):
            starts = np.lib.stride_tricks.sliding_window_view(text[:-1], size)  # (tokens - size, size), a view
            # All places where the last `size` tokens occur, the latest first, without the ending itself (text[:-1]).
            for place in np.flatnonzero((starts == text[-size:]).all(axis=1))[::-1]:
                begin = int(place) + size
                if n > 0 and len(continuations) < self.candidates:
                    continuations.setdefault(tokens[begin], tokens[begin : begin + n])
        return list(continuations.values())


def prompt_lookup(
    target: Target, second: Model | DraftHead | None, ops: Ops, c: DraftSettings, clock: Callable[[], float],
    cost: DraftCost | None,
) -> PromptLookup:  # fmt: skip
    """Builds the drafter of speculative=prompt-lookup."""
    costs = cost or MeasuredCosts(clock, ops.ledger, ops.relative_cost, 0.0, c.num_draft_candidates)
    sets = target.model.config.rotation_sets
    return PromptLookup(DraftLengths(most_drafts(c, 7), costs, sets), c.num_draft_candidates)
