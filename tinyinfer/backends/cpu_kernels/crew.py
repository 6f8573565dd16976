"""How many threads a pass runs on: as many as it may, or fewer while the machine is busy otherwise.

Threads that compute a plan wait for each other two hundred times in a pass. Where another process has one of the cores,
each of these waits can last until the system gives the core back, some milliseconds, and two threads are slower than
one. So the share of time that threads waited is measured, and while it is large one thread fewer is tried; the number
with the shorter time stays. The system hands cores out for milliseconds, in which several passes of a small model fit,
so times are compared over a tenth of a second. From time to time one more is tried again, less often the less it has
helped. Where fewer have not helped, the work itself is uneven: fewer are tried again when passes have become slower, or
much later.

Wins: beside other work a pass keeps most of what the cores that are left can do. Loses: some passes until the number is
found.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable
from statistics import fmean

HELD_UP = 0.25  # of the threads' time spent waiting: more than uneven work explains
SAMPLES, MOST_SAMPLES, SPAN = 6, 64, 0.1  # passes that are compared: so many, or fewer that take so many seconds
EVERY, AT_MOST = 32, 512  # passes until one thread more is tried, at first and in the long run
SLOWER = 1.25  # times the time at which fewer threads have not helped


class Crew:
    """The number of threads for the next pass. most: as many as the user allows."""

    def __init__(self, most: int) -> None:
        self.most = self.size = most
        self._work: Hashable = None
        self._times: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=MOST_SAMPLES))  # by number of threads
        self._held_up: deque[bool] = deque(maxlen=SAMPLES)
        self._settled = most  # the number that has proved best
        self._passes, self._pause = 0, EVERY  # since the last trial; until the next one with more threads
        self._uneven: dict[Hashable, float] = {}  # by work: seconds of a pass when fewer threads did not help

    def record(self, work: Hashable, seconds: float, waited: float) -> None:
        """Learns from a pass. work: what was computed, since only times of the same work are compared.

        waited: the seconds that all threads together have waited for others.
        """
        if self.most == 1:
            return
        if work != self._work:
            self._begin(work)
        held_up = waited > HELD_UP * self.size * seconds
        self._times[self.size].append(seconds)
        self._held_up.append(held_up)
        self._passes += 1
        if self.size > self._settled and held_up:  # one more is no help yet
            self._settle(self._settled)
            self._pause = min(AT_MOST, 2 * self._pause)
        elif self.size != self._settled:
            self._compare()
        elif self.size > 1 and sum(self._held_up) > SAMPLES // 2 and self._may_help():
            self._try(self.size - 1)
        elif self.size < self.most and self._passes >= self._pause:
            self._try(self.size + 1)

    def _may_help(self) -> bool:
        """Whether fewer threads may help: they have not been tried, or it is long ago, or passes take longer now."""
        before, times = self._uneven.get(self._work), self._times[self.size]
        if before is None or self._passes >= AT_MOST:
            return True
        return enough(times) and fmean(times) > SLOWER * before

    def _begin(self, work: Hashable) -> None:
        self._work, self.size = work, self._settled
        self._times.clear()
        self._held_up.clear()

    def _try(self, size: int) -> None:
        self.size, self._passes = size, 0
        self._times.pop(size, None)
        self._held_up.clear()

    def _compare(self) -> None:
        """Ends a trial after enough passes: the number of threads with the shorter time stays."""
        new, old = self._times[self.size], self._times[self._settled]
        if not enough(new):
            return
        better = not old or fmean(new) < fmean(old)
        if better and self.size > self._settled:
            self._pause = EVERY
        if self.size < self._settled:
            self._uneven.pop(self._work, None)
            if not better:
                self._uneven[self._work] = fmean(old)
        self._settle(self.size if better else self._settled)

    def _settle(self, size: int) -> None:
        self.size = self._settled = size
        self._passes = 0
        self._held_up.clear()


def enough(times: deque[float]) -> bool:
    """Whether so many passes say how fast a number of threads is."""
    return len(times) >= SAMPLES and (len(times) == MOST_SAMPLES or sum(times) >= SPAN)
