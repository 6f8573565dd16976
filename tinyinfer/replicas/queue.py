"""The front's queue, and which replica has which sequence: none is ever in no place, and none counts in two.

A replica that is gone gives its sequences back to the queue. Ctrl-C may come between any two lines; then all sequences
are taken back from the other replicas, as the scheduler preempts all that ran (batching/bookkeeping.py), and what these
replicas still say of them does not count.
"""

from __future__ import annotations

import sys
from bisect import insort
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from time import monotonic
from typing import Any

from tinyinfer.batching.bookkeeping import BY_AGE
from tinyinfer.engine.engine import Engine
from tinyinfer.replicas.peer import Box
from tinyinfer.replicas.remote import Remote
from tinyinfer.replicas.routing import Load, Router
from tinyinfer.sequence import Sequence

AHEAD = 2  # requests that a replica is given beyond those that it runs, so that a free slot waits for no message
OWN = 0  # the number of the front's own replica


class Queue:
    """Sequences that wait for a replica, and those that are in one.

    own: the engine of replica 0; remotes: of the others. slots: how many requests a replica runs together; patience:
    seconds after which a silent one counts as dead; box: what the others say.
    waiting: the oldest first; mine: what is in replica 0; failed: what has ended by an error of another replica, until
    the caller drops it; saved: tokens that a replica's prefix cache saves, as the router expects.
    """

    def __init__(
        self, own: Engine, remotes: list[Remote], router: Router, slots: int, patience: float, box: Box
    ) -> None:
        self.own, self.router, self.slots, self.patience, self.box = own, router, slots, patience, box
        self.remotes = {remote.peer.number: remote for remote in remotes}
        self.waiting: list[Sequence] = []
        self.mine: dict[Sequence, None] = {}
        self.failed: dict[Sequence, Exception] = {}
        self.saved: dict[Sequence, int] = {}
        self._numbers, self._changing, self.looked = count(), False, monotonic()

    @property
    def busy(self) -> bool:
        """Whether a sequence waits, is in a replica, or has failed there."""
        known = self.waiting or self.mine or self.failed or self._changing
        return bool(known) or any(remote.placed for remote in self.remotes.values())

    def add(self, seq: Sequence) -> None:
        """Queues a sequence. Raises SwitchError, a ValueError, for one that a cache could not hold even alone."""
        self.own.scheduler.check_length(seq)
        if seq not in self.waiting:
            insort(self.waiting, seq, key=BY_AGE)

    def drop(self, *sequences: Sequence) -> None:
        """Takes sequences away from wherever they are, but for the front's own engine."""
        for remote in self.remotes.values():
            remote.drop(sequences)
        self.waiting = [seq for seq in self.waiting if seq not in sequences]
        for seq in sequences:
            for known in (self.mine, self.saved, self.failed):
                known.pop(seq, None)

    def place(self, now: float) -> None:
        """Gives requests that have arrived to replicas with room, the oldest first."""
        while self.waiting and self.waiting[0].timing.arrival <= now and (loads := self.loads()):
            seq = self.waiting[0]
            salt = seq.request.params.cache_salt
            number = self.router.choose(seq.tokens, loads, salt)
            self.saved[seq] = self.router.cached(number, seq.tokens, salt)
            self.router.learn(number, seq.tokens, salt)
            if number == OWN:
                self.mine[seq] = None
                self.own.scheduler.add(seq)
            else:
                self.own.scheduler.drop(seq)  # a prompt that was scored is computed there again
                self.remotes[number].add(seq, next(self._numbers))
            self.waiting.pop(0)

    @property
    def placed(self) -> dict[int, dict[Sequence, Any]]:
        """The sequences that are in each replica."""
        return {OWN: self.mine, **{number: remote.placed for number, remote in self.remotes.items()}}

    def loads(self) -> dict[int, Load]:
        """What the replicas with room have to do."""
        room = {number: group for number, group in self.placed.items() if len(group) < self.slots + AHEAD}
        return {number: Load(len(group), sum(map(self.outstanding, group))) for number, group in room.items()}

    def outstanding(self, seq: Sequence) -> int:
        """How many tokens of a sequence are still to compute or to generate, as far as the front knows."""
        computed = max(seq.progress.computed, self.saved.get(seq, 0))
        pending = max(0, len(seq.tokens) - computed)
        return pending + seq.request.max_tokens - len(seq.progress.choices)

    def leave(self) -> None:
        """Forgets where sequences were that are finished; their replicas' caches may have all of their tokens."""
        for number, group in self.placed.items():
            for seq in [seq for seq in group if seq.finished]:
                computed = seq.tokens[:-1]
                self.router.learn(number, computed, seq.request.params.cache_salt)
                self.saved.pop(seq, None)
                group.pop(seq)

    # Replicas that are gone, and interrupts.

    def bury_gone(self) -> None:
        """Gives up replicas that have ended, or have had work and said nothing for too long, once all is read.

        After a pause of the front itself it looks twice: what was said meanwhile may not be read yet.
        """
        now = monotonic()
        paused, self.looked = now - self.looked > self.patience / 2, now
        for remote in [remote for number, remote in self.remotes.items() if not self.box.has(number)]:
            if remote.peer.gone:
                self.bury(remote, "has ended")
            elif remote.silent_for(now) > self.patience and not paused:
                self.bury(remote, f"has reported nothing for {self.patience:g} s")

    def bury(self, remote: Remote, why: str) -> None:
        """Gives up a replica: its requests go back to the queue, with the tokens that they have."""
        left = [seq for seq in remote.placed if not seq.finished]
        self.waiting = sorted({*self.waiting, *left}, key=BY_AGE)
        del self.remotes[remote.peer.number]
        for seq in left:
            if seq.progress.computed:
                seq.record_preemption()
                self.own.ledger.preemptions += 1
        if remote.peer.hang_up():
            requests = "request goes" if len(left) == 1 else "requests go"
            more = f"; {len(left)} unfinished {requests} on elsewhere" if left else ""
            print(f"tinyinfer: replica {remote.peer.number} {why}{more}", file=sys.stderr, flush=True)

    @contextmanager
    def change(self) -> Iterator[None]:
        """Wraps what changes where sequences are: an error in it is followed by a repair (batching/bookkeeping.py)."""
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
        """Takes all sequences back from the other replicas, and queues what is in none. Done twice, it is the same."""
        members = self.own.scheduler.members
        known = [*self.waiting, *self.mine, *(seq for remote in self.remotes.values() for seq in remote.placed)]
        for seq in known:
            if seq not in members:
                seq.repair()
        waiting = {seq for seq in known if not (seq.finished or seq in members or seq in self.failed)}
        self.waiting = sorted(waiting, key=BY_AGE)
        self.mine = {seq: None for seq in known if seq in members}
        for remote in self.remotes.values():
            remote.drop(list(remote.placed))
        self._changing = False
