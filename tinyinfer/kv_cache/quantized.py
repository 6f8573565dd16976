"""Caches that quantize: the contiguous and the paged one again, with full blocks packed (kv_quantization.py).

Where positions live is the same question as before and has the same answers, so each of the two is its float sibling
with another way to store a block. One promise makes all features compose: a query reads the block that it stands in in
float, and every earlier, full block quantized, also within the step that fills it. What a query sees depends on its
position alone, so chunks, batches, shared prefixes, preemption and guesses change no result.

Hence two things are unlike a float cache. A span of rows is attended in pieces, cut at block edges, because each piece
sees another mixture. And rows stay in float until their block is committed, in a small array of each sequence, so that
wrong guesses can be taken back. The workspace into which blocks are unpacked, one layer of one sequence at a time, is
working memory like any activation and not counted as held.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from tinyinfer.arrays import Array
from tinyinfer.kv_cache.contiguous import ContiguousCache
from tinyinfer.kv_cache.packed_blocks import PackedBlocks, group_size
from tinyinfer.kv_cache.paged import PagedCache
from tinyinfer.model.config import ModelConfig

if TYPE_CHECKING:
    from tinyinfer.model.interfaces import Device
    from tinyinfer.sequence import Batch, Sequence, Span

    Layout = ContiguousCache  # stands for both of them: only what every cache has is asked of it
else:
    Layout = object


@dataclass
class OpenRows:
    """The float rows of a sequence: positions first ... stop, from the first block on that is not committed."""

    rows: Array  # (L, 2, K, N, E), N a multiple of the block size
    first: int
    stop: int


@dataclass
class Unpacked:
    """What the workspace holds: blocks first ... stop of a sequence in a layer."""

    layer: int
    seq: int
    first: int
    stop: int


class QuantizedCache(ABC, Layout):
    """What both have in common; it comes before the float cache among a class's bases."""

    def __init__(
        self,
        config: ModelConfig,
        max_model_len: int,
        device: Device,
        *,
        block_size: int = 16,
        kv_bits: int = 8,
        kv_group_size: int | None = None,
        **others: int | None,
    ) -> None:
        self.config, self.device, self.block_size, self.bits = config, device, block_size, kv_bits
        self.group = group_size(config.head_dim, kv_group_size)
        self._open: dict[int, OpenRows] = {}
        super().__init__(config, max_model_len, device, block_size=block_size, **others)
        blocks = -(-self.capacity // block_size)
        self._workspace = device.reserve((2, config.num_kv_heads, blocks, block_size, config.head_dim))
        self._unpacked: Unpacked | None = None

    @abstractmethod
    def blocks_of(self, seq: Sequence) -> PackedBlocks:
        """Among which blocks the sequence's are."""

    @abstractmethod
    def where(self, seq: Sequence, first: int, stop: int) -> slice | list[int]:
        """The numbers of the sequence's blocks first ... stop among them."""

    def packed(self, count: int) -> PackedBlocks:
        """So many empty blocks."""
        return PackedBlocks(self.config, count, self.block_size, self.bits, self.group, self.device)

    # The contract.

    def reserve(self, seq: Sequence, n: int) -> None:
        """Also makes room for float rows."""
        super().reserve(seq, n)
        length = self.length(seq)
        first = length - length % self.block_size
        if seq.id not in self._open:
            self._open[seq.id] = OpenRows(self._empty(self.block_size), first, length)
        own = self._open[seq.id]
        if own.rows.shape[3] < length + n - first:
            own.rows = self._moved(own, first, length, length + n - first)

    def append(self, layer: int, k: Array, v: Array, batch: Batch) -> None:  # (T, K, E), (T, K, E) ->
        """Keeps each span's rows in float, and packs the blocks that become full."""
        self._unpacked = None
        for span in batch.spans:
            own = self._open[span.seq.id]
            positions = slice(span.first - own.first, span.first - own.first + span.rows)
            own.rows[layer, 0, :, positions] = k[span.start : span.stop].transpose(1, 0, 2)
            own.rows[layer, 1, :, positions] = v[span.start : span.stop].transpose(1, 0, 2)
            own.stop = span.first + span.rows
            self._pack(layer, span.seq, own)
        self.ledger.kv_written_bytes += k.nbytes + v.nbytes

    def split(self, span: Span) -> tuple[Span, ...]:
        """Cut at block edges: rows of one block see the same blocks packed."""
        size, last = self.block_size, span.first + span.rows
        edges = [span.first, *range(span.first - span.first % size + size, last, size), last]
        if len(edges) == 2:
            return (span,)
        shift = span.start - span.first
        return tuple(replace(span, start=a + shift, stop=b + shift, first=a) for a, b in pairwise(edges))

    def read(
        self, layer: int, seq: Sequence, start: int, stop: int | None = None
    ) -> tuple[Array, Array]:  # -> (S, K, E), (S, K, E)
        """What a query at position stop - 1 sees. Views of the workspace, which the next read changes."""
        own, size = self._open[seq.id], self.block_size
        stop = own.stop if stop is None else stop
        edge = max(own.first, (stop - 1) // size * size)  # what lies before it is packed, what follows is float
        self._unpack(layer, seq, start // size, edge // size)
        begin, end = max(start, edge), max(stop, edge)
        rows = own.rows[layer, :, :, begin - own.first : end - own.first]
        self.ledger.kv_read_bytes += rows.nbytes
        mixed = self._workspace.reshape(*self._workspace.shape[:2], -1, self.config.head_dim)  # (2, K, P, E)
        mixed[:, :, begin:end] = rows
        return mixed[0, :, start:stop].transpose(1, 0, 2), mixed[1, :, start:stop].transpose(1, 0, 2)

    def commit(self, seq: Sequence, n: int) -> None:
        """Full blocks need their float rows no longer."""
        super().commit(seq, n)
        self._close(seq)

    def truncate(self, seq: Sequence, n: int) -> None:
        """Packed blocks have no float rows to go on from, so of those only whole ones are kept: `length` tells."""
        if 0 <= n < self.length(seq) // self.block_size * self.block_size:
            n -= n % self.block_size
        super().truncate(seq, n)
        self._close(seq)

    def fork(self, seq: Sequence, child: Sequence) -> None:
        """The child also gets a copy of the float rows."""
        super().fork(seq, child)
        if seq.id in self._open:
            own = self._open[seq.id]
            rows = self._moved(own, own.first, own.stop, self.block_size)
            self._open[child.id] = OpenRows(rows, own.first, own.stop)
            self.ledger.kv_copied_bytes += (own.stop - own.first) * self.position_bytes

    def free(self, seq: Sequence) -> None:
        """Its float rows, too."""
        super().free(seq)
        self._open.pop(seq.id, None)

    @property
    def _open_bytes(self) -> int:
        """Of all float rows."""
        return sum(own.rows.nbytes for own in self._open.values())

    @property
    def _unused_bytes(self) -> int:
        """Float rows that hold no computed position."""
        return self._open_bytes - sum(own.stop - own.first for own in self._open.values()) * self.position_bytes

    # Float rows, and the workspace.

    def _empty(self, rows: int) -> Array:  # -> (L, 2, K, N, E)
        """Room for so many float rows of a sequence, rounded up to whole blocks."""
        c, n = self.config, -(-rows // self.block_size) * self.block_size
        return self.device.xp.empty((c.num_layers, 2, c.num_kv_heads, n, c.head_dim), dtype=self.device.xp.float32)

    def _moved(self, own: OpenRows, first: int, stop: int, room: int) -> Array:  # -> (L, 2, K, N, E)
        """The float rows of positions first ... stop, in a new array with room for `room` rows."""
        rows = self._empty(room)
        rows[:, :, :, : stop - first] = own.rows[:, :, :, first - own.first : stop - own.first]
        return rows

    def _close(self, seq: Sequence) -> None:
        """Keeps the float rows of the unfinished block only, in one block of room."""
        if seq.id in self._open:
            own, length = self._open[seq.id], self.length(seq)
            first = length - length % self.block_size
            if first != own.first or own.rows.shape[3] != self.block_size:
                own.rows = self._moved(own, first, length, self.block_size)
            own.first, own.stop = first, length

    def _pack(self, layer: int, seq: Sequence, own: OpenRows) -> None:
        """Packs the blocks that its float rows fill."""
        size, count = self.block_size, (own.stop - own.first) // self.block_size
        if count:
            first = own.first // size
            rows = own.rows[layer, :, :, : count * size]
            packed = self.blocks_of(seq)
            blocks = rows.reshape(*rows.shape[:2], count, size, -1)  # (2, K, N, S, E)
            packed.write(layer, self.where(seq, first, first + count), blocks)
            self.ledger.kv_written_bytes += count * packed.block_bytes // self.config.num_layers

    def _unpack(self, layer: int, seq: Sequence, first: int, stop: int) -> None:
        """Brings the sequence's blocks first ... stop into the workspace, those that the piece before did not read."""
        old = self._unpacked
        reused = old is not None and (old.layer, old.seq) == (layer, seq.id) and old.first <= first <= old.stop
        known = old if old is not None and reused else Unpacked(layer, seq.id, first, first)
        begin = known.stop
        if begin < stop:
            packed, where = self.blocks_of(seq), self.where(seq, begin, stop)
            packed.read(layer, where, self._workspace[:, :, begin:stop])
            nbytes = (stop - begin) * packed.block_bytes // self.config.num_layers
            self.ledger.kv_read_bytes += nbytes
            if not isinstance(where, slice):  # scattered blocks are gathered before they are unpacked
                self.ledger.kv_copied_bytes += nbytes
        self._unpacked = replace(known, stop=stop)


class QuantizedContiguousCache(QuantizedCache, ContiguousCache):
    """A run of packed blocks per sequence, as long as the context."""

    def blocks_of(self, seq: Sequence) -> PackedBlocks:
        """Its own."""
        return self._arrays[seq.id]

    def where(self, seq: Sequence, first: int, stop: int) -> slice | list[int]:
        """In order."""
        return slice(first, stop)

    def _allocate(self) -> PackedBlocks:
        """A context's whole blocks; what does not fill one stays in float."""
        return self.packed(self.capacity // self.block_size)

    def _copy(self, seq: Sequence, child: Sequence) -> int:
        """Its full blocks; the bytes copied."""
        old, new, full = self._arrays[seq.id], self._arrays[child.id], self.length(seq) // self.block_size
        new.copy(old, full)
        return full * old.block_bytes

    @property
    def held_bytes(self) -> int:
        """Whole contexts, and float rows."""
        each = self.capacity // self.block_size
        return sum(each * packed.block_bytes for packed in self._arrays.values()) + self._open_bytes

    @property
    def wasted_bytes(self) -> int:
        """Blocks that are not full, and empty float rows."""
        empty = {seq: (self.capacity // self.block_size - n // self.block_size) for seq, n in self._lengths.items()}
        return sum(n * self._arrays[seq].block_bytes for seq, n in empty.items()) + self._unused_bytes


class QuantizedPagedCache(QuantizedCache, PagedCache):
    """A pool of packed blocks."""

    pool: PackedBlocks

    def blocks_of(self, seq: Sequence) -> PackedBlocks:
        """Everybody's."""
        return self.pool

    def where(self, seq: Sequence, first: int, stop: int) -> slice | list[int]:
        """As the table says."""
        table = self._tables[seq.id]
        offset = table.blocks[0] if table.blocks else 0
        return slice(offset + first, offset + stop) if table.side_by_side else table.blocks[first:stop]

    def _allocate(self) -> PackedBlocks:
        """The pool."""
        return self.packed(self.blocks.num_blocks)

    def _copy_rows(self, old: int, new: int, rows: int) -> int:
        """Nothing: a block that is not full has its rows elsewhere."""
        return 0

    @property
    def held_bytes(self) -> int:
        """Blocks that anybody holds, and float rows."""
        return (self.blocks.num_blocks - len(self.blocks.free)) * self.pool.block_bytes + self._open_bytes

    @property
    def wasted_bytes(self) -> int:
        """Blocks that are not full, each once, and empty float rows."""
        tables = self._tables.values()
        empty = {block for table in tables for block in table.blocks[table.length // self.block_size :]}
        return len(empty) * self.pool.block_bytes + self._unused_bytes
