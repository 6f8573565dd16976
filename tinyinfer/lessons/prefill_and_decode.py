"""Lesson 02, prefill and decode: the exercises. What they ask is computed for SmolLM2 by the ledger's formulas.

The prediction of a step is written by the student (roofline_by_hand.py). Where it is wrong was recorded once
(roofline_found.py), so that the question about it has the same answer on a machine whose products behave otherwise.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from tinyinfer.arrays import FLOAT
from tinyinfer.ledger import Ledger
from tinyinfer.lessons.exercise import Exercise, Wrong, judge_number
from tinyinfer.lessons.roofline_by_hand import PAPER, SMOLLM2, judge_step_cost, step_cost
from tinyinfer.lessons.roofline_found import RECORDED, RECORDED_ON
from tinyinfer.measure.roofline import expected_decode, expected_prefill, expected_step, predict_seconds
from tinyinfer.model.config import ModelConfig
from tinyinfer.units import show

MISCONCEPTIONS: dict[float, str] = {  # how many times as long 128 rows take as one -> the idea behind it
    128: "That would be right if the weights were read again for each row: one reading serves all rows.",
    1: "That would be right if reading the weights were all there is to do: so many rows need more time for their "
    "arithmetic than for the reading.",
    128**2: "That would be right if a prefill cost n²: only attention has a term of n², and here it is small.",
    128 * 129 / 2: "That is the number of pairs in causal attention, which here are a small part of the work: most of "
    "it is matrices.",
}


def overtaking() -> int:
    """The shortest prompt of SmolLM2 in whose prefill attention does at least half of all FLOPs."""
    low, high = 1, 1 << 20
    while low < high:
        middle = (low + high) // 2
        cost = expected_prefill(SMOLLM2, middle)
        low, high = (low, middle) if 2 * cost.attention_flops >= cost.flops else (middle + 1, high)
    return low


def batch_step(sequences: int, position: int = 100, c: ModelConfig = SMOLLM2) -> Ledger:
    """What the ledger counts for a decode step of some sequences, all at the same position."""
    one = expected_decode(c, position)
    total = Ledger(**{name: sequences * count for name, count in vars(one).items()})
    shared = one.weight_bytes - FLOAT * c.hidden_size  # all weights but the embedding's row
    total.weight_bytes -= (sequences - 1) * shared
    total.steps = 1
    return total


def batch_factors(sequences: int = 16) -> tuple[float, float]:
    """(tokens a second of all, tokens a second of each sequence), both beside a sequence alone, on PAPER."""
    slower = predict_seconds(batch_step(sequences), PAPER) / predict_seconds(batch_step(1), PAPER)
    return sequences / slower, 1 / slower


def judge_batch(answer: Any) -> Wrong | None:
    """Two factors: what all sequences together gain, and what each of them loses."""
    kind = "write two numbers in parentheses: (tokens a second of all together, tokens a second of each)"
    if not isinstance(answer, tuple | list | np.ndarray) or len(answer) != 2:
        return Wrong(f"{show(answer)} is not a pair of numbers.", kind)
    if any(isinstance(value, bool) or not isinstance(value, Real) for value in answer):
        return Wrong(f"{show(answer)} has a part that is not a number.", kind)
    together, each = batch_factors()
    if close(answer[0], together) and close(answer[1], each):
        return None
    return Wrong(f"The roofline does not say {show(tuple(answer))}.", _batch_hint(answer[0], answer[1]))


def _batch_hint(together: float, each: float) -> str:
    """The first of the usual mistakes that a pair of factors shows."""
    right, slower = batch_factors()
    if close(together, slower) and close(each, right):
        return "the order is: all together first, then each of them"
    if each > 1 and not close(each, 1 / slower):
        return "each sequence gets one token a step: a batch speeds up no answer, it serves more answers at once"
    if close(together, 16):
        return "sixteen tokens a step are sixteen times as many a second only if the step takes no longer"
    if close(together, 1):
        return "the sequences do not take turns: one step reads the weights once and makes a token for each of them"
    if close(each, 1 / slower):
        return "a longer step means fewer tokens a second: divide the step of one by the step of sixteen"
    if close(together, right) and close(each, 1 / 16):
        return "the sequences do not take turns: each of them gets a token in every step"
    if close(each, 1):
        return "the step of sixteen takes longer than the step of one, and each sequence waits for it"
    return "take the seconds of both steps from `predict_seconds`; a step makes one token for each sequence"


def close(a: float, b: float) -> bool:
    """Whether two factors agree within two percent."""
    return abs(a - b) <= 0.02 * abs(b)


def times_moved() -> float:
    """Bytes that the recorded step of four rows would have moved for each byte of weights, if reading were all."""
    return RECORDED[4] * RECORDED_ON.read_bandwidth / expected_step(SMOLLM2, 0, 4).weight_bytes


ATTENTION_OVERTAKES = judge_number(
    overtaking(),
    "positions",
    {
        overtaking() / 2: Wrong(
            "That would be right if every row saw every position.",
            "the mask is causal: n rows have about half of n² pairs",
        ),
        2 * overtaking(): Wrong(
            "At that length attention already does two thirds of the FLOPs.",
            "a pair costs twice 2·E FLOPs a head: one product for its score, one to mix its value",
        ),
        512: Wrong(
            "At that length attention does less than a tenth of the FLOPs.",
            "n² is large only beside n: compare the two factors before them, from the configuration",
        ),
        1: Wrong(
            "At one position attention does next to nothing.",
            "a term of n² can be small: compare the two factors before n and n², from the configuration",
        ),
    },
    "both costs are formulas in n, one with n, one with about n²/2: find where they are equal",
)
WEIGHTS_MOVED = judge_number(
    times_moved(),
    "bytes moved for a byte of weights",
    {
        1: Wrong(
            "Once is what the ledger counts, and what the roofline hoped for.",
            "start from the recorded seconds: how many bytes could the machine have moved in that time?",
        ),
        RECORDED[4] / RECORDED[1]: Wrong(
            "That compares four rows with one, and one row is not at the roofline either.",
            "compare with what the machine can read: seconds times bandwidth",
        ),
        1 / times_moved(): Wrong(
            "That is the inverse.", "bytes that could have moved, divided by the bytes that the weights have"
        ),
        RECORDED[4] * RECORDED_ON.matrix_speed / expected_step(SMOLLM2, 0, 4).flops: Wrong(
            "That is the factor for the arithmetic.",
            "the question is about bytes: use the bandwidth of the machine, not its matrix speed",
        ),
    },
    "seconds times bandwidth gives the bytes that could have moved; divide by the ledger's weight bytes",
    tolerance=0.02,
)

EXERCISES = (
    Exercise(
        "step cost",
        judge_step_cost,
        step_cost,
        "FLOPs grow with the rows, the bytes of the weights do not: that is the whole difference between the phases.",
    ),
    Exercise(
        "attention overtakes",
        ATTENTION_OVERTAKES,
        overtaking(),
        "Below that length a prefill is slow because each token needs all matrices, not because of n².",
    ),
    Exercise(
        "sixteen together",
        judge_batch,
        batch_factors(),
        "So tokens per second are two numbers: what the machine makes, and what one reader sees.",
    ),
    Exercise(
        "weights moved",
        WEIGHTS_MOVED,
        times_moved(),
        "A product first copies the weights into blocks: a read, a write and a second read. The rest of the factor is "
        "arithmetic that four rows cannot do at full speed.",
    ),
)
