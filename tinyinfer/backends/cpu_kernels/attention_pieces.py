"""Pieces of attention: a batch cut into work that keeps all threads busy, anew in every pass.

The rows of a batch differ: a decode row has 3 query heads a key head and perhaps 8,000 keys; a prompt has hundreds of
rows, and the last ones see many keys. Rows become lanes (a row times the query heads that share a key head); up to 8
lanes of a sequence go to few_queries.py, more are cut into pieces of 32 for many_queries.py. Where pieces are long for
the number of threads they are cut along the positions, too, and `combine` puts them together.

Wins: one sequence keeps all threads busy. Loses: a cut costs a partial result, so a piece has at least 64 positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from tinyinfer.backends.cpu_kernels.attention_work import FIELDS, MOST_LANES
from tinyinfer.backends.cpu_kernels.cached_rows import TILE
from tinyinfer.backends.cpu_kernels.few_queries import MOST
from tinyinfer.backends.cpu_kernels.kernel import Count
from tinyinfer.model.heads import Heads
from tinyinfer.sequence import Span

EACH = 8  # items for each thread, so that one that is held up leaves the others enough


class Part(NamedTuple):
    """Rows of one sequence, the first at position `first`; edge: the first position that they read as floats."""

    slot: int
    row: int
    rows: int
    first: int
    edge: int


class Table:
    """Pieces as the kernels read them, and how many items they are."""

    def __init__(self, most: int) -> None:
        self.array, self.count = np.zeros((most, FIELDS), dtype=np.int64), Count()

    def fill(self, pieces: list[list[int]], key_heads: int) -> None:
        """Takes these pieces instead."""
        if pieces:
            self.array[: len(pieces)] = pieces
        self.count.become(len(pieces) * key_heads)


class Pieces:
    """The pieces of layers with such heads, in passes of so many rows on so many threads."""

    def __init__(self, heads: Heads, rows: int, threads: int) -> None:
        self.group, self.key_heads, self.window = heads.queries // heads.keys, heads.keys, heads.window
        self.items = EACH * threads  # to be reached by cuts
        self.most_partials = 2 * self.items
        most = rows * -(-self.group // MOST) + self.most_partials
        self.few, self.many, self.cut = Table(most), Table(most), Table(self.items)

    def load(self, parts: Iterable[Part]) -> None:
        """Cuts a batch in pieces."""
        found = [piece for part in parts for piece in self.of_part(part)]
        total = sum(stop - start for *_, start, stop, _, _ in found) * self.key_heads
        longest = max(TILE, -(-total // (self.items * TILE)) * TILE)
        tables: tuple[list[list[int]], ...] = ([], [], [])
        partials = 0
        for piece in found:
            few_or_many = tables[piece[3] > MOST]
            *who, start, stop, _, edge = piece
            if stop - start <= longest:
                few_or_many.append(piece)
                continue
            cuts = range(start, stop, longest)
            tables[2].append([*who, len(cuts), 0, partials, 0])
            for n, cut in enumerate(cuts):
                few_or_many.append([*who, cut, min(cut + longest, stop), partials + n, edge])
            partials += len(cuts)
        for table, pieces in zip((self.few, self.many, self.cut), tables, strict=True):
            table.fill(pieces, self.key_heads)

    def of_part(self, part: Part) -> Iterator[list[int]]:
        """Pieces with all their positions, the longest first."""
        lanes = part.rows * self.group
        step = MOST if lanes <= MOST else MOST_LANES
        for lane in reversed(range(0, lanes, step)):
            n = min(step, lanes - lane)
            first, last = part.first + lane // self.group, part.first + (lane + n - 1) // self.group
            start = 0 if self.window is None else max(0, first - self.window + 1)
            yield [part.slot, part.row, lane, n, start, last + 1, -1, part.edge]


def parts_of(spans: Iterable[Span], block_size: int | None) -> Iterator[Part]:
    """The rows of each span; of a cache that packs its blocks, cut where a block begins, as they read other floats."""
    for slot, span in enumerate(spans):
        first, stop = span.first, span.first + span.rows
        while first < stop:
            edge = first // block_size * block_size if block_size else 0
            end = min(edge + block_size, stop) if block_size else stop
            yield Part(slot, span.start + first - span.first, end - first, first, edge)
            first = end
