"""Pieces of attention: a batch cut into work that keeps all threads busy, anew in every pass.

The rows of a batch differ: a decode row has 3 query heads a key head and perhaps 8,000 keys; a prompt has hundreds of
rows, and the last ones see many keys. Rows become lanes (a row times the query heads that share a key head). Those of
up to 16 rows of a sequence go to few_queries.py, 8 lanes at a time; more are cut into pieces of 16 for many_queries.py.
Long pieces are cut along the positions, too, and `combine` puts them together.

Where a prompt is cut depends on the number of threads. But a text must not depend on its company, so a row of few is
cut where its position says, always into the same tiles: keys that it does not see, because other rows of the piece see
them, add exact zeros (tests/cpu_kernels/test_company.py).

Wins: one sequence keeps all threads busy. Loses: a cut costs a partial result, so a piece has at least 64 positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from tinyinfer.backends.cpu_kernels.attention_work import FIELDS, MOST_LANES, START
from tinyinfer.backends.cpu_kernels.cached_rows import TILE
from tinyinfer.backends.cpu_kernels.few_queries import MOST
from tinyinfer.backends.cpu_kernels.kernel import Count
from tinyinfer.model.heads import Heads
from tinyinfer.sequence import Span

EACH = 8  # items for each thread, so that one that is held up leaves the others enough
FEW = 16  # rows of a sequence in a pass that get the same bits as one by one: decode, and drafts
SHORTEST, MOST_CUTS = 2 * TILE, 16  # positions of a cut of few rows at least; cuts of a row at most


class Part(NamedTuple):
    """Rows of one sequence, the first at position `first`; edge: the first position that they read as floats.

    few: whether the sequence has so few rows in this pass that their bits must not depend on how many.
    """

    slot: int
    row: int
    rows: int
    first: int
    edge: int
    few: bool


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
        self.items = EACH * threads  # of a prompt, to be reached by cuts
        uncut = rows * -(-self.group // MOST)
        self.most_partials = 2 * self.items + MOST_CUTS * uncut
        most = uncut + self.most_partials
        self.few, self.many, self.cut = Table(most), Table(most), Table(self.items + uncut)

    def load(self, parts: Iterable[Part]) -> None:
        """Cuts a batch in pieces."""
        few: list[list[int]] = []
        many: list[list[int]] = []
        for part in parts:
            if part.few:
                few += self.of_few(part)
            else:
                many += self.of_part(part, range(part.rows * self.group), MOST_LANES)
        total = sum(stop - start for *_, start, stop, _, _ in many) * self.key_heads
        longest = max(TILE, -(-total // (self.items * TILE)) * TILE)
        cut: list[list[int]] = []
        few = list(self.pieces_cut(few, cut, None))
        many = list(self.pieces_cut(many, cut, longest))
        for table, pieces in zip((self.few, self.many, self.cut), (few, many, cut), strict=True):
            table.fill(pieces, self.key_heads)

    def pieces_cut(self, pieces: Iterable[list[int]], cut: list[list[int]], longest: int | None) -> Iterator[list[int]]:
        """The pieces, the long ones in several; how these are put together goes to `cut`.

        longest: positions of a piece; None: what a row's position says.
        """
        partials = sum(piece[START] for piece in cut)
        for piece in pieces:
            *who, start, stop, _, edge = piece
            size = longest or longest_of(stop - 1)
            origin = start if longest else start // size * size
            if stop - origin <= size:
                yield piece
                continue
            cuts = range(origin, stop, size)
            cut.append([*who, len(cuts), 0, partials, 0])
            for n, at in enumerate(cuts):
                yield [*who, max(at, start), min(at + size, stop), partials + n, edge]
            partials += len(cuts)

    def of_few(self, part: Part) -> Iterator[list[int]]:
        """Pieces of few lanes, whose rows are all cut at the same positions."""
        row = 0
        while row < part.rows:
            size, stop = longest_of(part.first + row), row + 1
            while stop < part.rows and longest_of(part.first + stop) == size:
                stop += 1
            yield from self.of_part(part, range(row * self.group, stop * self.group), MOST)
            row = stop

    def of_part(self, part: Part, lanes: range, step: int) -> Iterator[list[int]]:
        """Pieces of `step` lanes with all their positions, the longest first."""
        for lane in reversed(range(lanes.start, lanes.stop, step)):
            n = min(step, lanes.stop - lane)
            first, last = part.first + lane // self.group, part.first + (lane + n - 1) // self.group
            start = 0 if self.window is None else max(0, first - self.window + 1) // TILE * TILE
            yield [part.slot, part.row, lane, n, start, last + 1, -1, part.edge]


def longest_of(position: int) -> int:
    """How many positions a piece of the row at a position has at most, when few rows are computed."""
    size = SHORTEST
    while size * MOST_CUTS <= position:
        size *= 2
    return size


def parts_of(spans: Iterable[Span], block_size: int | None) -> Iterator[Part]:
    """The rows of each span; of a cache that packs its blocks, cut where a block begins, as they read other floats."""
    for slot, span in enumerate(spans):
        first, stop = span.first, span.first + span.rows
        while first < stop:
            edge = first // block_size * block_size if block_size else 0
            end = min(edge + block_size, stop) if block_size else stop
            yield Part(slot, span.start + first - span.first, end - first, first, edge, span.rows <= FEW)
            first = end
