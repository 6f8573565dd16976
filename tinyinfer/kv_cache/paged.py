"""The paged KV cache: one pool for all sequences, in blocks of a few positions (PagedAttention; Kwon et al. 2023, 4).

Which block holds which positions is bookkeeping (blocks.py); here are the arrays. Wins: many more sequences fit into
the same memory, because a sequence wastes less than one block; a shared beginning is stored and computed once. Loses:
blocks that do not lie side by side must be gathered before NumPy can multiply them (counted by `kv_copied_bytes`); a
kernel that walks through the block table itself reads them in place.
"""

from __future__ import annotations

from collections.abc import Collection

from tinyinfer.arrays import Array
from tinyinfer.kv_cache.base import CacheSpec, LayerRows, Pools, copy_positions, positions_of
from tinyinfer.kv_cache.blocks import BlockCache, BlockTable
from tinyinfer.model.interfaces import Device
from tinyinfer.sequence import Batch, Sequence, Span

Slots = slice | Array  # rows of the pool


class PagedCache(BlockCache):
    """One pool of blocks for all sequences.

    pools: each layer's keys (K, P, Ek) and values (K, P, Ev), P = B·b. Block i begins at row i·b; kernels read the
    pools by `block_table`. Growth replaces the pools (see base.py).
    """

    pools: tuple[LayerRows, ...] = ()

    def __init__(self, spec: CacheSpec, device: Device) -> None:
        super().__init__(spec, device)
        self._slots: dict[int, Slots] = {}  # sequence id -> where the positions of the running step go

    def reserve(self, seq: Sequence, n: int) -> None:
        super().reserve(seq, n)
        self._slots.pop(seq.id, None)

    def pools_of(self, seq: Sequence) -> Pools:
        return Pools(self.pools, self.block_table(seq), self.block_size)

    def append(self, layer: int, k: Array, v: Array, batch: Batch) -> None:  # (T, K, E), (T, K, E) ->
        keys, values = self.pools[layer]  # (K, P, Ek), (K, P, Ev)
        for span in batch.spans:
            slots = self._slots_of(span)
            keys[:, slots] = k[span.start : span.stop].transpose(1, 0, 2)
            values[:, slots] = v[span.start : span.stop].transpose(1, 0, 2)
            self._written[span.seq.id] = span.first + span.rows
        self.ledger.kv_written_bytes += k.nbytes + v.nbytes

    def read(
        self, layer: int, seq: Sequence, start: int, stop: int | None = None
    ) -> tuple[Array, Array]:  # -> (S, K, E), (S, K, E)
        """Views where the blocks lie side by side, else copies that gather the blocks."""
        table, stop = self._tables[seq.id], self._written[seq.id] if stop is None else stop
        if table.side_by_side:
            rows = self._rows(table, start, stop)
            k, v = [pool[:, rows] for pool in self.pools[layer]]  # (K, S, Ek), (K, S, Ev)
        else:
            k, v = [self._gather(pool, table, start, stop) for pool in self.pools[layer]]  # (K, S, Ek), (K, S, Ev)
            self.ledger.kv_copied_bytes += k.nbytes + v.nbytes
        self.ledger.kv_read_bytes += k.nbytes + v.nbytes
        return k.transpose(1, 0, 2), v.transpose(1, 0, 2)

    def free(self, seq: Sequence) -> None:
        super().free(seq)
        self._slots.pop(seq.id, None)

    def clear(self, kept: Collection[int] = ()) -> None:
        super().clear(kept)
        self._slots = {}

    @property
    def held_bytes(self) -> int:
        return self.blocks_in_use * self.block_size * self.position_bytes

    @property
    def wasted_bytes(self) -> int:
        """The bytes of rows that no holder of their block fills; such blocks are the last ones of their sequences."""
        size, holders, alone = self.block_size, self.blocks.holders, 0
        shared: dict[int, list[int]] = {}  # block -> how many of its rows each sequence that ends in it leaves empty
        for seq, table in self._tables.items():
            length = self._lengths[seq]
            for i in range(length // size, len(table.blocks)):
                block, rows = table.blocks[i], min(size, (i + 1) * size - length)
                if holders[block] == 1:
                    alone += rows
                else:
                    shared.setdefault(block, []).append(rows)
        # A holder that does not end in the block fills it: another sequence, or a prefix.
        ends = (min(rows) for block, rows in shared.items() if len(rows) == holders[block])
        return (alone + sum(ends)) * self.position_bytes

    def _stored_blocks(self) -> int:
        return positions_of(self.pools) // self.block_size

    def _replace(self, num_blocks: int, kept: int) -> int:
        if not kept:
            self.pools = ()  # the old ones go before the new ones come
        new = self._allocate(num_blocks * self.block_size)
        copy_positions(self.pools, new, kept * self.block_size)
        self.pools = new
        return kept * self.block_size * self.position_bytes

    def _copy_rows(self, old: int, new: int, rows: int) -> int:
        a, b = old * self.block_size, new * self.block_size
        for keys, values in self.pools:
            keys[:, b : b + rows] = keys[:, a : a + rows]
            values[:, b : b + rows] = values[:, a : a + rows]
        return rows * self.position_bytes

    def _slots_of(self, span: Span) -> Slots:
        """Where the rows of a span go, found in the first layer; a kernel that appends in place never asks."""
        if span.seq.id not in self._slots:
            table = self._tables[span.seq.id]
            self._slots[span.seq.id] = self._rows(table, span.first, span.first + span.rows)
        return self._slots[span.seq.id]

    def _rows(self, table: BlockTable, start: int, stop: int) -> Slots:
        """The pool's rows that hold the positions start ... stop of a table's sequence."""
        size, xp = self.block_size, self.device.xp
        if table.side_by_side:
            return slice(table.first * size + start, table.first * size + stop)
        positions = xp.arange(start, stop)  # (S,)
        return xp.asarray(table.blocks)[positions // size] * size + positions % size  # (S,)

    def _gather(self, pool: Array, table: BlockTable, start: int, stop: int) -> Array:  # (K, P, E) -> (K, S, E)
        """A copy of the rows of positions start ... stop: n whole blocks, laid side by side, and their ends cut off."""
        size, xp = self.block_size, self.device.xp
        first, last = start // size, (stop - 1) // size
        blocks = pool.reshape(len(pool), self.num_blocks, -1)  # (K, B, b·E), a view: whole blocks are copied, not rows
        chosen = blocks.take(xp.asarray(table.blocks[first : last + 1], dtype=xp.int64), axis=1)  # (K, n, b·E)
        return chosen.reshape(len(pool), -1, pool.shape[-1])[:, start - first * size : stop - first * size]
