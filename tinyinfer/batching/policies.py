"""Batching policies: when a batch may start, which sequences may be admitted, and when finished sequences leave.

Decode reads every weight to compute one row, so rows of several sequences should share that read. `static` waits for a
full batch and computes it to its end; a finished sequence keeps its slot, as padding. `dynamic` is static with a
deadline. `continuous` admits and releases sequences at every step (Orca; Yu et al. 2022, section 3).

Continuous batching wins when requests arrive over time or differ in length: no slot is left empty. Static batching
loses twice: the first request waits for the last one, and padding computes rows that no request needs.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import takewhile
from math import inf
from typing import Protocol

from tinyinfer.sequence import Sequence


@dataclass(frozen=True)
class Limits:
    """Limits of one step: sequences, rows, and (dynamic) the seconds that the first sequence waits for the others."""

    max_num_seqs: int = 16
    max_num_batched_tokens: int = 2048
    batch_timeout: float = 0.05


class Policy(Protocol):
    """What a scheduler asks of a policy. `waiting` and `running` are in order of arrival."""

    limits: Limits

    def starts_at(self, waiting: Seq[Sequence]) -> float:
        """The time from which on the first of the waiting sequences may be admitted, if all slots are free."""

    def admissible(self, waiting: Seq[Sequence], running: Seq[Sequence], now: float) -> list[Sequence]:
        """The waiting sequences that may be admitted now, the oldest first; no more than there are free slots."""

    def leaving(self, running: Seq[Sequence]) -> list[Sequence]:
        """The finished sequences that leave now."""


@dataclass
class Static:
    """Waits for a full batch, or for the last sequence that is known, and computes that batch to its end."""

    limits: Limits
    batch: frozenset[Sequence] = frozenset()  # the sequences that own the slots

    def starts_at(self, waiting: Seq[Sequence]) -> float:
        """When the last sequence of the next batch arrives; at once for members of the present batch."""
        if waiting[0] in self.batch:
            return -inf
        return waiting[min(self.limits.max_num_seqs, len(waiting)) - 1].timing.arrival

    def admissible(self, waiting: Seq[Sequence], running: Seq[Sequence], now: float) -> list[Sequence]:
        """A member of the present batch at any time: it may come late (few rows a step) or again (preempted)."""
        if not running and waiting and waiting[0] not in self.batch and self.starts_at(waiting) <= now:
            self.batch = frozenset(arrived(waiting, now)[: self.limits.max_num_seqs])
        return list(takewhile(lambda seq: seq in self.batch, waiting))

    def leaving(self, running: Seq[Sequence]) -> list[Sequence]:
        """All sequences, once all are finished; until then a finished one is padding, unless an error has ended it."""
        done = all(seq.finished for seq in running)
        return [seq for seq in running if done or seq.progress.error is not None]


class Dynamic(Static):
    """Static, but the first sequence of a batch waits at most `batch_timeout` seconds for the others."""

    def starts_at(self, waiting: Seq[Sequence]) -> float:
        """The deadline, if it comes before the batch is full."""
        return min(super().starts_at(waiting), waiting[0].timing.arrival + self.limits.batch_timeout)


@dataclass
class Continuous:
    """Sequences are admitted as soon as a slot is free, and leave as soon as they are finished."""

    limits: Limits

    def starts_at(self, waiting: Seq[Sequence]) -> float:
        """When the first sequence arrives."""
        return waiting[0].timing.arrival

    def admissible(self, waiting: Seq[Sequence], running: Seq[Sequence], now: float) -> list[Sequence]:
        """As many arrived sequences as there are free slots."""
        return arrived(waiting, now)[: self.limits.max_num_seqs - len(running)]

    def leaving(self, running: Seq[Sequence]) -> list[Sequence]:
        """Every finished sequence, at once."""
        return [seq for seq in running if seq.finished]


def arrived(waiting: Seq[Sequence], now: float) -> list[Sequence]:
    """The sequences that have arrived by now."""
    return [seq for seq in waiting if seq.timing.arrival <= now]
