"""A clock that runs on counted work: the time that a machine would need, by the roofline."""

from __future__ import annotations

import time
from collections.abc import Callable

from tinyinfer.ledger import Ledger
from tinyinfer.measure.roofline import Machine, predict_seconds


class SimulatedClock:
    """The time that a machine would need, by the roofline, for what the ledger counted since the clock was last read.

    Deterministic: a workload replayed on it gives the same figures anywhere. What the roofline leaves out
    takes no time.
    """

    def __init__(self, ledger: Ledger, machine: Machine) -> None:
        self.ledger, self.machine = ledger, machine
        self._seen = ledger.copy()
        self._now = 0.0

    def __call__(self) -> float:
        self._now += predict_seconds(self.ledger - self._seen, self.machine)
        self._seen = self.ledger.copy()
        return self._now

    def wait_until(self, moment: float, woken: Callable[[float], object] = time.sleep) -> None:
        """Moves the time to `moment`, unless it is later already: nothing is computed until then."""
        self._now = max(self(), moment)
