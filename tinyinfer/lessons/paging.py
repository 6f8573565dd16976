"""Lesson 04, paging: the exercises, their judges and our solutions.

The student writes a block table, which paging_judge.py judges. The puzzles are in paging_puzzles.py, the pool in
paging_pool.py.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from functools import cache
from numbers import Real
from typing import Any

from tinyinfer.engine.metrics import run_metrics
from tinyinfer.kv_cache.memory import position_bytes
from tinyinfer.lessons.exercise import Exercise, Wrong, judge_number
from tinyinfer.lessons.models import Models, served
from tinyinfer.lessons.paging_judge import judge_table
from tinyinfer.lessons.paging_pool import BlockTable
from tinyinfer.lessons.paging_puzzles import (
    before_write,
    draw_fork,
    draw_placement,
    judge_fork,
    judge_placement,
    place,
)
from tinyinfer.measure.bench import Round
from tinyinfer.measure.workload import Request, parse_lengths, synthetic
from tinyinfer.model.config import Rows

SEQUENCES, LENGTHS, ROOM, ANSWER = 16, "uniform:100-1008", 1024, 16  # of the run that the lesson predicts and measures
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # of blocks
SMOLLM2 = (Rows(3, 64, 64),) * 30  # what each layer remembers of a position
POSITION = position_bytes(SMOLLM2)  # bytes of keys and values


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

SCATTERED, EACH, FILLED = 3, 500, 512  # sequences that decode one token; positions of each, and of its blocks
MEGABYTES = SCATTERED * EACH * POSITION / 1e6
TRAFFIC = judge_number(
    2 * MEGABYTES, "MB",
    {
        MEGABYTES: Wrong("That is what attention reads.",
                         "NumPy multiplies one array: what happens before, to blocks that lie apart?"),
        2e6 * MEGABYTES: Wrong("Those are bytes.", "the question asks for megabytes: divide by 1e6"),
        SCATTERED * (EACH + FILLED) * POSITION / 1e6: Wrong(
            "That counts the last block as a whole.",
            "the ledger counts what `_gather` returns, and `_gather` cuts off the rows behind the last position"),
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
    if isinstance(answer, bool) or not isinstance(answer, Real) or answer not in SIZES:
        return Wrong("That is none of the measured block sizes.", f"write one of {', '.join(map(str, SIZES))}")
    found = measured()
    best = min(found, key=lambda size: found[size])
    if answer == best:
        return None
    sentence = f"Blocks of {answer} cost {found[int(float(answer))]:.1f} points, and another size costs less."
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
    Exercise("placement", judge_placement, place,
             "File systems do the same: room kept behind a growing file is an extent.", draw_placement),
    Exercise("copy_on_write", judge_fork, before_write,
             "The prompt is stored once, and only the rows of its last, unfinished block are copied.", draw_fork),
)  # fmt: skip
