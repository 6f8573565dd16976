"""The contiguous KV cache: each sequence has one array, filled from the front.

A step computes the keys and values of its new rows only, and reads all others. The array is as long as the sequence can
come to, prompt and longest answer; with an explicit max_model_len it is that long, as in engines before paged caches.
Wins: always, after a token or two. Loses: memory; what a sequence does not use of its array is wasted
(`wasted_bytes`). Contract: base.py.
"""

from __future__ import annotations

from collections.abc import Collection

from tinyinfer.arrays import Array
from tinyinfer.kv_cache.base import Cache, CacheSpec, LayerRows, Pools, copy_positions, first_given, positions_of
from tinyinfer.model.interfaces import Device
from tinyinfer.sequence import Batch, Sequence


class ContiguousCache(Cache):
    """One array a sequence: no table, and no copies unless memory was refused and the array had to begin shorter.

    Reserved memory is taken from the system only as it is written.
    """

    def __init__(self, spec: CacheSpec, device: Device) -> None:
        super().__init__(spec, device)
        self._arrays: dict[int, tuple[LayerRows, ...]] = {}  # sequence id -> each layer's (K, P, Ek) and (K, P, Ev)

    def _room(self, seq: Sequence) -> int:
        """How many positions the sequence's array has."""
        return positions_of(self._arrays.get(seq.id, ()))

    def missing(self, seq: Sequence, n: int) -> int:
        return max(0, self.length(seq) + n - self._room(seq))

    def grow(self, seq: Sequence, n: int) -> bool:
        """Gives the sequence an array for all that it can come to, or one twice as long as the one that it has."""
        length = self.length(seq)
        sizes = self._sizes(self._room(seq), length + n, self.expected(seq), self.capacity)
        new = first_given(self._allocate, sizes)
        if new is not None:
            copy_positions(self._arrays.get(seq.id, ()), new, length)
            self.ledger.kv_copied_bytes += length * self.position_bytes
            self._arrays[seq.id] = new
        return new is not None

    def append(self, layer: int, k: Array, v: Array, batch: Batch) -> None:  # (T, K, E), (T, K, E) ->
        for span in batch.spans:
            keys, values = self._arrays[span.seq.id][layer]  # (K, P, Ek), (K, P, Ev)
            first, stop = span.first, span.first + span.rows
            keys[:, first:stop] = k[span.start : span.stop].transpose(1, 0, 2)
            values[:, first:stop] = v[span.start : span.stop].transpose(1, 0, 2)
            self._written[span.seq.id] = stop
        self.ledger.kv_written_bytes += k.nbytes + v.nbytes

    def read(
        self, layer: int, seq: Sequence, start: int, stop: int | None = None
    ) -> tuple[Array, Array]:  # -> (S, K, E), (S, K, E)
        stop = self._written[seq.id] if stop is None else stop
        # (S, K, Ek), (S, K, Ev): views, no copies
        k, v = [rows[:, start:stop].transpose(1, 0, 2) for rows in self._arrays[seq.id][layer]]
        self.ledger.kv_read_bytes += k.nbytes + v.nbytes
        return k, v

    def fork(self, seq: Sequence, child: Sequence) -> None:
        self.reserve(child, n := self.length(seq))
        copy_positions(self._arrays.get(seq.id, ()), self._arrays.get(child.id, ()), n)
        self.ledger.kv_copied_bytes += n * self.position_bytes
        super().fork(seq, child)

    def free(self, seq: Sequence) -> None:
        self._arrays.pop(seq.id, None)
        super().free(seq)

    def clear(self, kept: Collection[int] = ()) -> None:
        super().clear(kept)
        self._arrays = {}

    @property
    def held_bytes(self) -> int:
        return sum(map(positions_of, self._arrays.values())) * self.position_bytes

    def pools_of(self, seq: Sequence) -> Pools:
        """One block, of all the room that the sequence has."""
        return Pools(layers := self._arrays[seq.id], (0,), positions_of(layers))
