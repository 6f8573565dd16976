"""Lesson 09, batching: who shares a step with whom, what that costs, and what it does not cost.

The schedule that the student writes is judged in seating.py, the puzzles are in batching_puzzles.py. Here are
the exercises. Each is aimed at a misconception: continuous batching pads, a batch costs one, a batch of n costs n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tinyinfer.kv_cache.memory import position_bytes
from tinyinfer.ledger import Ledger
from tinyinfer.lessons.batching_puzzles import PUZZLES
from tinyinfer.lessons.endless import Endless, bounded
from tinyinfer.lessons.exercise import Exercise, Wrong, judge_number
from tinyinfer.lessons.seating import judge_seats, seat_requests
from tinyinfer.measure.roofline import expected_decode, parse_machine, predict_seconds
from tinyinfer.model.config import ModelConfig, RopeConfig
from tinyinfer.units import show

SMOLLM2 = ModelConfig(
    "llama", 49152, 576, 1536, 30, 9, 3, 64, 8192, 1e-5, 64**-0.5, (RopeConfig(),) * 30, (None,) * 30, tied_head=True
)
PAPER = parse_machine("37GB/s,200GFLOP/s")  # the machine of the predictions: two cores of README's benchmarks
WEIGHTS, POSITION_BYTES = 538_060_032, position_bytes(SMOLLM2.memory)  # bytes of SmolLM2, and of a cached position
BATCH = 16  # sequences, in the exercise `length`
MOST, POSITION = 64, 100  # of the exercise `enough seats`: seats to choose from, position of all sequences


# Padding.


def padding(lengths: Sequence[int], seats: int, rule: str) -> int:
    """The rows of padding that a batching rule ("static" or "continuous") computes."""
    if rule == "continuous":
        return 0
    batches = [lengths[i : i + seats] for i in range(0, len(lengths), seats)]
    return sum(max(batch) * len(batch) - sum(batch) for batch in batches)


def judge_padding(answer: Any) -> Wrong | None:
    """The student's count beside ours and beside the usual wrong counts."""
    if not callable(answer):
        return Wrong(f"{show(answer)} is not a function.", "keep the line that begins with `def`")
    for lengths, seats in (((3, 1, 2, 2), 2), ((1, 4, 2, 3, 1, 5, 2), 3), ((2, 2, 2), 3), ((9, 4, 6), 8)):
        for rule in ("static", "continuous"):
            where, truth = f"lengths {list(lengths)}, {seats} seats, {rule}", padding(lengths, seats, rule)
            try:
                rows = bounded(answer)(list(lengths), seats, rule)
            except Endless:
                return Wrong(f"The function never returns ({where}).", "end its loop after the last batch")
            if isinstance(rows, bool) or not isinstance(rows, int):
                return Wrong(f"The function returned {show(rows)}, not a whole number.", "return a count of rows")
            if rows != truth:
                sentence = f"Yours: {rows} rows of padding; the engine: {truth} ({where})."
                return Wrong(sentence, _padding_hint(rows, lengths, seats, rule))
    return None


def _padding_hint(rows: int, lengths: Sequence[int], seats: int, rule: str) -> str:
    if rule == "continuous":
        return "an empty seat computes nothing, and a finished request leaves at once: there are no rows to count"
    batches = [lengths[i : i + seats] for i in range(0, len(lengths), seats)]
    slips = {
        sum(max(batch) * len(batch) for batch in batches): "those are all rows; take away those that a request needs",
        sum(max(batch) * seats - sum(batch) for batch in batches): "the last batch may have fewer requests than seats; "
        "a seat that was never taken computes nothing",
        sum(max(lengths) * len(batch) - sum(batch) for batch in batches): "each batch waits for its own longest "
        "request, not for the longest of all",
        sum(lengths): "those are the rows that requests need; padding comes on top",
    }
    return slips.get(rows, "cut the list into batches; a batch takes as many steps as its longest request needs")


# What a step costs.


def batch_step(seats: int) -> Ledger:
    """What a decode step of so many sequences of SmolLM2 at position POSITION counts, the weights read once for all."""
    one = expected_decode(SMOLLM2, POSITION)
    return replace(
        one,
        flops=seats * one.flops,
        kv_read_bytes=seats * one.kv_read_bytes,
        kv_written_bytes=seats * one.kv_written_bytes,
    )


def step_seconds(seats: int) -> float:
    """Seconds of such a step, by the roofline of PAPER."""
    return predict_seconds(batch_step(seats), PAPER)


def enough_seats() -> int:
    """The smallest number of seats, of at most MOST, that brings as many tokens a second as any."""
    best = max(seats / step_seconds(seats) for seats in range(1, MOST + 1))
    return next(seats for seats in range(1, MOST + 1) if seats / step_seconds(seats) > 0.999 * best)


judge_length = judge_number(
    WEIGHTS / (BATCH * POSITION_BYTES),
    "positions",
    {
        WEIGHTS / POSITION_BYTES: Wrong(
            "That is the length for one sequence alone.",
            "a batch does not cost one: weights are read once for all, keys and values once for each sequence",
        ),
        BATCH * WEIGHTS / POSITION_BYTES: Wrong(
            "That reads the weights once for each sequence.",
            "a batch does not cost as many times one: all its sequences share one read of the weights",
        ),
        2 * WEIGHTS / (BATCH * POSITION_BYTES): Wrong(
            "That counts keys or values, not both.", "a position has a key and a value in every layer"
        ),
        WEIGHTS / (BATCH * POSITION_BYTES * SMOLLM2.num_heads / SMOLLM2.num_kv_heads): Wrong(
            "That counts a key for each query head.", "queries share keys: count the key/value heads, `num_kv_heads`"
        ),
    },
    "set two byte counts equal: the weights, and the sequences times their positions times a position's bytes",
)


def judge_enough(answer: Any) -> Wrong | None:
    """The number of seats at the corner of the roofline; what more or fewer seats bring, in tokens a second."""
    if isinstance(answer, bool) or not isinstance(answer, int) or not 1 <= answer <= MOST:
        return Wrong(f"{show(answer)} is no number of seats.", f"write a whole number from 1 to {MOST}")
    truth, seconds = enough_seats(), step_seconds(answer)
    if answer == truth:
        return None
    rate = f"{answer / seconds:,.0f} tokens a second"
    sentence = f"{answer} seat{'s' * (answer > 1)}: {rate}, a token for each reader every {1000 * seconds:.1f} ms."
    if answer > truth:
        hint = "fewer seats bring as many tokens, up to the last digits of a float (compare rounded rates), and each "
        return Wrong(sentence, f"{hint}reader gets them sooner: a batch is not free")
    if answer == int(PAPER.balance):
        hint = "this is FLOPs per byte of the machine; a weight has four bytes, and each row does two FLOPs with it"
    else:
        hint = "one seat more brings more tokens in nearly the same time: a batch of n does not take n times as long"
    return Wrong(sentence, hint)


EXERCISES = (
    Exercise(
        "schedule",
        judge_seats,
        seat_requests,
        "One loop serves both: static batching is continuous batching with another answer to one question.",
    ),
    *PUZZLES,
    Exercise(
        "padding",
        judge_padding,
        padding,
        "Padding is what static batching pays for neighbours of unequal lengths. Continuous batching computes none.",
    ),
    Exercise(
        "length",
        judge_length,
        WEIGHTS / (BATCH * POSITION_BYTES),
        "Weights are shared, caches are not. Beyond this length a larger batch saves less and less.",
    ),
    Exercise(
        "enough seats",
        judge_enough,
        enough_seats(),
        "Up to here memory is the limit, and a seat is nearly free. Beyond it each seat costs its arithmetic.",
    ),
)
