"""The buffers of a bucket: all memory that its launches read and write, allocated before the first of them.

A captured graph has the addresses of its arrays burnt in. So an array for each thing is there before the capture, and
stays. The numbers of the next step lie in device memory, too: each row's token, position and slot, each sequence's
pools and block table. A kernel looks there for what to do; the last kernel of a step writes the token that it chose and
moves the positions on; so the same graph computes the next step, and the host need not say a word.

When the host does have something to say, it fills one piece of pinned memory, which the device copies by itself.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from math import prod
from typing import Any

import numpy as np

from tinyinfer.arrays import Array, Xp

RING = 32  # steps whose results are kept: more than ever run ahead
RESULT = 4  # numbers of a row's result: token, smallest and largest logit, one unused


class Fields:
    """Named arrays that lie one behind the other in one piece of memory, so that one copy moves them all."""

    def __init__(self, shapes: dict[str, tuple[Any, tuple[int, ...]]]) -> None:
        self.shapes = shapes
        self.nbytes = sum(np.dtype(kind).itemsize * prod(shape) for kind, shape in shapes.values())

    def over(self, flat: Array) -> dict[str, Array]:
        """The arrays as views of a flat array of bytes; types of 8 bytes come first, so that all are aligned."""
        views, start = {}, 0
        for name, (kind, shape) in self.shapes.items():
            stop = start + np.dtype(kind).itemsize * prod(shape)
            views[name] = flat[start:stop].view(kind).reshape(shape)
            start = stop
        return views


def row_fields(rows: int, layers: int, slots: int, most_blocks: int) -> Fields:
    """What the host tells of a step: of each row, and of each slot (the kernels' contract is in cache.cuh)."""
    return Fields(
        {
            "pools": (np.uint64, (layers, slots, 2)),
            "seeds": (np.uint64, (rows,)),
            "temperatures": (np.float64, (rows,)),
            "top_p": (np.float64, (rows,)),
            "min_p": (np.float64, (rows,)),
            "tokens": (np.int32, (rows,)),
            "positions": (np.int32, (rows,)),
            "slots": (np.int32, (rows,)),
            "sets": (np.int32, (rows,)),
            "top_k": (np.int32, (rows,)),
            "places": (np.int32, (slots, 2 + most_blocks)),
        }
    )


class Staging:
    """A step's numbers on the host, in pinned memory, and on the device; `send` copies them all.

    The copy is done by the device while the host goes on, so the next step's numbers wait until it is over.
    """

    def __init__(self, xp: Xp, fields: Fields) -> None:
        self._pinned = pinned(xp, (fields.nbytes,), np.uint8)
        self._flat = xp.zeros(fields.nbytes, dtype=xp.uint8)
        self.host, self.device = fields.over(self._pinned), fields.over(self._flat)
        self._sent = xp.cuda.Event(disable_timing=True)
        places = slice(fields.nbytes - self.host["places"].nbytes, None)  # the last field
        self._pinned_places, self._places = self._pinned[places], self._flat[places]

    def wait(self) -> None:
        """Waits until the numbers on the host may be changed: at once, unless the last copy is still under way."""
        self._sent.synchronize()

    def send(self, stream: Any) -> None:
        """Copies all numbers to the device, behind what the stream has to do before."""
        self._flat.set(self._pinned, stream)
        self._sent.record(stream)

    def send_places(self, stream: Any) -> None:
        """Copies the block tables alone, longer than they were: steps on their way read no entry that is new.

        So the tables may grow on the host while a copy is under way, which takes the new entries along or not.
        """
        self._places.set(self._pinned_places, stream)
        self._sent.record(stream)


def pinned(xp: Xp, shape: tuple[int, ...], kind: Any) -> np.ndarray:
    """An array of zeros of the host that the device can copy by itself."""
    nbytes = prod(shape) * np.dtype(kind).itemsize
    array = np.frombuffer(xp.cuda.alloc_pinned_memory(nbytes), kind, prod(shape)).reshape(shape)
    array[...] = 0
    return array


Seat = tuple[int, int, int, tuple[int, ...]]


def seats_of(all_pools: Seq[Any]) -> list[Seat]:
    """What says where sequences' keys and values lie: an address, the pool's positions, block size, block table.

    All layers lie in one reservation, so that one address stands for all. No array is kept: memory that the cache frees
    shall be free. The sequences of a paged cache share their arrays, so that each is looked at once.
    """
    arrays = {id(pools.layers): pools.layers[0].keys for pools in all_pools}
    bases = {key: (keys.data.ptr, keys.shape[1]) for key, keys in arrays.items()}
    return [(*bases[id(pools.layers)], pools.block_size, pools.blocks) for pools in all_pools]


class Seats:
    """Writes into a staging where the slots' keys and values lie, and only what has changed since the last time."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._taken: list[Seat] = [(0, 0, 0, ())] * len(staging.host["places"])

    def take(self, all_pools: Seq[Any]) -> list[Seat]:
        """Seats sequences with these pools in the slots from 0 on; returns what `seats_of` says of them."""
        seats = seats_of(all_pools)
        for slot, (pools, seat) in enumerate(zip(all_pools, seats, strict=True)):
            self._take(slot, pools, seat)
        return seats

    def _take(self, slot: int, pools: Any, now: Seat) -> None:
        before, (base, *place) = self._taken[slot], now
        if (base, place[0]) != before[:2]:
            pairs = [(rows.keys.data.ptr, rows.values.data.ptr) for rows in pools.layers]
            self._staging.host["pools"][:, slot] = np.array(pairs, np.uint64)  # (L, 2)
        if tuple(place) != before[1:]:
            row = self._staging.host["places"][slot]
            row[:2], row[2 : 2 + len(pools.blocks)] = place[:2], pools.blocks
        self._taken[slot] = now

    def lengthen(self, slot: int, at: int, block: int) -> None:
        """Writes a block that a sequence will have, behind its table; it counts when the sequence has it."""
        self._staging.host["places"][slot, 2 + at] = block


class Results:
    """The tokens of the last steps on their way to the host: a ring that the kernels write, and its copy."""

    def __init__(self, xp: Xp, rows: int) -> None:
        self.device = xp.zeros((RING, rows, RESULT), dtype=xp.int32)
        self.step = xp.zeros(1, dtype=xp.int32)  # the kernels' own count of steps: where in the ring the next one is
        self._host = pinned(xp, (RING, rows, RESULT), np.int32)
        self._steps = [self.device[i] for i in range(RING)]  # views are made once, too
        self._events = [xp.cuda.Event(disable_timing=True) for _ in range(RING)]
        self.fetched = 0

    def fetch(self, stream: Any) -> int:
        """Lets the newest step's results come, behind the step; returns the number by which `wait` knows them."""
        number = self.fetched % RING
        self.fetched += 1
        self._steps[number].get(stream=stream, out=self._host[number], blocking=False)
        self._events[number].record(stream)
        return number

    def wait(self, number: int) -> np.ndarray:
        """The results of a step: the one point where the host waits for the device."""
        self._events[number].synchronize()
        return self._host[number].copy()
