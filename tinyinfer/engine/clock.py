"""Clocks: the engine is given one, so that a workload can run in real time or in the time that its work would take."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds from any fixed moment, and a way to let time pass while there is nothing to do."""

    def __call__(self) -> float:
        """Now."""

    def wait_until(self, moment: float) -> None:
        """Returns when `moment` is not in the future."""


class WallClock:
    """Real time."""

    def __call__(self) -> float:
        """Now."""
        return time.perf_counter()

    def wait_until(self, moment: float) -> None:
        """Sleeps."""
        while (rest := moment - self()) > 0:
            time.sleep(rest)
