"""Small collectives through memory that all ranks of one machine see: write, say so, read what the others wrote.

Each rank has a place that it alone writes and all read. A collective is three moves:

    1. write your array into your place, then the collective's number into your counter
    2. wait until every other rank's counter shows that number
    3. read all places: their sum, in the order of the ranks, is the all-reduce; themselves are the all-gather

This is a one-shot all-reduce, as engines have on GPUs that reach each other's memory (vLLM's "custom all-reduce").

A place has two halves, of even and of odd collectives: a rank that is one collective ahead writes into the other half,
and it cannot be two ahead, because the others' counters would have to show that they have read (double buffering). All
ranks add up in one order, so that all get the same bits.

A decode step of tensor parallelism waits for 61 all-reduces of a few kilobytes each (SmolLM2). From the arrival of the
last rank one takes 15 to 20 microseconds in this way, and 20 to 22 in MPICH, which looks after networks, too
(benchmarks/shared_memory.py).

Wins: few ranks, small arrays, latency. Loses: every rank reads every other's array, n·b bytes where a ring moves
2·b·(n-1)/n; a rank that waits keeps its core busy, though it lets others have it when they want it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from tinyinfer.arrays import Array

ROOM = 1 << 16  # bytes of an array that a place takes at most
LINE = 128  # bytes between what different ranks write: processors pass memory on by lines of 64 or 128
LOOKS = 300  # at a counter before the wait is a long one: some 20 microseconds
YIELD = getattr(os, "sched_yield", lambda: time.sleep(0))  # Linux sleeps 100 microseconds in sleep(0)


class Places:
    """A rank's view of all ranks' places. memories: of each rank, `nbytes` bytes, zeros at first.

    fence: orders this rank's reads and writes before it against those after it, as other cores see them. waiting: what
    wraps a wait that is not over at once. offer: what is done between its looks.
    """

    nbytes = LINE + 2 * ROOM

    def __init__(
        self, rank: int, memories: Seq[np.ndarray], fence: Callable[[], object],
        waiting: Callable[[], AbstractContextManager[object]], offer: Callable[[], object],
    ) -> None:  # fmt: skip
        self.rank, self.fence, self.waiting, self.offer, self.number = rank, fence, waiting, offer, 0
        self.counters = [memory[:8].view(np.int64).data for memory in memories]
        self.others = [counter for other, counter in enumerate(self.counters) if other != rank]
        self.halves = [[memory[LINE + half * ROOM :][:ROOM] for memory in memories] for half in (0, 1)]
        self.views: dict[Any, list[Array]] = {}  # of shapes that were there before: making them takes longer than use

    def exchange(self, x: Array, lengths: Seq[int] | None = None) -> list[Array]:  # (rows, ...) ->
        """All ranks' arrays: views, which the collective after the next one overwrites. lengths: see Comm.all_gather.
        """
        half = (self.number + 1) % 2
        key = half, x.dtype, x.shape, lengths and tuple(lengths)
        arrays = self.views.get(key) or self.views.setdefault(key, self.arrays(half, x, lengths))
        self.number += 1
        arrays[self.rank][...] = x
        self.fence()
        self.counters[self.rank][0] = self.number
        for counter in self.others:
            looks = LOOKS
            while counter[0] < self.number and looks:
                looks -= 1
            if not looks:
                self.wait(counter)
        self.fence()
        return arrays

    def wait(self, counter: memoryview) -> None:
        """A wait that is not over at once."""
        with self.waiting():
            while counter[0] < self.number:
                self.offer()

    def arrays(self, half: int, x: Array, lengths: Seq[int] | None) -> list[Array]:  # (rows, ...) ->
        """All ranks' places in this half, as arrays like x."""
        row, places = x.itemsize * math.prod(x.shape[1:]), self.halves[half]
        return [
            place[: row * length].view(x.dtype).reshape(length, *x.shape[1:])
            for place, length in zip(places, lengths or [len(x)] * len(places), strict=True)
        ]

    def all_reduce(self, x: Array) -> Array:  # (rows, ...) -> (rows, ...)
        """The sum of the ranks' arrays, in the place of x."""
        first, second, *rest = self.exchange(x)
        np.add(first, second, out=x)
        for part in rest:
            x += part
        return x


def meet(world: Any, waiting: Callable[[], AbstractContextManager[object]]) -> Places | None:
    """Places for the ranks of an mpi4py communicator, all of which call this; None unless all are on one machine."""
    from mpi4py import MPI

    near = world.Split_type(MPI.COMM_TYPE_SHARED)
    together = world.allreduce(near.Get_size() == world.Get_size(), MPI.LAND)
    near.Free()
    if not together:
        return None
    window: Any = MPI.Win.Allocate_shared(Places.nbytes, 1, comm=world)
    window.Lock_all(MPI.MODE_NOCHECK)
    memories = [np.frombuffer(window.Shared_query(rank)[0], np.uint8) for rank in range(world.Get_size())]
    memories[world.Get_rank()][:8] = 0

    def offer() -> None:
        """The rank that is waited for may need this core, or a message that MPI still has to move for this rank."""
        world.Iprobe()
        YIELD()

    places = Places(world.Get_rank(), memories, window.Sync, waiting, offer)
    world.Barrier()  # all counters are zero before one rises
    return places
