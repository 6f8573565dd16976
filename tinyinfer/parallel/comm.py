"""Comm: how the ranks of one model pass arrays to each other, and what that costs.

A rank is one process of several that run the same program, each with its own part of the work. They meet in
collectives: every rank calls the same one in the same order, and none goes on before it has what it asked for.

    all_reduce    the sum of all ranks' arrays, for all             tensor parallel: partial sums of a product
    all_gather    all ranks' arrays, for all                        tensor parallel: the best tokens of each part
    all_to_all    from each rank to each other one its own rows     experts: what they give goes to each row's home
    broadcast     one rank's array, for all
    share         one rank's Python object, for all                 what the scheduler has decided
    send/receive  an array, from one rank to another                pipeline: rows go from stage to stage
    exchange      both at once, so that a ring of ranks never waits for itself
    post          a send that does not wait                         pipeline: a stage goes on while its rows travel
    tell/hear     a Python object, without waiting                  the leader's orders
    barrier       nothing, but when all are there
    split         a Comm for some of the ranks                      those of one stage, those of one replica

The ledger counts what a rank sends, by the algorithms of collectives.py: a ring for the arrays that all ranks add to, a
binomial tree for what comes from one. A library chooses its own algorithm for each size (MPICH takes recursive doubling
for a few kilobytes), so its wires may carry others.

Wins: the same model code runs as threads of one process (local.py), as processes, on several machines (mpi.py), or from
GPU to GPU (nccl.py). Loses: a rank that is slow, or dead, stops all.
"""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable
from collections.abc import Sequence as Seq
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from functools import lru_cache
from math import prod
from typing import Any, NoReturn, Self, TypeVar

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.errors import SwitchError
from tinyinfer.ledger import Ledger
from tinyinfer.parallel.divided_mlp import bytes_sent

Value = TypeVar("Value")


counted = lru_cache(maxsize=1024)(bytes_sent)  # a decode step sends the same 61 times


class CommError(RuntimeError):
    """Ranks that do not agree on what they call, or one that is gone. The message names the rank."""


class Comm(ABC):
    """What a rank calls. rank: its number, from 0 on; size: how many there are; ledger: counts what the rank sends.

    Arrays are contiguous and lie where the backend computes. All ranks get the same bits.
    """

    def __init__(self, rank: int, size: int, ledger: Ledger) -> None:
        self.rank, self.size, self.ledger = rank, size, ledger

    @property
    def one_machine(self) -> bool:
        """Whether all ranks are on one machine, so that a byte sent costs no more than one copied. All ask at once."""
        return False

    def counting(self, ledger: Ledger) -> Self:
        """The same rank, counted in another ledger: for messages that are not the model's own."""
        other = copy(self)
        other.ledger = ledger
        return other

    # Collectives.

    def all_reduce(self, x: Array) -> Array:  # (...,) -> (...,)
        """The sum of the ranks' arrays, of one shape; x is used up."""
        if self.size == 1:
            return x
        self._count(2 * (self.size - 1), counted(x.size, self.rank, self.size, x.itemsize))
        return self._all_reduce(x)

    def all_gather(self, x: Array, lengths: Seq[int] | None = None) -> list[Array]:  # (rows, ...) ->
        """The arrays of all ranks in their order. lengths: of each along the first axis, where they differ."""
        lengths = [len(x)] * self.size if lengths is None else list(lengths)
        if len(lengths) != self.size or lengths[self.rank] != len(x):
            raise ValueError(f"rank {self.rank} of {self.size} gives {len(x)} rows, and the lengths are {lengths}")
        self._count(self.size - 1, row_bytes(x) * passed_on(lengths, self.rank))
        return self._all_gather(x, lengths) if self.size > 1 else [x]

    def all_to_all(self, x: Array, sent: Seq[int], received: Seq[int]) -> Array:  # (sent, ...) -> (got, ...)
        """The rows that the ranks have for this one, in the order of ranks. x: this rank's rows for rank 0, then those
        for rank 1, and so on. sent: how many for each; received: how many from each. No message goes without rows.
        """
        sent, received, me = list(sent), list(received), self.rank
        if not len(sent) == len(received) == self.size or sum(sent) != len(x) or sent[me] != received[me]:
            given = f"rank {me} of {self.size} gives {len(x)} rows, {sent} for the ranks"
            raise ValueError(f"{given}, and is to get {received}: these do not fit")
        self._count(sum(map(bool, sent)) - bool(sent[me]), row_bytes(x) * (len(x) - sent[me]))
        return self._all_to_all(x, sent, received) if self.size > 1 else x

    def broadcast(self, x: Array, root: int = 0) -> Array:  # (...,) -> (...,)
        """The root's array, which the others get into x, of the same shape and type."""
        self._check(root)
        self._count(passed_on := children(self.rank, root, self.size), passed_on * x.nbytes)
        return self._broadcast(x, root) if self.size > 1 else x

    def share(self, value: Value, root: int = 0) -> Value:
        """The root's object, pickled on its way; the others' value does not matter. For small things."""
        self._check(root)
        if self.size == 1:
            return value
        shared, nbytes = self._share(value, root)
        self._count(passed_on := children(self.rank, root, self.size), passed_on * nbytes)
        return shared

    def barrier(self) -> None:
        """Returns when all ranks have called it."""
        self._count((self.size - 1).bit_length(), 0)
        if self.size > 1:
            self._barrier()

    # From one rank to another.

    def send(self, x: Array, to: int) -> None:  # (...,) ->
        """Returns when the other rank has received x."""
        self._check(to, self.rank)
        self._count(1, x.nbytes)
        self._send(x, to)

    def receive(self, x: Array, source: int) -> Array:  # (...,) -> (...,)
        """What the other rank sends, an array of the shape and type of x, in the place of x."""
        self._check(source, self.rank)
        return self._receive(x, source)

    def exchange(self, x: Array, to: int, y: Array, source: int) -> Array:  # (sent, ...), (got, ...) -> (got, ...)
        """Sends x to one rank while y comes from another: two ranks that both send first would wait for each other."""
        self._check(to, self.rank)
        self._check(source, self.rank)
        self._count(1, x.nbytes)
        return self._exchange(x, to, y, source)

    def post(self, x: Array, to: int) -> None:  # (...,) ->
        """Sends a copy of x, which a `receive` takes, and returns at once. Arrays of GPUs are posted one way (nccl.py).
        """
        self._check(to, self.rank)
        self._count(1, x.nbytes)
        self._post(x, to)

    def tell(self, value: object, to: int) -> None:
        """Sends an object, pickled, to a rank that will `hear` it, and returns at once. For small things."""
        self._check(to, self.rank)
        words = pickle.dumps(value)
        self._count(1, len(words))
        self._tell(words, to)

    def hear(self, source: int) -> Any:
        """The next object that a rank tells this one."""
        self._check(source, self.rank)
        return pickle.loads(self._hear(source))

    @abstractmethod
    def limit_waits(self, seconds: float) -> None:
        """From now on a wait for another rank ends all ranks when it takes longer."""

    # Where the rank runs, for a Comm that hands something on to this one.

    def machine(self) -> tuple[int, int]:
        """The first of the ranks on this one's machine, and this one's place among them; here all are on one."""
        return 0, self.rank

    def watching(self) -> AbstractContextManager[object]:
        """Wraps a wait for other ranks that is made elsewhere, so that it ends as `limit_waits` says."""
        return nullcontext()

    def under_way(self) -> bool:
        """Whether an object that was told has not left yet; who asks again and again lets all that is posted leave."""
        return False

    # Fewer ranks.

    @abstractmethod
    def split(self, group: int) -> Comm:
        """The ranks that call this with the same number, by themselves, in their order and with their ledgers."""

    def fail(self, error: Exception) -> NoReturn:
        """Ends all ranks at once, with the error of this one."""
        self.abort(f"rank {self.rank} of {self.size} has failed: {type(error).__name__}: {error}")

    def abort(self, words: str) -> NoReturn:
        """Ends all ranks at once, with a sentence that says why."""
        raise CommError(words)

    def _check(self, other: int, own: int | None = None) -> None:
        if not 0 <= other < self.size or other == own:
            raise ValueError(f"rank {self.rank} of {self.size} has no rank {other} to talk to")

    def _count(self, messages: int, nbytes: int) -> None:
        self.ledger.messages_sent += messages
        self.ledger.bytes_sent += nbytes

    # What a kind of Comm has of its own; never called where there is one rank.

    @abstractmethod
    def _all_reduce(self, x: Array) -> Array: ...

    @abstractmethod
    def _all_gather(self, x: Array, lengths: list[int]) -> list[Array]: ...

    @abstractmethod
    def _all_to_all(self, x: Array, sent: list[int], received: list[int]) -> Array: ...

    @abstractmethod
    def _broadcast(self, x: Array, root: int) -> Array: ...

    @abstractmethod
    def _share(self, value: Any, root: int) -> tuple[Any, int]:
        """The object, and its bytes on the way."""

    @abstractmethod
    def _barrier(self) -> None: ...

    @abstractmethod
    def _send(self, x: Array, to: int) -> None: ...

    @abstractmethod
    def _receive(self, x: Array, source: int) -> Array: ...

    @abstractmethod
    def _post(self, x: Array, to: int) -> None: ...

    @abstractmethod
    def _tell(self, words: bytes, to: int) -> None: ...

    @abstractmethod
    def _hear(self, source: int) -> bytes: ...

    @abstractmethod
    def _exchange(self, x: Array, to: int, y: Array, source: int) -> Array: ...


def on_all(comm: Comm, work: Callable[[], Value]) -> Value:
    """What work() returns, once it has on all ranks. Raises SwitchError, on all of them, for an error of one."""
    mine: Exception | None = None
    result: list[Value] = []
    try:
        result.append(work())
    except Exception as error:
        mine = error
    told = [comm.share(mine and f"{type(mine).__name__}: {mine}", rank) for rank in range(comm.size)]
    if isinstance(mine, SwitchError):
        raise mine
    for rank, words in enumerate(told):
        if words:
            reason = "rank {rank} of {value} could not load its part ({words})"
            raise SwitchError("", comm.size, reason, rank=rank, words=words) from mine
    return result[0]


def split(x: Array, n: int) -> list[Array]:  # (...,) ->
    """The numbers of a contiguous array in n parts as even as they can be, the first ones longer; views of x."""
    flat, stops = x.reshape(-1), np.cumsum([0, *sizes(x.size, n)])
    return [flat[start:stop] for start, stop in zip(stops[:-1].tolist(), stops[1:].tolist(), strict=True)]


def sizes(total: int, n: int) -> list[int]:
    """A total in n parts as even as they can be, the first ones larger."""
    return [total // n + (part < total % n) for part in range(n)]


def row_bytes(x: Array) -> int:  # (rows, ...) ->
    """Bytes of a row, also where there is none."""
    return int(x.itemsize * prod(x.shape[1:]))


def passed_on(lengths: Seq[int], rank: int) -> int:
    """Rows that a rank sends to its right neighbour in a ring, so that all have those of all: all but the neighbour's.
    """
    return sum(lengths) - lengths[(rank + 1) % len(lengths)]


def children(rank: int, root: int, size: int) -> int:
    """To how many ranks a rank passes on what comes from the root along a binomial tree."""
    place, found, step = (rank - root) % size, 0, 1
    while step < size and place % (2 * step) == 0:
        found += place + step < size
        step *= 2
    return found
