"""What the kernels must know of a pass besides the model: positions, and where each sequence's keys and values lie.

A plan holds addresses of arrays that stay; these arrays are filled anew before each pass. In decode hardly anything
changes from one pass to the next: a position, now and then a block. So a slot (a sequence's place in the batch) keeps
what it was told, and is told again only when the sequence or its memory is another one. Which one it is, the address of
the first layer's keys says, looked up in every pass: caches replace their arrays when they grow, and all layers of one
reservation move together. No array is held here: what a cache frees is free.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np

from tinyinfer.arrays import FLOAT
from tinyinfer.backends.cpu_kernels.attention_pieces import Pieces, parts_of
from tinyinfer.backends.cpu_kernels.cached_rows import BLOCK, FIELDS, FIRST, FLOATS, PER_SLOT, ROOM, TABLE, WIDTH
from tinyinfer.backends.cpu_kernels.kernel import Count
from tinyinfer.model.heads import Heads
from tinyinfer.sequence import Batch


class PassData:
    """The host's half of every pass over so many rows with one cache, on so many threads."""

    def __init__(self, rows: int, cache: Any, threads: int) -> None:
        sizes, memory = cache.kernel_sizes, cache.spec.memory
        self.memory, self.rows, self.threads = memory, rows, threads
        self.bits, self.group = sizes.get("BITS", 0), sizes.get("GROUP", 0)
        self.block_size = sizes.get("BLOCK")  # of a cache that packs its blocks
        self.columns = list(accumulate((r.numbers for r in memory), initial=0))  # of float rows, in such a cache
        self.positions = np.zeros(rows, dtype=np.int64)
        self.row_slots = np.zeros(rows, dtype=np.int64)
        self.slots = np.zeros((rows, FIELDS), dtype=np.int64)
        self.addresses = np.zeros((len(memory), rows, PER_SLOT), dtype=np.int64)
        self.filled, self.blocks_filled = np.zeros((2 * rows, 3), dtype=np.int64), [Count() for _ in memory]
        self.pieces: dict[tuple[int, int, int | None], Pieces] = {}
        self._tables = [np.zeros(1, dtype=np.int64) for _ in range(rows)]
        self._blocks: list[tuple[int, ...]] = [()] * rows
        self._bases: list[tuple[int, ...]] = [()] * rows

    def pieces_of(self, heads: Heads) -> Pieces:
        """How a pass is cut for layers with such heads: from now on every `load` does."""
        key = heads.queries, heads.keys, heads.window
        if key not in self.pieces:
            self.pieces[key] = Pieces(heads, self.rows, self.threads)
        return self.pieces[key]

    def place(self, layer: int, heads: Heads) -> tuple[int | np.ndarray, ...]:
        """The arguments with which every kernel begins that knows the cache (cached_rows.py)."""
        column, row = FLOAT * self.columns[layer], FLOAT * self.columns[-1]
        return self.addresses[layer], self.slots, heads.size, heads.keys, self.bits, self.group, column, row

    def load(self, batch: Batch, cache: Any) -> None:
        """Takes in a batch whose sequences have room in the cache."""
        self.positions[:] = batch.positions
        known: dict[int, tuple[int, ...]] = {}  # by the arrays that sequences share
        filled: list[tuple[int, int, int]] = []
        for slot, span in enumerate(batch.spans):
            if span.rows != 1 or self.row_slots[span.start] != slot:
                self.row_slots[span.start : span.stop] = slot
            pools: Any = cache.pools_of(span.seq)
            self._seat(slot, pools, known)
            if self.bits:
                size, stop = pools.block_size, span.first + span.rows
                filled += [(slot, pools.blocks[i], i * size) for i in range(pools.first // size, stop // size)]
        if filled:
            self.filled[: len(filled)] = filled
        for count, layer in zip(self.blocks_filled, self.memory, strict=True):
            count.become(len(filled) * layer.heads)
        for pieces in self.pieces.values():
            pieces.load(parts_of(batch.spans, self.block_size))

    def _seat(self, slot: int, pools: Any, known: dict[int, tuple[int, ...]]) -> None:
        """Writes where a sequence's keys and values lie, as far as it is not written yet."""
        key = id(pools.layers)
        if key not in known:
            known[key] = base_of(pools)
        if known[key] != self._bases[slot]:
            self._bases[slot] = ()  # until all is written: Ctrl-C may come in between
            self.addresses[:, slot, : len(pools.layers[0])] = [
                [array.ctypes.data for array in layer] for layer in pools.layers
            ]
            self.slots[slot, ROOM] = known[key][-1]
            self._bases[slot] = known[key]
        if self.bits:
            self.slots[slot, FIRST], self.slots[slot, FLOATS] = pools.first, pools.floats.ctypes.data
        self.slots[slot, BLOCK] = pools.block_size
        if pools.blocks != self._blocks[slot]:
            self._write_table(slot, pools.blocks)

    def _write_table(self, slot: int, blocks: tuple[int, ...]) -> None:
        """Writes a block table, or its end where it has only grown."""
        before, table = self._blocks[slot], self._tables[slot]
        self._blocks[slot] = ()
        if len(blocks) > len(table):
            table, before = np.zeros(2 * len(blocks), dtype=np.int64), ()
            self._tables[slot] = table
        same = len(before) if blocks[: len(before)] == before else 0
        table[same : len(blocks)] = blocks[same:]
        self.slots[slot, TABLE] = table.ctypes.data
        self._blocks[slot] = blocks


def base_of(pools: Any) -> tuple[int, ...]:
    """What tells a reservation from any other: where it begins, and how many positions (packed: blocks) it has."""
    first = pools.layers[0]
    if hasattr(pools, "floats"):  # codes lie in one reservation, scales in another
        return first.key_codes.ctypes.data, first.key_scales.ctypes.data, pools.packed
    return first.keys.ctypes.data, first.keys.shape[1]


def padded_size(size: int) -> int:
    """E as a whole number of vectors: so far apart queries lie."""
    return -(-size // WIDTH) * WIDTH
