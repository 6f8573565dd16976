"""Lesson 21, cost: the price of a token on one's own machine, beside its latency, and beside an API's price.

The runs and the pictures are in cost_runs.py. Each exercise is aimed at a misconception: an idle machine is cheap, a
token has one price, the mean hour sizes a fleet, a break-even is one number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

from tinyinfer.lessons.exercise import Exercise, Wrong, as_number, judge_number
from tinyinfer.measure.api_bill import Api, bill
from tinyinfer.measure.cost import HOURS, MILLION, SECONDS, Tokens
from tinyinfer.units import show

HOURS_A_MONTH = 720  # of 30 days


def planted(price: float, tps: float, utilization: float) -> float:
    """The cost of a million tokens, as some calculators have it."""
    rent = price * HOURS_A_MONTH * utilization
    tokens = tps * SECONDS * HOURS_A_MONTH
    return rent / tokens * MILLION


def per_million(price: float, tps: float, utilization: float) -> float:
    """The cost of a million tokens of a machine that is paid in every hour, and works for a share of its time."""
    rent = price * HOURS_A_MONTH
    tokens = tps * SECONDS * HOURS_A_MONTH * utilization
    return rent / tokens * MILLION


def predicted(price: float, tps: float, utilization: float) -> tuple[float, dict[float, str]]:
    """The cost of a million tokens, and of each usual wrong value the idea behind it."""
    full = per_million(price, tps, 1.0)
    return full / utilization, {
        full: "That is a machine that always works.",
        full * utilization: "That is cheaper than a machine that always works.",
        full * (2 - utilization): "That adds the idle share to the price. How many tokens has such a month?",
    }


# The day of whole machines.


def day_cost(requests: float, capacity: float, price: float) -> float:
    """The money for a day of even hours: whole machines, at least one, each paid for all hours."""
    return HOURS * price * max(1, math.ceil(requests / HOURS / capacity))


NEAR, HALF_A_CENT = 1e-6, 0.005 + 1e-9  # float32 is right
Case = tuple[float, float, float]
Slip = tuple[Callable[..., float], str, str]

RATES: tuple[Case, ...] = ((2.0, 1000.0, 0.25), (2.0, 1000.0, 1.0), (0.5, 40.0, 0.5), (12.0, 9000.0, 0.1))
RATE_SLIPS: tuple[Slip, ...] = (
    (planted, "That is the planted line: an idle machine is cheap there.",
     "which of its lines does the month's bill agree with, and which the month's tokens?"),
    (lambda p, t, u: p / t / SECONDS * MILLION, "There the utilization changes nothing.",
     "an idle hour is paid, and has no tokens"),
    (lambda p, t, u: per_million(p, t, u) / MILLION, "That is the cost of one token.", "of a million tokens"),
    (lambda p, t, u: per_million(p, t, u) * SECONDS, "There the speed is read as tokens an hour.",
     "tps are tokens a second"),
    (lambda p, t, u: per_million(p, t, u) * u * u * u, "There utilization multiplies twice.", "it divides, once"),
)  # fmt: skip

DAYS: tuple[Case, ...] = (
    (0, 100, 2.0), (2400, 100, 2.0), (2401, 100, 2.0), (2424, 100, 2.0), (5000, 100, 0.5), (70000, 130, 3.0),
)
DAY_SLIPS: tuple[Slip, ...] = (
    (lambda r, c, p: HOURS * p * math.ceil(r / HOURS / c), "Without a request there is no machine.",
     "a service that may be asked has one machine at least"),
    (lambda r, c, p: HOURS * p * max(1.0, r / HOURS / c), "A part of a machine cannot be rented.", "round up"),
    (lambda r, c, p: p * r / c, "Parts of machines are rented there, and none without a request.",
     "round up; and a service that may be asked has one machine at least"),
    (lambda r, c, p: HOURS * p * max(1, math.ceil(r // HOURS / c)), "The rest of the division by 24 is lost there.",
     "2401 requests a day are more than 100 an hour: round once, the machines"),
    (lambda r, c, p: HOURS * p * max(1, math.floor(r / HOURS / c)), "The last machine is missing.",
     "what does not fill a machine needs one, too: round up, not down"),
    (lambda r, c, p: HOURS * p * (1 + math.floor(r / HOURS / c)), "A full machine gets a second one there.",
     "what fits exactly needs no further machine"),
    (lambda r, c, p: HOURS * p * max(1, math.ceil(r / c)), "All requests of the day come in one hour there.",
     "capacity is for an hour, requests are for a day"),
    (lambda r, c, p: p * max(1, math.ceil(r / HOURS / c)), "That is the money for one hour.", "a day has many hours"),
)  # fmt: skip


def judge_function(right: Callable[..., float], cases: Sequence[Case], slips: Sequence[Slip], hint: str) -> Any:
    """A judge of a function of three numbers, by its values in the cases and by those of each usual slip."""

    def judge(answer: Any) -> Wrong | None:
        if not callable(answer):
            return Wrong(f"{show(answer)} is not a function.", "keep the line that begins with `def`")
        given = [as_number(answer(*case)) for case in cases]
        if any(value is None for value in given):
            return Wrong("The function returned no number.", "return the money as one number")

        def agrees(made: Callable[..., float], rel_tol: float = NEAR, abs_tol: float = 0.0) -> bool:
            pairs = zip(given, cases, strict=True)
            return all(math.isclose(a or 0.0, made(*c), rel_tol=rel_tol, abs_tol=abs_tol) for a, c in pairs)

        if agrees(right):
            return None
        for made, sentence, cure in slips:
            if agrees(made):
                return Wrong(sentence, cure)
        if agrees(right, abs_tol=HALF_A_CENT):
            return Wrong("Your numbers are right but for rounding.", "return the money as it is, not rounded")
        i = next(i for i, c in enumerate(cases) if not math.isclose(given[i] or 0.0, right(*c), rel_tol=NEAR))
        return Wrong(f"With the arguments {cases[i]} you have {show(given[i])}; {right(*cases[i]):g} is right.", hint)

    return judge


judge_mended = judge_function(per_million, RATES, RATE_SLIPS, "rent of a month, over the tokens of a month")
judge_day = judge_function(day_cost, DAYS, DAY_SLIPS, "requests of an hour, in whole machines, each paid all day")

# Exercises.

REQUEST = Tokens(input=1000, output=50)
LIST = Api("list", date(2026, 11, 1), "invented", "USD", input=0.5, cached_input=0.5, output=10.0)
BY_REQUEST = "count the money of one request, and its tokens"
BLEND = bill(LIST, REQUEST) / (REQUEST.input + REQUEST.output) * MILLION
judge_blend = judge_number(
    BLEND,
    "USD",
    {
        (LIST.input + LIST.output) / 2: Wrong("That is as if there were as many output tokens as input tokens.",
                                              BY_REQUEST),
        LIST.input + LIST.output: Wrong("That is a million of each, and not a million in all.", BY_REQUEST),
        LIST.input: Wrong("There the output costs nothing more.", BY_REQUEST),
    },
    "the money of one request, over its tokens",
)  # fmt: skip

FLEET = 6  # five machines take 9,000 requests at 2,000 each, and one is spare
judge_fleet = judge_number(
    FLEET,
    "machines",
    {
        5: Wrong("No machine is spare there.", "what happens when one fails in the busiest hour?"),
        5.5: Wrong("Half a machine cannot be bought.", "round up, then add the spare one"),
        4.5: Wrong("Half a machine cannot be bought, and none is spare.", "round up, then add the spare one"),
        3: Wrong("That is sized for the mean hour.", "who waits in the busiest hour?"),
        2: Wrong("That is sized for the mean hour, and no machine is spare.", "who waits in the busiest hour?"),
    },
    "machines for the busiest hour, whole ones, and the spare one",
    tolerance=1e-9,
)

STAYS = 150_000
judge_stays = judge_number(
    STAYS,
    "requests a day",
    {
        75_000: Wrong("There the first machine is paid for; but look further.", "what happens at the next step?"),
        120_000: Wrong("There the first machine is full, and the second one is needed.", "which of the two is cheaper "
                       "just after that?"),
        240_000: Wrong("There two machines are full.", "the line has crossed the second step before"),
        225_000: Wrong("There three machines would be paid for; two still do.", "look at the step of two machines"),
    },
    "draw both: the API is a line, machines are a staircase; where is the last crossing?",
    tolerance=1e-9,
)  # fmt: skip

EXERCISES = (
    Exercise("mended", judge_mended, per_million, "Utilization divides: the rent stays, and the tokens are fewer."),
    Exercise("day", judge_day, day_cost, "The cost of a day is a staircase: a machine comes whole."),
    Exercise("blend", judge_blend, BLEND, "One price for all tokens holds for one mixture alone, and hides which half "
             "to shorten."),
    Exercise("fleet", judge_fleet, FLEET, "The peak sizes what is bought; the mean only says how idle it is."),
    Exercise(
        "stays", judge_stays, STAYS,
        "Between the first crossing and the last one, one request more may change the answer.",
    ),
)  # fmt: skip
