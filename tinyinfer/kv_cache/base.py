"""The contract of every KV cache, as a base class, and the null objects of the section: no cache, no prefix cache.

`length(seq)` is the one truth about a sequence: how many of its positions are computed and kept. A prefix hit, a
preemption, a rollback, a draft model that catches up: each is only another length. One step of a sequence:

    reserve(seq, n)        room for n positions after `length`; the cache grows where it may
    append(layer, ...)     in each layer: the keys and values of the whole batch go in,
    read(layer, seq, ...)  and each sequence reads its own for attention
    commit(seq, n)         the first n of the new positions count: `length` grows

Positions count only after `commit`, so a step that fails leaves no trace. What a layer remembers of a position is data
(`Rows`: K heads, keys of Ek and values of Ev numbers), so no cache assumes that all layers are alike.

`grow` and `reserve` may replace arrays by larger ones. Both are called before a forward pass, and within a pass the
arrays stay. So a backend reads them from the cache anew in each pass, and keeps none from the pass before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import NamedTuple, Self, TypeVar

from tinyinfer.arrays import Array
from tinyinfer.errors import RoomError, SwitchError
from tinyinfer.kv_cache.memory import SHORTER, no_room, position_bytes
from tinyinfer.ledger import Ledger
from tinyinfer.model.config import Rows
from tinyinfer.model.interfaces import Device, KVCache
from tinyinfer.rotation_sets import ONE_SET, RotationSets
from tinyinfer.sequence import Batch, Sequence, Span

T = TypeVar("T")


@dataclass(frozen=True)
class CacheSpec:
    """What a cache is built for.

    memory: what each layer remembers of a position. max_model_len: the longest sequence, in positions. num_blocks: the
    most blocks in the pool of a paged cache. kv_bits, kv_group_size: of quantized keys and values ("off": float32).
    reserve_all: whether a sequence gets room for max_model_len positions, and the pool num_blocks blocks, at once; else
    sequences get room for what each can come to, and the pool grows. smaller: what saves memory of this cache, as
    a template of RoomError. sets: which of the model's rotations the keys of a sequence have.
    """

    memory: tuple[Rows, ...]
    max_model_len: int
    block_size: int = 16
    num_blocks: int = 0
    kv_bits: int | str = "off"
    kv_group_size: int | None = None
    reserve_all: bool = True
    smaller: str = "add {kv_bits}=8"
    sets: RotationSets = ONE_SET


class LayerRows(NamedTuple):
    """Keys and values of P positions in one layer. The keys of one head are contiguous, as attention reads them."""

    keys: Array  # (K, P, Ek)
    values: Array  # (K, P, Ev)


class Pools(NamedTuple):
    """Where a sequence's keys and values lie, for kernels that write and read them in place.

    Position p is row blocks[p // block_size] * block_size + p % block_size of each layer's arrays.
    """

    layers: tuple[LayerRows, ...]
    blocks: tuple[int, ...]
    block_size: int


def reserve_layers(memory: tuple[Rows, ...], positions: int, device: Device) -> tuple[LayerRows, ...]:
    """Room for so many positions in every layer, as views of one reservation: two for each layer would be slow."""
    flat = device.reserve((positions * sum(rows.numbers for rows in memory),))  # (numbers of all layers,)
    views = iter(carve(flat, (shape for rows in memory for shape in layer_shapes(rows, positions))))
    return tuple(LayerRows(keys, next(views)) for keys in views)  # keys and values take turns in one iterator


def layer_shapes(rows: Rows, positions: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of a layer's keys, (K, P, Ek), and of its values, (K, P, Ev)."""
    return (rows.heads, positions, rows.key_size), (rows.heads, positions, rows.value_size)


def carve(flat: Array, shapes: Iterable[tuple[int, ...]]) -> list[Array]:
    """A flat array cut into views of these shapes, one behind the other; nothing is copied."""
    views, start = [], 0
    for shape in shapes:
        views.append(flat[start : start + prod(shape)].reshape(shape))
        start += prod(shape)
    return views


def positions_of(layers: tuple[LayerRows, ...]) -> int:
    """For how many positions the layers have room."""
    return layers[0].keys.shape[1] if layers else 0


def copy_positions(old: tuple[LayerRows, ...], new: tuple[LayerRows, ...], n: int) -> None:
    """The first n positions of `new` become those of `old`, in every layer."""
    for (keys, values), (new_keys, new_values) in zip(old, new, strict=False):
        new_keys[:, :n], new_values[:, :n] = keys[:, :n], values[:, :n]


def down_to(least: int, size: int) -> Iterator[int]:
    """Sizes from `size` down to `least`, each half as far from `least` as the one before.

    The first one that is given uses at least half of what there is beyond `least`. So the last memory is filled in a
    few pieces; one position at a time, a sequence would be computed again for each of its last tokens.
    """
    while size > least:
        yield size
        size = least + (size - least) // 2
    yield least


def first_given(allocate: Callable[[int], T], sizes: Iterable[int]) -> T | None:
    """allocate(size) for the first of the sizes for which there is memory; None if there is for none of them."""
    for size in sizes:
        with suppress(MemoryError):
            return allocate(size)
    return None


class Cache(KVCache):
    """What the engine and the model ask of a cache; the model's half (append, split, read) is documented in KVCache.

    The methods here are those of a cache without blocks that keeps every position. A cache overrides what it does
    otherwise, and always `append` and `read`.
    """

    can_chunk = True  # whether a prompt may be computed in chunks: the cache must keep the first one for the second
    cure = "raise {max_model_len}"  # when a sequence is too long

    def __init__(self, spec: CacheSpec, device: Device) -> None:
        self.spec, self.device, self.ledger = spec, device, device.ledger
        self.capacity = spec.max_model_len  # positions of the longest sequence that fits when it is alone
        self.position_bytes = position_bytes(spec.memory)  # in float32
        self._lengths: dict[int, int] = {}  # sequence id -> positions committed
        self._written: dict[int, int] = {}  # sequence id -> positions appended, those of the running step included

    def counting(self, ledger: Ledger) -> Self:
        """The same keys and values, counted in another ledger: for reads that are not the model's own."""
        other = copy(self)
        other.ledger = ledger
        return other

    def length(self, seq: Sequence) -> int:
        """How many positions of the sequence are computed and kept."""
        return self._lengths.get(seq.id, 0)

    def rotation_set(self, seq: Sequence) -> int:
        """Which set of rotations the keys of the sequence have, by its length now (rotation_sets.py)."""
        return self.spec.sets.of(len(seq.tokens))

    def block_table(self, seq: Sequence) -> tuple[int, ...]:
        """The blocks that hold the sequence's positions, in the order of the positions."""
        return ()

    def pools_of(self, seq: Sequence) -> Pools | None:
        """The arrays and the block table of a sequence with reserved room; None for a cache that kernels cannot read.
        """
        return None

    @property
    def kernel_sizes(self) -> dict[str, int]:
        """What kernels must know of packed blocks when they are compiled; nothing of a cache that packs none."""
        return {}

    def next_blocks(self, n: int) -> list[int]:
        """The free blocks that will be allocated next, at most n, in that order unless one is freed before."""
        return []

    def record_written(self, batch: Batch, layers: int | None = None) -> None:
        """Counts what a kernel wrote in place instead of `append`: the batch's keys and values, in all layers.

        layers: of a model that has fewer than the cache, how many it has: its are the first ones.
        """
        for span in batch.spans:
            self._written[span.seq.id] = span.first + span.rows
        self.ledger.kv_written_bytes += len(batch) * position_bytes(self.spec.memory[:layers])

    @property
    def num_blocks(self) -> int:
        """How many blocks the pool has by now; 0 for a cache without blocks."""
        return 0

    @property
    def blocks_in_use(self) -> int:
        """How many blocks of the pool are not free."""
        return 0

    def holders(self, block: int) -> int:
        """How many block tables and prefixes hold this block of the pool."""
        return 0

    def missing(self, seq: Sequence, n: int) -> int:
        """How much room `reserve(seq, n)` lacks, in blocks or positions; 0 when the cache need not grow."""
        return 0

    def prepare(self, sequences: Collection[Sequence]) -> None:
        """While nothing is held, the cache grows for all that these sequences, at least one, can come to together."""

    def shrink(self) -> None:
        """Gives memory in which nothing is held back to the system."""

    def grow(self, seq: Sequence, n: int) -> bool:
        """Makes the cache larger, for `reserve(seq, n)` or nearer to it; False when it may not or memory is refused.

        Where there is memory, it grows for all that the sequence can come to, so that it need not grow again.
        """
        return False

    def extend(self, seq: Sequence, n: int) -> int:
        """Grows for `reserve(seq, n)` while it must and may; how much is missing even then."""
        missing = self.missing(seq, n)
        while missing and self.grow(seq, n):
            missing = self.missing(seq, n)
        return missing

    def reserve(self, seq: Sequence, n: int) -> None:
        """Allocates room for n positions after `length`.

        Raises ValueError when the cache cannot hold so many, RoomError when there is no memory for them.
        """
        length = self.length(seq)
        if length + n > self.capacity:
            reason = "{value} positions do not fit into a cache of {most}"
            raise SwitchError("", length + n, reason, self.cure, most=self.capacity)
        if self.extend(seq, n):
            raise self.no_room(seq, n)
        self._set_length(seq, length)

    def no_room(self, seq: Sequence, n: int) -> RoomError:
        """The error for a sequence for which `reserve(seq, n)` fails even when the sequence is alone."""
        spec, positions = self.spec, self.expected(seq)
        nbytes = positions * position_bytes(spec.memory, spec.kv_bits, spec.block_size, spec.kv_group_size)
        whole = spec.reserve_all and not self.num_blocks
        cure = "give a smaller {max_model_len}, which every sequence reserves" if whole else SHORTER
        on_host = self.device.xp.__name__ == "numpy"
        return no_room(seq.id, positions, nbytes, f"{cure}, or {spec.smaller}", on_host)

    def expected(self, seq: Sequence) -> int:
        """How many positions of the sequence get room in advance: all that it can come to."""
        return self.capacity if self.spec.reserve_all else min(self.capacity, seq.most_positions)

    def _sizes(self, has: int, least: int, expected: int, most: int) -> Iterator[int]:
        """Which sizes to ask the system for, in this order, when room for `has` grows to `least` or more.

        What is expected, or twice what there is; where that is refused, less. Never more than `most`.
        """
        wanted = expected if expected > has else 2 * has
        smaller = () if self.spec.reserve_all else down_to(least, 2 * max(has, least))
        return (max(least, min(most, size)) for size in chain([wanted], smaller))

    def split(self, span: Span) -> tuple[Span, ...]:
        return (span,)

    def commit(self, seq: Sequence, n: int) -> None:
        """Makes the first n positions behind `length` count; room behind them may be freed."""
        self._set_length(seq, self._lengths[seq.id] + n)

    def truncate(self, seq: Sequence, n: int) -> None:
        """Rolls the sequence back to n positions, or to fewer: `length` tells. Raises ValueError for n > `length`."""
        if not 0 <= n <= self.length(seq):
            raise ValueError(f"cannot truncate to {n} positions: the sequence has {self.length(seq)}")
        if seq.id in self._lengths:
            self._set_length(seq, n)

    def fork(self, seq: Sequence, child: Sequence) -> None:
        """Gives `child`, which must be new, all positions of `seq`."""
        self._set_length(child, self.length(seq))

    def free(self, seq: Sequence) -> None:
        """Frees the sequence's room; nothing happens for a sequence that has none."""
        self._lengths.pop(seq.id, None)
        self._written.pop(seq.id, None)

    def clear(self, kept: Collection[int] = ()) -> None:
        """Frees the room of all sequences, also what an interrupt has left half done.

        kept: the blocks that the prefix cache goes on holding.
        """
        self._lengths, self._written = {}, {}

    @property
    def held_bytes(self) -> int:
        """Bytes allocated for sequences, used or not."""
        return 0

    @property
    def wasted_bytes(self) -> int:
        """The part of `held_bytes` that holds no committed position."""
        return self.held_bytes - sum(self._lengths.values()) * self.position_bytes

    def _allocate(self, positions: int) -> tuple[LayerRows, ...]:
        return reserve_layers(self.spec.memory, positions, self.device)

    def _set_length(self, seq: Sequence, n: int) -> None:
        self._lengths[seq.id] = self._written[seq.id] = n


def itself(cache: Cache) -> Cache:
    """The null answer where a cache might be put into another: of one process, nothing is told to others."""
    return cache


class NoCache(Cache):
    """Null object: keeps nothing between steps, so every step computes every position again. The baseline."""

    can_chunk = False

    def __init__(self, spec: CacheSpec, device: Device) -> None:
        super().__init__(spec, device)
        self._step: dict[int, tuple[Array, Array]] = {}  # sequence id -> keys and values of this step, of one layer

    def append(self, layer: int, k: Array, v: Array, batch: Batch) -> None:  # (T, K, E), (T, K, E) ->
        """Keeps the layer's keys and values until the next layer's."""
        self._step = {span.seq.id: (k[span.start : span.stop], v[span.start : span.stop]) for span in batch.spans}
        self.ledger.kv_written_bytes += k.nbytes + v.nbytes

    def read(
        self, layer: int, seq: Sequence, start: int, stop: int | None = None
    ) -> tuple[Array, Array]:  # -> (S, K, E), (S, K, E)
        k, v = self._step[seq.id]  # (T, K, E), (T, K, E): of all positions
        k, v = k[start:stop], v[start:stop]  # (S, K, E), (S, K, E)
        self.ledger.kv_read_bytes += k.nbytes + v.nbytes
        return k, v

    def commit(self, seq: Sequence, n: int) -> None:
        """Drops the keys and values of the step: `length` stays 0."""
        self._step.pop(seq.id, None)

    def free(self, seq: Sequence) -> None:
        super().free(seq)
        self._step.pop(seq.id, None)

    def clear(self, kept: Collection[int] = ()) -> None:
        super().clear(kept)
        self._step = {}


class Prefixes:
    """What a scheduler asks of a prefix cache. The methods here are those of an empty one."""

    evictable = 0  # blocks that no running sequence uses

    def __init__(self, cache: Cache, ledger: Ledger) -> None:
        self.ledger = ledger

    def match(self, seq: Sequence) -> int:
        """Begins a new sequence with the blocks of its longest registered prefix; how many positions they hold."""
        return 0

    def register(self, seq: Sequence, stop: int) -> None:
        """Registers the full blocks below position `stop`, which are computed or will be in this step."""

    def seal(self) -> None:
        """A step is put together: what was registered since the last one is committed with it."""

    def commit(self) -> None:
        """The oldest step that is sealed succeeded, or else the newest: the blocks registered in it are valid."""

    def withdraw(self, seq: Sequence) -> bool:
        """What a sequence has registered in the step that is committed next is not valid: it is registered no more.

        False, and nothing changes, where another sequence uses a part of it.
        """
        return True

    def rebuild(self) -> list[int]:
        """After an interrupt: no sequence uses a prefix, and blocks that no committed step computed are removed.

        Returns the blocks that stay, of which this is the only holder.
        """
        return []

    def evict(self) -> bool:
        """Frees one block that no running sequence uses; False when there is none."""
        return False

    def evict_all(self) -> bool:
        """Frees all such blocks; False when there was none.

        An idle pool can then be made anew. Growth that copies what prefixes hold needs more: both pools at once.
        """
        found = self.evict()
        while self.evict():
            continue
        return found

    def free(self, seq: Sequence) -> None:
        """Ends the use by a sequence; the blocks that the sequence registered stay until they are evicted."""


class NoPrefixes(Prefixes):
    """Null object: no prefix is registered, so none is ever found."""
