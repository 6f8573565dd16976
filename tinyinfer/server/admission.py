"""A bounded queue: a server that takes all that comes answers none of it in time.

The engine runs some sequences at once, and a fixed number may wait behind them. One more is told at once to come later
(429), and when: a full queue is a property of the load, not an error of the caller. An unbounded queue would answer
each request after its client has given up (goodput falls to nothing; "Designing Data-Intensive Applications", Kleppmann
2017, chapter 1, on queueing delays; Google's "Site Reliability Engineering", 2016, chapter 21, on load shedding).

A refusal must be cheap, or refusing is the overload: a call that finds all places taken is refused before its body is
read. A call takes its places only behind its body, which says how many they are, so it may be refused there, too. No
more bodies are on their way than there are places: each may hold megabytes.

Draining is the end of a queue: nothing more gets in, what is in goes on to its end, and bodies that are half here are
refused at once, for no request has begun with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from math import ceil
from typing import TypeVar

from tinyinfer.server.errors import APIError

T = TypeVar("T")
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
        self._coming: set[asyncio.Timeout] = set()  # the limits of bodies that are half here
        self._reading = 0  # bodies that are half here, or are read as JSON

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keeps room for a body, for the time of the block. Raises APIError where as many as there are places come."""
        if self._reading >= self.most:
            raise self._full(f"the bodies of {self.most} other requests are on their way")
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1

    async def arrived(self, body: Awaitable[T], seconds: float) -> T:
        """A body that is here within so many seconds, and before the server drains. Raises APIError for another one."""
        try:
            async with asyncio.timeout(seconds) as limit:
                self._coming.add(limit)
                try:
                    return await body
                finally:
                    self._coming.discard(limit)
        except TimeoutError:
            if self.draining:
                raise self._ends(connection="close") from None
            message = f"the body was not here within {seconds:g} seconds"
            raise APIError(408, message, connection="close") from None

    def check(self, count: int = 1, n: int = 1) -> None:
        """Raises APIError where there are not so many places. n: how many of the answers each prompt has."""
        self.check_open()
        if count > self.most:
            field = "n" if n > 1 else "prompt"
            message = f"{field} asks for {count} answers, more than the {self.most} that may be here at once"
            raise APIError(400, message + "; send them in several requests", field)
        if self.open + count > self.most:
            raise self._full(f"all {self.most} places are taken")

    def check_open(self) -> None:
        """Raises APIError while the server drains."""
        if self.draining:
            raise self._ends()

    @contextmanager
    def enter(self, count: int, clock: Callable[[], float], n: int = 1) -> Iterator[None]:
        """Keeps `count` places for the time of the block. Raises APIError where `check` does."""
        self.check(count, n)
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
        for limit in self._coming:
            if not limit.expired():
                limit.reschedule(0.0)
        if not self.open:
            idle()

    def _full(self, reason: str) -> APIError:
        """The refusal of what may come later, which is counted."""
        self._rejected("queue_full")
        wait = str(self.retry_after)
        return APIError(429, f"{reason}; try again in {wait} s", code="queue_full", retry_after=wait)

    def _ends(self, **headers: str) -> APIError:
        """The refusal of what comes too late, which is counted."""
        self._rejected("draining")
        return APIError(503, "the server ends and takes nothing more; try another one", retry_after="1", **headers)
