"""Hidden tests of the assignment "cost_accounting": eight numbers of each student's own service, and laws of money.

The service, its requests and the API's prices are drawn from the seed, so each student has other ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from tinyinfer.course.assignments.cost_accounting.test_cost_accounting import (
    API,
    OF_REGIONS,
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
    compare,
    day_mistakes,
    drawn,
    filled,
    invoice,
    million_mistakes,
    money,
    of_a_million,
    prices,
    record,
    region_mistakes,
    right_region,
    service,
    taken,
    tariff,
)
from tinyinfer.course.compare import Failure, equal, usual_hint
from tinyinfer.measure.api_bill import Api
from tinyinfer.units import show

NEAR = 1e-6  # of the two sides of a law


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
    """Catches a multiplication by the utilization, a day that costs nothing at night, and money that gets lost.

    One side of each law is the student's number, the other one is counted here: with no constant do both agree.
    """
    case = drawn(rng, spare=0, people=0.0)
    with part("half as busy is twice as dear"):
        full = replace(case, weights=Case().weights, requests=24 * taken(case) * 0.98)
        check_half(student, *(replace(full, requests=full.requests * x) for x in (0.25, 0.5)))
    with part("no request costs the machines"):
        check_waiting(student, replace(drawn(rng), requests=0.0))
    with part("all tokens pay the day"):
        check_all_pay(student, drawn(rng))
    with part("dearer, slower and bought machines"):
        for factor in (1.5, 4.0):
            for changed, base, scaled, hint in scaled_days(drawn(rng), factor):
                mine, own = a_day(student, changed), scaled(a_day(student, base))
                usual = chain(day_mistakes(student, changed, mine), broken(mine, own, hint))
                compare(mine, scaled(money(base)), f"cost_a_day of {changed}", usual, NEAR)


def check_half(student: Any, quarter: Case, half: Case) -> None:
    """Compares the student's prices at a quarter of the requests with twice the right ones at half of them."""
    mine, own = million(student, quarter), million(student, half)
    hint = "the machine costs the same with half the requests: utilization divides"
    usual = chain(million_mistakes(student, quarter, mine), broken(mine, (2 * own[0], 2 * own[1]), hint))
    right = tuple(2 * price for price in of_a_million(half) if price)
    compare(mine, right, f"cost_per_million of {quarter}", usual, NEAR)


def check_waiting(student: Any, case: Case) -> None:
    """Compares the student's money of a day without requests with one machine and the spare ones."""
    mine, right = a_day(student, case), 24 * case.per_hour * case.units * (1 + case.spare) + case.people
    hint = "a day without requests costs its machines, the spare ones and people"
    usual = chain(day_mistakes(student, case, mine), broken(mine, right, hint))
    compare(mine, right, f"cost_a_day of {case}", usual, NEAR)


def check_all_pay(student: Any, case: Case) -> None:
    """Compares what all tokens of a day pay, at the student's prices, with the money of the day."""
    mine = million(student, case)
    counts = case.requests * np.array([case.input - case.cached, case.output + case.thinking]) / 1e6
    of_all, right = float(counts @ np.array(mine)), money(case)
    if not equal(of_all, right, NEAR):
        hint = usual_hint(mine, million_mistakes(student, case, mine), NEAR, 0.0)
        told = f"what all tokens pay at the prices of cost_per_million, of {case}: {of_all:.9g} is not {right:.9g}."
        raise Failure(told, hint or "`computed` and `written` tokens together pay the day, neither more nor less")


def scaled_days(case: Case, factor: float) -> Iterator[tuple[Case, Case, Callable[[float], float], str]]:
    """A service, another one, and how the first one's money of a day comes from that of the other."""
    dear = replace(case, per_hour=factor * case.per_hour)
    hint = "a machine at so many times the price costs so many times as much, and people what they cost before"
    yield dear, case, lambda base: case.people + factor * (base - case.people), hint
    slow = replace(case, input_tps=case.input_tps / factor, output_tps=case.output_tps / factor)
    more = replace(case, requests=factor * case.requests)
    yield slow, more, lambda base: base, "a slower machine needs as many others as more requests do"
    bought = replace(case, by_hour=False)
    busiest = replace(case, by_hour=True, weights=Case().weights, requests=24 * max(case.day) * case.requests)
    yield bought, busiest, lambda base: base, "a fleet that is bought costs as if each hour were the busiest"


def broken(mine: Any, own: Any, hint: str) -> Iterator[tuple[Any, str]]:
    """The hint of a law that the student's own numbers break. own: what the other one of them asks for."""
    if not equal(mine, own, NEAR):
        yield mine, hint


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


def test_break_even_inserted(student: Any, part: Any, rng: Any) -> None:
    """Catches a region at whose ends the two sides differ, and one beyond which the cheaper side is the dearer one."""
    for name, fixed in (("by the hour", {"by_hour": True}), ("bought", {"by_hour": False, "spare": 1})):
        with part(name):
            case = drawn(rng, **fixed)
            check_ends(student, case, dearer(API, case, float(rng.uniform(1.2, 1.6))))
    with part("nearly as dear"):
        case = drawn(rng, by_hour=True, people=0.0, spare=0, weights=Case().weights)
        check_ends(student, case, dearer(API, case, float(rng.uniform(1.03, 1.05))))


def dearer(api: Api, case: Case, factor: float) -> Api:
    """The API at prices so that a request is so many times as dear as on full machines."""
    by = factor * filled(case) / invoice(api, case)
    return replace(api, input=by * api.input, cached_input=by * api.cached_input, output=by * api.output)


def check_ends(student: Any, case: Case, api: Api) -> None:
    """Inserts both ends of the student's region, and what lies around it, into the counted costs of both sides."""
    what = f"break_even of {case} and {1e3 * invoice(api, case):.6g} for a thousand requests at the API"
    given = student.break_even(service(student, case), prices(student, api))
    mine = given if given is None else record(given, "Region", ("first", "last"), what)
    for told, law in against(case, api, mine):
        hint = usual_hint(mine, region_mistakes(student, case, api, mine), OF_REGIONS, 0.0)
        raise Failure(f"{what}: {told}.", hint or law)


def against(case: Case, api: Api, ends: Any) -> Iterator[tuple[str, str]]:
    """What the counted costs say against a region's ends: a sentence, and the law that is broken."""
    each, right = invoice(api, case), right_region(case, api)
    far = 2 * right[1] if right else 0.0  # no end lies there, and machines are counted one by one
    if ends is None or not all(isinstance(end, int | float) and math.isfinite(end) for end in ends):
        yield f"two numbers are expected, and it gives {show(ends)}", "the machines win here at last: give Region(...)"
        return
    first, last = ends
    for end in ends:
        if not 0 < end < far or not equal(money(replace(case, requests=end)), each * end, NEAR):
            told = f"at {end:.9g} requests a day the two sides do not cost the same"
            yield told, "at both ends of the region a day costs the same on machines and at the API"
            return
    for factor in np.geomspace(1.001, 2.5, 25).tolist():
        below, beyond = (replace(case, requests=end) for end in (first / factor, last * factor))
        if money(below) < each * below.requests:
            told = f"at {below.requests:.9g}, below the region, the machines are cheaper"
            yield told, "first is where the machines are cheaper for the first time"
        if money(beyond) > each * beyond.requests:
            told = f"at {beyond.requests:.9g}, beyond the region, the API is cheaper"
            yield told, "from last on the machines stay cheaper, whatever the steps that follow"
