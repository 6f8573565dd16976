"""The judge of the block table that the student of lesson 04 writes.

The usual bugs pass while one sequence is alone, or while the pool gives its blocks in order. So the judge lets two
sequences grow in turn, in new pools and in one after long use, and compares every row.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.lessons.exercise import Wrong
from tinyinfer.lessons.paging_pool import Pool, UsedPool
from tinyinfer.units import show

GROWTH = (5, 3, 1, 1, 6, 7)  # rows that each sequence gets, one append after the other
E, BLOCKS = 3, 47  # of the judge's pools
EARLY = "take a block only when a row comes for which the last block has no room"
LATE = "a row needs a block when the last one is full: compare `length` with the room of all blocks"
ORDER = "position p lies in block p // b of the table, in row p % b of that block"
PLACED = "`append` stores position p where `slot(p)` says, and `gather` reads it there"
ONE_ARRAY = "one row for each position, as an array of shape (length, E)"


def judge_table(answer: Any) -> Wrong | None:
    """Tables grow in turn, some rows at a time, in blocks of several sizes; every row must come back."""
    if not inspect.isclass(answer):
        return Wrong("The answer is not a class.", "write the methods inside `class BlockTable`, and check the class")
    lacking = [name for name in ("slot", "append", "gather") if not callable(getattr(answer, name, None))]
    if lacking:
        return Wrong(f"The class has no method {lacking[0]}.", "it needs slot(position), append(rows) and gather()")
    for pool, size, sequences in ((Pool, 4, 1), (Pool, 4, 2), (UsedPool, 4, 2), (UsedPool, 1, 2), (UsedPool, 16, 2)):
        if fault := _grown(answer, pool(np.full((BLOCKS, size, E), np.nan, np.float32)), sequences):
            return fault
    return None


def _grown(kind: Any, pool: Pool, sequences: int) -> Wrong | None:
    rng = np.random.default_rng(pool.block_size)
    tables, wanted = [kind(pool) for _ in range(sequences)], [np.empty((0, E), np.float32)] * sequences
    for n in GROWTH:
        for i, table in enumerate(tables):
            rows = rng.standard_normal((n, E)).astype(np.float32)
            wanted[i] = np.concatenate([wanted[i], rows])
            fault = _appended(table, rows, len(wanted[i])) or _blocks(table, len(wanted[i])) or _places(table)
            if fault := fault or _same_rows(table, wanted[i], sequences) or _from_the_pool(kind, table, wanted[i]):
                return fault
    return None


def _appended(table: Any, rows: Array, length: int) -> Wrong | None:  # (T, E)
    """Appends; a table without a block for a row, and one that takes all rows for one, are told so."""
    try:
        table.append(rows)
    except IndexError:
        if len(table.blocks) * table.pool.block_size >= length:
            raise
        return Wrong("A row came, and the table had no block for it.", LATE)
    except ValueError as error:
        if "broadcast" not in str(error):
            raise
        return Wrong(f"`append` got {len(rows)} rows, and stored all of them in the place of one.",
                     "`rows` is an array of shape (T, E): store one row after the other")  # fmt: skip
    return None


def _blocks(table: Any, length: int) -> Wrong | None:
    """The length, the number of blocks, and where they come from."""
    if table.length != length:
        return Wrong(f"After {length} rows `length` is {show(table.length)}.",
                     "`append` counts every row that it stores")  # fmt: skip
    size, found = table.pool.block_size, [int(block) for block in table.blocks]
    needed = -(-length // size)
    if len(found) != needed:
        return Wrong(f"For {length} rows in blocks of {size} your table has {len(found)} blocks, not {needed}.",
                     EARLY if len(found) > needed else LATE)  # fmt: skip
    if own := [block for block in found if block not in table.pool.given]:
        return Wrong(f"Your table uses block {own[0]}, which the pool has not given to it.",
                     "another sequence may get that block: take every number from `pool.allocate()`")  # fmt: skip
    return None


def _places(table: Any) -> Wrong | None:
    """The place of each position."""
    size, found = table.pool.block_size, [_pair(table.slot(p)) for p in range(table.length)]
    wanted = [(int(table.blocks[p // size]), p % size) for p in range(table.length)]
    if found == wanted:
        return None
    if None in found:
        return Wrong(f"`slot({found.index(None)})` is no pair of whole numbers.", "return the pair (block, offset)")
    if found == [place[::-1] for place in wanted]:
        return Wrong("`slot` returns the offset first.", "the block comes first: `rows[block, offset]`")
    if found == [divmod(p, size) for p in range(table.length)]:
        return Wrong("`slot` returns which block of the sequence, not which block of the pool.",
                     "look that number up in `self.blocks`")  # fmt: skip
    p = next(p for p, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b)
    return Wrong(f"`slot({p})` is {found[p]}, not {wanted[p]}.", ORDER)


def _pair(place: Any) -> tuple[int, int] | None:
    try:
        block, offset = (int(n) for n in place)
    except (TypeError, ValueError):
        return None
    return block, offset


def _same_rows(table: Any, wanted: Array, sequences: int) -> Wrong | None:  # (S, E)
    given = table.gather()
    found, size = np.asarray(given), table.pool.block_size
    if found.ndim == 0:
        return Wrong(f"`gather` returns {show(given)}.", ONE_ARRAY)
    if found.shape != wanted.shape:
        hint = "the last block's empty rows are no positions: stop at `length`" if (
            found.shape == (len(table.blocks) * size, E)) else ONE_ARRAY  # fmt: skip
        if found.ndim == 3:
            hint = f"{ONE_ARRAY}: the axes of blocks and offsets become one"
        return Wrong(f"`gather` returns the shape {found.shape}, not {wanted.shape}.", hint)
    if np.array_equal(found, wanted):
        return None
    begin, flat = table.blocks[0] * size, table.pool.rows.reshape(-1, E)
    if sequences > 1 and np.array_equal(found, flat[begin : begin + len(wanted)], equal_nan=True):
        return Wrong("Alone, your table reads the right rows; beside a second sequence it reads rows of the other one.",
                     "the next block lies wherever a free one was: look each block up in the table")  # fmt: skip
    in_order = np.concatenate([table.pool.rows[block] for block in sorted(table.blocks)])[: len(wanted)]
    if sorted(table.blocks) != list(table.blocks) and np.array_equal(found, in_order, equal_nan=True):
        return Wrong("`gather` reads the blocks in the order of the pool.",
                     "the table's order counts: a later block may have a lower number")  # fmt: skip
    first = int(np.argmax((found != wanted).any(axis=1)))
    block = f"the first row of block {first // size} of the table" if first % size == 0 else f"offset {first % size}"
    grown = "Alone" if sequences == 1 else f"With {sequences} sequences"
    return Wrong(f"{grown}, the first wrong row is position {first}, {block}.", PLACED)


def _from_the_pool(kind: Any, table: Any, wanted: Array) -> Wrong | None:  # (S, E)
    """The engine makes a table anew for each read: all rows must be in the pool, where the blocks say."""
    try:
        if np.array_equal(np.asarray(kind(table.pool, list(table.blocks), table.length).gather()), wanted):
            return None
    except AttributeError:  # what only `append` sets, a new table lacks
        pass
    return Wrong("A new table with the same blocks and the same length does not find the rows.",
                 "keep every row in `pool.rows`, and nothing beside `blocks` and `length` in the table")  # fmt: skip
