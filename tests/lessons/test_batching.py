"""Lesson 09: its judges know the right answer, the usual slips and what is no answer; our schedule is the engine's."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tinyinfer.lessons.batching import EXERCISES, enough_seats, step_seconds
from tinyinfer.lessons.batching_puzzles import BUDGET, NEIGHBOURS, PROMPT, chunks, in_batches, in_order
from tinyinfer.lessons.lesson import Lesson
from tinyinfer.lessons.models import served
from tinyinfer.lessons.seating import (
    active,
    computed,
    continuous,
    judge_seats,
    seat_requests,
    static,
)
from tinyinfer.measure.workload import Request
from tinyinfer.sampling_params import SamplingParams

EXERCISE = {one.name: one for one in EXERCISES}
LENGTHS = [3, 9, 1, 4, 4, 7, 2, 5, 1, 1, 6]


@pytest.fixture(scope="module")
def lesson() -> Lesson:
    return Lesson("09_batching")


@pytest.mark.parametrize(("policy", "rule"), [("static", static), ("continuous", continuous)])
def test_our_schedule_is_the_engines(lesson, policy, rule):
    """Catches a lesson whose schedule only looks like that of the scheduler: a request a step early, or a late one."""
    llm = lesson.tiny(batching=policy, max_num_seqs=3)
    run = served(llm, [Request(n, (65, 66, 67)) for n in LENGTHS])
    schedule = seat_requests(LENGTHS, 3, rule)
    assert active(schedule) == computed(run.steps)
    assert run.ledger.tokens_padding == EXERCISE["padding"].solution(LENGTHS, 3, policy)
    assert len(schedule) == (in_batches if policy == "static" else in_order)(LENGTHS, 3)


def test_our_chunks_are_the_engines(lesson):
    """Catches a puzzle whose best answer is not what the scheduler does."""
    llm = lesson.tiny(max_num_seqs=4, max_num_batched_tokens=BUDGET)
    params = [SamplingParams(max_tokens=n, ignore_eos=True) for n in (*NEIGHBOURS, 1)]
    traces = list(llm.steps([[65], [66], [67], [68] * PROMPT], params))
    turns = [turn for trace in traces for turn in trace.turns]
    last = max(turn.id for turn in turns)
    assert [turn.rows for turn in turns if turn.id == last] == chunks(PROMPT, NEIGHBOURS, BUDGET)


# The schedule.


def looped(
    lengths: Any,
    seats: int,
    may_join: Any,
    *,
    first: int = 0,
    leave_at: int = 0,
    copied: bool = True,
    once: bool = True,
    taken: Any = lambda request: request is not None,
    goes_on: Any = lambda waiting, seated: waiting or any(request is not None for request in seated),
) -> Any:
    """Our loop with a slip: the youngest first, a step too long, one list for all, the rule asked at each seat.

    taken, goes_on: wrong ways to ask whether a seat is taken, and whether the loop goes on.
    """
    waiting, left = list(range(len(lengths))), list(lengths)
    seated: list[int | None] = [None] * seats
    schedule = []
    while goes_on(waiting, seated):
        joins = once and may_join(seated.count(None), seats)
        for seat in range(seats):
            if not taken(seated[seat]) and waiting and (joins if once else may_join(seated.count(None), seats)):
                seated[seat] = waiting.pop(first)
        schedule.append(list(seated) if copied else seated)
        for seat, request in enumerate(seated):
            if request is not None:
                left[request] -= 1
                if left[request] == leave_at:
                    seated[seat] = None
    return schedule


def packed(lengths: Any, seats: int, may_join: Any) -> Any:
    """A loop that removes from the list that it runs over."""
    waiting, left, running, schedule = list(range(len(lengths))), list(lengths), [], []
    while waiting or running:
        if may_join(seats - len(running), seats):
            while waiting and len(running) < seats:
                running.append(waiting.pop(0))
        schedule.append(running + [None] * (seats - len(running)))
        for request in running:
            left[request] -= 1
            if left[request] <= 0:
                running.remove(request)
    return schedule


def forever(*given: Any) -> Any:
    """A loop that forgets to count down, and never calls the judge back."""
    sizes = []
    while True:
        sizes.append(1)


SLIPS = {
    "the oldest waiting request joins first": lambda *asked: looped(*asked, first=-1),
    "sits for": lambda *asked: looped(*asked, leave_at=-1),
    "append a copy": lambda *asked: looped(*asked, copied=False),
    "never asks `may_join`": lambda lengths, seats, rule: looped(lengths, seats, lambda free, of: True),
    "empty steps at the end": lambda *asked: [*looped(*asked), [None] * asked[1]],
    "moves to another seat": lambda *asked: [step[:: (-1) ** i] for i, step in enumerate(looped(*asked))],
    "under this rule no request joins": lambda *asked: looped(*asked[:2], lambda *free: asked[2](*free) or True),
    "ask the rule once a step": lambda *asked: looped(*asked, once=False),
    "is not a list of steps": lambda *asked: 7,
    "returned None": lambda *asked: None,
    "1 places": lambda *asked: [[0]],
    "sits 4 (": lambda *asked: [[-1 if one is None else one + 1 for one in step] for step in looped(*asked)],
    "an empty seat is None": lambda *asked: [[-1 if one is None else one for one in step] for step in looped(*asked)],
    "in `any` and in `if`": lambda *asked: looped(*asked, goes_on=lambda waiting, seated: waiting or any(seated)),
    "still sits": lambda *asked: looped(*asked, goes_on=lambda waiting, seated: waiting),
    "only request 0 goes wrong": lambda *asked: looped(*asked, taken=bool),
    "remove from the list that it runs over": lambda *asked: packed(*asked),
    "never ends": lambda *asked: looped(*asked, leave_at=99),
}


@pytest.mark.parametrize("said", SLIPS)
def test_a_slip_in_the_schedule_is_named(said):
    """Catches a hint that fits another mistake."""
    wrong = judge_seats(SLIPS[said])
    assert wrong is not None
    assert said in f"{wrong.sentence} {wrong.hint}"


def test_a_loop_that_empties_the_callers_list_is_named():
    """Catches a count-down in `lengths` itself: the next call would find only zeros."""

    def emptied(lengths: list[int], seats: int, may_join: Any) -> Any:
        schedule = seat_requests(lengths, seats, may_join)
        lengths[:] = [0] * len(lengths)
        return schedule

    wrong = judge_seats(emptied)
    assert wrong is not None
    assert "changes the list" in wrong.sentence


@pytest.mark.parametrize("name", ["schedule", "chunks", "padding"])
def test_a_loop_that_never_ends_is_stopped(name):
    """Catches a forgotten count-down that hangs the notebook and fills the memory."""
    before = sys.gettrace()
    wrong = EXERCISE[name].judged(forever)
    assert wrong is not None
    assert "never" in wrong.sentence
    assert EXERCISE[name].drawn(forever) is None
    assert sys.gettrace() is before


def test_an_interrupt_ends_the_cell(lesson, monkeypatch):
    """Catches half a run whose numbers are printed as if they were those of a whole one."""
    llm = lesson.tiny()
    steps = llm.engine.run

    def stopped(sequences: Any) -> Any:
        yield next(steps(sequences))
        raise KeyboardInterrupt

    monkeypatch.setattr(llm.engine, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        served(llm, [Request(9, (65, 66))])


# Puzzles and exercises.

WRONG = [
    ("two seats", [[0, 2, 4, 6], [1, 3, 5, 7]], "no better than static"),
    ("two seats", [[0, 2, 3, 6, 7], [1, 4, 5]], "takes requests as they come"),
    ("two seats", [[7, 5], [0, 1, 2, 3, 4, 6]], "add up to half"),
    ("two seats", [[7, 1], [5, 6, 2, 3, 4]], "Request 0 never sits"),
    ("two seats", [[7, 1, 0, 7], [5, 6, 2, 3, 4]], "Request 7 sits twice"),
    ("two seats", [[10, 6, 2], [7, 4, 3, 3, 1]], "not their lengths"),
    ("two seats", [[0, 1, 2, 3, 4, 5, 6, 7]], "1 lists"),
    ("two seats", [[1, 2, 3, 4], [5, 6, 7, 8]], "numbered from 0 to 7"),
    ("two seats", [[True], [2]], "True is no request"),
    ("waiting", [1, 1, 9, 9, 11, 11], "no seat is empty"),
    ("waiting", [1, 10, 2, 4, 6, 8], "holds its seat"),
    ("waiting", [7, 7, 3, 3, 5, 5], "as soon as they are there"),
    ("waiting", [1, 1, 2, 2, 3, 3], "on 2 seats"),
    ("waiting", [6, 6, 1, 2, 4, 4], "arrives in step 2"),
    ("waiting", [0, 0, 1, 1, 2, 2], "the first step is 1"),
    ("chunks", lambda prompt, neighbours, budget: [budget] * 9, "more than the budget"),
    ("chunks", lambda prompt, neighbours, budget: [1] * prompt, "stay empty"),
    ("chunks", lambda prompt, neighbours, budget: [budget - len(neighbours)], "rows together"),
    ("chunks", lambda prompt, neighbours, budget: [0.5], "whole numbers"),
    ("chunks", lambda prompt, neighbours, budget: [3, 3, 4, 4, 5, 1], "differ from call to call"),
    ("padding", lambda lengths, seats, policy: 0, "the engine: 2"),
    ("padding", lambda lengths, seats, policy: sum(lengths), "padding comes on top"),
    ("padding", lambda lengths, seats, policy: True, "not a whole number"),
    ("padding", lambda lengths, seats, policy: in_batches(lengths, seats) * seats, "take away"),
    ("length", 11677, "a batch does not cost one"),
    ("length", 186829, "once for each sequence"),
    ("length", 1459.6, "a key and a value"),
    ("length", 243.3, "queries share keys"),
    ("length", 100, "too low"),
    ("enough seats", 1, "nearly the same time"),
    ("enough seats", 5, "two FLOPs"),
    ("enough seats", 64, "a batch is not free"),
    ("enough seats", 14, "compare rounded rates"),
    ("enough seats", 12.0, "no number of seats"),
]


@pytest.mark.parametrize(("name", "answer", "said"), WRONG)
def test_a_usual_wrong_answer_gets_its_own_hint(name, answer, said):
    """Catches one hint for all mistakes."""
    wrong = EXERCISE[name].judged(answer)
    assert wrong is not None
    assert said in f"{wrong.sentence} {wrong.hint}"


def test_a_shorter_wait_is_impossible():
    """Catches a puzzle whose best answer is not the best: one step sooner is told to be wrong or cannot be."""
    best = [6, 6, 2, 2, 4, 4]
    for i in range(len(best)):
        assert EXERCISE["waiting"].judge([start - (i == j) for j, start in enumerate(best)]) is not None


def test_more_seats_than_enough_bring_no_more_tokens():
    """Catches a corner of the roofline that is off by a seat."""
    rate = {seats: seats / step_seconds(seats) for seats in (enough_seats() - 1, enough_seats(), 64)}
    assert rate[enough_seats()] == pytest.approx(rate[64], rel=1e-3)
    assert rate[enough_seats() - 1] < 0.99 * rate[64]
    assert max(range(1, 65), key=lambda seats: round(seats / step_seconds(seats))) == enough_seats()


@pytest.mark.parametrize("name", ["two seats", "waiting", "chunks"])
def test_a_puzzle_is_drawn(name):
    """Catches an attempt without its picture."""
    assert "places busy" in str(EXERCISE[name].drawn(EXERCISE[name].solution))
