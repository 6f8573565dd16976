"""MPIComm: ranks as processes of one machine, or of several, that MPI has started (extra `parallel`).

    mpiexec -n 2 python -m tinyinfer ...

MPI knows how to find the other ranks and the fastest way to each: shared memory on one machine, a network between two.
NumPy arrays are sent from where they lie, and arrive where they shall lie. Ranks of one machine add up and gather small
arrays by shared_memory.py, which waits for fewer things. (MPI Forum 2021, MPI: A Message-Passing
Interface Standard 4.0, chapters 3 and 6; mpi4py: Dalcín & Fang 2021.)

Wins: processes compute at the same time. Loses: each needs a core; ranks that wait spin.
"""

from __future__ import annotations

import math
import os
import pickle
import sys
import threading
import time
from contextlib import AbstractContextManager
from math import inf
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.errors import SwitchError
from tinyinfer.ledger import Ledger
from tinyinfer.parallel.comm import Comm
from tinyinfer.parallel.shared_memory import ROOM, Places, meet

TAKEN = "tinyinfer"  # the name of a communicator whose ranks have a model


def mpi_comm(ledger: Ledger) -> MPIComm:
    """The ranks that mpiexec has started. Raises SwitchError where MPI is not installed, and for a second model: the
    others still follow the first.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        reason = "ranks talk by MPI, which is not installed ({words})"
        raise SwitchError("", None, reason, "pip install 'tinyinfer[parallel]'", words=str(error)) from error
    if MPI.COMM_WORLD.Get_name() == TAKEN:
        reason = "processes that mpiexec has started together divide one model, and this one has opened a model before"
        raise SwitchError("tensor_parallel_size", MPI.COMM_WORLD.Get_size(), reason, "open one model a command")
    MPI.COMM_WORLD.Set_name(TAKEN)
    if folder := os.environ.get("TINYINFER_RANKS"):  # launch wants to name a rank that dies
        Path(folder, f"rank{MPI.COMM_WORLD.Get_rank()}").write_text(str(os.getpid()), encoding="utf-8")
    return MPIComm(MPI.COMM_WORLD, MPI.IN_PLACE, ledger)


SAID = 0.5  # seconds in which mpiexec passes on what a rank has printed: what it holds when it ends, is lost


class Watch:
    """Ends all ranks when this one has waited too long for others. A thread of its own: a wait in MPI hears nothing."""

    def __init__(self, world: Any) -> None:
        self.world, self.since, self.others = world, inf, [0]

    def of(self, others: list[int]) -> Watch:
        """Begins to watch a wait for these ranks, as a context."""
        self.since, self.others = time.monotonic(), others
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None:
        self.since = inf

    def limit(self, seconds: float) -> None:
        """What the thread does: looks again and again whether a wait has become too long.

        It counts how often it has looked, since no time counts in which this process was stopped itself (Ctrl-Z).
        """
        tick, waited, since = min(1.0, seconds / 4), 0.0, inf
        while waited < seconds:
            time.sleep(tick)
            waited = waited + tick if self.since == since < inf else 0.0
            since = self.since
        names = " or ".join(map(str, self.others))
        cure = "it hangs, or what it does takes longer and wants a larger --rank-timeout"
        end(self.world, f"rank {self.world.Get_rank()} has waited for rank {names} for {seconds:g} seconds; {cure}")


def end(world: Any, words: str) -> NoReturn:
    """Ends all ranks, with a sentence that says why."""
    print(f"tinyinfer: error: {words}", file=sys.stderr, flush=True)
    time.sleep(SAID)
    world.Abort(1)
    raise SystemExit(1)


class MPIComm(Comm):
    """A rank of an mpi4py communicator. in_place: what MPI calls an argument that is the result, too.

    names: the numbers of these ranks among all that mpiexec has started; None: these are all.
    """

    def __init__(
        self, world: Any, in_place: Any, ledger: Ledger, names: list[int] | None = None, watch: Watch | None = None
    ) -> None:
        super().__init__(world.Get_rank(), world.Get_size(), ledger)
        self.world, self.in_place, self.names = world, in_place, names or list(range(self.size))
        self.watch = watch or Watch(world)
        self.others = [name for name in self.names if name != self.names[self.rank]]
        self._places: list[Places | None] = []  # at most one, made by the first collective that could use it
        self._posted: list[tuple[Any, Any]] = []  # requests that may be under way, and what they send

    def split(self, group: int) -> MPIComm:
        some = self.world.Split(group, self.rank)
        return MPIComm(some, self.in_place, self.ledger, some.allgather(self.names[self.rank]), self.watch)

    def abort(self, words: str) -> NoReturn:
        end(self.watch.world, words)

    def machine(self) -> tuple[int, int]:
        """Ranks are on one machine where they can share memory."""
        from mpi4py import MPI

        there = self.world.Split_type(MPI.COMM_TYPE_SHARED, self.rank)
        first, place = there.bcast(self.rank), there.Get_rank()
        there.Free()
        return first, place

    def watching(self) -> AbstractContextManager[object]:
        return self.watch.of(self.others)

    def under_way(self) -> bool:
        self._tidy()
        return any(isinstance(sent, bytes) for _, sent in self._posted)

    def limit_waits(self, seconds: float) -> None:
        if self.size > 1:
            threading.Thread(target=self.watch.limit, args=(seconds,), daemon=True).start()

    def _all_reduce(self, x: Array) -> Array:  # (...,) -> (...,)
        if x.ndim and (places := self._near(x.nbytes)):
            return places.all_reduce(x)
        with self.watch.of(self.others):
            self.world.Allreduce(self.in_place, x)
        return x

    def _all_gather(self, x: Array, lengths: list[int]) -> list[Array]:  # (rows, ...) ->
        row = math.prod(x.shape[1:])
        if places := self._near(max(lengths) * row * x.itemsize):
            return [part.copy() for part in places.exchange(x, lengths)]
        given = np.empty((sum(lengths), *x.shape[1:]), x.dtype)
        with self.watch.of(self.others):
            self.world.Allgatherv(x, (given, [row * length for length in lengths]))
        return np.split(given, np.cumsum(lengths)[:-1])

    def _all_to_all(self, x: Array, sent: list[int], received: list[int]) -> Array:  # (sent, ...) -> (got, ...)
        given = np.empty((sum(received), *x.shape[1:]), x.dtype)
        row = math.prod(x.shape[1:])
        with self.watch.of(self.others):
            self.world.Alltoallv((x, [row * rows for rows in sent]), (given, [row * rows for rows in received]))
        return given

    @property
    def one_machine(self) -> bool:
        return self._near(0) is not None

    def _near(self, nbytes: int) -> Places | None:
        """The ranks' places in shared memory, where all ranks have some and arrays of so many bytes fit in."""
        if nbytes > ROOM:
            return None
        if not self._places:
            with self.watch.of(self.others):
                self._places.append(meet(self.world, lambda: self.watch.of(self.others)))
        return self._places[0]

    def _broadcast(self, x: Array, root: int) -> Array:  # (...,) -> (...,)
        with self.watch.of([self.names[root]]):
            self.world.Bcast(x, root)
        return x

    def _share(self, value: Any, root: int) -> tuple[Any, int]:
        with self.watch.of([self.names[root]]):
            words = self.world.bcast(pickle.dumps(value) if self.rank == root else None, root)
        return (value if self.rank == root else pickle.loads(words)), len(words)

    def _barrier(self) -> None:
        with self.watch.of(self.others):
            self.world.Barrier()
        self._tidy()

    def _send(self, x: Array, to: int) -> None:  # (...,) ->
        with self.watch.of([self.names[to]]):
            self.world.Ssend(x, to)

    def _receive(self, x: Array, source: int) -> Array:  # (...,) -> (...,)
        with self.watch.of([self.names[source]]):
            self.world.Recv(x, source)
        return x

    def _exchange(self, x: Array, to: int, y: Array, source: int) -> Array:  # (sent, ...), (got, ...) -> (got, ...)
        with self.watch.of([self.names[source]]):
            self.world.Sendrecv(x, to, recvbuf=y, source=source)
        return y

    def _post(self, x: Array, to: int) -> None:  # (...,) ->
        kept = x.copy()
        self._keep(self.world.Isend(kept, to), kept)

    def _tell(self, words: bytes, to: int) -> None:
        self._keep(self.world.isend(words, to), words)

    def _hear(self, source: int) -> bytes:
        with self.watch.of([self.names[source]]):
            return bytes(self.world.recv(source=source))

    def _keep(self, request: Any, sent: Any) -> None:
        """Keeps what is sent until it has left, as MPI wants it."""
        self._tidy()
        self._posted.append((request, sent))

    def _tidy(self) -> None:
        self._posted = [(request, sent) for request, sent in self._posted if not request.Test()]
