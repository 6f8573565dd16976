"""The tests of the assignment cost_accounting are fair to other right solutions, and no answer stops the grader.

A student's file is the skeleton with other bodies, for its classes are given.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from planted_bugs import outcomes, with_function

import tinyinfer.course.assignments.cost_accounting.test_cost_accounting as public
from tinyinfer.course.assignment import assignment
from tinyinfer.course.cut import skeleton, solution

A = assignment("cost_accounting")
ARRAYS = """
def owned(price, years, watts, power_price, currency="USD"):
    days = 1461 * years / 4
    a_day = price / days + 24 * watts * power_price / 1e3
    return Price(a_day / 24, currency, False)

@property
def computed(self):
    return np.float64(self.input) - self.cached

@property
def written(self):
    return np.sum([self.output, self.thinking])

def seconds(self, tokens):
    return tuple(np.array([tokens.computed, tokens.written]) / [self.input_tps, self.output_tps])

@property
def machine_hour(self):
    return sum(self.price.per_hour for _ in range(self.speed.units))

@property
def capacity(self):
    a_second = 1 / np.sum(self.speed.seconds(self.tokens))
    return np.float64(60 * 60 * a_second * self.busy)

def machines(service, requests):
    filled = np.array(service.day) * (requests / service.capacity)
    count = np.maximum(np.ceil(filled - 1e-9), 1).astype(int)
    if not service.price.by_hour:
        count[:] = count.max()
    return (count + service.spare).tolist()

def cost_a_day(service, requests):
    return service.people + float(np.array(machines(service, requests)) @ np.full(24, service.machine_hour))

def utilization(service, requests):
    busy = requests * np.array(service.day) / service.capacity * service.busy
    return list(busy / machines(service, requests))

def cost_per_million(service, requests):
    counts = requests * np.array([service.tokens.computed, service.tokens.written])
    weights = counts / [service.speed.input_tps, service.speed.output_tps]
    if not weights.any():
        return None, None
    millions = 1e6 * cost_a_day(service, requests) * weights / weights.sum()
    return tuple(money / count if count else None for money, count in zip(millions, counts))

def people_a_day(hours_a_month, wage):
    return hours_a_month / 30.4375 * wage

def bill(api, tokens):
    read = (tokens.input - tokens.cached) * api.input + tokens.cached * api.cached_input
    now = api.characters * (read + (tokens.output + tokens.thinking) * api.output)
    return 1e-6 * (api.batched * api.batch_factor * now + (1 - api.batched) * now)

def full_cost(service):
    hours = 1 if service.price.by_hour else 24 * np.max(service.day)
    return np.float64(hours) * service.machine_hour * sum(service.speed.seconds(service.tokens)) / 3600 / service.busy

def break_even(service, api):
    price, idle = bill(api, service.tokens), cost_a_day(service, 0)
    rest = price - full_cost(service)
    if price and not idle:
        return Region(0.0, 0.0)
    if rest <= 0:
        return None
    most = idle / rest
    if most * max(service.day) / service.capacity > MOST_MACHINES:
        return Region(math.inf, math.inf)
    found = [cost / price for begin, end, cost in zip(*staircase(service, most)) if begin < cost / price <= end]
    return Region(found[0], found[-1])
"""
WALK = """
def owned(price, years, watts, power_price, currency="USD"):
    hours = years * 8766
    return Price((price + hours * watts * power_price / 1000) / hours, currency, by_hour=False)

@property
def computed(self):
    return self.input - self.cached

@property
def written(self):
    return self.thinking + self.output

def seconds(self, tokens):
    return (tokens.input - tokens.cached) / self.input_tps, (tokens.output + tokens.thinking) / self.output_tps

@property
def machine_hour(self):
    return self.speed.units * self.price.per_hour

@property
def capacity(self):
    prefill, decode = self.speed.seconds(self.tokens)
    return SECONDS * self.busy / (prefill + decode)

def machines(service, requests):
    counts = []
    for hour in range(HOURS):
        count = 1
        while count < requests * service.day[hour] / service.capacity - 1e-9:
            count += 1
        counts.append(count)
    most = max(counts)
    return [service.spare + (count if service.price.by_hour else most) for count in counts]

def cost_a_day(service, requests):
    money = service.people
    for count in machines(service, requests):
        money += count * service.machine_hour
    return money

def utilization(service, requests):
    counts = machines(service, requests)
    return [service.busy * requests * service.day[h] / service.capacity / counts[h] for h in range(24)]

def cost_per_million(service, requests):
    prefill, decode = service.speed.seconds(service.tokens)
    money, found = cost_a_day(service, requests), []
    for seconds, tokens in ((prefill, service.tokens.computed), (decode, service.tokens.written)):
        if requests == 0 or tokens == 0:
            found.append(None)
        else:
            found.append(money * (seconds / (prefill + decode)) / (tokens * requests / 1_000_000))
    return found[0], found[1]

def people_a_day(hours_a_month, wage):
    return 12 * wage * hours_a_month / 365.25

def bill(api, tokens):
    kinds = [(tokens.computed, api.input), (tokens.cached, api.cached_input), (tokens.output, api.output),
             (tokens.thinking, api.output)]
    now = sum(count * api.characters * price for count, price in kinds) / 1e6
    return now - now * api.batched * (1 - api.batch_factor)

def full_cost(service):
    fleet = Service(service.price, service.speed, service.tokens, service.day, busy=service.busy)
    requests = fleet.capacity / max(service.day)
    if service.price.by_hour:
        return fleet.machine_hour / fleet.capacity
    return cost_a_day(fleet, requests) / requests

def break_even(service, api):
    each, full, idle = bill(api, service.tokens), full_cost(service), cost_a_day(service, 0)
    if idle == 0 and each > 0:
        return Region(0.0, 0.0)
    if full >= each:
        return None
    end = idle / (each - full)
    if end * max(service.day) > MOST_MACHINES * service.capacity:
        return Region(math.inf, math.inf)
    requests, found = 0.0, []
    while requests <= end:  # machines and their money stay up to where the next hour is full
        money = cost_a_day(service, requests * (1 + 1e-8))
        stops = []
        for share in service.day:
            if share:
                filled = math.floor(requests * share / service.capacity + 1e-6) + 1
                stops.append(filled * service.capacity / share)
        stop = min(stops)
        if requests * (1 + 1e-8) < money / each <= stop:
            found.append(money / each)
        requests = stop
    return Region(first=min(found), last=max(found))
"""


def file_of(bodies: str) -> str:
    """The student's file with these bodies."""
    text = skeleton(A)
    for source in bodies.strip("\n").split("\n\n"):
        text = with_function(text, source)
    return text


@pytest.mark.parametrize("bodies", [ARRAYS, WALK], ids=["arrays", "walk"])
@pytest.mark.parametrize("who", ["ada", "grace", "alan"])
def test_a_right_solution_gets_full_marks_with_any_seed(bodies, who, tmp_path):
    """Catches a test that asks for our order of additions, for Python's own floats, or for our way to the crossings."""
    found = outcomes(A, file_of(bodies), tmp_path, who)
    assert {test: o.faults for test, o in found.items() if o.score(1) < 1} == {}


@pytest.mark.parametrize("who", ["ada", "grace"])
def test_each_student_has_a_service_of_their_own(who, tmp_path):
    """Catches hidden tests whose numbers one student could tell another: a service that is learned by heart."""
    told = "raise ValueError((service.price.per_hour, service.tokens.input, requests))"
    text = with_function(solution(A), f"def utilization(service, requests):\n    {told}")
    sentences = {}
    for name in (who, "alan"):
        [fault] = [f for f in outcomes(A, text, tmp_path, name)["test_eight_numbers_of_your_own_service"].faults
                   if f.part == "utilization"]  # fmt: skip
        sentences[name] = fault.sentence
    assert "ValueError: (" in sentences[who]
    assert sentences[who] != sentences["alan"]


@pytest.mark.parametrize(
    "value",
    ["None", "(None, None)", "float('nan')", "math.inf", "-1e300", "'all'", "[1.5, True]", "{'a': 1}", "10**30",
     "np.zeros(24)", "[0] * 24", "(0, 0)", "0.0", "True", "Region('first', None)", "Price([1], 2, {})", "np.array(1)"],
)  # fmt: skip
def test_a_strange_answer_costs_points_and_never_stops_the_grader(value, tmp_path):
    """Catches a test that computes with a result before it has looked at its type."""
    text = "\n".join(f"{line.partition('raise')[0]}return {value}" if "raise NotImplementedError" in line else line
                     for line in skeleton(A).split("\n"))  # fmt: skip
    found = outcomes(A, text, tmp_path)
    assert not [(test, o.faults) for test, o in found.items() if o.of_grader]
    assert sum(o.score(test.points) for test, o in zip(A.tests, found.values(), strict=True)) <= 10


NUMBERS = {"owned": "Price(1.0)", "computed": "1.0", "written": "1.0", "seconds": "(0.5, 0.5)", "machine_hour": "2.0",
           "capacity": "3600.0", "machines": "[1] * 24", "cost_a_day": "48.0", "utilization": "[0.0] * 24",
           "cost_per_million": "(0.3, 5.6)", "people_a_day": "40.0", "bill": "0.001", "full_cost": "0.0005",
           "break_even": "Region(48000.0, 96000.0)"}  # fmt: skip
ZEROS = {"cost_a_day": "0.0", "cost_per_million": "(0.0, 0.0)", "bill": "0.0", "break_even": "Region(1.0, 1.0)"}
FAR = {"cost_a_day": "0.0", "bill": "1e300", "break_even": "Region(1e300, 1e300)", "cost_per_million": "(0, 0)"}


def of_constants(values: dict[str, str]) -> str:
    """The student's file in which each function gives one constant, None where there is none for it."""
    lines, name = [], ""
    for line in skeleton(A).split("\n"):
        name = line.split("def ")[1].partition("(")[0] if line.lstrip().startswith("def ") else name
        hole = "raise NotImplementedError" in line
        lines.append(f"{line.partition('raise')[0]}return {values.get(name)}" if hole else line)
    return "\n".join(lines)


@pytest.mark.parametrize("values", [NUMBERS, ZEROS, FAR], ids=["numbers", "zeros", "far"])
def test_constants_earn_no_hidden_points(values, tmp_path):
    """Catches a law that compares the student's numbers with the student's: with constants both of its sides agree."""
    found = outcomes(A, of_constants(values), tmp_path)
    assert not [(test, o.faults) for test, o in found.items() if o.of_grader]
    assert [test.name for test in A.tests if test.hidden and found[test.name].score(1)] == []


def faults_of(bodies: str, tmp_path) -> list:
    """The faults of our solution with these bodies, in the order of the tests."""
    text = solution(A)
    for source in bodies.strip("\n").split("\n\n"):
        text = with_function(text, source)
    return [fault for outcome in outcomes(A, text, tmp_path).values() for fault in outcome.faults]


MACHINES_OF_A_MEAN = """
def machines(service, requests):
    return [max(1, math.ceil(requests / 24 / service.capacity)) + service.spare] * 24
"""


def test_what_is_made_of_a_wrong_number_names_it_first(tmp_path):
    """Catches a coincidence that is named as the cause: a day for the mean hour equals that of one machine."""
    for fault in faults_of(MACHINES_OF_A_MEAN, tmp_path):
        if not fault.sentence.startswith("machines of "):
            assert "first mend machines: here, in hour " in fault.hint


def test_a_sentence_names_the_hour_and_the_day(tmp_path):
    """Catches a sentence that shows two equal lists, the hours that differ cut off, and a day that none can make again.

    In the evening's first 20 hours no request comes.
    """
    told = [fault.sentence for fault in faults_of(MACHINES_OF_A_MEAN, tmp_path) if "machines of " in fault.sentence]
    evening = f"day=shares({[0] * 20 + [1, 2, 4, 1]})"
    assert [one for one in told if evening in one and ", in hour 20: the result is 1, and 2 is expected." in one]
    for sentence in told:
        mine, right = sentence.partition("the result is ")[2].split(", and ", 1)
        assert f"{mine} is expected." != right


def test_numbers_far_away_are_infinite_by_the_dearest_hour():
    """Catches a bound that divides by the API's price alone: the task subtracts what a request costs on full machines.

    33,000 a day for people, and half of all requests in one hour: (48 + 33,000) / (1/1000 - 2/3600) requests a day are
    74,358,000, and 37,179,000 of one hour need 10,328 machines.
    """
    case = public.Case(weights=public.EVENING, people=33_000.0)
    assert public.right_region(case, public.API) == (math.inf, math.inf)
    assert public.right_region(replace(case, people=31_000.0), public.API) != (math.inf, math.inf)
