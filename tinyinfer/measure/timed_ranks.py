"""Ranks in simulated time: each has a clock that its own work moves, and a message arrives when its wire lets it.

Threads of one process (parallel/local.py) show what ranks compute, and not when. Here a rank's clock goes by the
roofline of what its ledger counts, a message of b bytes takes α + β·b, and who waits for it waits until it is there
(Lamport 1978: a receive is later than its send). So the bubble of a pipeline, or the price of an all-reduce, is the
same figure on any machine, and the engine that gives it is the one that runs.

Wins: four ranks on one core, without noise. Loses: the host's own work takes no time, and no two messages share a wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.ledger import Ledger
from tinyinfer.measure.roofline import Machine
from tinyinfer.measure.simulated_clock import SimulatedClock
from tinyinfer.parallel.comm import Comm, row_bytes


@dataclass(frozen=True)
class Wire:
    """What a message takes: `latency` seconds, and a second for each `bandwidth` bytes."""

    latency: float = 0.0
    bandwidth: float = float("inf")

    def seconds(self, nbytes: int) -> float:
        """The time of one message."""
        return self.latency + nbytes / self.bandwidth


class TimedComm(Comm):
    """A rank whose clock waits for messages. inner: sends them; clock: what the rank's engine is given, too.

    idle: seconds in which the rank had nothing to compute so far.
    """

    def __init__(self, inner: Comm, clock: SimulatedClock, wire: Wire) -> None:
        super().__init__(inner.rank, inner.size, clock.ledger)
        self.inner = inner.counting(Ledger())  # what this one sends beside are the times
        self.clock, self.wire, self.waits = clock, wire, [0.0]

    @property
    def idle(self) -> float:
        """Seconds of waiting, also in groups that this one was split into."""
        return sum(self.waits)

    def split(self, group: int) -> TimedComm:
        other = TimedComm(self.inner.split(group), self.clock, self.wire)
        other.waits = self.waits
        return other

    def limit_waits(self, seconds: float) -> None:
        self.inner.limit_waits(seconds)

    def _wait(self, moment: float) -> None:
        self.waits.append(max(0.0, moment - self.clock()))
        self.clock.wait_until(moment)

    def _meet(self, nbytes: int, messages: int) -> None:
        """A collective ends for all ranks when the last one has come and the messages are through."""
        times = self.inner.all_gather(np.array([self.clock()]))
        last = max(float(time[0]) for time in times)
        self._wait(last)
        self.clock.wait_until(last + messages * self.wire.latency + nbytes / self.wire.bandwidth)

    def _all_reduce(self, x: Array) -> Array:  # (...,) -> (...,)
        n = self.size
        self._meet(2 * (n - 1) * x.nbytes // n, 2 * (n - 1))
        return self.inner.all_reduce(x)

    def _all_gather(self, x: Array, lengths: list[int]) -> list[Array]:  # (rows, ...) ->
        found = self.inner.all_gather(x, lengths)
        self._meet(sum(one.nbytes for one in found), self.size - 1)
        return found

    def _all_to_all(self, x: Array, sent: list[int], received: list[int]) -> Array:  # (sent, ...) -> (got, ...)
        rows = max(sum(sent) - sent[self.rank], sum(received) - received[self.rank])  # both ways at once
        self._meet(rows * row_bytes(x), self.size - 1)
        return self.inner.all_to_all(x, sent, received)

    def _broadcast(self, x: Array, root: int) -> Array:  # (...,) -> (...,)
        self._meet(x.nbytes, (self.size - 1).bit_length())
        return self.inner.broadcast(x, root)

    def _share(self, value: Any, root: int) -> tuple[Any, int]:
        self._meet(0, (self.size - 1).bit_length())
        return self.inner._share(value, root)

    def _barrier(self) -> None:
        self._meet(0, (self.size - 1).bit_length())

    def _stamp(self, to: int, nbytes: int) -> None:
        """Tells the other rank when what comes next is there."""
        self.inner.tell(self.clock() + self.wire.seconds(nbytes), to)

    def _send(self, x: Array, to: int) -> None:  # (...,) ->
        self._stamp(to, x.nbytes)
        self.inner.send(x, to)

    def _receive(self, x: Array, source: int) -> Array:  # (...,) -> (...,)
        self._wait(self.inner.hear(source))
        return self.inner.receive(x, source)

    def _exchange(self, x: Array, to: int, y: Array, source: int) -> Array:  # (sent, ...), (got, ...) -> (got, ...)
        self._stamp(to, x.nbytes)
        self._wait(self.inner.hear(source))
        return self.inner.exchange(x, to, y, source)

    def _post(self, x: Array, to: int) -> None:  # (...,) ->
        self._stamp(to, x.nbytes)
        self.inner.post(x, to)

    def _tell(self, words: bytes, to: int) -> None:
        self._stamp(to, len(words))
        self.inner._tell(words, to)

    def _hear(self, source: int) -> bytes:
        self._wait(self.inner.hear(source))
        return self.inner._hear(source)


def timed(comm: Comm, machine: Machine, wire: Wire | None = None) -> TimedComm:
    """The rank in simulated time, from now on: each rank is such a machine, and any two share such a wire."""
    return TimedComm(comm, SimulatedClock(comm.ledger, machine), wire or Wire())
