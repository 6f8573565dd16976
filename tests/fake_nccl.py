"""NCCL of the fake CuPy: communicators of ranks that are threads of parallel/local.py, as strict as the real one.

    fabric = Fabric()                       what the ranks of a run share
    library = fabric.of(comm)               for a rank of run_ranks what `cupy.cuda.nccl` is for a process

The functions have the names and the order of arguments of cupy_backends/cuda/libs/nccl.pyx. Refused is what the real
one refuses, or takes and then hangs or spoils memory: two ranks on one device, memory that is no device's or ends too
early, a stream, a type or an operation that does not exist, and ranks that do not call the same. A call waits until its
partners have made theirs, as the real one's stream does; the real host would go on. So a program that leans on room for
a message on its way does not pass: where all ranks wait, run_ranks says who waits for whom.
"""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import ml_dtypes
import numpy as np
from fake_cuda import CURRENT, Memory, Stream

from tinyinfer.parallel.local import LocalComm

TYPES: list[Any] = [
    np.int8, np.uint8, np.int32, np.uint32, np.int64, np.uint64, np.float16, np.float32, np.float64, ml_dtypes.bfloat16,
]  # fmt: skip
ID_BYTES = 128


class NcclError(RuntimeError):
    """An error of NCCL, by its name."""


@dataclass
class Call:
    """A call of one rank: what must agree, what the rank brings, and where the result goes."""

    words: tuple[object, ...]
    brought: np.ndarray
    target: np.ndarray


@dataclass
class Clique:
    """The ranks of one id: their devices, and their calls in the order in which each has made them."""

    size: int = 0
    devices: dict[int, int] = field(default_factory=dict)
    calls: defaultdict[int, list[Call]] = field(default_factory=lambda: defaultdict(list))  # collectives, by rank
    sent: defaultdict[tuple[int, int], list[Call]] = field(default_factory=lambda: defaultdict(list))  # from, to
    wanted: defaultdict[tuple[int, int], list[Call]] = field(default_factory=lambda: defaultdict(list))


class Fabric:
    """All cliques of a run, by their ids. made: how many communicators."""

    def __init__(self) -> None:
        self.cliques: dict[tuple[int, ...], Clique] = {}
        self.numbers, self.made = count(1), 0

    def of(self, comm: Any) -> Library:
        """The library of a rank's process."""
        assert isinstance(comm, LocalComm)
        return Library(self, comm)


class Library:
    """`cupy.cuda.nccl` of one rank. group: the calls since groupStart, None outside of a group."""

    available, NcclError = True, NcclError
    NCCL_SUM, NCCL_PROD, NCCL_MAX, NCCL_MIN, NCCL_AVG = range(5)

    def __init__(self, fabric: Fabric, comm: LocalComm) -> None:
        self.fabric, self.comm = fabric, comm
        self.group: list[Callable[[], Callable[[], None]]] | None = None

    def __getattr__(self, name: str) -> int:
        """NCCL's numbers of types."""
        for number, kind in enumerate(TYPES):
            if name == f"NCCL_{np.dtype(kind).name.upper()}":
                return number
        raise AttributeError(f"NCCL has no {name!r}")

    def get_unique_id(self) -> tuple[int, ...]:
        """An id of 128 bytes, with signs, as Cython gives them."""
        made = (next(self.fabric.numbers) % 256 - 128, *[0] * (ID_BYTES - 1))
        self.fabric.cliques[made] = Clique()
        return made

    def NcclCommunicator(self, ndev: int, commId: tuple[int, ...], rank: int) -> Communicator:
        """Waits for the other ranks of the id. Raises NcclError where two sit on one device."""
        assert isinstance(commId, tuple)
        assert len(commId) == ID_BYTES
        clique, device = self.fabric.cliques[commId], CURRENT.devices[-1]
        if rank in clique.devices or not 0 <= rank < ndev or clique.size not in (0, ndev):
            raise NcclError("NCCL_ERROR_INVALID_ARGUMENT: invalid argument")
        if device in clique.devices.values():
            raise NcclError("NCCL_ERROR_INVALID_USAGE: invalid usage (Duplicate GPU detected)")
        clique.size, clique.devices[rank] = ndev, device
        self.wait("the others' communicators", lambda: len(clique.devices) == ndev)
        self.fabric.made += 1
        return Communicator(self, clique, rank, device)

    def groupStart(self) -> None:
        assert self.group is None, "a group in a group"
        self.group = []

    def groupEnd(self) -> None:
        assert self.group is not None, "groupEnd without groupStart"
        calls, self.group = self.group, None
        for end in [begin() for begin in calls]:  # all are there before the first one is waited for
            end()

    def submit(self, begin: Callable[[], Callable[[], None]]) -> None:
        """Makes a call, at once or at the end of the group. begin: tells the others, and gives what waits for them."""
        if self.group is None:
            begin()()
        else:
            self.group.append(begin)

    def wait(self, words: str, ready: Callable[[], bool]) -> None:
        """Lets the other ranks run until it is ready."""
        self.comm.group.wait(self.comm.own, words, ready)


class Communicator:
    """A rank of a clique, on one device."""

    def __init__(self, library: Library, clique: Clique, rank: int, device: int) -> None:
        self.library, self.clique, self.rank, self.device = library, clique, rank, device

    def check_async_error(self) -> None:
        """No rank is ever lost here."""

    def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:
        if op != Library.NCCL_SUM:
            raise NcclError(f"NCCL_ERROR_INVALID_ARGUMENT: the operation {op}; only sums are made here")
        source, target = self.numbers(sendbuf, count, datatype, stream), self.numbers(recvbuf, count, datatype, stream)

        def add(brought: list[np.ndarray]) -> np.ndarray:
            total = brought[0].copy()
            for one in brought[1:]:
                total += one
            return total

        self.collective(("allReduce", count, datatype, op), source, target, stream, add)

    def broadcast(self, sendbuff: int, recvbuff: int, count: int, datatype: int, root: int, stream: int) -> None:
        target = self.numbers(recvbuff, count, datatype, stream)
        source = self.numbers(sendbuff, count, datatype, stream) if root == self.rank else target
        self.peer(root)
        self.collective(("broadcast", count, datatype, root), source, target, stream, lambda brought: brought[root])

    def bcast(self, buff: int, count: int, datatype: int, root: int, stream: int) -> None:
        self.broadcast(buff, buff, count, datatype, root, stream)

    def send(self, sendbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        source, other = self.numbers(sendbuf, count, datatype, stream), self.peer(peer)
        sent, wanted = self.clique.sent[self.rank, other], self.clique.wanted[self.rank, other]

        def begin() -> Callable[[], None]:
            caught_up(stream)
            sent.append(Call(("send", count, datatype), source.copy(), source))
            place = len(sent)
            return lambda: self.library.wait(f"rank {other} of its clique to receive", lambda: len(wanted) >= place)

        self.library.submit(begin)

    def recv(self, recvbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        target, other = self.numbers(recvbuf, count, datatype, stream), self.peer(peer)
        sent, wanted = self.clique.sent[other, self.rank], self.clique.wanted[other, self.rank]

        def begin() -> Callable[[], None]:
            caught_up(stream)
            wanted.append(Call(("recv", count, datatype), target, target))
            place = len(wanted)

            def end() -> None:
                self.library.wait(f"rank {other} of its clique to send", lambda: len(sent) >= place)
                given = sent[place - 1]
                if given.words[1:] != (count, datatype):
                    raise NcclError(f"rank {self.rank} receives {count} of type {datatype}, and {given.words} comes")
                target[...] = given.brought

            return end

        self.library.submit(begin)

    def collective(
        self, words: tuple[object, ...], source: np.ndarray, target: np.ndarray, stream: int,
        result: Callable[[list[np.ndarray]], np.ndarray],
    ) -> None:  # fmt: skip
        """A call that all ranks make with the same words."""
        calls = self.clique.calls

        def begin() -> Callable[[], None]:
            caught_up(stream)
            calls[self.rank].append(Call(words, source.copy(), target))
            place = len(calls[self.rank])

            def there() -> bool:
                return all(len(calls[rank]) >= place for rank in range(self.clique.size))

            def end() -> None:
                self.library.wait(f"the others' {words[0]}", there)
                made = [calls[rank][place - 1] for rank in range(self.clique.size)]
                if any(one.words != words for one in made):
                    raise NcclError(f"ranks do not call the same: {[one.words for one in made]}")
                target[...] = result([one.brought for one in made])

            return end

        self.library.submit(begin)

    def peer(self, rank: int) -> int:
        """The number of a rank. Raises NcclError for none of the clique."""
        if not 0 <= rank < self.clique.size:
            raise NcclError(f"NCCL_ERROR_INVALID_ARGUMENT: rank {rank} of {self.clique.size}")
        return rank

    def numbers(self, address: int, count: int, datatype: int, stream: int) -> np.ndarray:
        """The array at an address of this rank's device. Raises NcclError where there is none of that size and type."""
        if not 0 <= datatype < len(TYPES):
            raise NcclError(f"NCCL_ERROR_INVALID_ARGUMENT: type {datatype}")
        if CURRENT.devices[-1] != self.device:
            raise NcclError("NCCL_ERROR_INVALID_USAGE: the current device is not the communicator's")
        if stream not in {one.ptr for one in Stream.everything}:
            raise NcclError(f"NCCL_ERROR_UNHANDLED_CUDA_ERROR: no stream {stream}")
        dtype = np.dtype(TYPES[datatype])
        stop = address + count * dtype.itemsize
        if not any(is_within(memory.array, address, stop) for memory in memories_of(self.device)):
            raise NcclError(f"NCCL_ERROR_INVALID_ARGUMENT: {count} of {dtype} are not in the device's memory there")
        return np.frombuffer((ctypes.c_char * (stop - address)).from_address(address), dtype)


def memories_of(device: int) -> Iterator[Memory]:
    """What a device holds, the newest last."""
    return (memory for memory in tuple(Memory.everything) if memory.device == device and memory.array is not None)


def is_within(array: np.ndarray, start: int, stop: int) -> bool:
    """Whether these bytes are an array's."""
    first = array.__array_interface__["data"][0]
    return bool(first <= start < stop <= first + array.nbytes)


def caught_up(stream: int) -> None:
    """Lets the work that was put on the stream before be done, as a kernel of the stream would."""
    next(one for one in Stream.everything if one.ptr == stream).synchronize()
