"""Clocks: the engine is given one, so that a workload can run in real time or in the time that its work would take."""

from __future__ import annotations

import time
from typing import Protocol

from tinyinfer.ledger import Ledger
from tinyinfer.roofline import Machine, predict_seconds


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


class SimulatedClock:
    """The time that a machine would need, by the roofline, for what the ledger counted since the clock was last read.

    Deterministic: a workload replayed on it gives the same figures anywhere. What the roofline leaves out is free.
    """

    def __init__(self, ledger: Ledger, machine: Machine) -> None:
        self.ledger, self.machine = ledger, machine
        self._seen = ledger.copy()
        self._now = 0.0

    def __call__(self) -> float:
        """Now."""
        self._now += predict_seconds(self.ledger - self._seen, self.machine)
        self._seen = self.ledger.copy()
        return self._now

    def wait_until(self, moment: float) -> None:
        """Nothing happens until then."""
        self._now = max(self(), moment)
