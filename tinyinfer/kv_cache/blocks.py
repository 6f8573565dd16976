"""Which blocks hold a sequence's positions: the bookkeeping of every paged cache (PagedAttention; Kwon et al. 2023, 4).

A contiguous cache reserves room for the longest answer of every sequence, because the final length is not known. Here
the memory is a pool of blocks of a few positions each. A sequence has a block table and allocates the next block when
its last one is full, so at most block_size - 1 of its positions are wasted. Each block counts its holders: the block
tables, and the prefixes of prefix_cache.py, that contain it. Several sequences can read a shared block; a sequence that
must write into one gets a copy first (copy-on-write).

A pool of a given size is allocated at once. Any other begins empty. While no block is held, it grows to what the
sequences at hand can come to, and nothing is copied; when blocks are missing later, at least to twice its size.

Nothing here knows of arrays. A cache adds the storage (paged.py, quantized.py) and copies rows when it is told to.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field

from tinyinfer.errors import RoomError, SwitchError
from tinyinfer.kv_cache.base import Cache, CacheSpec, first_given
from tinyinfer.model.interfaces import Device
from tinyinfer.sequence import Sequence

ALL_TAKEN = "all {value} blocks of the cache are taken"


class BlockPool:
    """Which blocks are free, and how many holders each of the others has; in a new pool the blocks `kept` have one."""

    def __init__(self, num_blocks: int, kept: Collection[int] = ()) -> None:
        self.holders = [0] * num_blocks
        for block in kept:
            self.holders[block] = 1
        # A stack: the block freed last is still in the CPU's cache.
        self.free = [block for block in reversed(range(num_blocks)) if not self.holders[block]]

    @property
    def num_blocks(self) -> int:
        return len(self.holders)

    def grow(self, num_blocks: int) -> None:
        """Adds free blocks behind the others, up to so many in all; they are allocated last, in order."""
        self.free = [*range(num_blocks - 1, self.num_blocks - 1, -1), *self.free]
        self.holders += [0] * (num_blocks - self.num_blocks)

    def allocate(self) -> int:
        """A free block, which now has one holder. Raises ValueError when no block is free."""
        if not self.free:
            raise SwitchError("num_blocks", self.num_blocks, ALL_TAKEN, "raise {field}")
        block = self.free.pop()
        self.holders[block] = 1
        return block

    def hold(self, block: int) -> None:
        """Adds a holder to a block in use. Raises ValueError for a free block."""
        if not self.holders[block]:
            raise ValueError(f"block {block} is free and cannot be shared")
        self.holders[block] += 1

    def release(self, block: int) -> None:
        """Removes a holder; a block without holders is free. Raises ValueError for a free block."""
        if not self.holders[block]:
            raise ValueError(f"block {block} is free already")
        self.holders[block] -= 1
        if not self.holders[block]:
            self.free.append(block)


@dataclass
class BlockTable:
    """A sequence's blocks: position p lies in blocks[p // block_size], in row p % block_size of that block.

    side_by_side: whether the blocks lie in the pool in the order of the table, without gaps; a slice of the pool then
    reads them without a copy.
    """

    blocks: list[int] = field(default_factory=list)
    side_by_side: bool = False

    @property
    def first(self) -> int:
        return self.blocks[0] if self.blocks else 0


class BlockCache(Cache):
    """A cache whose positions lie in blocks of one pool, without its arrays."""

    cure = "raise {max_model_len} or {num_blocks}"

    def __init__(self, spec: CacheSpec, device: Device) -> None:
        super().__init__(spec, device)
        self.block_size = spec.block_size
        self.capacity = min(spec.max_model_len, spec.num_blocks * spec.block_size)
        self.blocks = BlockPool(0)
        self._tables: dict[int, BlockTable] = {}  # sequence id -> its table
        if first_given(self._enlarge, [spec.num_blocks if spec.reserve_all else 0]) is None:
            reason = "the system does not give this process the memory for {num_blocks}={blocks}"
            raise RoomError(reason, f"give fewer, or {spec.smaller}", blocks=spec.num_blocks)

    def block_table(self, seq: Sequence) -> tuple[int, ...]:
        return tuple(self._table(seq).blocks)

    def missing(self, seq: Sequence, n: int) -> int:
        """How many more free blocks are needed than there are, the copy of a shared block that is written included."""
        return 0 if self._fits(seq, n) else self._missing_blocks(seq, n)

    def prepare(self, sequences: Collection[Sequence]) -> None:
        wanted = sum(self._lacking(seq, self.expected(seq)) for seq in sequences)
        if not (self.spec.reserve_all or self.blocks_in_use) and wanted > self.num_blocks:
            first_given(self._enlarge, self._sizes(self.num_blocks, 1, wanted, self.spec.num_blocks))

    def shrink(self) -> None:
        if not (self.spec.reserve_all or self.blocks_in_use):
            self._enlarge(0)

    def grow(self, seq: Sequence, n: int) -> bool:
        size, most, used = self.num_blocks, self.spec.num_blocks, self.blocks_in_use
        if size >= most or self.spec.reserve_all:
            return False
        least = min(most, size + self._missing_blocks(seq, n))
        wanted = max(used + self._lacking(seq, self.expected(seq)), 2 * size if used else 0)
        return first_given(self._enlarge, self._sizes(size, least, wanted, most)) is not None

    def reserve(self, seq: Sequence, n: int) -> None:
        """Allocates blocks for the positions that the last block has no room for."""
        if self._fits(seq, n):
            self._set_length(seq, self._lengths[seq.id])
            return
        super().reserve(seq, n)
        table = self._tables.setdefault(seq.id, BlockTable())
        if self._must_copy(seq, n):
            self._copy_on_write(seq, table)
        while len(table.blocks) * self.block_size < self.length(seq) + n:
            table.blocks.append(self._new_block())
        table.side_by_side = table.blocks == list(range(table.first, table.first + len(table.blocks)))

    def commit(self, seq: Sequence, n: int) -> None:
        super().commit(seq, n)
        self._release_rest(seq)

    def truncate(self, seq: Sequence, n: int) -> None:
        super().truncate(seq, n)
        self._release_rest(seq)

    def fork(self, seq: Sequence, child: Sequence) -> None:
        """The child holds the same blocks; whichever of the two writes into the last one first gets a copy."""
        n = self.length(seq)
        self.adopt(child, list(self.block_table(seq)[: -(-n // self.block_size)]), n)

    def free(self, seq: Sequence) -> None:
        super().free(seq)
        for block in self._tables.pop(seq.id, BlockTable()).blocks:
            self.blocks.release(block)

    def clear(self, kept: Collection[int] = ()) -> None:
        """Also counts the blocks anew, as many as there are arrays for."""
        super().clear(kept)
        self._tables = {}
        self.blocks = BlockPool(self._stored_blocks(), kept)

    # For the prefix cache, which shares blocks with sequences, and for traces, which show blocks.

    def adopt(self, seq: Sequence, blocks: list[int], length: int) -> None:
        """Begins a new sequence with blocks that have holders already, and with the `length` positions in them."""
        for block in blocks:
            self.blocks.hold(block)
        self._tables[seq.id] = BlockTable(list(blocks))
        self._set_length(seq, length)

    def hold(self, block: int) -> None:
        """Adds a holder to a block in use, so that the block outlives its sequences."""
        self.blocks.hold(block)

    def release(self, block: int) -> None:
        """Removes a holder of a block; a block without holders is free."""
        self.blocks.release(block)

    def next_blocks(self, n: int) -> list[int]:
        return self.blocks.free[: -n - 1 : -1]

    def holders(self, block: int) -> int:
        return self.blocks.holders[block]

    @property
    def num_blocks(self) -> int:
        return self.blocks.num_blocks

    @property
    def blocks_in_use(self) -> int:
        return self.num_blocks - len(self.blocks.free)

    def no_room(self, seq: Sequence, n: int) -> RoomError:
        if self.spec.reserve_all and self._missing_blocks(seq, n):
            return RoomError(ALL_TAKEN, "raise {num_blocks}", seq.id, value=self.num_blocks)
        return super().no_room(seq, n)

    @abstractmethod
    def _replace(self, num_blocks: int, kept: int) -> int:
        """Replaces the storage by one of so many blocks, with copies of its first `kept`; returns the bytes copied.

        Raises MemoryError; the storage is then as it was, or empty if none of it was to be kept.
        """

    @abstractmethod
    def _stored_blocks(self) -> int:
        """For how many blocks there is storage."""

    @abstractmethod
    def _copy_rows(self, old: int, new: int, rows: int) -> int:
        """Copies the first rows of a block into another block; returns the bytes copied."""

    def _table(self, seq: Sequence) -> BlockTable:
        return self._tables.get(seq.id) or BlockTable()

    def _fits(self, seq: Sequence, n: int) -> bool:
        """Whether n more positions fit into the last block of the sequence, which no other holder has: the usual case
        in decode, asked for every sequence and step.
        """
        table, length = self._tables.get(seq.id), self._lengths.get(seq.id, 0)
        if not table or not length % self.block_size or length + n > self.capacity:
            return False
        if length + n > len(table.blocks) * self.block_size:
            return False
        return self.blocks.holders[table.blocks[length // self.block_size]] == 1

    def _missing_blocks(self, seq: Sequence, n: int) -> int:
        needed = self._lacking(seq, self.length(seq) + n) + self._must_copy(seq, n)
        return max(0, needed - len(self.blocks.free))

    def _lacking(self, seq: Sequence, positions: int) -> int:
        """How many more blocks the sequence must have for so many positions."""
        return max(0, -(-positions // self.block_size) - len(self._table(seq).blocks))  # -(-a // b): rounded up

    def _enlarge(self, num_blocks: int) -> int:
        """Makes the pool so large. While no block is held, the old storage goes first, and the pool may become smaller.

        Raises MemoryError.
        """
        kept = max((block + 1 for block, holders in enumerate(self.blocks.holders) if holders), default=0)
        if not kept:
            self.blocks = BlockPool(0)
        self.ledger.kv_copied_bytes += self._replace(num_blocks, kept)
        self.blocks.grow(num_blocks)
        return num_blocks

    def _new_block(self) -> int:
        block = self.blocks.allocate()
        self.ledger.blocks_allocated += 1
        return block

    def _must_copy(self, seq: Sequence, n: int) -> bool:
        """Whether the next position lies in a block that has another holder."""
        blocks, i = self._table(seq).blocks, self.length(seq) // self.block_size
        return bool(n) and i < len(blocks) and self.blocks.holders[blocks[i]] > 1

    def _copy_on_write(self, seq: Sequence, table: BlockTable) -> None:
        """Replaces the shared block of the next position by a copy of the sequence's own."""
        i, rows = divmod(self.length(seq), self.block_size)
        old, new = table.blocks[i], self._new_block()
        self.ledger.kv_copied_bytes += self._copy_rows(old, new, rows)
        table.blocks[i] = new
        self.blocks.release(old)

    def _release_rest(self, seq: Sequence) -> None:
        """Releases the blocks behind the sequence's length."""
        blocks, used = self._table(seq).blocks, -(-self.length(seq) // self.block_size)
        while len(blocks) > used:
            self.blocks.release(blocks.pop())
