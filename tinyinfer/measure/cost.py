"""What a million tokens cost on machines of one's own: whole machines, paid by the hour, whether they work or not.

A request takes seconds of a machine: its input at the speed of prefill, its output at the speed of decode. Hours differ
(a day has 24 weights), machines are whole, and some are spare. A day's money is what all those machines and the people
beside them cost; it is divided among tokens by the seconds that prefill and decode have taken:

    cost of a million output tokens = money of the day x decode's share of the busy seconds / output tokens x 10^6

So utilization divides: a machine that is half idle makes its tokens twice as dear. Calculators that multiply a month's
bill by the utilization make an idle machine cheap. The speed must be one that keeps the promised latency
(`best_within`): the largest batch is the cheapest, and the slowest for each reader. Peak hours size a fleet that is
bought or reserved; only machines on demand follow the hours.

Wins: says what is paid, before it is paid. Loses: within an hour requests are taken as even (`busy` leaves room for
what is not), tokens as their means, a cached token as free, and machines on demand as there at once.
Sources: Barroso, Hoelzle & Ranganathan 2018, "The Datacenter as a Computer", chapter 6 (price, years, power);
Kwon et al. 2023, section 2 (batching, and the waits that it costs).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tinyinfer.errors import SwitchError
from tinyinfer.units import number

HOURS, SECONDS, MILLION = 24, 3600.0, 1e6
DAYS_A_YEAR = 365.25
FLAT = (1.0,) * HOURS
OFFICE = (*(1.0,) * 7, 2.0, 5.0, 8.0, 9.0, 9.0, 7.0, 8.0, 9.0, 9.0, 8.0, 6.0, 4.0, 3.0, 3.0, 2.0, 2.0, 1.0)
DAYS = {"flat": FLAT, "office": OFFICE}


@dataclass(frozen=True)
class Price:
    """What a GPU costs for each hour, used or not. by_hour: it is paid only in the hours that need it."""

    per_hour: float
    currency: str = "USD"
    by_hour: bool = True


def owned(price: float, years: float, watts: float, power_price: float, currency: str = "USD") -> Price:
    """A GPU that is bought: its price over its years, and its power all the time. power_price: of 1000 Wh.

    Three years of 8766 hours for 26298, and 500 W at 0.40:

    >>> owned(26298, 3, 500, 0.40)
    Price(per_hour=1.2, currency='USD', by_hour=False)
    """
    return Price(price / (years * DAYS_A_YEAR * HOURS) + watts / 1000 * power_price, currency, by_hour=False)


@dataclass(frozen=True)
class Tokens:
    """A request's tokens, each a mean. cached: the part of the input that a prefix cache has; thinking: unseen output.

    >>> asked = Tokens(input=1000, cached=400, output=200, thinking=100)
    >>> asked.computed, asked.written
    (600, 300)
    """

    input: float
    output: float
    cached: float = 0
    thinking: float = 0

    @property
    def computed(self) -> float:
        """Input that is computed, and paid in full."""
        return self.input - self.cached

    @property
    def written(self) -> float:
        """All that is generated, and paid: thinking is not shown, and costs as much."""
        return self.output + self.thinking


@dataclass(frozen=True)
class Speed:
    """What a machine does in a second: of prefill alone, of decode alone. Latencies are seconds, None if not known.

    units: how many GPUs are priced together as one machine. name: what was done, such as 16 at a time. on_paper: it
    was predicted, and nothing was run.
    """

    input_tps: float
    output_tps: float
    ttft_s: float | None = None
    tpot_s: float | None = None
    units: int = 1
    name: str = "as given"
    on_paper: bool = False

    def seconds(self, tokens: Tokens) -> tuple[float, float]:
        """A machine's seconds for the prefill and for the decode of a request.

        >>> Speed(input_tps=2000, output_tps=100).seconds(Tokens(input=1000, output=50))
        (0.5, 0.5)
        """
        return tokens.computed / self.input_tps, tokens.written / self.output_tps


def best_within(speeds: Iterable[Speed], tokens: Tokens, ttft_s: float | None, tpot_s: float | None) -> Speed:
    """The speed that makes such a request cheapest, of those within the objective. Raises SwitchError if there is none.

    A latency that is not known keeps no promise.

    >>> slow, fast = Speed(2000, 400, tpot_s=0.1, name="16"), Speed(2000, 100, tpot_s=0.02, name="1")
    >>> asked = Tokens(1000, 50)
    >>> best_within([slow, fast], asked, None, None).name, best_within([slow, fast], asked, None, 0.05).name
    ('16', '1')
    """
    speeds = list(speeds)
    for field, most in (("ttft", ttft_s), ("tpot", tpot_s)):
        least = min((found for one in speeds if (found := getattr(one, f"{field}_s")) is not None), default=None)
        if most is not None and (least is None or least > most):
            known = "nothing was measured of it" if least is None else f"the best it does is {number(least, 1e3)} ms"
            reason, cure = "{field} {value} ms: the machine never keeps that; {known}", "ask for less, or add speeds"
            raise SwitchError(field, number(most, 1e3), reason, cure, known=known)
    kept = [one for one in speeds if within(one.ttft_s, ttft_s) and within(one.tpot_s, tpot_s)]
    if not kept:
        near = min(speeds, key=lambda one: (one.tpot_s or math.inf, one.ttft_s or math.inf))
        did = f"{number(near.ttft_s or 0.0, 1e3)} ms to the first token, {number(near.tpot_s or 0.0, 1e3)} ms a token"
        reason = "{field} {value} ms and {ttft}: the machine never keeps both; the best it does is {did}"
        raise SwitchError("tpot", number(tpot_s or 0.0, 1e3), reason, "ask for less", did=did)
    return min(kept, key=lambda one: one.units * sum(one.seconds(tokens)))


def within(found: float | None, most: float | None) -> bool:
    """Whether a latency is at most what is asked for; anything is where nothing is asked."""
    return most is None or (found is not None and found <= most)


def shares(weights: Iterable[float]) -> tuple[float, ...]:
    """A day's weights as shares of it. Raises ValueError for anything but 24 weights of at least 0, one of them more.

    >>> shares(FLAT)[0] * 24
    1.0
    """
    found = tuple(weights)
    if len(found) != HOURS:
        raise ValueError(f"a day has 24 hourly weights, and {len(found)} are given; give one for each hour")
    if not all(0 <= weight < math.inf for weight in found) or not 0 < sum(found) < math.inf:
        raise ValueError("the weights of a day must be numbers of at least 0, and one of them more; correct them")
    return tuple(weight / sum(found) for weight in found)


@dataclass(frozen=True)
class Service:
    """A service on one's own machines: their price and speed, what is asked of them, and who looks after them.

    day: shares of a day's requests by hour. spare: machines for failures, paid in every hour. people: money a day.
    busy: the share of a machine's time that work may take in an hour; the rest is room for what comes unevenly.
    """

    price: Price
    speed: Speed
    tokens: Tokens
    day: tuple[float, ...] = shares(FLAT)
    spare: int = 0
    people: float = 0.0
    busy: float = 1.0

    @property
    def machine_hour(self) -> float:
        """The money for a machine and an hour."""
        return self.price.per_hour * self.speed.units

    @property
    def capacity(self) -> float:
        """Requests that a machine takes in an hour.

        >>> Service(Price(2.0), Speed(2000, 100), Tokens(1000, 50)).capacity
        3600.0
        """
        return self.busy * SECONDS / sum(self.speed.seconds(self.tokens))


def machines(service: Service, requests: float) -> list[int]:
    """How many machines are paid in each hour of a day with so many requests: whole ones, at least one, and the spare.

    >>> from dataclasses import replace
    >>> evening = shares([0.0] * 22 + [1.0, 3.0])  # a machine takes 3600 requests an hour
    >>> rented = Service(Price(2.0), Speed(2000, 100), Tokens(1000, 50), evening)
    >>> machines(rented, 10_000)[20:], machines(replace(rented, price=owned(1e5, 3, 0, 0)), 10_000)[20:]
    ([1, 1, 1, 3], [3, 3, 3, 3])
    """
    needed = [max(1, math.ceil(requests * share / service.capacity - 1e-9)) for share in service.day]
    if not service.price.by_hour:
        needed = [max(needed)] * HOURS
    return [count + service.spare for count in needed]


def cost_a_day(service: Service, requests: float) -> float:
    """The money for a day: every machine that is on, and people. Without a request, too.

    >>> cost_a_day(Service(Price(2.0), Speed(2000, 100), Tokens(1000, 50), people=10.0), 0)
    58.0
    """
    return sum(machines(service, requests)) * service.machine_hour + service.people


def utilization(service: Service, requests: float) -> list[float]:
    """For each hour, the share of the paid machines' time that is work.

    >>> utilization(Service(Price(2.0), Speed(2000, 100), Tokens(1000, 50)), 24 * 1800)[0]
    0.5
    """
    work = sum(service.speed.seconds(service.tokens))
    paid = machines(service, requests)
    return [requests * share * work / (count * SECONDS) for share, count in zip(service.day, paid, strict=True)]


def cost_per_million(service: Service, requests: float) -> tuple[float | None, float | None]:
    """The money for a million computed input tokens, and for a million generated ones; None where there are none.

    The day's money is divided by the seconds of the two phases. 43,200 requests keep a machine of 48 a day half busy;
    each has 1000 tokens in half a second, and 50 in the other half:

    >>> [round(one, 6) for one in cost_per_million(Service(Price(2.0), Speed(2000, 100), Tokens(1000, 50)), 43_200)]
    [0.555556, 11.111111]
    """
    money, (prefill, decode) = cost_a_day(service, requests), service.speed.seconds(service.tokens)

    def million(seconds: float, tokens: float) -> float | None:
        return money * seconds / (prefill + decode) / (requests * tokens) * MILLION if requests * tokens else None

    return million(prefill, service.tokens.computed), million(decode, service.tokens.written)


def people_a_day(hours_a_month: float, wage: float) -> float:
    """The money for people and a day, of which a month has 30.4375.

    >>> round(people_a_day(20, 60.875), 6)
    40.0
    """
    return hours_a_month * wage * 12 / DAYS_A_YEAR
