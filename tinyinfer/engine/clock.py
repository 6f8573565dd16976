"""Clocks: the engine is given one, so that a workload runs in real time or in the time that a machine would need."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since any fixed moment, and a way to wait while there is nothing to compute."""

    def __call__(self) -> float:
        """The present time."""

    def wait_until(self, moment: float) -> None:
        """Returns when `moment` is not in the future."""


class WallClock:
    """The system's clock."""

    def __call__(self) -> float:
        """The present time."""
        return time.perf_counter()

    def wait_until(self, moment: float) -> None:
        """Sleeps, again if the system wakes the thread too early."""
        while (rest := moment - self()) > 0:
            time.sleep(rest)
