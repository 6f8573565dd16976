"""The paged KV cache: memory in blocks of a few positions, handed out one by one (PagedAttention; Kwon et al. 2023, 4).

A contiguous cache reserves the whole context for every sequence, because nobody knows how long it will become. Here a
sequence has a table of blocks, lying anywhere in one pool, and takes the next one when the last is full: at most
block_size - 1 positions of it are wasted. Blocks are counted by how many tables (and prefixes, prefix_cache.py) hold
them, so several sequences can read the same one; whoever would write into a shared block takes a copy first.
Wins: many more sequences in the same memory, and shared beginnings are stored and computed once. Loses: blocks that do
not lie side by side must be gathered before NumPy can multiply them (counted by `kv_copied_bytes`); a kernel that
walks through the table itself reads them in place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.errors import SwitchError
from tinyinfer.model.config import ModelConfig

if TYPE_CHECKING:
    from tinyinfer.model.interfaces import Device
    from tinyinfer.sequence import Batch, Sequence, Span


Slots = slice | Array  # which rows of the pool


class BlockPool:
    """Which blocks are free, and how many hold each of the others."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.holders = [0] * num_blocks
        self.free = list(range(num_blocks - 1, -1, -1))  # a stack: what was given back last is still in the CPU's cache

    def allocate(self) -> int:
        """A free block, now held once. Raises ValueError when there is none."""
        if not self.free:
            reason = "all {taken} blocks of the cache are taken"
            raise SwitchError("num_blocks", self.num_blocks, reason, "raise {num_blocks}", taken=self.num_blocks)
        block = self.free.pop()
        self.holders[block] = 1
        return block

    def hold(self, block: int) -> None:
        """One more holds it."""
        if not self.holders[block]:
            raise ValueError(f"block {block} is free and cannot be shared")
        self.holders[block] += 1

    def release(self, block: int) -> None:
        """One less holds it; the last one frees it."""
        if not self.holders[block]:
            raise ValueError(f"block {block} is free already")
        self.holders[block] -= 1
        if not self.holders[block]:
            self.free.append(block)


@dataclass
class Table:
    """Where a sequence's positions lie: position p in blocks[p // block_size], row p % block_size of it."""

    blocks: list[int] = field(default_factory=list)
    length: int = 0  # positions committed
    written: int = 0  # positions appended so far, those of the step included
    slots: Slots | None = None  # the rows of the pool that the positions of the step go to
    side_by_side: bool = False  # whether its blocks lie in the pool as in the table


class PagedCache:
    """One pool for all, a table for each sequence.

    The pool is (L, 2, K, B·block_size, E), so that blocks lying side by side can be read as one array without a copy.
    """

    can_chunk = True

    def __init__(
        self,
        config: ModelConfig,
        max_model_len: int,
        device: Device,
        block_size: int = 16,
        num_blocks: int = 64,
        **others: int | None,
    ) -> None:
        self.device, self.ledger, self.block_size = device, device.ledger, block_size
        self.blocks = BlockPool(num_blocks)
        self.capacity = min(max_model_len, num_blocks * block_size)
        self.shape = (config.num_layers, 2, config.num_kv_heads, num_blocks * block_size, config.head_dim)
        self.pool = self._allocate()
        self.position_bytes = 2 * config.num_layers * config.num_kv_heads * config.head_dim * 4
        self._tables: dict[int, Table] = {}

    def length(self, seq: Sequence) -> int:
        """Positions committed."""
        table = self._tables.get(seq.id)
        return table.length if table else 0

    def block_table(self, seq: Sequence) -> tuple[int, ...]:
        """The sequence's blocks, in order of its positions."""
        return tuple(self._tables[seq.id].blocks) if seq.id in self._tables else ()

    def missing(self, seq: Sequence, n: int) -> int:
        """Blocks that it needs, a copy of a shared one included, and that are not free."""
        table = self._tables.get(seq.id, Table())
        needed = -(-(table.length + n) // self.block_size) - len(table.blocks)
        return max(0, needed + self._must_copy(table, n) - len(self.blocks.free))

    def reserve(self, seq: Sequence, n: int) -> None:
        """Takes blocks for positions that the last one has no room for."""
        if self.length(seq) + n > self.capacity:
            reason = "{value} positions do not fit into a cache of {most}"
            cure = "raise {max_model_len} or {num_blocks}"
            raise SwitchError("", self.length(seq) + n, reason, cure, most=self.capacity)
        table = self._tables.setdefault(seq.id, Table())
        if self._must_copy(table, n):
            self._copy_last(table)
        while len(table.blocks) * self.block_size < table.length + n:
            table.blocks.append(self.blocks.allocate())
            self.ledger.blocks_allocated += 1
        first = table.blocks[0] if table.blocks else 0
        table.side_by_side = table.blocks == list(range(first, first + len(table.blocks)))
        table.slots = self._slots(table, table.length, table.length + n)
        table.written = table.length

    def append(self, layer: int, k: Array, v: Array, batch: Batch) -> None:  # (T, K, E), (T, K, E) ->
        """Writes each span's rows to the slots reserved for them."""
        keys, values = self.pool[layer]
        for span in batch.spans:
            table = self._tables[span.seq.id]
            keys[:, table.slots] = k[span.start : span.stop].transpose(1, 0, 2)
            values[:, table.slots] = v[span.start : span.stop].transpose(1, 0, 2)
            table.written = span.first + span.rows
        self.ledger.kv_written_bytes += k.nbytes + v.nbytes

    def split(self, span: Span) -> tuple[Span, ...]:
        """One."""
        return (span,)

    def read(
        self, layer: int, seq: Sequence, start: int, stop: int | None = None
    ) -> tuple[Array, Array]:  # -> (S, K, E), (S, K, E)
        """Views where the blocks lie side by side, else a copy that gathers them."""
        table = self._tables[seq.id]
        stop = table.written if stop is None else stop
        if table.side_by_side:
            own = self.pool[layer, :, :, self._slots(table, start, stop)]
        else:
            own = self._gather(layer, table, start, stop)
            self.ledger.kv_copied_bytes += own.nbytes
        self.ledger.kv_read_bytes += own.nbytes
        return own[0].transpose(1, 0, 2), own[1].transpose(1, 0, 2)

    def commit(self, seq: Sequence, n: int) -> None:
        """What was appended counts; blocks reserved for more are free again."""
        table = self._tables[seq.id]
        table.length += n
        self._shrink(table)

    def truncate(self, seq: Sequence, n: int) -> None:
        """Gives back the blocks behind position n - 1."""
        if not 0 <= n <= self.length(seq):
            raise ValueError(f"cannot truncate to {n} positions: the sequence has {self.length(seq)}")
        if seq.id in self._tables:
            self._tables[seq.id].length = n
            self._shrink(self._tables[seq.id])

    def fork(self, seq: Sequence, child: Sequence) -> None:
        """The child holds the same blocks, and copies the last one when either writes into it."""
        table = self._tables.get(seq.id, Table())
        self.adopt(child, table.blocks[: -(-table.length // self.block_size)], table.length)

    def adopt(self, seq: Sequence, blocks: list[int], length: int) -> None:
        """A new sequence begins with these blocks, which somebody else holds too."""
        for block in blocks:
            self.blocks.hold(block)
        self._tables[seq.id] = Table(list(blocks), length, length)

    def free(self, seq: Sequence) -> None:
        """Holds none of its blocks any longer."""
        for block in self._tables.pop(seq.id, Table()).blocks:
            self.blocks.release(block)

    @property
    def held_bytes(self) -> int:
        """All blocks that anybody holds."""
        held = self.blocks.num_blocks - len(self.blocks.free)
        return held * self.block_size * self.position_bytes

    @property
    def wasted_bytes(self) -> int:
        """Rows of blocks, the last ones of their sequences, that hold nothing yet; those of a shared block once."""
        empty: dict[int, list[int]] = {}  # block -> how many of its rows each sequence leaves empty that ends in it
        for table in self._tables.values():
            for i in range(table.length // self.block_size, len(table.blocks)):
                rows = min(self.block_size, (i + 1) * self.block_size - table.length)
                empty.setdefault(table.blocks[i], []).append(rows)
        ends = [(len(rows), min(rows), self.blocks.holders[block]) for block, rows in empty.items()]
        return sum(rows for n, rows, holders in ends if n == holders) * self.position_bytes  # else somebody fills it

    def _allocate(self) -> Array:  # -> (L, 2, K, S, E)
        """The pool."""
        return self.device.reserve(self.shape)

    def _must_copy(self, table: Table, n: int) -> bool:
        """Whether the next position goes into a block that somebody else holds too."""
        i = table.length // self.block_size
        return bool(n) and i < len(table.blocks) and self.blocks.holders[table.blocks[i]] > 1

    def _copy_last(self, table: Table) -> None:
        """A block of its own in place of the shared one that it would write into (copy-on-write)."""
        i, size = table.length // self.block_size, self.block_size
        old, new = table.blocks[i], self.blocks.allocate()
        self.ledger.kv_copied_bytes += self._copy_rows(old, new, table.length % size)
        table.blocks[i] = new
        self.blocks.release(old)
        self.ledger.blocks_allocated += 1

    def _copy_rows(self, old: int, new: int, rows: int) -> int:
        """Copies the first rows of a block into another; the bytes copied."""
        a, b = old * self.block_size, new * self.block_size
        self.pool[:, :, :, b : b + rows] = self.pool[:, :, :, a : a + rows]
        return rows * self.position_bytes

    def _shrink(self, table: Table) -> None:
        """Releases the blocks behind its length."""
        while (len(table.blocks) - 1) * self.block_size >= table.length and table.blocks:
            self.blocks.release(table.blocks.pop())
        table.written = table.length

    def _slots(self, table: Table, start: int, stop: int) -> Slots:
        """The pool's rows of positions start ... stop."""
        size = self.block_size
        if table.side_by_side:
            offset = table.blocks[0] * size if table.blocks else 0
            return slice(offset + start, offset + stop)
        positions = np.arange(start, stop)
        return np.array(table.blocks)[positions // size] * size + positions % size

    def _gather(self, layer: int, table: Table, start: int, stop: int) -> Array:  # -> (2, K, S, E)
        """Its blocks from the one of `start` on, copied side by side."""
        size, heads = self.block_size, self.pool.shape[2]
        first, last = start // size, (stop - 1) // size
        whole = self.pool[layer].reshape(2, heads, self.blocks.num_blocks, -1)
        rows = whole.take(table.blocks[first : last + 1], axis=2).reshape(2, heads, -1, self.pool.shape[-1])
        return rows[:, :, start - first * size : stop - first * size]
