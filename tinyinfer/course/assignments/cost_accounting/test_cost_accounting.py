"""Public tests of the assignment "cost_accounting": each names the bug that it catches.

Right numbers are counted, and come from no formula of the module: machines are added until an hour's requests fit, a
day is a list of machine-hours, an API's bill is a hundred requests of which some wait, and a token's price is what pays
the day. Each number is tested with services in which earlier numbers are plain; else a hint names the one to mend.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import date
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import numpy as np

from tinyinfer.course.compare import Failure, equal, usual_hint
from tinyinfer.course.sandbox.records import Received
from tinyinfer.course.student import hinting
from tinyinfer.measure.api_bill import Api
from tinyinfer.measure.cost import FLAT, shares
from tinyinfer.units import show

pytest_plugins = ["tinyinfer.course.pytest_plugin"]

Usual = Iterator[tuple[Any, str]]
RTOL = 1e-9  # of sums and quotients of a few floats
NOT_ROUNDED = "requests are means, and may be parts of one: do not round"
NO_TOKENS = "None is the answer for a phase without tokens, and for no other: `computed` and `written` count them"
OF_REGIONS = 1e-6  # a way that searches for the crossings is as right as one that computes them
EVENING = (0,) * 20 + (1, 2, 4, 1)  # weights of the hours; shares of eighths, which are exact
API = Api("an API", date(2026, 11, 1), "invented", "EUR", input=0.5, cached_input=0.125, output=10.0)


@dataclass(frozen=True)
class Case:
    """A service and its requests a day as plain numbers. Without changes, a machine takes 3600 requests an hour."""

    per_hour: float = 2.0
    by_hour: bool = True
    units: int = 1
    input_tps: float = 2000.0
    output_tps: float = 100.0
    input: float = 1000.0
    output: float = 50.0
    cached: float = 0.0
    thinking: float = 0.0
    weights: tuple[float, ...] = FLAT
    spare: int = 0
    people: float = 0.0
    busy: float = 1.0
    requests: float = 10_000.0

    @cached_property
    def day(self) -> tuple[float, ...]:
        """The shares of a day's requests that come in each hour."""
        return shares(self.weights)

    def __str__(self) -> str:
        own = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) != one.default}
        words = [f"day=shares({list(value)})" if name == "weights" else f"{name}={show(value)}"
                 for name, value in own.items()]  # fmt: skip
        return f"a service with {', '.join(words) or 'nothing special'}"


def drawn(rng: np.random.Generator, **fixed: Any) -> Case:
    """A service of random numbers, whose busiest hour needs three to six machines; `fixed` ones are as given."""
    weights = np.ceil(100 * rng.uniform(0.2, 1.0, 24) ** 2).astype(int)
    weights[rng.permutation(24)[:3]] = 0
    names = ("per_hour", "input_tps", "output_tps", "input", "output", "people", "busy")
    ends = ((0.5, 9), (900, 9000), (60, 900), (700, 4000), (60, 600), (5, 90), (0.4, 0.9))
    numbers: dict[str, Any] = {name: float(rng.uniform(*pair)) for name, pair in zip(names, ends, strict=True)}
    numbers["cached"] = numbers["input"] * float(rng.uniform(0.2, 0.7))
    numbers["thinking"] = numbers["output"] * float(rng.uniform(0.3, 2.0))
    counts = {"units": int(rng.integers(2, 9)), "spare": int(rng.integers(1, 3))}
    case = Case(**(numbers | counts | {"weights": tuple(weights.tolist()), "by_hour": bool(rng.integers(2))} | fixed))
    peak = float(rng.integers(2, 6) + rng.uniform(0.2, 0.8))
    return replace(case, requests=fixed.get("requests", peak * taken(case) / max(case.day)))


def plain(rng: np.random.Generator, **fixed: Any) -> Case:
    """A drawn service without what other tests are about: cached tokens, thinking, GPUs, room, spare ones, people."""
    without = {"cached": 0.0, "thinking": 0.0, "units": 1, "busy": 1.0, "spare": 0, "people": 0.0}
    return drawn(rng, **(without | fixed))


def service(student: Any, case: Case) -> Any:
    """The service of a case, made by the student's classes."""
    price = student.Price(case.per_hour, "EUR", case.by_hour)
    return student.Service(price, speed(student, case), tokens(student, case), case.day, case.spare, case.people,
                           case.busy)  # fmt: skip


def speed(student: Any, case: Case) -> Any:
    """The speed of a case."""
    return student.Speed(case.input_tps, case.output_tps, None, None, case.units)


def tokens(student: Any, case: Case) -> Any:
    """The tokens of a request."""
    return student.Tokens(case.input, case.output, case.cached, case.thinking)


def prices(student: Any, api: Api) -> Any:
    """The prices of an API; the date as a text, for no number depends on it."""
    return student.Api(**(asdict(api) | {"date": str(api.date)}))


def record(mine: Any, kind: str, names: tuple[str, ...], what: str) -> tuple[Any, ...]:
    """The fields of a record. Raises Failure for what is none."""
    if not isinstance(mine, Received) or mine.kind != kind or set(mine.fields) != set(names):
        raise Failure(f"{what}: a {kind} is expected, but the result is {show(mine)}.", f"give {kind}(...)")
    return tuple(mine.fields[name] for name in names)


def compare(mine: Any, right: Any, what: str, usual: Usual, rtol: float = RTOL) -> None:
    """Raises Failure unless a result is right; mistakes that change nothing here explain nothing.

    Of a list, the sentence names the first hour that differs: most hours of a day may be alike.
    """
    if equal(mine, right, rtol):
        return
    kept = ((value, hint) for value, hint in usual if value is mine or not equal(value, right, rtol))
    hint = usual_hint(mine, chain(other_kinds(right), kept), rtol, 0.0)
    where, mine, right = first_different(mine, right, rtol)
    raise Failure(f"{what}{where}: the result is {show(mine)}, and {show(right)} is expected.", hint)


def first_different(mine: Any, right: Any, rtol: float) -> tuple[str, Any, Any]:
    """The first hour in which two lists differ, in words, and what they have there; other values as they are."""
    if not isinstance(right, list) or not isinstance(mine, list) or len(mine) != len(right):
        return "", mine, right
    hour = next(h for h in range(len(right)) if not equal(mine[h], right[h], rtol))
    return f", in hour {hour}", mine[hour], right[hour]


def other_kinds(right: Any) -> Usual:
    """The right numbers of a list or tuple as another kind of sequence."""
    if isinstance(right, list | tuple) and None not in right:
        kinds = (list, np.array) if isinstance(right, tuple) else (tuple, np.array)
        yield from ((kind(right), f"give a {type(right).__name__}") for kind in kinds)


# The right numbers, counted.


def of_request(case: Case) -> tuple[float, float]:
    """Seconds of prefill and of decode."""
    return (case.input - case.cached) / case.input_tps, (case.output + case.thinking) / case.output_tps


def taken(case: Case) -> float:
    """Requests that fit into the seconds in which a machine may work, of an hour."""
    return 3600 * case.busy / sum(of_request(case))


def fleet(case: Case) -> list[int]:
    """The machines of each hour: one more until the hour's requests fit."""
    counts, full = [], taken(case) * (1 + RTOL)
    for share in case.day:
        count = 1
        while case.requests * share > count * full:
            count += 1
        counts.append(count)
    return [case.spare + (count if case.by_hour else max(counts)) for count in counts]


def money(case: Case) -> float:
    """The day's bill: each GPU of each machine in each hour, and people."""
    return math.fsum([case.per_hour * case.units * count for count in fleet(case)]) + case.people


def working(case: Case) -> list[float]:
    """Seconds of work over seconds that are paid, for each hour."""
    work = [case.requests * share * sum(of_request(case)) for share in case.day]
    return [seconds / (3600 * count) for seconds, count in zip(work, fleet(case), strict=True)]


def of_a_million(case: Case) -> tuple[float | None, float | None]:
    """The two prices that together pay the day, where a second of prefill costs as much as one of decode."""
    counts = case.requests * np.array([case.input - case.cached, case.output + case.thinking])
    if not counts.any():
        return None, None
    equations = np.array([counts, [case.input_tps, -case.output_tps]])
    both = 1e6 * np.linalg.solve(equations, np.array([money(case), 0.0]))
    of_input, of_output = (float(price) if count else None for price, count in zip(both, counts, strict=True))
    return of_input, of_output


def invoice(api: Api, case: Case) -> float:
    """The mean of a hundred requests, of which some wait for the price of a batch."""
    kinds = ((case.input - case.cached, api.input), (case.cached, api.cached_input), (case.output, api.output),
             (case.thinking, api.output))  # fmt: skip
    now = math.fsum(count * api.characters * price / 1e6 for count, price in kinds)
    waiting = round(100 * api.batched)
    return ((100 - waiting) * now + waiting * now * api.batch_factor) / 100


def filled(case: Case) -> float:
    """The money for a request where the busiest hour fills a machine to the brim, and other hours a part of one."""
    requests = taken(case) / max(case.day)
    hours = math.fsum(requests * share / taken(case) for share in case.day) if case.by_hour else 24
    return hours * case.per_hour * case.units / requests


def crossings(case: Case, each: float, upto: float = 1.0) -> list[float]:
    """All requests a day at which both sides cost the same: on each step of the machines' cost its money stays.

    A machine more is at most one more than the filled ones, so beyond `most` the machines are cheaper. upto: how far
    of its end a step goes.
    """
    most = money(replace(case, requests=0)) / (each - filled(case))
    hours = case.day if case.by_hour else (max(case.day),)
    full = {n * taken(case) / share for share in hours if share for n in range(1, 1 + int(most * share / taken(case)))}
    found = []
    for begin, end in pairwise(sorted({0.0, *full, most * (1 + RTOL)})):
        cost = money(replace(case, requests=(begin + end) / 2))
        if begin < cost / each <= end * upto:
            found.append(cost / each)
    return found


# An hour of a machine.


def test_an_hour_of_a_machine(student: Any, part: Any, rng: Any) -> None:
    """Catches power in watts of 1000, years of 365 days, and eight GPUs at the price of one."""
    with part("a price over years"):
        check_owned(student, 26298.0, 3.0, 0.0, 0.4)
        check_owned(student, float(rng.uniform(1e4, 1e5)), 4.0, 0.0, 0.3)
    with part("power"):
        check_owned(student, 0.0, 3.0, 500.0, 0.4)
        check_owned(student, *(float(rng.uniform(*ends)) for ends in ((1e4, 1e5), (2, 6), (300, 1500), (0.1, 0.5))))
    with part("several GPUs"):
        for units in (1, 8):
            case = Case(per_hour=2.5, units=units)
            usual = iter([(2.5, "the price is that of one GPU, and `units` of them are one machine"),
                          (2.5 / units, "more GPUs cost more")])  # fmt: skip
            compare(service(student, case).machine_hour, 2.5 * units, f"machine_hour of {case}", usual)


def check_owned(student: Any, price: float, years: float, watts: float, power: float) -> None:
    """Compares the student's price of an hour with the money of all years over their hours."""
    what = f"owned({price:g}, {years:g}, {watts:g}, {power:g})"
    mine = record(student.owned(price, years, watts, power, "EUR"), "Price", ("per_hour", "currency", "by_hour"), what)
    hours = years * 365.25 * 24
    right = (price + watts * hours / 1000 * power) / hours
    compare(mine[0], right, f"per_hour of {what}", owned_mistakes(price / hours, watts * power, years))
    kept = "keep the currency that is given"
    usual = iter([(("EUR", True), "what is bought is paid in every hour: by_hour is False"),
                  (("USD", False), kept), (("USD", True), kept)])  # fmt: skip
    compare(mine[1:], ("EUR", False), f"currency and by_hour of {what}", usual)


def owned_mistakes(bought: float, watts: float, years: float) -> Usual:
    """Prices of an hour by usual mistakes. bought: the machine's part; watts: of power, times the price of 1000 Wh."""
    yield bought, "a machine takes power in every hour"
    yield bought + watts, "power_price is of 1000 Wh: 500 W for an hour are half of it"
    joules = "watts times hours are watt-hours; watts times seconds would be joules"
    yield from ((bought + watts * factor, joules) for factor in (3.6, 3600.0, 1 / 3600, 1 / 3.6e6))
    yield watts / 1000, "the machine's price is paid, too, over its years"
    days = "a year has 365.25 days of 24 hours"
    yield from ((bought * 365.25 / year + watts / 1000, days) for year in (365, 360, 366, 52 * 7))
    yield bought * 24 + watts / 1000, "this is a day of the machine: an hour is wanted"
    yield bought * years + watts / 1000, "the price is paid over all its years"
    yield bought + watts / 1000 / (years * 8766), "each hour has its power: it is not divided by the hours"


# A request.


def test_a_request(student: Any, part: Any, rng: Any) -> None:
    """Catches cached tokens that are computed, thinking that is left out, and tokens times tokens a second."""
    with part("tokens in"):
        for cached in (0.0, 400.0, 1000.0):
            mine = student.Tokens(1000.0, 200.0, cached, 100.0).computed
            usual = iter([(1000.0, "what the prefix cache has is not computed again"),
                          (cached, "these are the cached ones"),
                          (1000.0 + cached, "cached tokens are a part of the input")])  # fmt: skip
            compare(mine, 1000.0 - cached, f"computed of 1000 tokens, {cached:g} of them cached", usual)
    with part("tokens out"):
        for thinking in (0.0, 300.0):
            mine = student.Tokens(1000.0, 200.0, 400.0, thinking).written
            usual = iter([(200.0, "thinking tokens are generated, too"), (thinking, "the shown ones count, too"),
                          (200.0 - thinking, "thinking tokens come on top of those that are shown")])  # fmt: skip
            compare(mine, 200.0 + thinking, f"written of 200 tokens and {thinking:g} of thinking", usual)
    with part("seconds"):
        for case in (Case(), Case(units=8), plain(rng)):
            check_seconds(student, case)


def check_seconds(student: Any, case: Case) -> None:
    """Compares the student's seconds of both phases."""
    mine = speed(student, case).seconds(tokens(student, case))
    compare(mine, of_request(case), f"seconds of {case}", seconds_mistakes(student, case, mine))


def seconds_mistakes(student: Any, case: Case, mine: Any) -> Usual:
    """Seconds of the two phases by usual mistakes."""
    (prefill, decode), computed, written = of_request(case), case.input - case.cached, case.output + case.thinking
    yield from blame(student, case, mine, *OF_REQUEST)
    yield (decode, prefill), "the seconds of prefill come first"
    yield prefill + decode, "give both phases, as a tuple"
    yield (case.input / case.input_tps, decode), "what the prefix cache has takes no time"
    yield (prefill, case.output / case.output_tps), "thinking tokens are generated, too"
    yield (case.input / case.input_tps, case.output / case.output_tps), "use `computed` and `written`"
    yield (computed * case.input_tps, written * case.output_tps), "tokens over tokens a second are seconds"
    yield (case.input_tps / computed, case.output_tps / written), "the quotient is upside down"
    yield (prefill / case.units, decode / case.units), "the speed is that of all GPUs of a machine together"
    swapped = "input is computed at the speed of prefill, output is generated at that of decode"
    yield (computed / case.output_tps, written / case.input_tps), swapped


# Capacity.


def test_capacity(student: Any, part: Any, rng: Any) -> None:
    """Catches phases that overlap, minutes for seconds, and a machine that may work all the time."""
    with part("a machine that may always work"):
        check_capacity(student, Case())
        check_capacity(student, plain(rng, units=4))
    with part("a machine that needs room"):
        check_capacity(student, Case(busy=0.7))
        check_capacity(student, plain(rng, busy=0.55))


def check_capacity(student: Any, case: Case) -> None:
    """Compares the student's requests an hour."""
    (prefill, decode), right = of_request(case), taken(case)
    mine = service(student, case).capacity

    def usual() -> Usual:
        yield from blame(student, case, mine, *OF_CAPACITY)
        yield right / case.busy, "a machine may work for the share `busy` of an hour"
        yield right / case.busy**2, "less room for work makes fewer requests: `busy` multiplies"
        yield from ((right / factor, "an hour has 3600 seconds") for factor in (3600, 60))
        yield right * 24, "requests of an hour are wanted, and these are a day's"
        both = "a machine does prefill and decode one after the other: their seconds add up"
        for seconds in (prefill, decode, (prefill + decode) / 2):
            yield 3600 * case.busy / seconds, both
        yield 3600 * case.busy / prefill + 3600 * case.busy / decode, both
        yield right * case.units, "the speed is that of all GPUs of a machine together"
        yield 1 / right, "this is the hours for a request: turn it over"
        yield from ((float(whole(right)), NOT_ROUNDED) for whole in (math.floor, math.ceil))

    compare(mine, right, f"capacity of {case}", usual())


# Machines.


def test_machines(student: Any, part: Any, rng: Any) -> None:
    """Catches parts of machines, a fleet for the mean hour, a spare one that is forgotten, and none at night."""
    with part("whole ones"):
        for requests in (1.0, 86_000.0, 86_400.01, 86_500.0, 24 * 3600 * 5.5):
            check_machines(student, Case(requests=requests))
        check_machines(student, Case(requests=100_000.0, busy=0.5))
    with part("each hour its own"):
        check_machines(student, Case(weights=EVENING, requests=30_000.0))
        check_machines(student, plain(rng, by_hour=True))
    with part("a fleet that is bought"):
        check_machines(student, Case(weights=EVENING, requests=30_000.0, by_hour=False))
        check_machines(student, plain(rng, by_hour=False))
    with part("spare ones"):
        for by_hour in (True, False):
            check_machines(student, Case(weights=EVENING, requests=100_000.0, by_hour=by_hour, spare=2))
            check_machines(student, Case(requests=0.0, by_hour=by_hour, spare=1))
    with part("full ones"):
        for count in (1, 3, 7):
            check_machines(student, Case(requests=24.0 * 3600 * count))
            check_machines(student, Case(input=200.0, output=20.0, requests=24.0 * 12_000 * count))


def check_machines(student: Any, case: Case) -> None:
    """Compares the student's machines of each hour with those that were added one by one."""
    mine, right = student.machines(service(student, case), case.requests), fleet(case)
    compare(mine, right, f"machines of {case}", machines_mistakes(student, case, mine))


def machines_mistakes(student: Any, case: Case, mine: Any) -> Usual:
    """The machines of each hour by usual mistakes."""
    parts = [case.requests * share / taken(case) for share in case.day]  # of a machine
    right, needed = fleet(case), [top(x) for x in parts]
    yield from blame(student, case, mine, *OF_MACHINES)
    yield [float(n) for n in right], "whole machines are whole numbers: math.ceil gives an int"
    yield right[0], "give a number for each of the 24 hours"
    other = replace(case, by_hour=not case.by_hour)
    hours = "machines by the hour are fewer in quiet hours"
    bought = "what is bought stays there at night: the busiest hour sizes the fleet"
    yield fleet(other), hours if case.by_hour else bought
    shared = "each hour has its own share of the requests" if case.by_hour else bought
    yield from ((paid(case, [top(x)] * 24), shared) for x in (sum(parts) / 24, sum(parts)))
    whole = "a machine is paid whole: what does not fit needs one more"
    yield from ((paid(case, found), whole) for found in (
        parts, [max(1.0, x) for x in parts], [max(1, int(x)) for x in parts], [max(1, round(x)) for x in parts],
        [max(1, math.ceil(x - 1e-3)) for x in parts]))
    yield [n - case.spare for n in right], "the spare machines are paid in every hour, too"
    alone = "one machine is always there, and the spare ones stand beside it"
    yield paid(case, [math.ceil(x - RTOL) for x in parts]), alone
    yield paid(case, [max(1 - case.spare, math.ceil(x - RTOL)) for x in parts]), alone
    yield [max(case.spare, n - case.spare) for n in right], alone
    bit = "what is over is a last bit of rounding, and no request: take 1e-9 away before you round up"
    yield paid(case, [max(1, math.ceil(x)) for x in parts]), bit
    yield paid(case, [math.floor(x) + 1 for x in parts]), "a full machine needs no second one"
    yield paid(case, [top(x / case.busy) for x in parts]), "`busy` is within the capacity already"
    yield paid(replace(case, spare=case.spare * max(needed)), needed), "`spare` is a number of machines, and no share"


def top(part: float) -> int:
    """So many parts of a machine as whole machines, at least one."""
    return max(1, math.ceil(part - RTOL))


def paid(case: Case, needed: list[Any]) -> list[Any]:
    """The machines that are paid where so many are needed: bought ones around the clock, and the spare ones."""
    return [case.spare + n for n in (needed if case.by_hour else [max(needed)] * 24)]


def blame(student: Any, case: Case, mine: Any, *before: str, api: Api = API) -> Usual:
    """Explains a result by the first number of those before it that is wrong here: it is made of them."""
    own = service(student, case)
    numbers = {
        "Tokens.computed": (lambda: tokens(student, case).computed, case.input - case.cached),
        "Tokens.written": (lambda: tokens(student, case).written, case.output + case.thinking),
        "Speed.seconds": (lambda: speed(student, case).seconds(tokens(student, case)), of_request(case)),
        "Service.machine_hour": (lambda: own.machine_hour, case.per_hour * case.units),
        "Service.capacity": (lambda: own.capacity, taken(case)),
        "machines": (lambda: student.machines(own, case.requests), fleet(case)),
        "cost_a_day": (lambda: student.cost_a_day(own, case.requests), money(case)),
        "bill": (lambda: student.bill(prices(student, api), tokens(student, case)), invoice(api, case)),
        "full_cost": (lambda: student.full_cost(own), filled(case)),
    }
    for name in before:
        ask, right = numbers[name]
        if not equal(value := ask(), right, RTOL):
            where, wrong, there = first_different(value, right, RTOL)
            yield mine, f"first mend {name}: here{where} it is {show(wrong)}, and {show(there)} is right"
            return


OF_REQUEST = ("Tokens.computed", "Tokens.written")
OF_CAPACITY = (*OF_REQUEST, "Speed.seconds")
OF_MACHINES = (*OF_CAPACITY, "Service.capacity")
OF_HOUR = (*OF_CAPACITY, "Service.machine_hour", "Service.capacity")


# A day.


def test_a_day(student: Any, part: Any, rng: Any) -> None:
    """Catches people who are forgotten, idle hours that are free, and a month of 30 days."""
    with part("machines"):
        check_day(student, Case(requests=200_000.0))
        check_day(student, Case(weights=EVENING, requests=30_000.0))
        check_day(student, plain(rng, by_hour=True))
    with part("a day without a request"):
        check_day(student, Case(requests=0.0, spare=1))
        check_day(student, Case(requests=0.0, people=7.0))
    with part("people"):
        check_day(student, Case(people=35.0))
        for hours, wage in ((20.0, 60.875), (float(rng.uniform(3, 80)), float(rng.uniform(20, 90)))):
            check_people(student, hours, wage)


def check_day(student: Any, case: Case) -> None:
    """Compares the student's money of a day with the list of machine-hours."""
    mine = student.cost_a_day(service(student, case), case.requests)
    compare(mine, money(case), f"cost_a_day of {case}", day_mistakes(student, case, mine))


def day_mistakes(student: Any, case: Case, mine: Any) -> Usual:
    """The money of a day by usual mistakes."""
    right, hour, counts, work = money(case), case.per_hour * case.units, fleet(case), working(case)
    yield from blame(student, case, mine, *OF_HOUR, "machines")
    yield right - case.people, "people are paid, too"
    yield right + 23 * case.people, "`people` is money a day, and no money an hour"
    idle = "a machine that waits is paid, too: the day costs the same, used or not"
    yield from ((sum(n * share for n, share in zip(counts, work, strict=True)) * hour + people, idle)
                for people in (case.people, 0.0))  # fmt: skip
    yield from ((people, idle) for people in (case.people, 0.0))
    yield 24 * counts[0] * hour + case.people, "the hours differ: add up their machines"
    yield 24 * max(counts) * hour + case.people, "the hours differ: add up their machines"
    yield 24 * hour + case.people, "every machine is paid, not one"
    yield sum(counts) / 24 * hour + case.people, "this is a mean hour: a day has 24"
    yield sum(counts) + case.people, "these are hours of machines: what do they cost?"
    yield (sum(counts) - 24 * case.spare) * hour + case.people, "the spare machines are paid, too"
    yield sum(counts) * case.per_hour + case.people, "a machine of several GPUs costs all of them"


def check_people(student: Any, hours: float, wage: float) -> None:
    """Compares the student's money for people with four years of months over four years of days."""
    right = 48 * hours * wage / 1461

    def usual() -> Usual:
        month = "a year has 365.25 days and twelve months"
        yield from ((hours * wage / days, month) for days in (30, 31, 28, 365 / 12, 366 / 12))
        yield hours * wage, "the hours are a month's: a day is wanted"
        yield hours * wage / 24, "the hours are a month's: a day is wanted"
        yield hours * wage * 12, "this is a year"
        yield hours * wage / 365.25, "a year has twelve months"
        yield from ((hours * wage / days, "Sundays cost, too: all days of a month") for days in (20, 21, 21.75, 22))
        yield hours * 12 / 365.25, "these are hours a day: what do they cost?"

    compare(student.people_a_day(hours, wage), right, f"people_a_day({hours:g}, {wage:g})", usual())


# Utilization.


def test_utilization(student: Any, part: Any, rng: Any) -> None:
    """Catches spare machines that do not count, one number for all hours, and a share of the capacity."""
    with part("one machine"):
        for requests in (0.0, 43_200.0, 86_400.0):
            check_utilization(student, Case(requests=requests))
    with part("each hour its own"):
        check_utilization(student, Case(weights=EVENING, requests=30_000.0))
        check_utilization(student, plain(rng))
    with part("spare machines, and room"):
        check_utilization(student, Case(requests=100_000.0, spare=1))
        check_utilization(student, Case(requests=100_000.0, busy=0.5))
        check_utilization(student, Case(weights=EVENING, requests=30_000.0, spare=1, by_hour=False))


def check_utilization(student: Any, case: Case) -> None:
    """Compares the student's shares of paid time with seconds of work over seconds that are paid."""
    with hinting("ZeroDivisionError", "one machine is always there, in an hour without a request, too"):
        mine = student.utilization(service(student, case), case.requests)
    right, (prefill, decode) = working(case), of_request(case)

    def usual() -> Usual:
        counts = fleet(case)
        yield from blame(student, case, mine, *OF_MACHINES, "machines")
        yield [x / case.busy for x in right], "all paid time counts, and not only what `busy` lets work take"
        yield [x * case.busy for x in right], "`busy` limits work, and is no work"
        yield from (([x * n / (n - case.spare) for x, n in zip(right, counts, strict=True)], "spare machines are paid")
                    for _ in range(min(counts) > case.spare))  # fmt: skip
        yield sum(right) / 24, "give a number for each of the 24 hours"
        mean = case.requests / 24 * (prefill + decode) / 3600
        yield [mean / n for n in counts], "each hour has its own share of the requests"
        yield [sum(right) / 24] * 24, "each hour has its own share of the requests"
        yield [24 * mean / n for n in counts], "each hour has its own share of the requests"
        yield [100 * x for x in right], "a share is between 0 and 1"
        yield [1 - x for x in right], "this is the idle share"
        yield [x * n for x, n in zip(right, counts, strict=True)], "the paid time is that of all machines of the hour"
        for seconds in (prefill, decode):
            yield [x * seconds / (prefill + decode) for x in right], "prefill and decode both are work"

    compare(mine, right, f"utilization of {case}", usual())


# A million tokens.


def test_a_million_tokens(student: Any, part: Any, rng: Any) -> None:
    """Catches a multiplication by the utilization, a price for one token, and money that is paid twice."""
    with part("a full machine"):
        check_million(student, Case(requests=86_400.0))
        check_million(student, Case(requests=86_400.0, input=500.0, output=75.0))
    with part("a machine that waits"):
        for requests in (43_200.0, 864.0):
            check_million(student, Case(requests=requests, input=500.0, output=75.0))
        check_million(student, plain(rng, by_hour=True))
    with part("people"):
        check_million(student, Case(people=24.0, requests=20_000.0))
    with part("a cached prefix, and thinking"):
        check_million(student, plain(rng, cached=500.0))
        check_million(student, plain(rng, thinking=300.0))
    with part("no tokens"):
        for case in (Case(requests=0.0), Case(input=0.0), Case(output=0.0), Case(cached=1000.0),
                     Case(output=0.0, thinking=300.0)):  # fmt: skip
            check_empty(student, case)


def check_million(student: Any, case: Case) -> None:
    """Compares the student's prices of a million tokens with the two that pay the day."""
    mine, right = student.cost_per_million(service(student, case), case.requests), of_a_million(case)
    compare(mine, right, f"cost_per_million of {case}", million_mistakes(student, case, mine))


def check_empty(student: Any, case: Case) -> None:
    """Compares the prices where a phase has no tokens, or only tokens that are easily forgotten."""
    with hinting("ZeroDivisionError", NO_TOKENS):
        mine, right = student.cost_per_million(service(student, case), case.requests), of_a_million(case)

    def usual() -> Usual:
        yield from blame(student, case, mine, *OF_HOUR, "machines", "cost_a_day")
        if isinstance(mine, tuple) and [one is None for one in mine] != [one is None for one in right]:
            yield mine, NO_TOKENS
        if any(right):
            halves = tuple(one and one / 2 for one in right)
            yield halves, "a phase without tokens takes no money: the other one pays the whole day"

    compare(mine, right, f"cost_per_million of {case}", usual())


def million_mistakes(student: Any, case: Case, mine: Any) -> Usual:
    """The prices of a million tokens, of input and output, by usual mistakes."""
    both = np.array(of_a_million(case), np.float64)
    yield from blame(student, case, mine, *OF_HOUR, "machines", "cost_a_day")
    use = sum(working(case)) / 24
    hour, tps = case.per_hour * case.units, np.array([case.input_tps, case.output_tps])
    full = hour / (tps * 3600) * 1e6
    divides = "an idle machine makes its tokens dearer: the day's money is divided by fewer tokens"
    yield from pairs(divides, both * use, both * use**2, full * use, full)
    yield from pairs("the price is for a million tokens", both / 1e6, both / 1e3, both * 1e6)
    yield from pairs("the price of input comes first", both[::-1])
    paid, seconds = money(case), np.array(of_request(case))
    computed, written = case.input - case.cached, case.output + case.thinking
    counts = case.requests * np.array([computed, written])
    twice = "the day is paid twice: divide its money between prefill and decode, by their seconds"
    yield from pairs(twice, paid / counts * 1e6)
    seconds_decide = "the seconds of prefill and decode divide the money: half each, or by tokens, is no cost"
    yield from pairs(seconds_decide, paid / 2 / counts * 1e6, np.full(2, paid / counts.sum() * 1e6),
                     paid * seconds[::-1] / seconds.sum() / counts * 1e6)  # fmt: skip
    yield from pairs("all requests of the day share its money", both * case.requests)
    yield from pairs("a day is paid, and not an hour", both / 24)
    yield from pairs("people are paid, too", both * (paid - case.people) / paid)
    shown = counts / (case.requests * np.array([case.input, case.output]))
    yield from pairs("what the prefix cache has is not computed: `computed` tokens pay", both * [shown[0], 1])
    yield from pairs("thinking tokens are generated, too: `written` tokens pay", both * [1, shown[1]])
    yield from pairs("`computed` and `written` tokens pay", both * shown)
    yield from pairs("seconds that are paid and idle belong to both phases: divide by the busy seconds",
                     paid * seconds / (3600 * sum(fleet(case))) / counts * 1e6)  # fmt: skip


def pairs(hint: str, *found: np.ndarray) -> Usual:
    """Pairs of prices with their hint."""
    yield from (((float(one[0]), float(one[1])), hint) for one in found)


# An API.


def test_bill(student: Any, part: Any, rng: Any) -> None:
    """Catches cached tokens in full, thinking for nothing, the price of one token, and other characters a token."""
    with part("kinds of tokens"):
        check_bill(student, API, Case())
        check_bill(student, replace(API, input=1.0, output=4.0), Case(thinking=150.0))
    with part("a cached prefix"):
        check_bill(student, API, Case(cached=400.0))
        check_bill(student, replace(API, cached_input=0.0), Case(cached=1000.0))
    with part("requests that wait"):
        check_bill(student, replace(API, batch_factor=0.5, batched=0.2), Case())
        check_bill(student, replace(API, batch_factor=0.25, batched=1.0), Case())
    with part("unlike tokens"):
        check_bill(student, replace(API, characters=1.25), Case())
        check_bill(student, tariff(rng), drawn(rng))


def tariff(rng: np.random.Generator) -> Api:
    """An API of random prices; a whole number in a hundred requests waits."""
    numbers: dict[str, Any] = {name: float(rng.uniform(*ends)) for name, ends in (
        ("input", (0.3, 3)), ("cached_input", (0.05, 0.25)), ("output", (4, 20)), ("batch_factor", (0.3, 0.8)),
        ("characters", (0.6, 0.9)))}  # fmt: skip
    return replace(API, batched=int(rng.integers(10, 60)) / 100, **numbers)


def check_bill(student: Any, api: Api, case: Case) -> None:
    """Compares the student's bill for a request with the mean of a hundred."""
    mine = student.bill(prices(student, api), tokens(student, case))
    what = f"bill of {case}, batched={api.batched:g}, characters={api.characters:g}"
    compare(mine, invoice(api, case), what, bill_mistakes(student, api, case, mine))


def bill_mistakes(student: Any, api: Api, case: Case, mine: Any) -> Usual:
    """The bills of usual mistakes."""
    right, uncached, quiet = invoice(api, case), replace(case, cached=0.0), replace(case, thinking=0.0)
    yield from blame(student, case, mine, *OF_REQUEST)
    in_full = "cached tokens have a price of their own"
    yield invoice(api, uncached), in_full
    yield invoice(replace(api, cached_input=0.0), case), in_full
    yield invoice(replace(api, cached_input=api.cached_input + api.input), case), "cached input is paid once"
    yield invoice(replace(api, cached_input=api.input, input=api.cached_input), case), "the two prices are exchanged"
    yield invoice(api, quiet), "thinking tokens are paid as output"
    yield invoice(api, replace(uncached, thinking=0.0)), "cached tokens and thinking have prices, too"
    yield from ((right * factor, "the prices are for a million tokens") for factor in (1e6, 1e3))
    same_text = "a token here is `characters` tokens there: input and output alike"
    alike = replace(api, characters=1.0)
    yield from ((bill, same_text) for bill in (invoice(alike, case), right / api.characters**2))
    yield invoice(replace(alike, input=api.input * api.characters, cached_input=api.cached_input * api.characters),
                  case), same_text  # fmt: skip
    yield invoice(replace(alike, output=api.output * api.characters), case), same_text
    now = invoice(replace(api, batched=0.0), case)
    waits = "the share `batched` of requests pays the share `batch_factor` of the price, and the others all of it"
    shares_of = (1.0, api.batch_factor, api.batched * api.batch_factor, 1 - api.batched, 1 - api.batch_factor,
                 1 - api.batched * api.batch_factor, 1 - api.batch_factor * (1 - api.batched))  # fmt: skip
    yield from ((now * share, waits) for share in shares_of)


# Break-even.


def test_full_cost(student: Any, part: Any, rng: Any) -> None:
    """Catches people and spare machines that are in it, and a bought fleet without its quiet hours."""
    with part("paid by the hour"):
        check_full(student, Case(spare=1, people=40.0))
        check_full(student, plain(rng, by_hour=True))
    with part("bought"):
        check_full(student, Case(weights=EVENING, by_hour=False))
        check_full(student, plain(rng, by_hour=False))


def check_full(student: Any, case: Case) -> None:
    """Compares the student's money of a request on machines that are full."""
    mine, right = student.full_cost(service(student, case)), filled(case)

    def usual() -> Usual:
        hour = case.per_hour * case.units
        yield from blame(student, case, mine, *OF_HOUR)
        hours = "machines by the hour are paid where they work: no peak is in it"
        quiet = "what is bought for the busiest hour waits in the others: 24 hours are paid"
        yield from ((hour / taken(case) * factor, hours if case.by_hour else quiet)
                    for factor in (1.0, 24.0, max(case.day), 24 * max(case.day)))  # fmt: skip
        yield right * (1 + case.spare), "spare machines do not grow with the requests: leave them out"
        yield right + case.people, "people do not grow with the requests: leave them out"
        yield right / case.units, "a machine of several GPUs costs all of them"
        yield right * taken(case) ** 2, "more requests make each cheaper: divide by the capacity"
        yield right * case.busy, "a machine is full when work takes the share `busy`"
        yield right * taken(case), "this is an hour: the requests of it share the money"

    compare(mine, right, f"full_cost of {case}", usual())


def test_break_even(student: Any, part: Any, rng: Any) -> None:
    """Catches one number for a region, a straight line for a staircase, people who are forgotten, and never."""
    with part("the second machine"):
        check_region(student, Case(), API)
        check_region(student, Case(per_hour=1.0), API)
        check_region(student, Case(weights=EVENING, people=64.5), replace(API, input=0.0, output=312.5))
    with part("people, spare machines, hours"):
        check_region(student, Case(people=30.0, spare=1), API)
        check_region(student, plain(rng, by_hour=True, spare=1, people=20.0), None)
    with part("a fleet that is bought"):
        check_region(student, Case(weights=EVENING, by_hour=False, per_hour=0.25), API)
        check_region(student, plain(rng, by_hour=False, people=9.0), None)
    with part("never, at once, and far away"):
        check_region(student, Case(per_hour=5.0), API)
        check_region(student, Case(per_hour=3600.0, input=0.0, output=100.0), replace(API, output=10_000.0))
        check_region(student, Case(per_hour=0.0), API)
        check_region(student, Case(per_hour=0.0), replace(API, input=0.0, output=0.0))
        check_region(student, Case(per_hour=0.0, people=9.0), API)
        check_region(student, Case(people=10_000.0), API)
        check_region(student, Case(weights=EVENING, people=33_000.0), API)
        check_region(student, Case(people=3e6), API)


def check_region(student: Any, case: Case, api: Api | None) -> None:
    """Compares the student's region with the crossings on all steps. api: None for one whose request is 1.3 times as
    dear as on full machines.
    """
    if api is None:
        factor = 1.3 * filled(case) / invoice(API, case)
        api = replace(API, **{name: factor * getattr(API, name) for name in ("input", "cached_input", "output")})
    with hinting("ZeroDivisionError", "where each request costs as much on full machines, they never win: None"):
        mine = student.break_even(service(student, case), prices(student, api))
    what = f"break_even of {case} and {1e3 * invoice(api, case):.6g} for a thousand requests at the API"
    found = mine if mine is None else record(mine, "Region", ("first", "last"), what)
    compare(found, right_region(case, api), what, region_mistakes(student, case, api, found), OF_REGIONS)


def right_region(case: Case, api: Api) -> tuple[float, float] | None:
    """The first and the last crossing; None where the machines never stay cheaper, infinite where they are far."""
    each, idle = invoice(api, case), money(replace(case, requests=0.0))
    if idle == 0 and each > 0:
        return 0.0, 0.0
    if filled(case) >= each * (1 - RTOL):
        return None
    if idle / (each - filled(case)) * max(case.day) > 10_000 * taken(case):  # all crossings lie before it
        return math.inf, math.inf
    found = crossings(case, each)
    return min(found), max(found)


def region_mistakes(student: Any, case: Case, api: Api, mine: Any) -> Usual:
    """The regions that usual mistakes give."""
    each, full, idle = invoice(api, case), filled(case), money(replace(case, requests=0.0))
    right = right_region(case, api)
    idling = replace(case, requests=0.0)
    yield from blame(student, idling, mine, *OF_HOUR, "machines", "cost_a_day", "bill", "full_cost", api=api)
    if right is None:
        never = "a request on full machines costs as much as at the API, or more: the machines never stay cheaper"
        yield mine, never
    elif right == (0.0, 0.0):
        yield mine, "machines for nothing are cheaper from the first request on: Region(0.0, 0.0)"
    elif right == (math.inf, math.inf):
        yield mine, "more than MOST_MACHINES may be needed: both ends are math.inf"
    else:
        first, last = right
        yield (math.inf, math.inf), "the search takes less than MOST_MACHINES here: both ends are numbers"
        yield None, "a request on full machines costs less than at the API: the machines stay cheaper at last"
        yield (last, first), "first is the smaller one"
        if before := crossings(case, each, 1 - RTOL):
            yield (min(before), max(before)), "a full machine needs no second one: a step has its end, too"
        one = "the line crosses the staircase more than once: first and last are two numbers"
        yield from (((x, x), one) for x in (first, last, idle / each))
        straight = idle / (each - full)
        line = "whole machines are a staircase, and no straight line"
        yield from ((pair, line) for pair in ((straight, straight), (first, straight)))
        yield right_region(replace(case, people=0.0), api), "people are paid, too"
        yield right_region(replace(case, spare=0), api), "the spare machines are paid, too"
        yield right_region(replace(case, people=0.0, spare=0), api), "people and spare machines are paid, too"
        yield from (((float(up(first)), float(up(last))), NOT_ROUNDED) for up in (math.ceil, math.floor, round))
