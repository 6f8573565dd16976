"""Quantized caches: the contiguous and the paged one again, with full blocks packed (packed_blocks.py).

Where positions lie is the same question as before, with the same answers; only the storage of a block differs. One
promise makes all features compose: a query reads its own block in float, and every earlier, full block quantized, also
within the step that fills the block. So which numbers a query reads packed depends on its position alone, and chunks,
batches, shared prefixes, preemption and drafts change no result, but for rounding.

Rounding counts for more than in a float cache. Other rows in a matrix product change the last bits of a key or value,
and a number that lies within these bits of the edge between two codes then gets the other code (at an edge of float16,
its group gets another minimum or scale): the number is off by up to a step, which is what one code is worth. So in any
company an unpacked number is within half a step of its own float, and logits move less than quantizing itself moves
them, but more than by rounding alone: SmolLM2's by up to 0.01 at 8 bits and 0.1 at 4, against 1e-4 in floats
(benchmarks/same_seed.py). A coarser grid would only put the edges elsewhere. In the same company, and from the same
floats, all bits are the same.

Two things follow that a float cache does not need. A span is attended in parts, split at block boundaries, because
the rows of each block read another mixture. And rows stay in float until their block is committed, in a small array of
each sequence, so that rejected drafts can be rolled back. Blocks are unpacked into a workspace, one layer of one
sequence at a time; it is working memory like any activation, and not counted as held.
Wins and loses: see packed_blocks.py.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

from tinyinfer.arrays import Array
from tinyinfer.kv_cache.base import CacheSpec, LayerRows, carve, down_to, first_given, layer_shapes, positions_of
from tinyinfer.kv_cache.blocks import BlockCache
from tinyinfer.kv_cache.in_place import FloatRows, InPlace
from tinyinfer.kv_cache.packed_blocks import PackedBlocks
from tinyinfer.model.interfaces import Device
from tinyinfer.sequence import Batch, Sequence, Span


class Unpacked(NamedTuple):
    """What the workspace holds: the blocks first ... stop of a sequence, in one layer."""

    layer: int
    seq: int
    first: int
    stop: int


class QuantizedCache(InPlace):
    """What both quantized caches have in common; of its bases a cache names this class first."""

    def __init__(self, spec: CacheSpec, device: Device) -> None:
        super().__init__(spec, device)
        self.block_size = spec.block_size
        self._open: dict[int, FloatRows] = {}  # sequence id -> its float rows
        # A float row holds keys, then values, layer by layer; each begins at the sum of the widths before it.
        edges = accumulate((n for r in spec.memory for n in (r.heads * r.key_size, r.heads * r.value_size)), initial=0)
        columns = [slice(*pair) for pair in pairwise(edges)]
        self._columns = list(zip(columns[::2], columns[1::2], strict=True))  # of a layer's keys and values
        self._workspace: tuple[LayerRows, ...] = ()  # all layers' views of the same memory
        self._workspace_blocks: list[tuple[Array, ...]] = []
        self._unpacked: Unpacked | None = None

    @abstractmethod
    def block_ids(self, seq: Sequence, first: int, stop: int) -> slice | Array:
        """Which blocks of that storage are the blocks first ... stop of the sequence."""

    def forget_workspace(self) -> None:
        self._unpacked = None

    # The contract.

    def missing(self, seq: Sequence, n: int) -> int:
        """Also what the workspace is too short for; no eviction helps there, so that is more than all blocks."""
        short = self.length(seq) + n - positions_of(self._workspace)
        return max(super().missing(seq, n), short + self.num_blocks if short > 0 else 0)

    def prepare(self, sequences: Collection[Sequence]) -> None:
        longest = min(self.capacity, max(seq.most_positions for seq in sequences))
        if longest > positions_of(self._workspace):
            first_given(self._make_workspace, [longest])
        super().prepare(sequences)

    def shrink(self) -> None:
        super().shrink()
        if not self._open:
            self._drop_workspace()

    def grow(self, seq: Sequence, n: int) -> bool:
        """Also makes the workspace longer, once there is storage: for all that the sequence can come to."""
        if super().missing(seq, n):
            return super().grow(seq, n)
        stop, most = self.length(seq) + n, self.capacity
        sizes = (min(most, max(stop, size)) for size in chain([seq.most_positions], down_to(stop, 2 * stop)))
        return first_given(self._make_workspace, sizes) is not None

    def reserve(self, seq: Sequence, n: int) -> None:
        """Also makes room for float rows: for the unfinished block and n more positions."""
        super().reserve(seq, n)
        room = self.length(seq) % self.block_size + n
        if seq.id not in self._open or len(self._open[seq.id].rows) < room:
            self._copy_float_rows(seq, seq, room)

    def append(self, layer: int, k: Array, v: Array, batch: Batch) -> None:  # (T, K, E), (T, K, E) ->
        """Keeps each span's rows in float, and packs the blocks that become full."""
        self._unpacked = None
        for span in batch.spans:
            # (T, K, E), (T, K, E): of this span
            keys, values = self._float_rows(layer, span.seq, span.first, span.first + span.rows)
            keys[:], values[:] = k[span.start : span.stop], v[span.start : span.stop]
            self._written[span.seq.id] = span.first + span.rows
            self._pack(layer, span.seq)
        self.ledger.kv_written_bytes += k.nbytes + v.nbytes

    def split(self, span: Span) -> tuple[Span, ...]:
        """Splits at block boundaries: the rows of one block read the same blocks packed."""
        size, last = self.block_size, span.first + span.rows
        # The ends of the span and every block boundary between them; each pair of neighbours is a part.
        edges = [span.first, *range(span.first - span.first % size + size, last, size), last]
        if len(edges) == 2:
            return (span,)
        shift = span.start - span.first
        return tuple(span._replace(start=a + shift, stop=b + shift, first=a) for a, b in pairwise(edges))

    def read(
        self, layer: int, seq: Sequence, start: int, stop: int | None = None
    ) -> tuple[Array, Array]:  # -> (S, K, E), (S, K, E)
        """What a query at position stop - 1 reads. Views of the workspace, which the next read changes."""
        stop = self._written[seq.id] if stop is None else stop
        # Blocks before `edge` are read packed. The query's own block is float, and so is what has no packed form yet.
        edge = max(self._open[seq.id].first, (stop - 1) // self.block_size * self.block_size)
        self._unpack(layer, seq, start // self.block_size, edge // self.block_size)
        begin, end = max(start, edge), max(stop, edge)
        k, v = self._float_rows(layer, seq, begin, end)  # (end - begin, K, E), (end - begin, K, E)
        self.ledger.kv_read_bytes += k.nbytes + v.nbytes
        keys, values = self._workspace[layer]  # (K, P, E), (K, P, E)
        keys[:, begin:end], values[:, begin:end] = k.transpose(1, 0, 2), v.transpose(1, 0, 2)
        return keys[:, start:stop].transpose(1, 0, 2), values[:, start:stop].transpose(1, 0, 2)

    def commit(self, seq: Sequence, n: int) -> None:
        """Also frees the float rows of blocks that are full now."""
        super().commit(seq, n)
        self._free_full_blocks(seq)

    def truncate(self, seq: Sequence, n: int) -> None:
        """A packed block is kept whole or not at all, because it has no float rows any longer."""
        if 0 <= n < self.length(seq) // self.block_size * self.block_size:
            n -= n % self.block_size
        super().truncate(seq, n)
        self._free_full_blocks(seq)

    def fork(self, seq: Sequence, child: Sequence) -> None:
        """The child also gets a copy of the float rows."""
        super().fork(seq, child)
        if seq.id in self._open:
            self._copy_float_rows(seq, child, self.block_size)
            self.ledger.kv_copied_bytes += self.length(seq) % self.block_size * self.position_bytes

    def free(self, seq: Sequence) -> None:
        super().free(seq)
        self._open.pop(seq.id, None)
        if not self._open:
            self._drop_workspace()

    def clear(self, kept: Collection[int] = ()) -> None:
        super().clear(kept)
        self._open = {}
        self._drop_workspace()

    @property
    def float_bytes(self) -> int:
        """Bytes of the float rows of all sequences."""
        return sum(floats.rows.nbytes for floats in self._open.values())

    @property
    def wasted_float_bytes(self) -> int:
        """Bytes of the float rows that hold no position."""
        filled = sum(self._written[seq] - floats.first for seq, floats in self._open.items())
        return self.float_bytes - filled * self.position_bytes

    # Float rows, and the workspace.

    def _make_workspace(self, positions: int) -> LayerRows:
        """Room for so many positions of a sequence, in one layer at a time. Raises MemoryError."""
        positions = -(-positions // self.block_size) * self.block_size
        flat = self.device.reserve((positions * max(rows.numbers for rows in self.spec.memory),))  # (numbers,)
        self._unpacked = None
        self._workspace = tuple(LayerRows(*carve(flat, layer_shapes(rows, positions))) for rows in self.spec.memory)
        self._workspace_blocks = [tuple(map(self._in_blocks, layer)) for layer in self._workspace]
        return self._workspace[0]

    def _drop_workspace(self) -> None:
        self._workspace, self._workspace_blocks, self._unpacked = (), [], None

    def _in_blocks(self, rows: Array) -> Array:  # (K, P, E) -> (K, P/b, b, E)
        return rows.reshape(len(rows), -1, self.block_size, rows.shape[-1])

    def _float_rows(
        self, layer: int, seq: Sequence, first: int, stop: int
    ) -> tuple[Array, Array]:  # -> (S, K, E), (S, K, E)
        """Keys and values of the positions first ... stop in a layer, as views: to be read or written."""
        floats, (keys, values), memory = self._open[seq.id], self._columns[layer], self.spec.memory[layer]
        rows = floats.rows[first - floats.first : stop - floats.first]  # (S, numbers)
        k = rows[:, keys].reshape(-1, memory.heads, memory.key_size)  # (S, K, Ek)
        return k, rows[:, values].reshape(-1, memory.heads, memory.value_size)

    def _copy_float_rows(self, seq: Sequence, child: Sequence, room: int) -> None:
        """Gives `child` (maybe `seq` itself) the float rows of the unfinished block of `seq`, with room for more."""
        length, xp = self.length(seq), self.device.xp
        first, blocks = length - length % self.block_size, max(1, -(-room // self.block_size))
        shape = blocks * self.block_size, self._columns[-1][1].stop
        rows = xp.empty(shape, dtype=xp.float32)  # (positions, numbers)
        if seq.id in self._open:
            old = self._open[seq.id]
            rows[: length - first] = old.rows[first - old.first : length - old.first]
        self._open[child.id] = FloatRows(rows, first)

    def _free_full_blocks(self, seq: Sequence) -> None:
        """Keeps float rows of the unfinished block only, in one block of room."""
        floats, first = self._open.get(seq.id), self.length(seq) // self.block_size * self.block_size
        if floats and (floats.first != first or len(floats.rows) > self.block_size):
            self._copy_float_rows(seq, seq, self.block_size)

    def _pack(self, layer: int, seq: Sequence) -> None:
        """Packs those blocks of the sequence that its float rows fill."""
        first, size = self._open[seq.id].first, self.block_size
        count = (self._written[seq.id] - first) // size
        if count:
            packed, ids = self.storage(seq), self.block_ids(seq, first // size, first // size + count)
            rows = self._float_rows(layer, seq, first, first + count * size)
            blocks = (x.reshape(count, size, *x.shape[1:]).transpose(2, 0, 1, 3) for x in rows)  # each (K, n, b, E)
            packed.write(layer, ids, *blocks)
            self.ledger.kv_written_bytes += count * packed.layer_bytes[layer]

    def _unpack(self, layer: int, seq: Sequence, first: int, stop: int) -> None:
        """Unpacks the blocks first ... stop into the workspace, but for those that the read before has left there."""
        old = self._unpacked
        if old is None or (old.layer, old.seq) != (layer, seq.id) or not old.first <= first <= old.stop:
            old = Unpacked(layer, seq.id, first, first)  # the workspace holds nothing of this sequence and layer
        begin = old.stop
        if begin < stop:
            packed, ids = self.storage(seq), self.block_ids(seq, begin, stop)
            keys, values = self._workspace_blocks[layer]  # (K, P/b, b, E), (K, P/b, b, E)
            packed.read(layer, ids, keys[:, begin:stop], values[:, begin:stop])
            nbytes = (stop - begin) * packed.layer_bytes[layer]
            self.ledger.kv_read_bytes += nbytes
            if not isinstance(ids, slice):  # scattered blocks are gathered before they are unpacked
                self.ledger.kv_copied_bytes += nbytes
        self._unpacked = Unpacked(layer, seq.id, old.first, stop)


class QuantizedContiguousCache(QuantizedCache):
    """A run of packed blocks for each sequence; a last block that is not whole stays float."""

    def __init__(self, spec: CacheSpec, device: Device) -> None:
        super().__init__(spec, device)
        self._packed: dict[int, PackedBlocks] = {}  # sequence id -> its blocks

    def storage(self, seq: Sequence) -> PackedBlocks:
        return self._packed[seq.id]

    def block_ids(self, seq: Sequence, first: int, stop: int) -> slice | Array:
        return slice(first, stop)

    def missing(self, seq: Sequence, n: int) -> int:
        return max(super().missing(seq, n), self._missing_blocks(seq, n))

    def grow(self, seq: Sequence, n: int) -> bool:
        """Gives the sequence blocks for all that it can come to, or twice as many as it has."""
        if self._missing_blocks(seq, n) <= 0:
            return super().grow(seq, n)
        old, full = self._packed.get(seq.id), self.length(seq) // self.block_size
        positions = self.length(seq) + n, self.expected(seq), self.capacity
        sizes = self._sizes(old.count if old else 0, *(p // self.block_size for p in positions))
        new = first_given(self._allocate_blocks, sizes)
        if new is not None:
            self._packed[seq.id] = new
            if old:
                self._copy_blocks(old, new, full)
        return new is not None

    def fork(self, seq: Sequence, child: Sequence) -> None:
        self.reserve(child, self.length(seq))
        self._copy_blocks(self.storage(seq), self.storage(child), self.length(seq) // self.block_size)
        super().fork(seq, child)

    def free(self, seq: Sequence) -> None:
        super().free(seq)
        self._packed.pop(seq.id, None)

    def clear(self, kept: Collection[int] = ()) -> None:
        super().clear(kept)
        self._packed = {}

    @property
    def held_bytes(self) -> int:
        return sum(packed.nbytes for packed in self._packed.values()) + self.float_bytes

    @property
    def wasted_bytes(self) -> int:
        """Blocks that are not full, and empty float rows."""
        empty = {id: packed.count - self._lengths[id] // self.block_size for id, packed in self._packed.items()}
        return sum(n * self._packed[id].block_bytes for id, n in empty.items()) + self.wasted_float_bytes

    def _missing_blocks(self, seq: Sequence, n: int) -> int:
        full = (self.length(seq) + n) // self.block_size
        return full - self._packed[seq.id].count if seq.id in self._packed else max(1, full)

    def _allocate_blocks(self, count: int) -> PackedBlocks:
        return PackedBlocks(self.spec, count, self.device)

    def _copy_blocks(self, old: PackedBlocks, new: PackedBlocks, count: int) -> None:
        new.copy(old, count)
        self.ledger.kv_copied_bytes += count * old.block_bytes


class QuantizedPagedCache(QuantizedCache, BlockCache):
    """One pool of packed blocks (`packed`) for all sequences. Growth replaces it (see base.py)."""

    packed: PackedBlocks

    def storage(self, seq: Sequence) -> PackedBlocks:
        return self.packed

    def block_ids(self, seq: Sequence, first: int, stop: int) -> slice | Array:
        table = self._table(seq)
        if table.side_by_side:
            return slice(table.first + first, table.first + stop)
        return self.device.xp.asarray(table.blocks[first:stop])

    @property
    def held_bytes(self) -> int:
        return self.blocks_in_use * self.packed.block_bytes + self.float_bytes

    @property
    def wasted_bytes(self) -> int:
        """Blocks that are not full, each counted once, and empty float rows."""
        tables = self._tables.items()
        empty = {block for seq, table in tables for block in table.blocks[self._lengths[seq] // self.block_size :]}
        return len(empty) * self.packed.block_bytes + self.wasted_float_bytes

    def _stored_blocks(self) -> int:
        return self.packed.count

    def _replace(self, num_blocks: int, kept: int) -> int:
        if not kept:
            self.packed = PackedBlocks(self.spec, 0, self.device)  # the old ones go before the new ones come
        new = PackedBlocks(self.spec, num_blocks, self.device)
        new.copy(self.packed, kept)
        self.packed = new
        return kept * new.block_bytes

    def _copy_rows(self, old: int, new: int, rows: int) -> int:
        return 0  # the rows of a block that is not full are float rows
