"""Clocks: the engine is given one, so that a workload runs in real time or in the time that a machine would need."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Seconds since any fixed moment, and a way to wait while there is nothing to compute."""

    def __call__(self) -> float:
        """The present time in seconds."""

    def wait_until(self, moment: float, woken: Callable[[float], object] = time.sleep) -> None:
        """Returns once `moment` is not in the future, or earlier, when `woken(seconds)` says so.

        woken: waits at most so many seconds; true when there is a reason to wait no longer.
        """


class WallClock:
    """The clock of the system: seconds of time.perf_counter."""

    def __call__(self) -> float:
        return time.perf_counter()

    def wait_until(self, moment: float, woken: Callable[[float], object] = time.sleep) -> None:
        """Waits, again if the system wakes the thread too early."""
        while (rest := moment - self()) > 0 and not woken(rest):
            continue
