"""Quantized caches as kernels see them: where a sequence's packed blocks and float rows lie, and what is counted.

A kernel that computes a step appends the new rows, packs the blocks that they fill and attends to both, without
Python in between. The host then only counts what the kernel did, as if it had called `append` and `read` itself.
Wins and loses: see packed_blocks.py.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from tinyinfer.arrays import Array
from tinyinfer.kv_cache.base import Cache
from tinyinfer.kv_cache.memory import group_size
from tinyinfer.kv_cache.packed_blocks import PackedBlocks, PackedLayer
from tinyinfer.sequence import Batch, Sequence, Span


@dataclass
class FloatRows:
    """The positions of a sequence that are kept in float: from `first` on, the start of its last, unfinished block."""

    rows: Array  # (positions, numbers): the numbers of all layers side by side, so that moving a position is one copy
    first: int


class PackedPools(NamedTuple):
    """Where a sequence's keys and values lie, for kernels that write and read them in place.

    Positions from `first` on are rows of `floats` still, in which a layer's numbers begin at its column.
    blocks: all for whose positions there is room.
    """

    layers: list[PackedLayer]
    packed: int  # how many packed blocks the layers' arrays have
    floats: Array  # (positions, numbers)
    columns: list[int]
    first: int
    blocks: tuple[int, ...]
    block_size: int


class InPlace(Cache):
    """The part of a quantized cache that lets kernels write and read its blocks and float rows."""

    block_size: int
    _open: dict[int, FloatRows]
    _columns: list[tuple[slice, slice]]

    @abstractmethod
    def storage(self, seq: Sequence) -> PackedBlocks:
        """The packed blocks that hold this sequence: its own (contiguous), or the shared pool (paged)."""

    @abstractmethod
    def forget_workspace(self) -> None:
        """What was unpacked counts as unpacked no longer."""

    @property
    def kernel_sizes(self) -> dict[str, int]:
        bits, numbers = self.spec.kv_bits, self._columns[-1][1].stop
        group = group_size(self.spec.memory, self.spec.kv_group_size)
        return {"BITS": int(bits), "BLOCK": self.block_size, "GROUP": group, "NUMBERS": numbers}

    def pools_of(self, seq: Sequence) -> PackedPools:  # type: ignore[override]
        packed, floats = self.storage(seq), self._open[seq.id]
        blocks = self.block_table(seq) or tuple(range(packed.count))
        columns, stop = [keys.start for keys, _ in self._columns], floats.first + len(floats.rows)
        return PackedPools(
            packed.layers, packed.count, floats.rows, columns, floats.first, blocks[: stop // self.block_size],
            self.block_size,
        )  # fmt: skip

    def record_written(self, batch: Batch, layers: int | None = None) -> None:
        """Also counts the blocks that the batch fills: a kernel packs them."""
        self.forget_workspace()
        super().record_written(batch, layers)
        for span in batch.spans:
            count = (self._written[span.seq.id] - self._open[span.seq.id].first) // self.block_size
            self.ledger.kv_written_bytes += count * sum(self.storage(span.seq).layer_bytes[:layers])

    def reads(self, span: Span, window: int | None) -> tuple[int, int]:
        """How many packed blocks and how many float rows the queries of a span read, in a layer with that window.

        What `read` counts for the parts of the span: a block that one part has unpacked, the next one need not.
        """
        blocks, rows, unpacked, size = 0, 0, 0, self.block_size
        for part in self.split(span):
            start, stop = 0 if window is None else max(0, part.first - window + 1), part.first + part.rows
            edge = max(self._open[span.seq.id].first, (stop - 1) // size * size)
            blocks += max(0, edge // size - max(start // size, unpacked))
            unpacked = max(unpacked, edge // size)
            rows += stop - max(start, edge)
        return blocks, rows
