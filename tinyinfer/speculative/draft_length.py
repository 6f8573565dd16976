"""How many drafts to propose: as many as bring the most tokens per cost, by how often a sequence's were accepted.

With k drafts, each accepted with probability a, a step brings (1 - a^(k+1)) / (1 - a) tokens (Leviathan et al. 2023,
equation 1). The step costs a forward pass of 1 + k rows, and the k drafts themselves. A drafter that knows how likely
each of its drafts is right (EAGLE-2, Li et al. 2024, section 3.2) lets the number be chosen anew after each draft: a
sure one is followed by more, an unlikely one is not even verified. (Not where the logits stay on a GPU: the host does
not see how likely a draft is.) Wins: a sequence whose drafts are always rejected soon costs little more than plain
decoding. Loses: a few steps until the rate is learnt, for which costs.py sets a limit.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

from tinyinfer.rotation_sets import ONE_SET, RotationSets
from tinyinfer.sequence import Batch, Sequence
from tinyinfer.speculative.base import Costs, DraftSettings
from tinyinfer.speculative.verify import verify

OPTIMISM = 0.8  # the acceptance rate that is assumed before any draft was verified


@dataclass
class DraftLength:
    """The best number of drafts of one sequence.

    Only the sequence's own past counts, never its neighbours', so that with verification=best-coupling and its fixed
    costs, too, its text does not depend on them.
    """

    most: int
    cost: Costs
    rate: float = OPTIMISM  # a, the probability that a draft is accepted

    def best(self, confidences: Seq[float] = ()) -> int:
        """The number of drafts that brings the most tokens per cost; 0 when no number pays.

        confidences: of the drafts that are proposed already, whose cost is spent.
        """
        draft, there = self.cost.draft, len(confidences)
        right = [*accumulate(confidences, mul, initial=1.0)]  # the probability that the first i drafts are

        def speed(k: int) -> float:
            tokens = sum(right[: k + 1]) + right[-1] * (self.tokens(max(0, k - there)) - 1)
            return tokens / (self.cost.rows(1 + k) + max(k, there) * draft)

        return max(range(self.most + 1), key=speed)

    def tokens(self, k: int) -> float:
        """How many tokens a step with k drafts brings, the one of plain decoding included."""
        return sum(self.rate**i for i in range(k + 1))

    def learn(self, proposed: int, accepted: int) -> None:
        """Moves the rate towards the share of a step's drafts that was accepted.

        Drafts behind the first rejected one were not verified. After a step without drafts the rate slowly returns to
        the first assumption, so that drafts are tried again.
        """
        if not proposed:
            self.rate += 0.02 * (OPTIMISM - self.rate)
        for i in range(min(accepted + 1, proposed)):
            self.rate += 0.1 * ((i < accepted) - self.rate)


@dataclass
class DraftState:
    """At the last proposal: the sequence's length, its drafts verified so far, its drafts accepted so far."""

    length: DraftLength
    tokens: int
    proposed: int
    accepted: int


class DraftLengths:
    """The DraftLength of every sequence, by the sequence's id. sets: of the target's rotations."""

    def __init__(self, most: int, cost: Costs, sets: RotationSets = ONE_SET) -> None:
        self.most, self.cost, self.sets = most, cost, sets
        self._states: dict[int, DraftState] = {}

    def __len__(self) -> int:
        return len(self._states)

    def of(self, seq: Sequence, behind: int = 0) -> int:
        """How many drafts to propose now, after learning from what became of the last ones.

        Asked again before the sequence has a new token (it had no rows, or was preempted), the answer is the same if
        the costs are. behind: see Costs.
        """
        state, past = self._states.get(seq.id), seq.speculation
        if state is None:
            length = DraftLength(self.most, self.cost)
        else:
            length = state.length
            if len(seq.tokens) > state.tokens:
                length.learn(past.proposed - state.proposed, past.accepted - state.accepted)
        self._states[seq.id] = DraftState(length, len(seq.tokens), past.proposed, past.accepted)
        return self._possible(seq, length.best(), behind)

    def after(self, seq: Sequence, confidences: Seq[float]) -> int:
        """How many drafts pay, now that the first ones are there, each of which is right with such a probability.

        A number below theirs: so many are worth a row.
        """
        best = self._states[seq.id].length.best(confidences)
        return best if best <= len(confidences) else self._possible(seq, best, 1)

    def _possible(self, seq: Sequence, n: int, behind: int) -> int:
        left = seq.request.max_tokens - len(seq.new_tokens) - 1
        return self.cost.affordable(int(min(n, left, self.sets.most_drafts(len(seq.tokens)))), behind, left)

    def free(self, seq: Sequence) -> None:
        """Drops the state of a finished sequence; a preempted one keeps what was learnt."""
        if seq.finished:
            self._states.pop(seq.id, None)

    def keep(self, sequences: Collection[Sequence]) -> None:
        """Drops the states of all other sequences."""
        self._states = {seq.id: self._states[seq.id] for seq in sequences if seq.id in self._states}


class LearnedLengths:
    """The half of a drafter that learns how many drafts pay; the other half proposes them."""

    def __init__(self, lengths: DraftLengths) -> None:
        self.lengths = lengths

    verify = staticmethod(verify)

    @property
    def most(self) -> int:
        """How many drafts it proposes for a sequence at most."""
        return self.lengths.most

    def observe(self, batch: Batch) -> None:
        """Learns from the time of a step."""
        self.lengths.cost.observe(batch)

    def free(self, seq: Sequence) -> None:
        """Drops the sequence's draft length, once the sequence is finished."""
        self.lengths.free(seq)

    def keep(self, sequences: Collection[Sequence]) -> None:
        """Drops the draft lengths of all other sequences."""
        self.lengths.keep(sequences)


def most_drafts(c: DraftSettings, default: int) -> int:
    """How many drafts a step has rows for."""
    return min(c.num_draft_tokens or default, c.max_num_batched_tokens - 1)
