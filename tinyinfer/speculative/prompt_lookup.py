"""Prompt lookup: drafts copied from what followed the same tokens before (Saxena 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tinyinfer.engine.config import EngineConfig
from tinyinfer.model.transformer import Model
from tinyinfer.sequence import Draft, Sequence
from tinyinfer.speculative.draft_length import Lengths, most_guesses
from tinyinfer.speculative.verify import verify

if TYPE_CHECKING:
    from tinyinfer.model.interfaces import Ops


class PromptLookup:
    """Copies what followed the last time that the newest tokens stood together (Saxena 2023).

    candidates: how many such places, with different tokens behind them, are copied from side by side.
    """

    def __init__(self, lengths: Lengths, candidates: int = 1, longest: int = 3) -> None:
        self.lengths, self.candidates, self.longest = lengths, candidates, longest

    verify = staticmethod(verify)

    def propose(self, sequences: list[Sequence]) -> None:
        """Guesses without a model: they cost nothing but the rows that verify them."""
        for seq in sequences:
            if not seq.drafts:
                found = self.lookup(seq.tokens, self.lengths.of(seq))
                guesses = [[Draft(token) for token in tokens] for tokens in found]
                seq.drafts, seq.rivals = (guesses[0], guesses[1:]) if guesses else ([], [])

    def lookup(self, tokens: list[int], n: int) -> list[list[int]]:
        """The n tokens behind earlier places of the longest ending found, the latest first, then of shorter endings.

        An ending has at most `longest` tokens. No two results begin with the same token: of such, one is enough.
        """
        text, found = np.array(tokens), dict[int, list[int]]()
        for size in range(min(self.longest, len(tokens) - 1), 0, -1):
            starts = np.lib.stride_tricks.sliding_window_view(text[:-1], size)
            for place in np.flatnonzero((starts == text[-size:]).all(axis=1))[::-1]:
                begin = int(place) + size
                if n > 0 and len(found) < self.candidates:
                    found.setdefault(tokens[begin], tokens[begin : begin + n])
        return list(found.values())

    def free(self, seq: Sequence) -> None:
        """Forgets it."""
        self.lengths.free(seq)


def prompt_lookup(model: Model, second: Model | None, ops: Ops, c: EngineConfig, capacity: int) -> PromptLookup:
    """speculative=prompt-lookup."""
    return PromptLookup(Lengths(most_guesses(c, 7), ops.relative_cost), c.num_draft_candidates)
