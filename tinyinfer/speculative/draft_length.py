"""How many drafts to propose: as many as pay, by how often the sequence's drafts were accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinyinfer.engine.config import EngineConfig
from tinyinfer.sequence import Sequence


@dataclass
class DraftLength:
    """How many guesses to make: as many as bring the most tokens per cost, by how often this sequence's guesses stood.

    With k guesses, each standing with probability a, a step brings (1 - a^(k+1)) / (1 - a) tokens (Leviathan et al.,
    equation 1). It costs `cost(1 + k)` forward passes of one row, plus `guess_cost` for each guess. Only the sequence's
    own past counts, never its neighbours, so that its text does not depend on them.
    """

    most: int
    cost: Callable[[int], float]
    guess_cost: float = 0.0
    rate: float = 0.8  # a, at first

    def best(self) -> int:
        """The number of guesses; 0 when none pays."""
        return max(range(self.most + 1), key=lambda k: self.tokens(k) / (self.cost(1 + k) + k * self.guess_cost))

    def tokens(self, k: int) -> float:
        """How many tokens k guesses bring, one without any guess included."""
        return sum(self.rate**i for i in range(k + 1))

    def learn(self, proposed: int, accepted: int) -> None:
        """Counts the guesses up to the first wrong one; after a step without any, confidence slowly returns."""
        if not proposed:
            self.rate += 0.02 * (0.8 - self.rate)
        for i in range(min(accepted + 1, proposed)):
            self.rate += 0.1 * ((i < accepted) - self.rate)


@dataclass
class Asked:
    """When a sequence last got guesses: how long it was, how many of its guesses had been verified, how many stood."""

    length: DraftLength
    tokens: int
    proposed: int
    accepted: int


class Lengths:
    """The DraftLength of every sequence."""

    def __init__(self, most: int, cost: Callable[[int], float], guess_cost: float = 0.0) -> None:
        self.most, self.cost, self.guess_cost = most, cost, guess_cost
        self._known: dict[int, Asked] = {}

    def of(self, seq: Sequence) -> int:
        """How many guesses to make now, after learning from what became of the last ones.

        Asked again before the sequence went on (it had no turn, or was preempted), the answer is the same.
        """
        asked = self._known.get(seq.id)
        if asked is None:
            length = DraftLength(self.most, self.cost, self.guess_cost)
        else:
            length = asked.length
            if len(seq.tokens) > asked.tokens:
                length.learn(seq.proposed - asked.proposed, seq.accepted - asked.accepted)
        self._known[seq.id] = Asked(length, len(seq.tokens), seq.proposed, seq.accepted)
        return min(length.best(), seq.max_tokens - len(seq.new_tokens) - 1)

    def free(self, seq: Sequence) -> None:
        """Forgets a sequence."""
        if seq.finished:  # a preempted one goes on where it was
            self._known.pop(seq.id, None)


def most_guesses(c: EngineConfig, default: int) -> int:
    """How many guesses a step has room for."""
    return min(c.num_draft_tokens or default, c.max_num_batched_tokens - 1)
