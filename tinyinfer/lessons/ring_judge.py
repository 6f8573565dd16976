"""Lesson 20: a ring of ranks that adds up arrays, and the judge of a student's lines about it.

Rank r gives the number 16^r, so the digits of a sum in base 16 say how often each rank is in it. So a wrong sum is told
as what it holds, and not only as wrong. The ranks are threads whose order is drawn (parallel/local.py), so lines that
are right by luck fail for one of the seeds, in the same way each time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from tinyinfer.ledger import Ledger
from tinyinfer.lessons.endless import Endless, bounded
from tinyinfer.lessons.exercise import Wrong
from tinyinfer.parallel.comm import Comm, CommError, sizes
from tinyinfer.parallel.local import run_ranks
from tinyinfer.units import show

Ring = Callable[[list[np.ndarray], Any], object]  # the parts of a rank's array, and its end of the ring
CASES = ((2, 0), (3, 0), (3, 1), (4, 2), (5, 3), (5, 4), (1, 0))  # ranks, seed of their order
LENGTH = 13  # numbers of a rank's array, which few of these divide
BASE = 16


def ring(parts: list[np.ndarray], comm: Any) -> None:
    """Adds up the ranks' parts, in their place."""
    n, rank = comm.size, comm.rank
    right, left = (rank + 1) % n, (rank - 1) % n
    for step in range(n - 1):
        mine = parts[(rank - step - 1) % n]
        mine += comm.exchange(parts[(rank - step) % n], right, np.empty_like(mine), left)
    for step in range(n - 1):
        comm.exchange(parts[(rank - step + 1) % n], right, parts[(rank - step) % n], left)


class Neighbour:
    """What a student's lines may use of a Comm: messages from one rank to another, and no collective."""

    def __init__(self, comm: Comm) -> None:
        self.rank, self.size = comm.rank, comm.size
        self.exchange, self.send, self.receive, self.post = comm.exchange, comm.send, comm.receive, comm.post

    def __getattr__(self, name: str) -> Any:
        hint = "use comm.exchange(x, to, y, source)"
        raise AttributeError(f"comm.{name} is not here: you write a collective out of messages; {hint}")


@dataclass
class Held:
    """What a rank has after the call: the numbers of its parts, and whether they still are where they were."""

    parts: list[np.ndarray] = field(default_factory=list)
    moved: bool = False


def judge_ring(answer: Any) -> Wrong | None:
    """The student's lines among several numbers of ranks, in several orders."""
    if not callable(answer):
        return Wrong(f"{show(answer)} is not a function.", "keep the line that begins with `def`")
    for ranks, seed in CASES:
        if wrong := _among(answer, ranks, seed):
            return wrong
    return None


def _among(answer: Ring, ranks: int, seed: int) -> Wrong | None:
    ledgers = [Ledger() for _ in range(ranks)]
    try:
        held = run_ranks(ranks, lambda comm: run_one(answer, comm), seed, ledgers)
    except CommError as error:
        return _stuck(ranks, str(error))
    except Endless:
        return Wrong(f"With {ranks} ranks the lines do not come to an end.", "each half takes n - 1 rounds")
    for rank, one in enumerate(held):
        if wrong := _of_rank(rank, one, ranks, ledgers):
            return wrong
    return _of_counts(ranks, ledgers)


def run_one(answer: Ring, comm: Comm) -> Held:
    """A rank's call of the student's function: each number of its array is 16 to the power of the rank."""
    array = np.full(LENGTH, float(BASE**comm.rank))  # (LENGTH,)
    stops = np.cumsum([0, *sizes(LENGTH, comm.size)]).tolist()
    parts = [array[start:stop] for start, stop in pairwise(stops)]
    before = list(parts)
    bounded(answer)(parts, Neighbour(comm))
    moved = len(parts) != len(before) or any(a is not b for a, b in zip(parts, before, strict=True))
    return Held([part.copy() for part in before], moved)


def _stuck(ranks: int, words: str) -> Wrong:
    if "no rank can go on" in words:
        hint = "a send ends when it is received, so all ranks that send first wait: `comm.exchange` does both at once"
        return Wrong(f"With {ranks} ranks, {words}.", hint)
    if "receives" in words:
        hint = "what comes from the left has the number, and so the length, of the part that the left rank gives away"
        return Wrong(f"With {ranks} ranks a part arrives where another one is expected: {words}.", hint)
    return Wrong(f"With {ranks} ranks: {words}.", "all ranks run the same rounds")


def _of_rank(rank: int, held: Held, ranks: int, ledgers: list[Ledger]) -> Wrong | None:
    """What is wrong with what a rank holds; the first part that is no sum decides."""
    where = f"With {ranks} ranks, rank {rank}"
    counts = [times_in(part, ranks) for part in held.parts]
    right = [one == [1] * ranks for one in counts]
    if all(right):
        return None
    if held.moved:
        hint = "write `part += ...`, or let `comm.exchange` write into the part; `parts[i] = ...` changes the list only"
        return Wrong(f"{where} has put new arrays into the list, and the array itself has other numbers.", hint)
    if not ledgers[rank].messages_sent:
        return Wrong(f"{where} sends nothing.", "`comm.exchange(x, right, y, left)` sends x, and y is what comes")
    if sum(right) == 1 and ledgers[rank].messages_sent == ranks - 1:
        hint = "the second half: the sums go round once more, and each replaces the part of its number"
        return Wrong(f"{where} has the sum of part {right.index(True)} only, and then stops.", hint)
    part = right.index(False)
    found = counts[part]
    if found is None:
        return Wrong(f"{where} holds in part {part} what is no sum.", "every number of a part is added once")
    twice = [other for other, times in enumerate(found) if times > 1]
    if twice:
        hint = "what arrives in the first half is added; what arrives in the second half is a sum already"
        return Wrong(f"{where} counts the numbers of rank {twice[0]} {found[twice[0]]} times in part {part}.", hint)
    lacking = ", ".join(str(other) for other, times in enumerate(found) if not times)
    hint = "in each round, give away the part that you got and added to in the round before"
    return Wrong(f"{where} lacks in part {part} the numbers of rank {lacking}.", hint)


def times_in(part: np.ndarray, ranks: int) -> list[int] | None:
    """How often the numbers of each rank are in a part; None where its numbers differ, or are no such sum."""
    value = float(part[0])
    if (part != value).any() or not 0 <= value < BASE**ranks or value != int(value):
        return None
    return [int(value) // BASE**rank % BASE for rank in range(ranks)]


def _of_counts(ranks: int, ledgers: list[Ledger]) -> Wrong | None:
    """What is wrong with sums that are right: more bytes, or more messages, than a ring needs."""
    largest = 2 * (ranks - 1) * sizes(LENGTH, ranks)[0] * 8
    for rank, ledger in enumerate(ledgers):
        if ledger.bytes_sent > largest:
            said = f"The sums are right, but with {ranks} ranks, rank {rank} sends {ledger.bytes_sent:,} bytes"
            return Wrong(f"{said}; a ring needs {largest:,} at most.", "send one part in a round, not all of them")
        if ledger.messages_sent > 2 * (ranks - 1):
            said = f"The sums are right, but with {ranks} ranks, rank {rank} sends {ledger.messages_sent} messages"
            return Wrong(f"{said}; a ring needs {2 * (ranks - 1)}.", "one message in each of the 2(n - 1) rounds")
    return None
