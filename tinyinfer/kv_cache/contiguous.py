"""The KV cache: keys and values of tokens already computed, so that a step computes only the new ones.

Without it (`none`) each new token runs the whole sequence through the model again: n + (n+1) + (n+2) + ... rows. With
it (`contiguous`) each step is one row, at the price of 2·L·K·E·4 bytes a position. Scores still grow from 1 to n per
step. Wins: always, once more than a token or two is generated. Loses: memory; `contiguous` reserves the whole context
for every sequence, and what a sequence does not use is wasted (counted by `wasted_bytes`).

One contract for every cache. `length(seq)` is the one truth about how many positions are computed; everything else that
happens to a sequence (a rollback, a restart) is just another length. In a step: `reserve` room for n more positions,
`append` each layer's keys and values for the whole batch, `read` them for each of the `pieces` in which a span is to be
attended (one, unless blocks are quantized), and `commit` at the end.
Nothing counts as stored before it is committed, so a failed step leaves no trace. Every cache is made of the model's
shape, the longest sequence, the operations, and the switches about blocks and bits, of which it takes what concerns it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyinfer.arrays import Array
from tinyinfer.errors import SwitchError
from tinyinfer.model.config import ModelConfig

if TYPE_CHECKING:
    from tinyinfer.model.interfaces import Device
    from tinyinfer.sequence import Batch, Sequence, Span


class ContiguousCache:
    """One array per sequence, as long as the context, filled from the front; nothing is ever copied.

    An array is (L, 2, K, P, E) with P = max_model_len, so one head's keys lie in the order in which they are read. What
    is reserved and never written costs addresses, not memory: the system hands out pages as they are first touched.
    """

    can_chunk = True

    def __init__(self, config: ModelConfig, max_model_len: int, device: Device, **others: int | None) -> None:
        self.device, self.ledger, self.capacity = device, device.ledger, max_model_len
        self.shape = (config.num_layers, 2, config.num_kv_heads, max_model_len, config.head_dim)
        self.position_bytes = 2 * config.num_layers * config.num_kv_heads * config.head_dim * 4
        self._arrays: dict[int, Array] = {}
        self._lengths: dict[int, int] = {}
        self._written: dict[int, int] = {}  # how far each was appended to; its length until the step commits
        self._spare: list[Array] = []  # arrays of sequences that are gone, for the next ones

    def length(self, seq: Sequence) -> int:
        """Positions committed."""
        return self._lengths.get(seq.id, 0)

    def block_table(self, seq: Sequence) -> tuple[int, ...]:
        """There are no blocks."""
        return ()

    def missing(self, seq: Sequence, n: int) -> int:
        """Nothing: every sequence has an array of its own."""
        return 0

    def reserve(self, seq: Sequence, n: int) -> None:
        """Gives a new sequence its array."""
        if self.length(seq) + n > self.capacity:
            reason = "{value} positions do not fit into a cache of {most}"
            raise SwitchError("", self.length(seq) + n, reason, "raise {max_model_len}", most=self.capacity)
        if seq.id not in self._arrays:
            self._arrays[seq.id] = self._spare.pop() if self._spare else self._allocate()
            self._lengths[seq.id] = 0

    def append(self, layer: int, k: Array, v: Array, batch: Batch) -> None:  # (T, K, E), (T, K, E) ->
        """Writes each span's rows behind its sequence's."""
        for span in batch.spans:
            own = self._arrays[span.seq.id][layer]
            positions = slice(span.first, span.first + span.stop - span.start)
            own[0, :, positions] = k[span.start : span.stop].transpose(1, 0, 2)
            own[1, :, positions] = v[span.start : span.stop].transpose(1, 0, 2)
            self._written[span.seq.id] = positions.stop
        self.ledger.kv_written_bytes += k.nbytes + v.nbytes

    def split(self, span: Span) -> tuple[Span, ...]:
        """One."""
        return (span,)

    def read(
        self, layer: int, seq: Sequence, start: int, stop: int | None = None
    ) -> tuple[Array, Array]:  # -> (S, K, E), (S, K, E)
        """Views, no copies."""
        own = self._arrays[seq.id][layer, :, :, start : self._written[seq.id] if stop is None else stop]
        self.ledger.kv_read_bytes += own.nbytes
        return own[0].transpose(1, 0, 2), own[1].transpose(1, 0, 2)

    def commit(self, seq: Sequence, n: int) -> None:
        """What was appended counts."""
        self._lengths[seq.id] += n

    def truncate(self, seq: Sequence, n: int) -> None:
        """Later positions are simply written over."""
        if not 0 <= n <= self.length(seq):
            raise ValueError(f"cannot truncate to {n} positions: the sequence has {self.length(seq)}")
        if seq.id in self._lengths:
            self._lengths[seq.id] = n

    def fork(self, seq: Sequence, child: Sequence) -> None:
        """Copies what `seq` has: arrays that nobody shares are the price of never looking anything up."""
        self.reserve(child, self.length(seq))
        if self.length(seq):
            self.ledger.kv_copied_bytes += self._copy(seq, child)
        self._lengths[child.id] = self.length(seq)

    def free(self, seq: Sequence) -> None:
        """Keeps the array for the next sequence."""
        if seq.id in self._arrays:
            self._spare.append(self._arrays.pop(seq.id))
            del self._lengths[seq.id]
            self._written.pop(seq.id, None)

    @property
    def held_bytes(self) -> int:
        """Whole contexts, whatever they hold."""
        return len(self._arrays) * self.capacity * self.position_bytes

    @property
    def wasted_bytes(self) -> int:
        """The empty rest of every context."""
        return self.held_bytes - sum(self._lengths.values()) * self.position_bytes

    def _allocate(self) -> Array:  # -> (L, 2, K, P, E)
        """Room for a whole context."""
        return self.device.reserve(self.shape)

    def _copy(self, seq: Sequence, child: Sequence) -> int:
        """Copies what is computed; the bytes copied."""
        length = self.length(seq)
        self._arrays[child.id][..., :length, :] = self._arrays[seq.id][..., :length, :]
        return length * self.position_bytes
