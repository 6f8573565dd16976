"""Hidden tests of the assignment "cost_accounting": eight numbers of each student's own service, and laws of money.

The service, its requests and the API's prices are drawn from the seed, so each student has other ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tinyinfer.course.assignments.cost_accounting.test_cost_accounting import (
    API,
    Case,
    check_bill,
    check_capacity,
    check_day,
    check_full,
    check_machines,
    check_million,
    check_owned,
    check_people,
    check_region,
    check_seconds,
    check_utilization,
    drawn,
    filled,
    invoice,
    prices,
    record,
    service,
    taken,
    tariff,
    tokens,
)
from tinyinfer.course.compare import Failure
from tinyinfer.measure.api_bill import Api
from tinyinfer.units import show

NEAR = 1e-6  # of two results of the student's


def test_eight_numbers_of_your_own_service(student: Any, part: Any, rng: Any) -> None:
    """Catches what only one combination of price, speed, tokens, hours, spare machines and people breaks."""
    case = drawn(rng)
    fleets = [replace(case, by_hour=by_hour) for by_hour in (True, False)]
    with part("the price of an hour"):
        check_owned(student, *(float(rng.uniform(*ends)) for ends in ((2e4, 9e4), (2, 6), (300, 1500), (0.1, 0.5))))
        check_people(student, float(rng.uniform(3, 80)), float(rng.uniform(20, 90)))
    with part("capacity"):
        check_seconds(student, case)
        check_capacity(student, case)
    with part("machines"):
        for one in fleets:
            check_machines(student, one)
    with part("money of a day"):
        for one in fleets:
            check_day(student, one)
    with part("utilization"):
        for one in fleets:
            check_utilization(student, one)
    with part("a million tokens"):
        for one in fleets:
            check_million(student, one)
    with part("the API's bill"):
        check_bill(student, tariff(rng), case)
    with part("break-even"):
        for one in fleets:
            check_full(student, one)
            check_region(student, one, None)


def test_laws_of_a_day(student: Any, part: Any, rng: Any) -> None:
    """Catches a multiplication by the utilization, a day that costs nothing at night, and money that gets lost."""
    case = drawn(rng, spare=0, people=0.0)
    with part("half as busy is twice as dear"):
        full = replace(case, day=Case().day, requests=24 * taken(case) * 0.98)
        dear, cheap = (million(student, replace(full, requests=full.requests * x)) for x in (0.25, 0.5))
        for phase, one, other in zip(("input", "output"), dear, cheap, strict=True):
            hint = "the machine costs the same with half the requests: utilization divides"
            near(one, 2 * other, f"a million tokens of {phase} at half the requests ({full})", hint)
    with part("no request costs the machines"):
        waiting = replace(drawn(rng), requests=0.0)
        hint = "a day without requests costs its machines, the spare ones and people"
        near(a_day(student, waiting), 24 * waiting.per_hour * waiting.units * (1 + waiting.spare) + waiting.people,
             f"cost_a_day of {waiting}", hint)  # fmt: skip
    with part("all tokens pay the day"):
        whole = drawn(rng)
        of_input, of_output = million(student, whole)
        counts = whole.requests * np.array([whole.input - whole.cached, whole.output + whole.thinking]) / 1e6
        hint = "`computed` and `written` tokens together pay the day, neither more nor less"
        near(float(counts @ [of_input, of_output]), a_day(student, whole), f"what all tokens pay of {whole}", hint)
    with part("dearer and faster machines"):
        for least, most, hint in monotone(case):
            if not a_day(student, least) <= a_day(student, most) * (1 + NEAR):
                told = f"cost_a_day is {a_day(student, least):g} for {least}, and less for {most}."
                raise Failure(told, hint)


def monotone(case: Case) -> Iterator[tuple[Case, Case, str]]:
    """Pairs of services of which the second costs at least as much."""
    for factor in (1.5, 4.0):
        dear = replace(case, per_hour=factor * case.per_hour)
        slow = replace(case, input_tps=case.input_tps / factor, output_tps=case.output_tps / factor)
        yield case, dear, "a dearer machine makes no cheaper day"
        yield case, slow, "a slower machine makes no cheaper day"
        yield case, replace(case, requests=factor * case.requests), "more requests make no cheaper day"
        yield replace(case, by_hour=True), replace(case, by_hour=False), "a fleet that is bought is paid at night, too"


def million(student: Any, case: Case) -> tuple[float, float]:
    """The student's prices of a million tokens. Raises Failure for anything but two numbers."""
    mine = student.cost_per_million(service(student, case), case.requests)
    if not isinstance(mine, tuple) or len(mine) != 2:
        raise Failure(f"cost_per_million of {case}: two numbers are expected, and it gives {show(mine)}.")
    return number(mine[0], f"the price of input of {case}"), number(mine[1], f"the price of output of {case}")


def a_day(student: Any, case: Case) -> float:
    """The student's money of a day. Raises Failure for anything but a number."""
    return number(student.cost_a_day(service(student, case), case.requests), f"cost_a_day of {case}")


def number(mine: Any, what: str) -> float:
    """A finite number. Raises Failure for anything else."""
    if isinstance(mine, bool) or not isinstance(mine, int | float) or not math.isfinite(mine):
        raise Failure(f"{what}: a number is expected, and the result is {show(mine)}.")
    return float(mine)


def near(mine: float, right: float, what: str, hint: str) -> None:
    """Raises Failure where two amounts of money differ by more than rounding."""
    if abs(mine - right) > NEAR * abs(right):
        raise Failure(f"{what}: {mine:.9g} is not {right:.9g}.", hint)


def test_break_even_inserted(student: Any, part: Any, rng: Any) -> None:
    """Catches a region at whose ends the two sides differ, and one beyond which the cheaper side is the dearer one."""
    for name, fixed in (("by the hour", {"by_hour": True}), ("bought", {"by_hour": False, "spare": 1})):
        with part(name):
            case = drawn(rng, **fixed)
            check_ends(student, case, dearer(API, case, float(rng.uniform(1.2, 1.6))))
    with part("nearly as dear"):
        case = drawn(rng, by_hour=True, people=0.0, spare=0)
        check_ends(student, replace(case, day=Case().day), dearer(API, case, float(rng.uniform(1.03, 1.05))))


def dearer(api: Api, case: Case, factor: float) -> Api:
    """The API at prices so that a request is so many times as dear as on full machines."""
    by = factor * filled(case) / invoice(api, case)
    return replace(api, input=by * api.input, cached_input=by * api.cached_input, output=by * api.output)


def check_ends(student: Any, case: Case, api: Api) -> None:
    """Inserts both ends of the student's region into the student's own costs of both sides."""
    own, tariffs = service(student, case), prices(student, api)
    what = f"break_even of {case} and {1e3 * invoice(api, case):.6g} for a thousand requests at the API"
    first, last = record(student.break_even(own, tariffs), "Region", ("first", "last"), what)
    each = number(student.bill(tariffs, tokens(student, case)), "bill")
    for end in (number(first, what), number(last, what)):
        on_machines = a_day(student, replace(case, requests=end))
        hint = "at both ends of the region a day costs the same on machines and at the API"
        near(on_machines, each * end, f"{what}: at {end:.9g} requests a day", hint)
    for factor in (1.001, 1.1, 1.5, 2.5):
        below, beyond = (replace(case, requests=end) for end in (first / factor, last * factor))
        if a_day(student, below) < each * below.requests:
            hint = "first is where the machines are cheaper for the first time"
            raise Failure(f"{what}: at {below.requests:.9g}, below the region, the machines are cheaper.", hint)
        if a_day(student, beyond) > each * beyond.requests:
            hint = "from last on the machines stay cheaper, whatever the steps that follow"
            raise Failure(f"{what}: at {beyond.requests:.9g}, beyond the region, the API is cheaper.", hint)
