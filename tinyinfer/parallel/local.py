"""LocalComm: all ranks in one process, as threads of which one runs at a time; for tests and for lessons.

    results = run_ranks(4, work)        work(comm) runs once for each rank

A rank runs until it has to wait for another one, or sends something; then a draw from a seed says which of those that
can go on does. So a program that is right only in a lucky order fails, and fails again with the same seed. A send waits
for its receive, as MPI may do with large arrays: a program that leans on a buffer is found. Where no rank can go on,
all end, and the error says what each of them waits for.

Wins: no launcher, no second process, errors with their lines. Loses: one rank at a time, so nothing gets faster.
"""

from __future__ import annotations

import pickle
import random
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tinyinfer.arrays import Array
from tinyinfer.ledger import Ledger
from tinyinfer.parallel.comm import Comm, CommError

Result = TypeVar("Result")


def run_ranks(
    size: int, work: Callable[[Comm], Result], seed: int = 0, ledgers: list[Ledger] | None = None
) -> list[Result]:
    """What work(comm) returns for each of `size` ranks. ledgers: one for each rank (default: new ones).

    Raises what a rank raises, CommError where ranks wait for each other for ever or do not call the same.
    """
    if size < 1:
        raise ValueError(f"{size} ranks cannot run; there must be one at least")
    ledgers = ledgers or [Ledger() for _ in range(size)]
    return Group(size, seed).run(work, ledgers)


@dataclass
class Message:
    """An array on its way. taken: whether it was received."""

    array: Array
    taken: bool = False


@dataclass
class Wait:
    """What a rank waits for."""

    words: str
    ready: Callable[[], bool]


@dataclass
class Meeting:
    """A collective: what each rank that has come calls, and what it brings."""

    call: tuple[object, ...] = ()
    first: int = -1
    brought: dict[int, Any] = field(default_factory=dict)


class Group:
    """Ranks that take turns: only the one whose turn it is runs."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.rng, self.changed = size, random.Random(seed), threading.Condition()
        self.turn = -1  # whose turn it is
        self.waits: dict[int, Wait] = {}  # of all ranks but the one whose turn it is
        self.ended: set[int] = set()
        self.mail: defaultdict[tuple[int, int], deque[Message]] = defaultdict(deque)
        self.meetings: defaultdict[int, Meeting] = defaultdict(Meeting)
        self.attended = [0] * size  # collectives of each rank so far
        self.failure: str | None = None

    def run(self, work: Callable[[Comm], Result], ledgers: list[Ledger]) -> list[Result]:
        """What work returns for each rank. Raises the error of the first rank that fails."""
        results: dict[int, Result] = {}
        errors: list[BaseException] = []

        def rank_thread(rank: int) -> None:
            try:
                self._until_turn(rank)
                results[rank] = work(LocalComm(self, rank, ledgers[rank]))
            except BaseException as error:
                if self.failure is None:
                    error.add_note(f"on rank {rank} of {self.size}")
                    errors.append(error)
                self.fail(f"rank {rank} has failed: {type(error).__name__}: {error}")
            else:
                self._end(rank)

        threads = [threading.Thread(target=rank_thread, args=(rank,), daemon=True) for rank in range(self.size)]
        self.waits = {rank: Wait("its beginning", lambda: True) for rank in range(self.size)}
        try:
            for thread in threads:
                thread.start()
            with self.changed:
                self._next()
            for thread in threads:
                thread.join()
        except BaseException:  # Ctrl-C
            self.fail("the run was interrupted")
            raise
        if errors or self.failure:
            raise errors[0] if errors else CommError(self.failure)
        return [results[rank] for rank in range(self.size)]

    def wait(self, rank: int, words: str, ready: Callable[[], bool] = lambda: True) -> None:
        """Lets others run until `ready` and the draw give the rank its turn again. Raises CommError if none can."""
        with self.changed:
            self.waits[rank] = Wait(words, ready)
            self._next()
        self._until_turn(rank)

    def meet(self, rank: int, call: tuple[object, ...], brought: Any) -> list[Any]:
        """What each rank has brought to the collective. Raises CommError where another one is called."""
        meeting = self.meetings[self.attended[rank]]
        self.attended[rank] += 1
        if not meeting.brought:
            meeting.call, meeting.first = call, rank
        elif meeting.call != call:
            both = f"rank {meeting.first} calls {said(meeting.call)}, and rank {rank} {said(call)}"
            raise CommError(f"{both}; all ranks must call the same, in the same order")
        meeting.brought[rank] = brought
        self.wait(rank, said(call), lambda: len(meeting.brought) == self.size)
        return [meeting.brought[other] for other in range(self.size)]

    def fail(self, words: str) -> None:
        """Ends all ranks that wait, now or later."""
        with self.changed:
            self.failure = self.failure or words
            self.changed.notify_all()

    def _until_turn(self, rank: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.turn == rank or self.failure)
            if self.failure:
                raise CommError(self.failure)
            self.waits.pop(rank, None)

    def _end(self, rank: int) -> None:
        with self.changed:
            self.ended.add(rank)
            self._next()

    def _next(self) -> None:
        """Draws whose turn it is; the lock is held."""
        able = [rank for rank, wait in sorted(self.waits.items()) if wait.ready()]
        self.turn = self.rng.choice(able) if able else -1
        if not able and self.waits:
            stuck = [f"rank {rank} waits for {wait.words}" for rank, wait in sorted(self.waits.items())]
            gone = [f"rank {rank} has ended" for rank in sorted(self.ended)]
            self.failure = self.failure or f"no rank can go on: {'; '.join([*stuck, *gone])}"
        self.changed.notify_all()


def said(call: tuple[object, ...]) -> str:
    """A call in words: its name, and what of its arguments must agree."""
    name, *rest = call
    return f"{name}({', '.join(map(str, rest))})"


def form(x: Array) -> str:
    """Shape and type of an array, in words."""
    return f"{x.dtype}{list(x.shape)}"


class LocalComm(Comm):
    """A rank of a Group. Arrays are copied on their way, so that no rank writes into another's."""

    def __init__(self, group: Group, rank: int, ledger: Ledger) -> None:
        super().__init__(rank, group.size, ledger)
        self.group = group

    def _all_reduce(self, x: Array) -> Array:  # (...,) -> (...,)
        first, *others = self.group.meet(self.rank, ("all_reduce", form(x)), x.copy())
        x[...] = first
        for other in others:  # in the order of ranks, so that all get the same bits
            x += other
        return x

    def _all_gather(self, x: Array, lengths: list[int]) -> list[Array]:  # (rows, ...) ->
        call = "all_gather", f"{x.dtype}{lengths} x {list(x.shape[1:])}"
        return [one.copy() for one in self.group.meet(self.rank, call, x.copy())]

    def _broadcast(self, x: Array, root: int) -> Array:  # (...,) -> (...,)
        given = self.group.meet(self.rank, ("broadcast", form(x), f"root {root}"), x.copy())
        x[...] = given[root]
        return x

    def _share(self, value: Any, root: int) -> tuple[Any, int]:
        pickled = pickle.dumps(value) if self.rank == root else b""
        words = self.group.meet(self.rank, ("share", f"root {root}"), pickled)[root]
        return (value if self.rank == root else pickle.loads(words)), len(words)

    def _barrier(self) -> None:
        self.group.meet(self.rank, ("barrier",), None)

    def _send(self, x: Array, to: int) -> None:  # (...,) ->
        message = self._post(x, to)
        self.group.wait(self.rank, f"rank {to} to receive", lambda: message.taken)

    def _receive(self, x: Array, source: int) -> Array:  # (...,) -> (...,)
        queue = self.group.mail[source, self.rank]
        self.group.wait(self.rank, f"rank {source} to send", lambda: bool(queue))
        message = queue.popleft()
        message.taken = True
        if form(message.array) != form(x):
            raise CommError(f"rank {source} sends {form(message.array)}, and rank {self.rank} receives {form(x)}")
        x[...] = message.array
        return x

    def _exchange(self, x: Array, to: int, y: Array, source: int) -> Array:  # (sent, ...), (got, ...) -> (got, ...)
        message = self._post(x, to)
        self._receive(y, source)
        self.group.wait(self.rank, f"rank {to} to receive", lambda: message.taken)
        return y

    def _post(self, x: Array, to: int) -> Message:
        message = Message(x.copy())
        self.group.mail[self.rank, to].append(message)
        return message
