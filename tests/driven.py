"""A scheduler without a model: tokens do not matter to it, so `drive` plays the engine and chooses 9 every time."""

from __future__ import annotations

from typing import Any

from helpers import make_engine, small_config

from tinyinfer.batching.scheduler import Scheduler
from tinyinfer.sampling import Choice
from tinyinfer.sequence import Sequence


def scheduler_of(*sequences: Sequence, **switches: Any) -> Scheduler:
    """A scheduler that these sequences wait in."""
    scheduler = make_engine(small_config(), **switches).scheduler
    for seq in sequences:
        seq.arrive(0.0)
        scheduler.add(seq)
    return scheduler


def drive(scheduler: Scheduler, now: float = 0.0) -> list[tuple[Sequence, int, int]]:
    """One step at `now`: (sequence, first position, rows) of each span, in the order of the batch."""
    batch = scheduler.next_batch(now)
    scheduler.update(batch, [[Choice(9)] * bool(span.wanted) for span in batch.spans], now)
    return [(span.seq, span.first, span.rows) for span in batch.spans]


def play(scheduler: Scheduler, now: float = 0.0) -> list[list[tuple[Sequence, int, int]]]:
    """All steps at `now`, until nothing is left."""
    steps = []
    while scheduler.busy:
        steps.append(drive(scheduler, now))
        assert len(steps) < 100, "it never ends"
    return steps


def rows_of(steps: list[list[tuple[Sequence, int, int]]], *sequences: Sequence) -> list[tuple[int, ...]]:
    """How many rows each of these sequences had, step by step."""
    return [tuple(sum(n for who, _, n in step if who is seq) for seq in sequences) for step in steps]
