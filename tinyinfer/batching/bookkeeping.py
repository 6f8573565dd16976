"""Which sequences there are, in which list, and what is kept for them: the scheduler's bookkeeping, and its repair.

Ctrl-C, a MemoryError or a bug may end a step between any two lines. No line undoes what others did; instead all that
can be derived is derived anew (`repair`, as in crash-only software; Candea & Fox 2003). What cannot is little, and each
part of it changes in one assignment: which sequences there are, the choices of each, the committed prefixes.

Wins: the code of a step reads as if nothing could interrupt it, and a second interrupt during the repair is no special
case. Loses: whatever ran is computed again, as after a preemption, though most of it was whole.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import count
from operator import attrgetter

from tinyinfer.batching.branches import same_prompt
from tinyinfer.batching.policies import Policy
from tinyinfer.errors import SwitchError
from tinyinfer.kv_cache.base import Cache, Prefixes
from tinyinfer.ledger import Ledger
from tinyinfer.sequence import Batch, Sequence
from tinyinfer.speculative.base import Candidates, Drafter

BY_AGE = attrgetter("age")


class Bookkeeping:
    """The waiting queue, the running sequences and the plan of the next step, with what is kept for them.

    joined, left, preempted: the sequences that were admitted, left or were preempted in the newest step. plan: the rows
    of each sequence in that step. members: the sequences that were added and not dropped; each is waiting or running.
    stages: how many steps may be computed at once, of different sequences. computing: the batches of those, the oldest
    first; in_flight: the batch in which a sequence now is. kept: sequences in no batch whose positions stay in the
    cache until room is missing: those that `Engine.logits` computes, and ended ones whose branches wait.
    """

    def __init__(
        self, cache: Cache, prefixes: Prefixes, drafter: Drafter, candidates: Candidates, policy: Policy,
        ledger: Ledger, stages: int = 1,
    ) -> None:  # fmt: skip
        self.stages = stages
        self.computing: list[Batch] = []
        self.in_flight: dict[Sequence, Batch] = {}
        self.cache, self.prefixes, self.drafter, self.candidates = cache, prefixes, drafter, candidates
        self.policy, self.limits, self.ledger = policy, policy.limits, ledger
        self.members: dict[Sequence, None] = {}
        self.waiting: list[Sequence] = []  # both lists are in order of age, the oldest first
        self.running: list[Sequence] = []
        self.joined: list[Sequence] = []
        self.left: list[Sequence] = []
        self.preempted: list[Sequence] = []
        self.plan: dict[Sequence, int] = {}
        self.kept: list[Sequence] = []
        self._turns = count()
        self._most = 0  # sequences that the step takes at most
        self._last_turn: dict[Sequence, int] = {}  # the turn in which each running sequence last had rows
        self._changing = False  # also between an interrupted change and the end of its repair

    def add(self, seq: Sequence) -> None:
        """Queues a sequence that is no member yet. Raises ValueError for one that the cache could not hold even alone.
        """
        self.check_length(seq)
        with self.change():
            if seq not in self.members:
                self.members[seq] = None
                insort(self.waiting, seq, key=BY_AGE)

    def check_length(self, seq: Sequence) -> None:
        """Raises SwitchError, a ValueError, for a sequence that the cache could not hold even alone."""
        n, most = len(seq.prompt) + seq.request.max_tokens - 1, self.cache.capacity  # the last token is never computed
        if n > most:
            reason = "{value} positions do not fit into a cache of {most}"
            raise SwitchError("", n, reason, "raise {max_model_len} or {num_blocks}", most=most)

    def lives(self, batch: Batch) -> list[bool]:
        """Of each span of a batch that is computed, whether its sequence has not left meanwhile."""
        return [self.in_flight.get(span.seq.owner) is batch for span in batch.spans]

    def forget(self, batch: Batch) -> bool:
        """No sequence waits for the batch any more; False if it is forgotten already, by a step that failed."""
        computing = any(batch is one for one in self.computing)
        if computing:
            self._computed(batch)
        return computing

    def recall(self, joined: Collection[Sequence], preempted: Collection[Sequence]) -> None:
        """What ends now began before the newest batch was put together: these joined, and were preempted, then."""
        self.joined, self.left, self.preempted = list(joined), [], list(preempted)

    def _computed(self, batch: Batch) -> None:
        """The batch is computed in all stages, or will be before any that follows."""
        self.prefixes.commit()
        self.computing = [other for other in self.computing if other is not batch]

    @property
    def busy(self) -> bool:
        """Whether a sequence is waiting or running."""
        return bool(self.members)

    def drop(self, seq: Sequence) -> None:
        """Removes a sequence and frees what the caches and the drafter keep for it."""
        self.members.pop(seq, None)
        self._free(seq)

    def leave(self, seq: Sequence) -> None:
        """Removes a sequence that has ended; a branch keeps its positions for those of its prompt that wait."""
        if not any(same_prompt(seq, other) for other in self.waiting):
            self.drop(seq)
            return
        self.members.pop(seq, None)
        self._unlist(seq)
        self.kept.append(seq)

    def _free(self, seq: Sequence) -> None:
        """Removes a sequence from the lists and frees what the caches and the drafter keep for it."""
        self.cache.free(seq)
        self._unlist(seq)
        for other in [other for other in self.kept if other.finished]:
            if not any(same_prompt(other, branch) for branch in self.waiting):
                self.release(other)

    @property
    def blocks_held(self) -> int:
        """Blocks that sequences hold, and not the prefix cache alone; 0 of a cache without blocks."""
        return self.cache.blocks_in_use - self.prefixes.evictable if self.cache.num_blocks else 0

    def release(self, seq: Sequence) -> None:
        """Frees the positions of a sequence that is in no batch."""
        self.cache.free(seq)
        self.kept = [other for other in self.kept if other is not seq]

    def _unlist(self, seq: Sequence) -> None:
        """Removes a sequence from the lists; all that is kept for it is what the cache has."""
        for part in (self.prefixes, self.drafter):
            part.free(seq)
        self.running = [other for other in self.running if other is not seq]
        self.waiting = [other for other in self.waiting if other is not seq]
        self.kept = [other for other in self.kept if other is not seq]
        self._last_turn.pop(seq, None)
        self.in_flight.pop(seq, None)  # what its batch gives is of no use now

    def evict_kept(self, seq: Sequence) -> bool:
        """Frees a kept sequence other than `seq`, which will be computed again if need be; False when there is none."""
        others = [other for other in self.kept if other is not seq]
        for other in others[:1]:
            self.release(other)
        return bool(others)

    def _count_preemption(self, seq: Sequence) -> None:
        """The sequence ran, and will be computed again."""
        seq.record_preemption()
        self.ledger.preemptions += 1

    # After an error, in a step or between two of them.

    @contextmanager
    def change(self) -> Iterator[None]:
        """Wraps what changes sequences and caches: an error in it is followed by a repair.

        If the repair is interrupted, too, the next change begins with one.
        """
        if self._changing:
            self.repair()
        self._changing = True
        try:
            yield
        except BaseException:
            self.repair()
            raise
        self._changing = False

    def repair(self) -> None:
        """Derives all bookkeeping anew; all that ran are preempted. Done twice, or again from its middle, is the same.
        """
        for seq in self.members:
            seq.repair()
        in_step = dict.fromkeys([*self.preempted, *self.plan, *self.joined, *self.in_flight])
        self.preempted = [seq for seq in in_step if not seq.finished]
        self.left = [seq for seq in in_step if seq.finished]
        self.members = {seq: None for seq in self.members if not seq.finished}
        for seq in self.running:
            if seq in self.members:
                self._count_preemption(seq)
        self.running, self.waiting, self.kept = [], sorted(self.members, key=BY_AGE), []
        self.plan, self._last_turn = {}, {}
        self.computing, self.in_flight = [], {}
        self.cache.clear(self.prefixes.rebuild())
        self.candidates.free()
        self.drafter.keep(self.members)
        self._changing = False
