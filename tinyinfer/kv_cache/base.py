"""The contract of every KV cache, and the null objects: no cache, no prefix cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tinyinfer.arrays import FLOAT, Array
from tinyinfer.model.config import ModelConfig

if TYPE_CHECKING:
    from tinyinfer.model.interfaces import Device
    from tinyinfer.sequence import Batch, Sequence, Span

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyinfer.model.interfaces import Device
    from tinyinfer.sequence import Sequence

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyinfer.model.interfaces import Device
    from tinyinfer.sequence import Batch, Sequence, Span


class Cache(Protocol):
    """What the engine and the model ask of a cache."""

    can_chunk: bool  # whether a prompt may be computed in pieces, which needs a memory between steps
    capacity: int  # the longest sequence that it can hold, alone

    def length(self, seq: Sequence) -> int:
        """How many positions of the sequence are computed and kept."""

    def block_table(self, seq: Sequence) -> tuple[int, ...]:
        """The numbers of the blocks that hold its positions, in their order; empty for a cache without blocks."""

    def missing(self, seq: Sequence, n: int) -> int:
        """How many blocks it lacks to reserve n positions after `length`; 0: it has room."""

    def reserve(self, seq: Sequence, n: int) -> None:
        """Makes room for n positions after `length`; ValueError if the cache cannot hold them."""

    def append(self, layer: int, k: Array, v: Array, batch: Batch) -> None:  # (T, K, E), (T, K, E) ->
        """Takes the keys and values of all rows of the batch, in one layer."""

    def split(self, span: Span) -> tuple[Span, ...]:
        """The parts of a span that see the same keys and values, in order; each is read and attended by itself."""

    def read(
        self, layer: int, seq: Sequence, start: int, stop: int | None = None
    ) -> tuple[Array, Array]:  # -> (S, K, E), (S, K, E)
        """Keys and values of positions start ... stop (None: up to the newest), as the piece that ends there sees them.
        """

    def commit(self, seq: Sequence, n: int) -> None:
        """The first n of the positions appended last are computed in every layer: `length` grows by n.

        What was reserved beyond them is given back.
        """

    def truncate(self, seq: Sequence, n: int) -> None:
        """Forgets all positions from n on (quantized blocks wholly, see `length`); ValueError beyond `length`."""

    def fork(self, seq: Sequence, child: Sequence) -> None:
        """Gives `child`, which must be new, all positions that `seq` has."""

    def free(self, seq: Sequence) -> None:
        """Forgets the sequence and gives its room back."""

    @property
    def held_bytes(self) -> int:
        """Bytes reserved for the sequences it knows."""

    @property
    def wasted_bytes(self) -> int:
        """The part of `held_bytes` that holds no computed position."""


class NoCache:
    """Remembers nothing from one step to the next: every step computes every position again. The lesson's baseline."""

    can_chunk = False

    def __init__(self, config: ModelConfig, max_model_len: int, device: Device, **others: int | None) -> None:
        self.ledger, self.capacity = device.ledger, max_model_len
        self._step: dict[int, tuple[Array, Array]] = {}  # sequence id -> this step's keys and values, of one layer

    def length(self, seq: Sequence) -> int:
        """Always 0."""
        return 0

    def block_table(self, seq: Sequence) -> tuple[int, ...]:
        """There are no blocks."""
        return ()

    def missing(self, seq: Sequence, n: int) -> int:
        """Nothing."""
        return 0

    def reserve(self, seq: Sequence, n: int) -> None:
        """Nothing to reserve."""

    def append(self, layer: int, k: Array, v: Array, batch: Batch) -> None:  # (T, K, E), (T, K, E) ->
        """Keeps the layer's keys and values until the next layer's."""
        self._step = {span.seq.id: (k[span.start : span.stop], v[span.start : span.stop]) for span in batch.spans}
        self.ledger.kv_written_bytes += k.nbytes + v.nbytes

    def split(self, span: Span) -> tuple[Span, ...]:
        """One."""
        return (span,)

    def read(
        self, layer: int, seq: Sequence, start: int, stop: int | None = None
    ) -> tuple[Array, Array]:  # -> (S, K, E), (S, K, E)
        """This step's keys and values."""
        k, v = self._step[seq.id]
        k, v = k[start:stop], v[start:stop]
        self.ledger.kv_read_bytes += k.nbytes + v.nbytes
        return k, v

    def commit(self, seq: Sequence, n: int) -> None:
        """Forgets the step."""
        self._step.pop(seq.id, None)

    def truncate(self, seq: Sequence, n: int) -> None:
        """Nothing is longer than 0."""
        if n != 0:
            raise ValueError(f"cannot truncate to {n} positions: kv_cache=none holds none")

    def fork(self, seq: Sequence, child: Sequence) -> None:
        """Nothing to share."""

    def free(self, seq: Sequence) -> None:
        """Forgets the step."""
        self._step.pop(seq.id, None)

    @property
    def held_bytes(self) -> int:
        """0."""
        return 0

    @property
    def wasted_bytes(self) -> int:
        """0."""
        return 0


class Prefixes(Protocol):
    """What a scheduler asks of the memory of prefixes."""

    evictable: int  # blocks that nobody uses

    def match(self, seq: Sequence) -> int:
        """Lets a new sequence begin with what is known of its tokens; how many positions that are."""

    def register(self, seq: Sequence, stop: int) -> None:
        """The whole blocks of its positions below `stop` are computed, at the latest in this step."""

    def commit(self) -> None:
        """The step succeeded."""

    def rollback(self) -> None:
        """The step failed: forgets what it registered. Nobody may use it any longer."""

    def evict(self) -> bool:
        """Gives one block back; False if all are in use."""

    def free(self, seq: Sequence) -> None:
        """The sequence is gone; what it registered stays until it is evicted."""


class NoPrefixes:
    """Remembers no prefix."""

    evictable = 0

    def __init__(self, *parts: object) -> None:
        """Needs nothing of what a prefix cache is made of."""

    def match(self, seq: Sequence) -> int:
        """None is known."""
        return 0

    def register(self, seq: Sequence, stop: int) -> None:
        """Nothing to remember."""

    def commit(self) -> None:
        """Nothing to confirm."""

    def rollback(self) -> None:
        """Nothing to forget."""

    def evict(self) -> bool:
        """Nothing to give back."""
        return False

    def free(self, seq: Sequence) -> None:
        """Nothing to let go."""


def kv_bytes_per_token(
    c: ModelConfig, bits: int | str = "off", block_size: int = 16, group: int | None = None
) -> int:
    """Bytes of keys and values that one position takes, 2·L·K·E·4; quantized, its share of a packed block, rounded up.

    Raises ValueError for a group size that does not fit.
    """
    if isinstance(bits, str):
        return 2 * c.num_layers * c.num_kv_heads * c.head_dim * FLOAT
    from tinyinfer.kv_cache.packed_blocks import block_bytes, group_size

    return -(-block_bytes(c, block_size, bits, group_size(c.head_dim, group)) // block_size)


MEMORY_SHARE = 0.5  # of the machine's, for the pool


def default_num_blocks(position_bytes: int, max_model_len: int, block_size: int, max_num_seqs: int) -> int:
    """Enough for so many full contexts, within half of the machine's memory, which is taken up only as it is used."""
    full = max_num_seqs * -(-max_model_len // block_size)
    if not hasattr(os, "sysconf"):
        return full
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(full, int(MEMORY_SHARE * memory) // (block_size * position_bytes)))
