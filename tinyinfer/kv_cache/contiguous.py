"""The contiguous KV cache: each sequence has one array as long as the context, filled from the front.

A step computes the keys and values of its new rows only, and reads all others. Wins: always, after a token or two.
Loses: memory; what a sequence does not use of its context is wasted (`wasted_bytes`). Contract: base.py.
"""

from __future__ import annotations

from tinyinfer.arrays import Array
from tinyinfer.kv_cache.base import Cache, CacheSpec, LayerRows
from tinyinfer.model.interfaces import Device
from tinyinfer.sequence import Batch, Sequence


class ContiguousCache(Cache):
    """One array a sequence: no table, no copies. Reserved memory is taken from the system only as it is written."""

    def __init__(self, spec: CacheSpec, device: Device) -> None:
        super().__init__(spec, device)
        self._arrays: dict[int, tuple[LayerRows, ...]] = {}  # sequence id -> each layer's (K, P, Ek) and (K, P, Ev)
        self._spare: list[tuple[LayerRows, ...]] = []  # of freed sequences, for the next ones

    def reserve(self, seq: Sequence, n: int) -> None:
        super().reserve(seq, n)
        if seq.id not in self._arrays:
            self._arrays[seq.id] = self._spare.pop() if self._spare else self._allocate(self.capacity)

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
        for old, new in zip(self._arrays.get(seq.id, ()), self._arrays[child.id], strict=False):
            new.keys[:, :n], new.values[:, :n] = old.keys[:, :n], old.values[:, :n]
        self.ledger.kv_copied_bytes += n * self.position_bytes
        super().fork(seq, child)

    def free(self, seq: Sequence) -> None:
        if seq.id in self._arrays:
            self._spare.append(self._arrays.pop(seq.id))
        super().free(seq)

    @property
    def held_bytes(self) -> int:
        return len(self._arrays) * self.capacity * self.position_bytes
