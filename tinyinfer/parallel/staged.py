"""StagedComm: arrays of a GPU go through the hosts' memory; arrays of the host and objects go as they always do.

    GPU of rank 0 ── copy ──▶ its host ── the host's Comm ──▶ the other host ── copy ──▶ GPU of rank 1

Any Comm can carry them so, and no rank has to know where another one keeps its arrays.

Wins: it works where GPUs cannot talk to each other, as two ranks on one GPU, which NCCL refuses. Loses: each message is
copied twice more, and the host waits for its GPU first, so that it prepares nothing meanwhile.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NoReturn

import numpy as np

from tinyinfer.arrays import Array, Xp, to_host
from tinyinfer.parallel.comm import Comm


class StagedComm(Comm):
    """A rank whose arrays may lie on a GPU. host: carries what lies in the host's memory; xp: makes arrays of the GPU.
    """

    def __init__(self, host: Comm, xp: Xp) -> None:
        super().__init__(host.rank, host.size, host.ledger)
        self.host, self.xp = host, xp

    def split(self, group: int) -> StagedComm:
        return StagedComm(self.host.split(group), self.xp)

    def limit_waits(self, seconds: float) -> None:
        self.host.limit_waits(seconds)

    @property
    def one_machine(self) -> bool:
        return self.host.one_machine

    def machine(self) -> tuple[int, int]:
        return self.host.machine()

    def watching(self) -> AbstractContextManager[object]:
        return self.host.watching()

    def under_way(self) -> bool:
        return self.host.under_way()

    def abort(self, words: str) -> NoReturn:
        self.host.abort(words)

    def _all_reduce(self, x: Array) -> Array:  # (...,) -> (...,)
        """The sum; of halves in float32, since MPI adds up no halves."""
        mine = to_host(x)  # (...,)
        total = self.host._all_reduce(mine.astype(np.float32) if is_half(mine) else mine)  # (...,)
        if isinstance(x, np.ndarray):
            x[...] = total
        else:
            x.set(total.astype(x.dtype))
        return x

    def _all_gather(self, x: Array, lengths: list[int]) -> list[Array]:  # (rows, ...) ->
        found = [part.view(x.dtype) for part in self.host._all_gather(sendable(to_host(x)), lengths)]
        return found if isinstance(x, np.ndarray) else [self.xp.asarray(part) for part in found]

    def _all_to_all(self, x: Array, sent: list[int], received: list[int]) -> Array:  # (sent, ...) -> (got, ...)
        found = self.host._all_to_all(sendable(to_host(x)), sent, received).view(x.dtype)  # (got, ...)
        return found if isinstance(x, np.ndarray) else self.xp.asarray(found)

    def _broadcast(self, x: Array, root: int) -> Array:  # (...,) -> (...,)
        mine = to_host(x)  # (...,)
        self.host._broadcast(sendable(mine), root)
        return stored(x, mine)

    def _send(self, x: Array, to: int) -> None:  # (...,) ->
        self.host._send(sendable(to_host(x)), to)

    def _post(self, x: Array, to: int) -> None:  # (...,) ->
        self.host._post(sendable(to_host(x)), to)

    def _receive(self, x: Array, source: int) -> Array:  # (...,) -> (...,)
        room = room_for(x)  # (...,)
        self.host._receive(sendable(room), source)
        return stored(x, room)

    def _exchange(self, x: Array, to: int, y: Array, source: int) -> Array:  # (sent, ...), (got, ...) -> (got, ...)
        room = room_for(y)  # (got, ...)
        self.host._exchange(sendable(to_host(x)), to, sendable(room), source)
        return stored(y, room)

    def _share(self, value: Any, root: int) -> tuple[Any, int]:
        return self.host._share(value, root)

    def _barrier(self) -> None:
        self.host._barrier()

    def _tell(self, words: bytes, to: int) -> None:
        self.host._tell(words, to)

    def _hear(self, source: int) -> bytes:
        return self.host._hear(source)


def is_half(x: Array) -> bool:  # (...,) ->
    """Whether an array has floats of 16 bits."""
    return x.dtype.itemsize == 2 and x.dtype.kind not in "iu"


def sendable(host: np.ndarray) -> np.ndarray:  # (...,) -> (...,)
    """The same memory in a type that MPI knows: halves as whole numbers of their bits."""
    return host.view(np.uint16) if is_half(host) else host


def room_for(x: Array) -> np.ndarray:  # (...,) -> (...,)
    """Where on the host an array can come that shall go to x: x itself if that is there."""
    return x if isinstance(x, np.ndarray) else np.empty(x.shape, x.dtype)


def stored(x: Array, host: np.ndarray) -> Array:  # (...,), (...,) -> (...,)
    """x with these numbers; an x of the host has them already."""
    if not isinstance(x, np.ndarray):
        x.set(host)
    return x
