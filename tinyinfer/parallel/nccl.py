"""NCCLComm: arrays of GPUs go from GPU to GPU, by NVIDIA's library; all else goes by the host's Comm.

    pip install nvidia-nccl-cu13             (or cu12); CuPy finds it, and has its functions in cupy.cuda.nccl

A call of NCCL puts a kernel on the GPU's stream and returns at once: the kernel meets those of the other ranks, and
what the stream has behind it waits. So the host goes on and prepares the next operations, and waits only where it reads
a result. Three things follow:

    who hangs      is not seen by a host that waits for its own GPU. So an event stands behind each call, and a thread
                   asks whether the oldest one is over (`Calls`); MPI's own waits have their own watch (mpi.py).
    orders leave   before each call: a host that waits for its GPU does not help MPI to send, and the other rank may
                   need an order first, to make the call that this GPU waits for. (Results may leave later: if each of
                   two ranks waited until the other one takes what it sends, both would wait for ever.)
    posts go one way, as rows do in a pipeline: the host does not wait for the receiver, but its stream does. Two ranks
                   that post to each other first, and receive then, would wait for ever; let them `exchange`.

Ranks find each other by an id that the first one makes and the host's Comm tells. NCCL adds halves up in their own
type, bfloat16 included, which cupyx.distributed has not. (NVIDIA, NCCL user guide, "Using NCCL"; the functions and the
order of their arguments: CuPy's cupy_backends/cuda/libs/nccl.pyx.)

Wins: no array is copied to the host on its way, and the host does not wait for it. Loses: each rank needs a GPU of its
own; a mixture's host waits for the router in each layer (experts.py).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

from tinyinfer.arrays import Array, Xp
from tinyinfer.backends.cupy_device import refusal
from tinyinfer.parallel.comm import Comm
from tinyinfer.parallel.staged import StagedComm


def find_nccl(xp: Xp, load: Callable[[str], Any] = import_module) -> Any:
    """CuPy's module of NCCL. Raises SwitchError where the library is not installed. load: imports by a name."""
    try:
        library = load(f"{xp.__name__}.cuda.nccl")
        if library.available:
            return library
        words = "CuPy does not find libnccl"
    except ImportError as error:
        words = str(error)
    wheel = f"nvidia-nccl-cu{xp.cuda.runtime.runtimeGetVersion() // 1000}"
    reason, cure = "on several ranks needs NCCL, which is not there: {words}", "install it: pip install '{wheel}<3'"
    raise refusal(reason, cure, words=words, wheel=wheel)


class Calls:
    """The calls of NCCL that a GPU has not finished yet: each may wait for another rank while the host goes on."""

    def __init__(self, xp: Xp) -> None:
        self.xp = xp
        self.begun: deque[tuple[Any, float]] = deque()  # an event behind each call, and when it was made
        self.communicators: list[Any] = []

    def note(self) -> None:
        """Remembers the call that was made just now, and forgets those that are over."""
        while self.begun and self.begun[0][0].done:
            self.begun.popleft()
        event = self.xp.cuda.Event(disable_timing=True)
        event.record()
        self.begun.append((event, time.monotonic()))

    def waited(self) -> float:
        """How many seconds ago the oldest call was made that is not over."""
        return next((time.monotonic() - since for event, since in tuple(self.begun) if not event.done), 0.0)

    def limit(self, seconds: float, end: Callable[[str], object]) -> None:
        """What a thread does: ends all ranks when a call takes longer, or when NCCL itself has lost a rank."""
        try:
            while self.waited() < seconds:
                time.sleep(min(1.0, seconds / 4))
                for communicator in tuple(self.communicators):
                    communicator.check_async_error()
        except RuntimeError as error:
            end(f"NCCL has lost another rank: {error}")
            return
        cure = "it hangs, or a step takes longer and wants a larger --rank-timeout"
        end(f"the GPU of this rank has waited for another one's for {seconds:g} seconds; {cure}")


class NCCLComm(StagedComm):
    """A rank with a GPU of its own, the current device. host: carries all that is no array of a GPU.

    library: CuPy's module of NCCL. calls: those of all communicators of this rank.
    """

    def __init__(self, host: Comm, xp: Xp, library: Any, calls: Calls | None = None) -> None:
        super().__init__(host, xp)
        self.library, self.calls = library, calls or Calls(xp)
        self.communicator = self.connected() if self.size > 1 else None

    def connected(self) -> Any:
        """A communicator of these ranks, each of which calls this."""
        made, _ = self.host._share(self.library.get_unique_id() if self.rank == 0 else None, 0)
        communicator = self.library.NcclCommunicator(self.size, made, self.rank)
        self.calls.communicators.append(communicator)
        return communicator

    @property
    def one_machine(self) -> bool:
        """No: GPUs have their own memory each, and rows between them are sent."""
        return False

    def split(self, group: int) -> NCCLComm:
        return NCCLComm(self.host.split(group), self.xp, self.library, self.calls)

    def limit_waits(self, seconds: float) -> None:
        super().limit_waits(seconds)
        threading.Thread(target=self.calls.limit, args=(seconds, self._end), daemon=True).start()

    def _end(self, words: str) -> None:
        self.abort(f"rank {self.rank} of {self.size}: {words}")

    def _all_reduce(self, x: Array) -> Array:  # (...,) -> (...,)
        if by_host(x):
            return super()._all_reduce(x)
        with self._call() as (nccl, stream):
            nccl.allReduce(x.data.ptr, *self._numbers(x), self.library.NCCL_SUM, stream)
        return x

    def _all_gather(self, x: Array, lengths: list[int]) -> list[Array]:  # (rows, ...) ->
        """Each rank's array as a broadcast of its own, all at once: NCCL gathers only arrays of one length."""
        if isinstance(x, np.ndarray):  # one of no rows, too, is by NCCL: others may have some
            return super()._all_gather(x, lengths)
        found = [self.xp.empty((length, *x.shape[1:]), x.dtype) for length in lengths]  # each (rows, ...)
        with self._call() as (nccl, stream):
            for root, part in enumerate(found):
                given = x if root == self.rank else part
                if part.size:
                    nccl.broadcast(given.data.ptr, *self._numbers(part), root, stream)
        return found

    def _all_to_all(self, x: Array, sent: list[int], received: list[int]) -> Array:  # (sent, ...) -> (got, ...)
        """Each pair of ranks sends and receives, all at once; NCCL has no call of its own for this."""
        if isinstance(x, np.ndarray):
            return super()._all_to_all(x, sent, received)
        found = self.xp.empty((sum(received), *x.shape[1:]), x.dtype)
        given, places = pieces(x, sent), pieces(found, received)
        places[self.rank][...] = given[self.rank]
        with self._call() as (nccl, stream):
            for rank in range(self.size):
                if rank != self.rank and sent[rank]:
                    nccl.send(*self._numbers(given[rank]), rank, stream)
                if rank != self.rank and received[rank]:
                    nccl.recv(*self._numbers(places[rank]), rank, stream)
        return found

    def _broadcast(self, x: Array, root: int) -> Array:  # (...,) -> (...,)
        if by_host(x):
            return super()._broadcast(x, root)
        with self._call() as (nccl, stream):
            nccl.bcast(*self._numbers(x), root, stream)
        return x

    def _send(self, x: Array, to: int) -> None:  # (...,) ->
        """A post for whose end the host waits."""
        if by_host(x):
            return super()._send(x, to)
        self._post(x, to)
        self.xp.cuda.get_current_stream().synchronize()

    def _post(self, x: Array, to: int) -> None:  # (...,) ->
        """No copy is needed: what changes x, or takes its memory, comes behind the call in the stream."""
        if by_host(x):
            return super()._post(x, to)
        with self._call() as (nccl, stream):
            nccl.send(*self._numbers(x), to, stream)

    def _receive(self, x: Array, source: int) -> Array:  # (...,) -> (...,)
        if by_host(x):
            return super()._receive(x, source)
        with self._call() as (nccl, stream):
            nccl.recv(*self._numbers(x), source, stream)
        return x

    def _exchange(self, x: Array, to: int, y: Array, source: int) -> Array:  # (sent, ...), (got, ...) -> (got, ...)
        if isinstance(x, np.ndarray):
            return super()._exchange(x, to, y, source)
        with self._call() as (nccl, stream):
            if x.size:
                nccl.send(*self._numbers(x), to, stream)
            if y.size:
                nccl.recv(*self._numbers(y), source, stream)
        return y

    @contextmanager
    def _call(self) -> Iterator[tuple[Any, int]]:
        """The communicator and the current stream, for calls that go as one. A first one connects, and may wait."""
        with self.watching():
            while self.under_way():
                continue
            self.library.groupStart()
            yield self.communicator, self.xp.cuda.get_current_stream().ptr
            self.library.groupEnd()
        self.calls.note()

    def _numbers(self, x: Array) -> tuple[int, int, int]:  # (...,) ->
        """Where an array begins, how many numbers it has, and NCCL's word for their type."""
        kind = getattr(self.library, f"NCCL_{x.dtype.name.upper()}", None)
        if kind is None or not x.flags.c_contiguous:
            raise ValueError(f"NCCL sends no {x.dtype} with strides {x.strides}: it wants numbers, side by side")
        return x.data.ptr, x.size, kind


def pieces(x: Array, rows: list[int]) -> list[Array]:  # (R, ...) ->
    """So many rows each, in their order; views."""
    stops = np.cumsum(rows).tolist()
    return [x[stop - length : stop] for stop, length in zip(stops, rows, strict=True)]


def by_host(x: Array) -> bool:  # (...,) ->
    """Whether an array goes by the host's Comm: it lies there, or all ranks know that it has no numbers."""
    return isinstance(x, np.ndarray) or not x.size
