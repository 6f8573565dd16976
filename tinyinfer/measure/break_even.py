"""From how many requests a day one's own machines are cheaper than an API: a region, and what moves it.

An API's bill is a line through zero. The cost of machines is a staircase: a machine is paid whole, and the next one
comes when an hour's requests fill those that are there. The line may so cross the staircase several times: the region
begins at the first crossing and ends at the last, from which on the machines stay cheaper. If a request at full
machines costs more than the API's price, the machines never win, however many requests there are. If a request costs
less there, the machines win at last; where that may take more than 10,000 machines, "beyond" is all that is said.

Every input is uncertain, each within a range of its own: from so many times to so many times its value. A tornado
shows where the last crossing moves when one input alone goes to either end, the most moving input first; what moves it
most is what to measure next. Without one given it is a quarter to either side, but a speed on paper was seldom that
near: its range is the error of published_throughput.py.

Wins: the answer with its doubt. Loses: inputs are moved one at a time, and in life they move together.
Source: Eschenbach 1992, "Spiderplots versus tornado diagrams for sensitivity analysis", Interfaces 22 (6).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from tinyinfer.measure.api_bill import Api, bill
from tinyinfer.measure.cost import HOURS, Service, cost_a_day
from tinyinfer.measure.cost_speeds import ON_PAPER

MOST_MACHINES = 10_000  # a crossing that may lie beyond so many is math.inf
Case = tuple[Service, Api]
Range = tuple[float, float]  # the least and the most of an input, as factors of its value
USUAL: Range = (0.75, 1.25)


@dataclass(frozen=True)
class Region:
    """Requests a day: below `first` the API is cheaper, from `last` on the machines; between, whole machines decide.

    Both math.inf: it may take more than MOST_MACHINES.
    """

    first: float
    last: float


def full_cost(service: Service) -> float:
    """The money for a request where every machine is as busy as it may be, without spare machines and people.

    On demand. A fleet that is paid around the clock is as large as its peak hour needs.
    """
    peak = 1.0 if service.price.by_hour else HOURS * max(service.day)
    return peak * service.machine_hour / service.capacity


def break_even(service: Service, api: Api) -> Region | None:
    """Where the two cost the same; None where the machines never stay cheaper.

    A machine of 48 a day takes 86,400 requests. At 0.001 each, 48,000 pay for it; the second machine makes the API the
    cheaper one once more, up to 96,000. At 0.0005 a full machine costs more than the API:

    >>> from dataclasses import replace
    >>> from datetime import date
    >>> from tinyinfer.measure.cost import Price, Speed, Tokens
    >>> mine = Service(Price(2.0), Speed(2000, 100), Tokens(1000, 50))
    >>> api = Api("a", date(2026, 11, 1), "invented", "USD", input=0.5, cached_input=0.5, output=10.0)
    >>> break_even(mine, api)
    Region(first=48000.0, last=96000.0)
    >>> break_even(mine, replace(api, input=0.25, output=5.0)) is None
    True
    """
    each, slope, nothing = bill(api, service.tokens), full_cost(service), cost_a_day(service, 0)
    if nothing == 0 and each > 0:
        return Region(0.0, 0.0)
    if slope >= each:
        return None
    most = nothing / (each - slope)  # a whole machine is at most one more than what is filled: no crossing beyond
    if most * max(service.day) > MOST_MACHINES * service.capacity:
        return Region(math.inf, math.inf)
    begins, ends, costs = staircase(service, most)
    crossings = costs / each
    found = crossings[(crossings > begins * (1 + 1e-9)) & (crossings <= ends)]
    return Region(float(found.min()), float(found.max()))


def staircase(service: Service, most: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # -> (n,), (n,), (n,)
    """The n steps of a day's cost up to `most` requests: where each begins and ends, and the money on it."""
    hours = service.day if service.price.by_hour else (max(service.day),)
    jump = service.machine_hour * (1 if service.price.by_hour else HOURS)
    filled = [service.capacity / share for share in hours if share > 0]  # requests a day that fill a machine in an hour
    ends = np.sort(np.concatenate([each * np.arange(1, int(most / each) + 1) for each in filled]))
    costs = cost_a_day(service, 0) + jump * np.arange(len(ends) + 1)
    return np.append(0.0, ends), np.append(ends, math.inf), costs


# What moves it.


def tokens_scaled(service: Service, **factors: float) -> Service:
    """The same service, its requests of other lengths."""
    tokens = service.tokens
    return replace(service, tokens=replace(tokens, **{name: f * getattr(tokens, name) for name, f in factors.items()}))


def at_speed(service: Service, times: float) -> Service:
    """The same service on machines that are so many times as fast."""
    reads, writes = service.speed.input_tps, service.speed.output_tps
    return replace(service, speed=replace(service.speed, input_tps=times * reads, output_tps=times * writes))


Move = Callable[[Service, Api, float], Case]
INPUTS: dict[str, tuple[str, Move]] = {  # by the name of a range: what it is, and the case with so many times of it
    "price": ("price of a machine", lambda s, a, f: (
        replace(s, price=replace(s.price, per_hour=f * s.price.per_hour)), a)),
    "speed": ("speed of a machine", lambda s, a, f: (at_speed(s, f), a)),
    "busy": ("how busy a machine may be", lambda s, a, f: (replace(s, busy=min(1.0, f * s.busy)), a)),
    "people": ("money for people", lambda s, a, f: (replace(s, people=f * s.people), a)),
    "input": ("tokens of an input", lambda s, a, f: (tokens_scaled(s, input=f, cached=f), a)),
    "cached": ("cached part of the input", lambda s, a, f: (
        replace(s, tokens=replace(s.tokens, cached=min(s.tokens.input, f * s.tokens.cached))), a)),
    "output": ("tokens of an answer", lambda s, a, f: (tokens_scaled(s, output=f, thinking=f), a)),
    "api": ("prices of the API", lambda s, a, f: (
        s, replace(a, input=f * a.input, cached_input=f * a.cached_input, output=f * a.output))),
}  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """An input of the tornado, and the last crossing at the ends of its range; None: never cheaper."""

    name: str
    low: float | None
    high: float | None
    range: Range = USUAL

    @property
    def swing(self) -> float:
        """How far it moves the crossing: the larger end over the smaller one."""
        if self.low is None or self.high is None or self.low == self.high:
            return 1.0 if self.low == self.high else math.inf
        least, most = sorted((self.low, self.high))
        return most / least if least else (1.0 if most == 0 else math.inf)


def range_of(name: str, service: Service, given: Mapping[str, Range]) -> Range:
    """The factors between which an input may be: as given, else USUAL; for a speed on paper what ON_PAPER leaves.

    >>> from tinyinfer.measure.cost import Price, Speed, Tokens
    >>> planned = Service(Price(2.0), Speed(2000, 100, on_paper=True), Tokens(1000, 50))
    >>> range_of("price", planned, {"price": (0.9, 1.0)}), range_of("busy", planned, {})
    ((0.9, 1.0), (0.75, 1.25))
    >>> [round(end, 2) for end in range_of("speed", planned, {})]
    [0.51, 1.18]
    """
    usual = (1 / ON_PAPER[1], 1 / ON_PAPER[0]) if name == "speed" and service.speed.on_paper else USUAL
    return given.get(name, usual)


def tornado(service: Service, api: Api, given: Mapping[str, Range]) -> list[Bar]:
    """The inputs by how far they move the break-even within their ranges; those that move nothing left out."""

    def bar(name: str) -> Bar:
        words, move = INPUTS[name]
        ends = range_of(name, service, given)
        low, high = (last_of(break_even(*move(service, api, factor))) for factor in ends)
        return Bar(words, low, high, ends)

    bars = [bar(name) for name in INPUTS]

    def order(bar: Bar) -> tuple[float, float]:  # of those that reach "never", the one that reaches furthest down
        return -bar.swing, min((end for end in (bar.low, bar.high) if end is not None), default=math.inf)

    return sorted((bar for bar in bars if bar.swing > 1 + 1e-9), key=order)


def last_of(region: Region | None) -> float | None:
    """From where on machines stay cheaper; None for never."""
    return region.last if region else None


def doubtful(region: Region | None, bars: list[Bar]) -> tuple[float | None, float | None]:
    """The lowest and the highest break-even, the region's own among them, of the three inputs that move it most; None:
    never cheaper.
    """
    ends = [end for bar in bars[:3] for end in (bar.low, bar.high)]
    known = [end for end in (*ends, *((region.first, region.last) if region else ())) if end is not None]
    never = region is None or None in ends
    return min(known, default=None), None if never else max(known, default=None)
