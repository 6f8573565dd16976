"""The contract of a drafter, and the null object: no drafts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from tinyinfer.sampling import Choice, choose

if TYPE_CHECKING:
    from tinyinfer.sequence import Sequence


class Drafter(Protocol):
    """What the engine asks of whoever makes guesses."""

    def propose(self, sequences: list[Sequence]) -> None:
        """Gives each of the sequences, which want their next token, `drafts`: at most what it may still generate."""

    def verify(self, logits: np.ndarray, seq: Sequence) -> list[Choice]:  # (R, V) ->
        """The next tokens of a sequence, from the logits of its last known token and of each guess; none of none."""

    def free(self, seq: Sequence) -> None:
        """The sequence is gone or preempted: forgets it."""


class NoDrafter:
    """Guesses nothing."""

    def __init__(self, *parts: object) -> None:
        """Needs nothing of what a drafter is made of."""

    def propose(self, sequences: list[Sequence]) -> None:
        """No guesses."""

    def verify(self, logits: np.ndarray, seq: Sequence) -> list[Choice]:  # (R, V) ->
        """Plain decoding: one token from one row of logits."""
        return [choose(row, seq.params, seq.prompt, seq.new_tokens, seq.seed) for row in logits]

    def free(self, seq: Sequence) -> None:
        """Nothing to forget."""
