"""Clocks: the engine is given one, so that a workload runs in real time or in the time that a machine would need."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since any fixed moment, and a way to wait while there is nothing to compute."""

    def __call__(self) -> float:
        """The present time in seconds."""

    def wait_until(self, moment: float) -> None:
        """Returns once `moment` is not in the future."""


class WallClock:
    """The clock of the system: seconds of time.perf_counter."""

    def __call__(self) -> float:
        return time.perf_counter()

    def wait_until(self, moment: float) -> None:
        """Sleeps, again if the system wakes the thread too early."""
        while (rest := moment - self()) > 0:
            time.sleep(rest)
