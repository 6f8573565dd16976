"""Lesson 21: its judges know the right answer, the usual slips and what is no answer; its figures are the library's."""

from __future__ import annotations

import inspect
import math
from datetime import date
from typing import Any

import numpy as np
import pytest

from tinyinfer.lessons import cost_runs as runs
from tinyinfer.lessons.cost import (
    DAY_SLIPS,
    DAYS,
    EXERCISES,
    FLEET,
    HOURS_A_MONTH,
    RATE_SLIPS,
    RATES,
    STAYS,
    day_cost,
    per_million,
    planted,
    predicted,
)
from tinyinfer.lessons.lesson import Lesson
from tinyinfer.measure.api_bill import Api, bill
from tinyinfer.measure.break_even import break_even
from tinyinfer.measure.cost import Price, Service, Speed, Tokens, cost_a_day, cost_per_million, machines, owned, shares

EXERCISE = {one.name: one for one in EXERCISES}
SERVICE = Service(Price(2.0), Speed(2000, 100), Tokens(1000, 50))


@pytest.mark.parametrize(("name", "slips"), [("mended", RATE_SLIPS), ("day", DAY_SLIPS)])
def test_each_usual_slip_is_named(name: str, slips: Any) -> None:
    """Catches a slip that passes, or that gets the sentence of another one."""
    for made, sentence, hint in slips:
        wrong = EXERCISE[name].judged(made)
        assert wrong is not None
        assert (wrong.sentence, wrong.hint) == (sentence, hint)


def test_what_the_lesson_shows_does_not_answer_its_exercise() -> None:
    """Catches a docstring of the library, shown before the exercise, that works the same numbers out."""
    shown = (inspect.getdoc(break_even) or "").replace(",", "")
    assert str(STAYS) not in shown


@pytest.mark.parametrize("made", [lambda r, c: math.ceil(r // 24 / c), lambda r, c: math.ceil(round(r / 24) / c)])
def test_a_rounded_hour_is_not_right(made: Any) -> None:
    """Catches a judge that lets a rounded hour pass, after which the lesson's own assertion fails."""
    assert EXERCISE["day"].judged(lambda requests, capacity, price: 24 * price * max(1, made(requests, capacity)))


@pytest.mark.parametrize("kind", [np.float32, lambda value: np.array(value)])
def test_a_right_value_of_another_type_is_right(kind: Any) -> None:
    """Catches a judge that calls a number of NumPy none."""
    assert EXERCISE["day"].judged(lambda *asked: kind(float(day_cost(*asked)))) is None


def test_a_rounded_answer_is_told_to_be_rounded() -> None:
    """Catches "with these arguments you have 2.22; 2.22222 is right" where the idea is right."""
    wrong = EXERCISE["mended"].judged(lambda *asked: round(per_million(*asked), 2))
    assert wrong is not None
    assert "rounding" in wrong.sentence


def test_any_other_wrong_function_is_told_its_case() -> None:
    """Catches a judge that only knows the usual slips."""
    wrong = EXERCISE["mended"].judged(lambda *asked: 1.0)
    assert wrong is not None
    assert str(RATES[0]) in wrong.sentence


# The lesson's formulas beside the library's.


@pytest.mark.parametrize("utilization", [1.0, 0.5, 0.1])
def test_utilization_divides_as_it_does_in_the_library(utilization: float) -> None:
    """Catches the planted error in our own solution; halving the utilization doubles the cost of a token."""
    service = Service(Price(2.0), Speed(1e15, 1000), Tokens(1, 100))
    _, found = cost_per_million(service, utilization * 24 * service.capacity)
    assert per_million(2.0, 1000, utilization) == pytest.approx(found)
    assert per_million(2.0, 1000, utilization / 2) == pytest.approx(2 * per_million(2.0, 1000, utilization))


def test_the_cost_is_a_month_that_is_counted_hour_by_hour() -> None:
    """Catches a formula that agrees with the library and not with a bill: 72 of 720 hours work, and all are paid."""
    bill = tokens = 0.0
    for hour in range(HOURS_A_MONTH):
        bill += 2.0
        tokens += 3600 * 1000 if hour % 10 == 0 else 0
    assert per_million(2.0, 1000, 0.1) == pytest.approx(1e6 * bill / tokens)


def test_the_planted_line_is_wrong_unless_the_machine_always_works() -> None:
    """Catches a mended copy of it in the package: there would be nothing left to find."""
    assert planted(2.0, 1000, 1.0) == pytest.approx(per_million(2.0, 1000, 1.0))
    assert planted(2.0, 1000, 0.5) == pytest.approx(per_million(2.0, 1000, 0.5) / 4)


@pytest.mark.parametrize("requests", [0, 1, 86_400, 86_401, 1_000_000])
def test_a_day_costs_what_the_library_says(requests: int) -> None:
    """Catches a staircase whose steps lie elsewhere than the library's."""
    assert day_cost(requests, SERVICE.capacity, 2.0) == cost_a_day(SERVICE, requests)


def test_the_cases_tell_all_slips_apart() -> None:
    """Catches two slips with the same values: the student would read the wrong sentence."""
    for slips, cases in ((RATE_SLIPS, RATES), (DAY_SLIPS, DAYS)):
        assert len({tuple(round(made(*case), 9) for case in cases) for made, _, _ in slips}) == len(slips)


def test_a_prediction_and_its_misconceptions_are_four_values() -> None:
    """Catches a right guess that is told as a misconception."""
    truth, usual = predicted(2.0, 1000, 0.25)
    assert truth == pytest.approx(2 / 0.9)
    assert len({round(value, 6) for value in (truth, *usual)}) == 4


def test_the_exercises_answers_are_the_librarys() -> None:
    """Catches a typed answer that the library does not give."""
    api = Api("a", date(2026, 11, 1), "invented", "USD", input=0.4, cached_input=0.4, output=8.0)
    rented = Service(Price(2.5), Speed(1000 / 0.36, 50 / 0.36), Tokens(1000, 50))
    region = break_even(rented, api)
    assert 24 * rented.capacity == pytest.approx(120_000)
    assert bill(api, rented.tokens) == pytest.approx(0.0008)
    assert region is not None
    assert region.last == pytest.approx(STAYS)
    day = shares([0.0] * 22 + [1.0, 3.0])  # three quarters of 12,000 come in the last hour
    bought = Service(owned(1e4, 3, 0, 0), Speed(2e9, 2000 / 3600 * 50), Tokens(1, 50), day, spare=1)
    assert bought.capacity == pytest.approx(2000)
    assert machines(bought, 12_000)[0] == FLEET


def test_a_simulated_batch_shares_the_reading_of_weights() -> None:
    """Catches a sweep on this computer's clock, and one that runs its requests one after the other."""
    llm = Lesson("21_cost").tiny("1GB/s,1000GFLOP/s", max_num_seqs=8, max_model_len=64)
    one, eight = runs.speed_at(llm, 1), runs.speed_at(llm, 8)
    assert runs.speed_at(llm, 8).output_tps == pytest.approx(eight.output_tps)
    assert one.tpot_s is not None
    assert eight.tpot_s is not None
    assert one.tpot_s < eight.tpot_s < 4 * one.tpot_s
    assert runs.full(Price(1.0), eight, Tokens(16, 6))[1] < runs.full(Price(1.0), one, Tokens(16, 6))[1]
