"""Lesson 20, parallelism: what ranks of one model send each other, and when more of them are slower.

The runs, the pictures and the GPUs on paper are in rank_runs.py; the student's lines are judged in ring_judge.py and
shares_judge.py. Each exercise is aimed at a misconception: more ranks are faster, a sum costs nothing, a pipeline of
many stages is busy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyinfer.lessons.exercise import Exercise, Wrong, as_number, judge_number
from tinyinfer.lessons.ring_judge import judge_ring, ring
from tinyinfer.lessons.shares_judge import judge_shares, shares
from tinyinfer.measure.split import Seconds
from tinyinfer.units import show


def predicted(found: dict[int, Seconds]) -> tuple[float, dict[float, str]]:
    """How many times faster a token is on 64 GPUs than on 8, and of each usual wrong value the idea behind it."""
    eight, most = found[8], found[64]
    return eight.total / most.total, {
        8: "That is eight times the GPUs: it would be true if they had nothing to tell each other.",
        eight.computing / most.computing: "That is the arithmetic and the reading alone, without the sums.",
        1: "Reading is faster and sums are slower; but they do not just cancel.",
        eight.total / (eight.computing / 8 + eight.communication): (
            "That leaves the sums as they are: they take longer with more ranks, and between nodes."
        ),
    }


# SmolLM2's bytes.

LAYERS, WIDTH, RANKS, FLOAT = 30, 576, 4, 4
ROW = WIDTH * FLOAT
SENT = (2 * LAYERS + 1) * ROW * 2 * (RANKS - 1) / RANKS

judge_sent = judge_number(
    SENT,
    "bytes",
    {
        2 * LAYERS * ROW * 2 * (RANKS - 1) / RANKS: Wrong(
            "One sum is missing.", "the embedding is divided, too: each rank looks up its own tokens"
        ),
        (2 * LAYERS + 1) * ROW: Wrong(
            "That is the length of all rows that are added up.", "what does a ring of n ranks send of B bytes?"
        ),
        (2 * LAYERS + 1) * ROW * (RANKS - 1) / RANKS: Wrong(
            "That is one half of the ring.", "first parts are added up, then the sums go round"
        ),
        (2 * LAYERS + 1) * ROW * (RANKS - 1): Wrong(
            "That sends each row to every other rank.", "in a ring a rank sends parts of a row, to its neighbour only"
        ),
        (LAYERS + 1) * ROW * 2 * (RANKS - 1) / RANKS: Wrong(
            "That counts one sum a layer.", "attention ends with one, and the MLP with another one"
        ),
        RANKS * SENT: Wrong("That is what all ranks send together.", "of one rank"),
    },
    "sums of a token, times the bytes of a row, times what a ring sends of each byte",
    tolerance=1e-6,
)

STAGES, BUBBLE = 4, 0.1
BATCHES = 27  # the smallest m with 3 / (m + 3) <= 0.1

judge_batches = judge_number(
    BATCHES,
    "micro-batches",
    {
        30: Wrong(
            "That divides the waiting by the work.", "the bubble is a share of the whole time, waiting and work"
        ),
        26: Wrong("That is one too few.", "put your number into the formula: it is still above a tenth"),
        28: Wrong("One fewer is enough.", "at most a tenth: a tenth itself will do"),
        36: Wrong("That has p in place of p - 1.", "a stage waits while the others fill: how many others are there?"),
        40: Wrong("That is p over a tenth.", "set the formula of the bubble to a tenth, and solve it for m"),
        3: Wrong("With as many micro-batches as a stage waits, half of the time is idle.", "put 3 into the formula"),
    },
    "set the bubble of the formula to a tenth, and solve it for m",
    tolerance=1e-9,
)


# How many ranks are fastest.

Case = tuple[float, int, float, float, float, int]  # arguments of `best`


def best(computing: float, sums: int, nbytes: float, alpha: float, beta: float, most: int) -> int:
    """The number of ranks from 1 to `most` with which a step is fastest, if all sums go along a ring."""

    def seconds(n: int) -> float:
        return computing / n + sums * 2 * (n - 1) * (alpha + nbytes / n / beta)

    return min(range(1, most + 1), key=seconds)


CASES: tuple[Case, ...] = (
    (1e-2, 61, 2304, 1e-6, 1e10, 64),
    (1e-2, 161, 16384, 2e-6, 2e11, 64),
    (0.4, 161, 3.4e7, 6e-7, 3.7e11, 8),
    (1e-3, 61, 2304, 1e-4, 1e9, 16),
    (5e-2, 101, 4e6, 1e-5, 5e10, 32),
    (1.0, 1, 8.0, 1e-9, 1e9, 12),
    (2e-2, 101, 1e6, 1e-6, 2e10, 64),
    (1e-3, 101, 1e6, 1e-6, 1e10, 8),
)


def _with(time: Callable[[int, Case], float]) -> Callable[[Case], int]:
    return lambda case: min(range(1, case[5] + 1), key=lambda n: time(n, case))


SLIPS: tuple[tuple[Callable[[Case], int], str, str], ...] = (
    (
        lambda case: case[5],
        "You always take the most ranks.",
        "sums take longer with each rank: compute the time of every number of ranks, and compare",
    ),
    (
        _with(lambda n, c: c[0] / n + c[1] * 2 * (n - 1) / n * c[2] / c[4]),
        "Messages have no latency there.",
        "each of the 2(n - 1) messages takes alpha, however short it is",
    ),
    (
        _with(lambda n, c: c[0] / n + c[1] * 2 * (n - 1) * (c[3] + c[2] / c[4])),
        "Each message there has the whole row.",
        "in a ring a message is one part of n",
    ),
    (
        _with(lambda n, c: c[0] + c[1] * 2 * (n - 1) * (c[3] + c[2] / n / c[4])),
        "The computing there is not divided.",
        "n ranks compute in a part of the time",
    ),
    (
        _with(lambda n, c: c[0] / n + 2 * (n - 1) * (c[3] + c[2] / n / c[4])),
        "That counts one sum only.",
        "a step has `sums` of them",
    ),
    (
        _with(lambda n, c: c[0] / n + c[1] * (n - 1) * (c[3] + c[2] / n / c[4])),
        "That is one half of the ring.",
        "parts are added up in n - 1 messages, and the sums go round in n - 1 more",
    ),
)


def judge_best(answer: Any) -> Wrong | None:
    """The student's number of ranks in each case, and those of each usual slip."""
    if not callable(answer):
        return Wrong(f"{show(answer)} is not a function.", "keep the line that begins with `def`")
    given = [as_number(answer(*case)) for case in CASES]
    if None in given:
        return Wrong("The function returned no number.", "return a number of ranks, from 1 to `most`")
    if given == (truth := [best(*case) for case in CASES]):
        return None
    for made, sentence, hint in SLIPS:
        if given == [made(case) for case in CASES]:
            return Wrong(sentence, hint)
    i = next(i for i, one in enumerate(given) if one != truth[i])
    if given[i] not in range(1, CASES[i][5] + 1):
        return Wrong(f"{given[i]:g} is no number of ranks here.", "return a whole number from 1 to `most`, not a time")
    said = f"In a case with {CASES[i][5]} ranks at most you chose {given[i]:g}; another number is faster."
    return Wrong(said, "one rank needs no sums; n ranks compute 1/n of the time, and wait for all messages of all sums")


EXERCISES = (
    Exercise(
        "ring", judge_ring, ring,
        "Every rank sends 2(n-1)/n of its array, however many ranks there are. No algorithm sends less.",
    ),
    Exercise(
        "shares", judge_shares, shares,
        "Neurons do not know of each other: one sum at the end is all that the ranks have to say.",
    ),
    Exercise(
        "sent", judge_sent, SENT,
        "Little, beside the weights that a rank reads for the token: its latency counts, not its bytes.",
    ),
    Exercise(
        "batches", judge_batches, BATCHES,
        "A pipeline needs several times as many micro-batches as stages, or sequences that go round and round.",
    ),
    Exercise("best", judge_best, best, "The gain of one rank more shrinks as 1/n², and its price does not."),
)  # fmt: skip
