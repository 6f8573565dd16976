"""A bounded queue: a server that takes all that comes answers none of it in time.

The engine runs some sequences at once, and a fixed number may wait behind them. One more is told at once to come later
(429), and when: a full queue is a property of the load, not an error of the caller. An unbounded queue would answer
each request after its client has given up (goodput falls to nothing; "Designing Data-Intensive Applications", Kleppmann
2017, chapter 1, on queueing delays; Google's "Site Reliability Engineering", 2016, chapter 21, on load shedding).

Draining is the end of a queue: nothing more gets in, and what is in goes on to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil

from tinyinfer.server.errors import APIError

LONGEST_WAIT = 60  # seconds that a client is told to wait at most


class Admission:
    """Counts what is in. Used on the server's thread alone.

    running: sequences that the engine runs at once. waiting: how many more may be in. rejected(reason): counts.
    """

    def __init__(self, running: int, waiting: int, rejected: Callable[[str], None] = lambda reason: None) -> None:
        self.running, self.most, self.open = running, running + waiting, 0
        self.draining = False
        self._rejected = rejected
        self._seconds = 1.0  # what a request took lately
        self._idle: Callable[[], None] = lambda: None

    @contextmanager
    def enter(self, count: int, clock: Callable[[], float]) -> Iterator[None]:
        """Keeps `count` places for the time of the block. Raises APIError where there are none."""
        if self.draining:
            self._rejected("draining")
            raise APIError(503, "the server ends and takes nothing more; try another one", retry_after="1")
        if count > self.most:
            message = f"the {count} answers to this request are more than the {self.most} that may be here at once"
            raise APIError(400, message + "; send them in several requests", "prompt")
        if self.open + count > self.most:
            self._rejected("queue_full")
            message = f"all {self.most} places are taken; try again in {self.retry_after} s"
            raise APIError(429, message, code="queue_full", retry_after=str(self.retry_after))
        self.open += count
        begun = clock()
        try:
            yield
        finally:
            self.open -= count
            self._seconds += 0.1 * (clock() - begun - self._seconds)
            if self.draining and not self.open:
                self._idle()

    @property
    def retry_after(self) -> int:
        """Seconds until the first of those that wait has a place, as far as the last requests tell."""
        return max(1, min(LONGEST_WAIT, ceil(self._seconds / self.running)))

    def drain(self, idle: Callable[[], None]) -> None:
        """Takes nothing more; calls `idle` when the last one has left, at once if none is in."""
        self.draining, self._idle = True, idle
        if not self.open:
            idle()
