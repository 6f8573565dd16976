"""The front: one queue before several replicas of a model, with the interface of an engine.

A request waits in the front's queue until a replica has room for it, and the router says which one gets it
(routing.py). A step of the front is a step of any replica: what a report says is written into the front's own
sequences, so a caller sees tokens, text and times as if one engine had computed them all. Replica 0 is an engine of
this process.

A replica that is gone, or has work and reports nothing for too long, gives its unfinished requests back to the queue
(queue.py). They go on elsewhere from their tokens so far, as after a preemption. A token is a function of the tokens
before it, of the seed and of its position, so the text is the same; and only what was reported counts as a token, so
none is lost and none is given twice.

Wins: replicas never wait for each other, and one that dies costs only what it had not reported. Loses: each has all the
weights, and its own prefixes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import monotonic, sleep

import numpy as np

from tinyinfer.engine.engine import Engine
from tinyinfer.engine.trace import StepTrace
from tinyinfer.replicas.messages import Failures, Forget, Report, Watch
from tinyinfer.replicas.queue import OWN, Queue
from tinyinfer.sequence import Sequence

TICK = 0.005  # seconds that the front listens to its replicas before it looks for new requests


class Front(Engine):
    """The engine of the process that has the user: its own engine is replica 0, and the queue knows the others."""

    def __init__(self, queue: Queue) -> None:
        self.queue, self.own = queue, queue.own
        own = self.own
        self.model, self.ops, self.cache, self.clock, self.ledger = own.model, own.ops, own.cache, own.clock, own.ledger
        self.scheduler, self.drafter, self.recorder, self.cure = own.scheduler, own.drafter, own.recorder, own.cure
        self.compiled = own.compiled
        self.watched = False
        self.due = 0  # reports that come before the next step of the front's own replica

    # What an engine does.

    @property
    def busy(self) -> bool:
        return self.queue.busy or self.own.busy

    @property
    def blocks_held(self) -> dict[int, int]:
        return self.own.blocks_held | {number: remote.blocks_held for number, remote in self.queue.remotes.items()}

    def step(self, watch: bool = False) -> StepTrace:
        """A step of a replica: one that was reported, else one of the front's own."""
        for error in self.queue.failed.values():
            raise error  # until the caller ends that request
        with self.queue.change():
            self.watch(watch)
            self.queue.place(self.clock())
            trace = self.reported()
            self.queue.place(self.clock())
        if trace is None:
            trace = self.own.step(watch)
            self.due = len(self.queue.box.items)
        with self.queue.change():
            self.queue.leave()
        others, cache = [one.held for one in self.queue.remotes.values()], self.own.cache
        held = cache.held_bytes + sum(one[0] for one in others)
        wasted = cache.wasted_bytes + sum(one[1] for one in others)
        number = OWN if trace.replica is None else trace.replica
        return replace(trace, cache_bytes=held, wasted_bytes=wasted, replica=number)

    def add(self, seq: Sequence, begun: float) -> None:
        seq.arrive(begun)
        self.queue.add(seq)

    def wait(self, woken: Callable[[float], object] = sleep) -> bool:
        """Waits until a replica has something to report or to do; False when `woken` ended the wait early."""
        while True:
            with self.queue.change():
                self.queue.place(self.clock())
                self.queue.bury_gone()
            if self.queue.failed or self.own_ready() or self.queue.box.wait(TICK):
                return True
            if not self.busy or woken(0.0):
                return False

    def abort(self, *sequences: Sequence) -> None:
        with self.queue.change():
            self.queue.drop(*sequences)
            self.own.abort(*sequences)

    def logits(self, seq: Sequence, start: int, most: int) -> np.ndarray:
        return self.own.logits(seq, start, most)

    def forget_prefixes(self) -> None:
        self.own.forget_prefixes()
        self.queue.router.forget()
        for remote in self.queue.remotes.values():
            remote.tell(Forget())

    # What replicas say.

    def own_ready(self) -> bool:
        """Whether the front's own replica has rows to compute."""
        return self.own.busy and self.own.scheduler.ready_at() <= self.clock()

    def reported(self) -> StepTrace | None:
        """The next step that another replica has reported; None when none has, or when it is the front's turn."""
        remotes = self.queue.remotes
        if self.due == 0 and self.own_ready():
            return None
        while (heard := self.queue.box.take()) is not None:
            remote, self.due = remotes.get(heard.replica), max(0, self.due - 1)
            message = remote.hear(heard) if remote and heard.words is not None else None
            if remote is None or message is None:
                self.queue.bury_gone()
            elif isinstance(message, Failures):
                self.queue.failed.update(remote.failures(message))
                remote.drop(self.queue.failed)
            elif isinstance(message, Report):
                self.ledger.add(message.ledger)
                now = self.clock()
                trace = remote.take(message, now, now - (monotonic() - heard.moment))
                remote.tidy(message)
                return trace
        return None

    def watch(self, on: bool) -> None:
        """Tells the others whether their traces are watched."""
        if on != self.watched:
            self.watched = on
            for remote in self.queue.remotes.values():
                remote.tell(Watch(on))
