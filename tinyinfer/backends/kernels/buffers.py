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
from typing import Any, NamedTuple

import numpy as np

from tinyinfer.arrays import FLOAT, Array, Xp

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


def row_fields(rows: int, layers: int, slots: int, most_blocks: int, addresses: int = 2) -> Fields:
    """What the host tells of a step: of each row, and of each slot, with so many addresses a layer (cache.cuh)."""
    return Fields(
        {
            "pools": (np.uint64, (layers, slots, addresses)),
            "seeds": (np.uint64, (rows,)),
            "temperatures": (np.float64, (rows,)),
            "top_p": (np.float64, (rows,)),
            "min_p": (np.float64, (rows,)),
            "tokens": (np.int32, (rows,)),
            "positions": (np.int32, (rows,)),
            "slots": (np.int32, (rows,)),
            "sets": (np.int32, (rows,)),
            "top_k": (np.int32, (rows,)),
            "step": (np.int32, (1,)),
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


class Seat(NamedTuple):
    """Where a sequence's keys and values lie, without the arrays: memory that the cache frees shall be free.

    base: addresses that stand for those of all layers, one of each reservation. head: what a slot's place begins
    with (cache.cuh, packed.cuh).
    """

    base: tuple[int, ...]
    head: tuple[int, int]
    block_size: int
    blocks: tuple[int, ...]


NOT_TAKEN = Seat((), (0, 0), 0, ())


def seats_of(all_pools: Seq[Any]) -> list[Seat]:
    """The seats of sequences. Those of a paged cache share their arrays, so that each array is looked at once."""
    if all_pools and hasattr(all_pools[0], "floats"):
        return [packed_seat(pools) for pools in all_pools]
    arrays = {id(pools.layers): pools.layers[0].keys for pools in all_pools}
    bases = {key: ((keys.data.ptr,), keys.shape[1]) for key, keys in arrays.items()}
    found = ((bases[id(pools.layers)], pools) for pools in all_pools)
    return [Seat(base, (size, pools.block_size), pools.block_size, pools.blocks) for (base, size), pools in found]


def packed_seat(pools: Any) -> Seat:
    """The seat of a sequence whose blocks are packed, but for the last one, whose rows are floats."""
    first = pools.layers[0]  # codes lie in one reservation, scales in another
    base = first.key_codes.data.ptr, first.key_scales.data.ptr, pools.floats.data.ptr
    return Seat(base, (pools.packed, pools.first), pools.block_size, pools.blocks)


def addresses_of(pools: Any) -> np.ndarray:
    """The addresses that kernels need of each layer: keys and values; or codes, scales and float rows."""
    if not hasattr(pools, "floats"):
        return np.array([(rows.keys.data.ptr, rows.values.data.ptr) for rows in pools.layers], np.uint64)
    floats = pools.floats.data.ptr
    return np.array(
        [
            [*(array.data.ptr for array in layer), floats + FLOAT * column]
            for layer, column in zip(pools.layers, pools.columns, strict=True)
        ],
        np.uint64,
    )


class Seats:
    """Writes into a staging where the slots' keys and values lie, and only what has changed since the last time."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._taken = [NOT_TAKEN] * len(staging.host["places"])

    def take(self, all_pools: Seq[Any]) -> list[Seat]:
        """Seats sequences with these pools in the slots from 0 on; returns their seats."""
        seats = seats_of(all_pools)
        for slot, (pools, seat) in enumerate(zip(all_pools, seats, strict=True)):
            self._take(slot, pools, seat)
        return seats

    def _take(self, slot: int, pools: Any, now: Seat) -> None:
        before, self._taken[slot] = self._taken[slot], NOT_TAKEN  # until all is written: Ctrl-C may come in between
        if (now.base, now.head[0]) != (before.base, before.head[0]):
            self._staging.host["pools"][:, slot] = addresses_of(pools)
        if now[1:] != before[1:]:
            row = self._staging.host["places"][slot]
            row[:2], row[2 : 2 + len(now.blocks)] = now.head, now.blocks
        self._taken[slot] = now

    def lengthen(self, slot: int, at: int, block: int) -> None:
        """Writes a block that a sequence will have, behind its table; it counts when the sequence has it."""
        self._staging.host["places"][slot, 2 + at] = block


class Results:
    """The tokens of the last steps on their way to the host: a ring that the kernels write, and its copy.

    The kernels count their steps, to know where in the ring the next one is. The host tells them its own count with
    each batch, as an error may come between a launch and the moment at which the host counts it.
    """

    def __init__(self, xp: Xp, rows: int) -> None:
        self.device = xp.zeros((RING, rows, RESULT), dtype=xp.int32)
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
