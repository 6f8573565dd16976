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
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

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
    """An array, or a pickled object, on its way. taken: whether it was received."""

    sent: Any
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


@dataclass(frozen=True)
class Some:
    """Some ranks of a Group, by their numbers in it. path: of which splits they come: equal ranks may meet twice."""

    ranks: tuple[int, ...]
    path: tuple[int, ...] = ()


class Group:
    """Ranks that take turns: only the one whose turn it is runs."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.rng, self.changed = size, random.Random(seed), threading.Condition()
        self.turn = -1  # whose turn it is
        self.waits: dict[int, Wait] = {}  # of all ranks but the one whose turn it is
        self.ended: set[int] = set()
        # From rank to rank, and collective by collective, of each of the groups into which the ranks are split.
        self.mail: defaultdict[tuple[object, int, int], deque[Message]] = defaultdict(deque)
        self.meetings: defaultdict[tuple[object, int], Meeting] = defaultdict(Meeting)
        self.attended: Counter[tuple[object, int]] = Counter()  # collectives of each rank so far
        self.failure: str | None = None

    def run(self, work: Callable[[Comm], Result], ledgers: list[Ledger]) -> list[Result]:
        """What work returns for each rank. Raises the error of the first rank that fails."""
        results: dict[int, Result] = {}
        errors: list[BaseException] = []

        def rank_thread(rank: int) -> None:
            try:
                self._until_turn(rank)
                results[rank] = work(LocalComm(self, Some(tuple(range(self.size))), rank, ledgers[rank]))
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

    def meet(self, some: Some, rank: int, call: tuple[object, ...], brought: Any) -> list[Any]:
        """What each of some ranks has brought to the collective. Raises CommError where another one is called."""
        meeting = self.meetings[some, self.attended[some, rank]]
        self.attended[some, rank] += 1
        if not meeting.brought:
            meeting.call, meeting.first = call, rank
        elif meeting.call != call:
            both = f"rank {meeting.first} calls {said(meeting.call)}, and rank {rank} {said(call)}"
            raise CommError(f"{both}; all ranks must call the same, in the same order")
        meeting.brought[rank] = brought
        self.wait(rank, said(call), lambda: len(meeting.brought) == len(some.ranks))
        return [meeting.brought[other] for other in some.ranks]

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


def form(x: Array | bytes) -> str:
    """Shape and type of an array, in words."""
    if isinstance(x, bytes):
        return "an object"
    return f"{x.dtype}{list(x.shape)}"


class LocalComm(Comm):
    """A rank of a Group. Arrays are copied on their way, so that no rank writes into another's.

    some: the ranks that it can reach; own: its number in the Group.
    """

    def __init__(self, group: Group, some: Some, own: int, ledger: Ledger) -> None:
        super().__init__(some.ranks.index(own), len(some.ranks), ledger)
        self.group, self.some, self.own, self.splits = group, some, own, 0

    def split(self, group: int) -> LocalComm:
        chosen = self._meet(("split",), group)
        self.splits += 1
        ranks = tuple(rank for rank, one in zip(self.some.ranks, chosen, strict=True) if one == group)
        return LocalComm(self.group, Some(ranks, (*self.some.path, self.splits)), self.own, self.ledger)

    def limit_waits(self, seconds: float) -> None:
        """Nothing more: a wait without an end is found at once, and one that computes has the only turn."""

    def _meet(self, call: tuple[object, ...], brought: Any) -> list[Any]:
        return self.group.meet(self.some, self.own, call, brought)

    def _all_reduce(self, x: Array) -> Array:  # (...,) -> (...,)
        first, *others = self._meet(("all_reduce", form(x)), x.copy())
        x[...] = first
        for other in others:  # in the order of ranks, so that all get the same bits
            x += other
        return x

    def _all_gather(self, x: Array, lengths: list[int]) -> list[Array]:  # (rows, ...) ->
        call = "all_gather", f"{x.dtype}{lengths} x {list(x.shape[1:])}"
        return [one.copy() for one in self._meet(call, x.copy())]

    def _all_to_all(self, x: Array, sent: list[int], received: list[int]) -> Array:  # (sent, ...) -> (got, ...)
        parts = np.split(x.copy(), np.cumsum(sent)[:-1])
        given = [parts[self.rank] for parts in self._meet(("all_to_all", f"{x.dtype} x {list(x.shape[1:])}"), parts)]
        for rank, (part, rows) in enumerate(zip(given, received, strict=True)):
            if len(part) != rows:
                raise CommError(f"{self._name(rank)} sends {len(part)} rows, and rank {self.own} receives {rows}")
        return np.concatenate(given)

    def _broadcast(self, x: Array, root: int) -> Array:  # (...,) -> (...,)
        given = self._meet(("broadcast", form(x), f"root {root}"), x.copy())
        x[...] = given[root]
        return x

    def _share(self, value: Any, root: int) -> tuple[Any, int]:
        pickled = pickle.dumps(value) if self.rank == root else b""
        words = self._meet(("share", f"root {root}"), pickled)[root]
        return (value if self.rank == root else pickle.loads(words)), len(words)

    def _barrier(self) -> None:
        self._meet(("barrier",), None)

    def _send(self, x: Array, to: int) -> None:  # (...,) ->
        self._wait_taken(self._mail(x.copy(), to), to)

    def _receive(self, x: Array, source: int) -> Array:  # (...,) -> (...,)
        sent = self._taken(source)
        if form(sent) != form(x):
            raise CommError(f"{self._name(source)} sends {form(sent)}, and rank {self.own} receives {form(x)}")
        x[...] = sent
        return x

    def _exchange(self, x: Array, to: int, y: Array, source: int) -> Array:  # (sent, ...), (got, ...) -> (got, ...)
        message = self._mail(x.copy(), to)
        self._receive(y, source)
        self._wait_taken(message, to)
        return y

    def _post(self, x: Array, to: int) -> None:  # (...,) ->
        self._mail(x.copy(), to)
        self.group.wait(self.own, "its turn")

    def _tell(self, words: bytes, to: int) -> None:
        self._mail(words, to)
        self.group.wait(self.own, "its turn")

    def _hear(self, source: int) -> bytes:
        sent = self._taken(source)
        if not isinstance(sent, bytes):
            raise CommError(f"{self._name(source)} sends {form(sent)}, and rank {self.own} hears an object")
        return sent

    def _name(self, rank: int) -> str:
        return f"rank {self.some.ranks[rank]}"

    def _mail(self, sent: Any, to: int) -> Message:
        message = Message(sent)
        self.group.mail[self.some, self.rank, to].append(message)
        return message

    def _wait_taken(self, message: Message, to: int) -> None:
        self.group.wait(self.own, f"{self._name(to)} to receive", lambda: message.taken)

    def _taken(self, source: int) -> Any:
        """The next thing from a rank."""
        queue = self.group.mail[self.some, source, self.rank]
        self.group.wait(self.own, f"{self._name(source)} to send", lambda: bool(queue))
        message = queue.popleft()
        message.taken = True
        return message.sent
