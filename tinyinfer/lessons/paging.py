"""Lesson 04, paging: the exercises, their judges and our solutions.

The student writes a block table. Its usual bugs pass while one sequence is alone, so the judge lets two sequences grow
in turn and compares every row. The puzzles are in paging_puzzles.py, the pool in paging_pool.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from collections.abc import Sequence as Seq
from functools import cache
from typing import Any

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.engine.metrics import run_metrics
from tinyinfer.kv_cache.memory import position_bytes
from tinyinfer.lessons.exercise import Exercise, Wrong, judge_number
from tinyinfer.lessons.models import Models
from tinyinfer.lessons.paging_pool import BlockTable, Pool, served
from tinyinfer.lessons.paging_puzzles import (
    draw_fork,
    draw_placement,
    judge_fork,
    judge_placement,
    own_block,
    place_block,
)
from tinyinfer.measure.bench import Round
from tinyinfer.measure.workload import Request, parse_lengths, synthetic
from tinyinfer.model.config import Rows
from tinyinfer.units import show

SEQUENCES, LENGTHS, ROOM, ANSWER = 16, "uniform:100-1008", 1024, 16  # of the run that the lesson predicts and measures
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # of blocks
SMOLLM2 = (Rows(3, 64, 64),) * 30  # what each layer remembers of a position
POSITION = position_bytes(SMOLLM2)  # bytes of keys and values
ROWS, E, BLOCKS = 23, 3, 40  # of the judge's two sequences and pool


# The student's lines.


def judge_table(answer: Any) -> Wrong | None:
    """Two tables grow in turn, some rows at a time, in blocks of several sizes; every row must come back."""
    if not inspect.isclass(answer):
        return Wrong("The answer is not a class.", "write the methods inside `class BlockTable`, and check the class")
    lacking = [name for name in ("slot", "append", "gather") if not callable(getattr(answer, name, None))]
    if lacking:
        return Wrong(f"The class has no method {lacking[0]}.", "it needs slot(position), append(rows) and gather()")
    for size, sequences in ((4, 1), (4, 2), (1, 2), (16, 2)):
        if fault := _grown(answer, size, sequences):
            return fault
    return None


def _grown(kind: Any, size: int, sequences: int) -> Wrong | None:
    rng = np.random.default_rng(size)
    pool = Pool(np.full((BLOCKS if size > 1 else 2 * ROWS, size, E), np.nan, np.float32))
    tables, wanted = [kind(pool) for _ in range(sequences)], [np.empty((0, E), np.float32)] * sequences
    for n in (5, 3, 1, 1, 6, 7):
        for i, table in enumerate(tables):
            rows = rng.standard_normal((n, E)).astype(np.float32)
            table.append(rows)
            wanted[i] = np.concatenate([wanted[i], rows])
            if fault := _places(table, len(wanted[i]), size) or _same_rows(table, wanted[i], sequences):
                return fault
    return None


def _places(table: Any, length: int, size: int) -> Wrong | None:
    """The length, the number of blocks and the place of each position."""
    if table.length != length:
        return Wrong(f"After {length} rows `length` is {show(table.length)}.",
                     "`append` counts every row that it stores")
    blocks, needed = len(table.blocks), -(-length // size)
    if blocks != needed:
        what = f"For {length} rows in blocks of {size} your table has {blocks} blocks, not {needed}."
        early = "take a block only when a row comes for which the last block has no room"
        late = "a row needs a block when the last one is full: compare `length` with the room of all blocks"
        return Wrong(what, early if blocks > needed else late)
    wanted = [(table.blocks[p // size], p % size) for p in range(length)]
    found = [table.slot(p) for p in range(length)]
    if found == [place[::-1] for place in wanted] != wanted:
        return Wrong("`slot` returns the offset first.", "the block comes first: `rows[block, offset]`")
    if found == [(p // size, p % size) for p in range(length)] != wanted:
        return Wrong("`slot` returns which block of the sequence, not which block of the pool.",
                     "look that number up in `self.blocks`")  # fmt: skip
    if [tuple(place) for place in found] != wanted:
        return Wrong(f"`slot({length - 1})` is {show(found[-1])}, not {wanted[-1]}.",
                     "position p lies in block p // b of the table, in row p % b of that block")  # fmt: skip
    return None


def _same_rows(table: Any, wanted: Array, sequences: int) -> Wrong | None:
    found = np.asarray(table.gather())
    flat, size = table.pool.rows.reshape(-1, E), table.pool.block_size
    if found.shape != wanted.shape:
        rows = len(table.blocks) * size
        hint = "the last block's empty rows are no positions: stop at `length`" if len(found) == rows else (
            "one row for each position, as an array of shape (length, E)")  # fmt: skip
        return Wrong(f"`gather` returns the shape {found.shape}, not {wanted.shape}.", hint)
    if np.array_equal(found, wanted):
        return None
    begin = table.blocks[0] * size
    if sequences > 1 and np.array_equal(found, flat[begin : begin + len(wanted)], equal_nan=True):
        return Wrong("Alone, your table reads the right rows; beside a second sequence it reads rows of the other one.",
                     "the next block lies wherever a free one was: look each block up in the table")  # fmt: skip
    first = int(np.argmax((found != wanted).any(axis=1)))
    block = f"the first row of block {first // size} of the table" if first % size == 0 else f"offset {first % size}"
    return Wrong(f"With {sequences} sequences, the first wrong row is position {first}, {block}.",
                 "`append` stores position p where `slot(p)` says, and `gather` reads it there")  # fmt: skip


# Exercises.

BLOCK = 16 * POSITION
GROWTH = judge_number(
    0, "bytes",
    {
        BLOCK: Wrong("Those are the bytes of the block that the sequence has.",
                     "what has to lie beside the new block? Ask how a read finds its blocks"),
        2 * BLOCK: Wrong("Those are the bytes of both blocks.",
                         "the new block is allocated, not filled, and the old one stays where it is"),
        POSITION: Wrong("Those are the bytes of the one new position, which is written, not moved.",
                        "count only what was in the cache before"),
    },
    "count only bytes that were in the cache before and lie elsewhere afterwards",
)  # fmt: skip

SCATTERED, EACH = 3, 500  # sequences that decode one token, and positions of each
MEGABYTES = SCATTERED * EACH * POSITION / 1e6
TRAFFIC = judge_number(
    2 * MEGABYTES, "MB",
    {
        MEGABYTES: Wrong("That is what attention reads.",
                         "NumPy multiplies one array: what happens before, to blocks that lie apart?"),
        2 * MEGABYTES / SCATTERED: Wrong("That is the traffic of one of the sequences.",
                                         "all of them decode in this step"),
        SCATTERED * ROOM * POSITION / 1e6: Wrong("That is what a contiguous cache reserves.",
                                                 "empty rows take room, but no read touches them"),
    },
    "the ledger counts `kv_read_bytes` and `kv_copied_bytes`; each gathered byte is in both",
)  # fmt: skip


def drawn_requests() -> list[Request]:
    """The requests of the lesson's run, the same ones each time."""
    return synthetic(SEQUENCES, parse_lengths(LENGTHS), parse_lengths(str(ANSWER)))


@cache
def costs() -> dict[int, float]:
    """Size of a block -> its wasted share plus its gathered share, in percent, for the lesson's run."""
    models, found = Models(), {}
    for size in SIZES:
        llm = models.open(models.tiny_path(), None, threads=1, kv_cache="paged", block_size=size, max_model_len=ROOM)
        found[size] = sum(shares(served(llm, drawn_requests())))
    return found


def shares(done: Round) -> tuple[float, float]:
    """Of a run: the wasted share of the fullest cache, and the share of the bytes read that was gathered; percent."""
    wasted = run_metrics(done.sequences, done.steps).wasted_share or 0.0
    return 100 * wasted, 100 * done.ledger.kv_copied_bytes / done.ledger.kv_read_bytes


def judge_size(answer: Any, measured: Callable[[], dict[int, float]] = costs) -> Wrong | None:
    """The size with the least of both costs, by default in the lesson's run."""
    if isinstance(answer, bool) or not isinstance(answer, int) or answer not in SIZES:
        return Wrong("That is none of the measured block sizes.", f"write one of {', '.join(map(str, SIZES))}")
    found = measured()
    best = min(found, key=lambda size: found[size])
    if answer == best:
        return None
    sentence = f"Blocks of {answer} cost {found[answer]:.1f} points, and another size costs less."
    if answer < best:
        return Wrong(sentence, "small blocks waste little, but a growing sequence soon takes one that lies elsewhere")
    return Wrong(sentence, "large blocks are seldom gathered, but look at what stays empty in the last block")


def most_fitting(lengths: Seq[int], positions: int, block_size: int) -> int:
    """How many of the sequences, in their order, fit together into a pool of so many positions."""
    free = positions // block_size
    for n, length in enumerate(lengths):
        free -= -(-length // block_size)
        if free < 0:
            return n
    return len(lengths)


EXERCISES: tuple[Exercise, ...] = (
    Exercise("block_table", judge_table, BlockTable,
             "Every row came back, with two sequences growing in turn and blocks of three sizes."),
    Exercise("growth", GROWTH, 0, "A block never moves: the table names the new one, and a position keeps its place."),
    Exercise("read_traffic", TRAFFIC, 2 * MEGABYTES,
             "Paging makes room, not speed: attention reads every position either way, and scattered ones are copied."),
    Exercise("block_size", judge_size, 64, "Waste grows with the block and gathers shrink: neither end is the best."),
    Exercise("placement", judge_placement, place_block,
             "File systems do the same: room kept behind a growing file is an extent.", draw_placement),
    Exercise("copy_on_write", judge_fork, own_block,
             "The prompt is stored once, and only the rows of its last, unfinished block are copied.", draw_fork),
)  # fmt: skip
