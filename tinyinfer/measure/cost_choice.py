"""Which of several set-ups to run: the one whose day costs least at the load that there is.

A set-up is a speed: so many GPUs as one machine, so many sequences at a time. In hours that fill every machine, the one
with the cheapest request wins. A small load fills none: machines are whole, one of them is spare, and two small ones
cost less than two large ones, whatever a request would cost on them when they are full. So for each load the money of
the whole day decides; of set-ups that cost the same, the one that answers soonest is taken.

The break-even asks about another load than today's, and there another set-up may be the cheapest. So it is that of the
set-up with which machines stay cheaper than the API from the fewest requests on.

Wins: no set-up within the objective is cheaper a day. Loses: one set-up is taken for all hours of the day.
Source: Barroso, Hoelzle & Ranganathan 2018, "The Datacenter as a Computer", chapter 6 (the cost of what waits).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tinyinfer.measure.api_bill import Api
from tinyinfer.measure.cost import Service, Speed, best_within, within
from tinyinfer.measure.cost_week import meeting, money_a_day

SAME = 1e-9  # a relative difference of money that is rounding


@dataclass(frozen=True)
class Choice:
    """chosen: its day costs least. full: a request costs least where all machines are full. kept: all of the objective.

    equal: how many cost the same a day as the chosen one, itself among them.
    """

    chosen: Service
    full: Service
    kept: list[Service]
    equal: int


def choose(
    service: Service, speeds: Iterable[Speed], requests: float, limits: tuple[float | None, float | None],
    weekend: float = 1.0,
) -> Choice:  # fmt: skip
    """The choice among speeds for so many requests on a mean day; the speed of `service` itself does not count.

    limits: the most seconds to the first token and for each further one. Raises SwitchError where none keeps them.

    Two machines of one GPU and of four, each with a spare one; 1000 requests are little for both, a million fill ten:

    >>> from tinyinfer.measure.cost import Price, Tokens
    >>> small, large = Speed(2000, 100, name="1 GPU"), Speed(20000, 1000, units=4, name="4 GPUs")
    >>> asked = Service(Price(2.0), small, Tokens(1000, 50), spare=1)
    >>> [choose(asked, [small, large], n, (None, None)).chosen.speed.name for n in (1e3, 1e6)]
    ['1 GPU', '4 GPUs']
    """
    speeds = list(speeds)
    full = best_within(speeds, service.tokens, *limits)
    kept = [replace(service, speed=one) for one in speeds
            if within(one.ttft_s, limits[0]) and within(one.tpot_s, limits[1])]  # fmt: skip
    costs = [money_a_day(one, requests, weekend) for one in kept]
    least = min(costs) * (1 + SAME)
    cheapest = [one for one, cost in zip(kept, costs, strict=True) if cost <= least]
    return Choice(min(cheapest, key=answer_seconds), replace(service, speed=full), kept, len(cheapest))


def answer_seconds(service: Service) -> float:
    """Seconds from a request to the end of its answer; without end where no latency is known."""
    ttft, tpot = service.speed.ttft_s, service.speed.tpot_s
    return math.inf if ttft is None or tpot is None else ttft + max(0.0, service.tokens.written - 1) * tpot


def first_to_pay(services: Iterable[Service], api: Api, weekend: float = 1.0) -> Service:
    """The service that stays cheaper than the API from the fewest requests on; if none does, the cheapest when full."""
    best: dict[int, Service] = {}  # of as many GPUs, the one that takes most requests costs least at every load
    for one in services:
        if one.speed.units not in best or one.capacity > best[one.speed.units].capacity:
            best[one.speed.units] = one

    def begins(one: Service) -> tuple[float, float]:
        region = meeting(one, api, weekend)
        return (region.last if region else math.inf), one.machine_hour / one.capacity

    return min(best.values(), key=begins)
