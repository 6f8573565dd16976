"""Which of several set-ups to run: the one whose day costs least at the load that there is.

A set-up is a speed: so many GPUs as one machine, so many sequences at a time. In hours that fill every machine, the one
with the cheapest request wins. A small load fills none: machines are whole, one of them is spare, and two small ones
cost less than two large ones, whatever a request would cost on them when they are full. So for each load the money of
the whole day decides. Of set-ups that cost the same, one is taken that takes most requests, or nearly: its sequences at
a time are the most there may be, and where few requests come few are together. Of these, the one that answers soonest.

The break-even asks about another load than today's, and there another set-up may be the cheapest. So its end is that of
the set-up with which machines stay cheaper than the API from the fewest requests on, and it begins where the first of
all set-ups is cheaper.

Wins: no set-up within the objective is cheaper a day. Loses: one set-up is taken for all hours of the day.
Source: Barroso, Hoelzle & Ranganathan 2018, "The Datacenter as a Computer", chapter 6 (the cost of what waits).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tinyinfer.measure.api_bill import Api
from tinyinfer.measure.break_even import Region
from tinyinfer.measure.cost import Service, Speed, best_within, within
from tinyinfer.measure.cost_week import machines_by_hour, meeting, money_a_day

SAME = 1e-9  # a relative difference of money that is rounding
NEARLY = 0.9  # of the most requests


@dataclass(frozen=True)
class Choice:
    """chosen: its day costs least. full: a request costs least where all machines are full. kept: all of the objective.

    equal: how many cost the same a day as the chosen one, itself among them. limited: whether there was an objective.
    """

    chosen: Service
    full: Service
    kept: list[Service]
    equal: int
    limited: bool = False


def choose(
    service: Service, speeds: Iterable[Speed], requests: float, limits: tuple[float | None, float | None],
    weekend: float = 1.0, gpus: int | None = None,
) -> Choice:  # fmt: skip
    """The choice among speeds for so many requests on a mean day; the speed of `service` itself does not count.

    limits: the most seconds to the first token and for each further one. gpus: how many there are, None: as many as are
    needed; where none of the set-ups does with them, all count. Raises SwitchError where none keeps the limits.

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
    fitting = [one for one in kept if gpus is None or most_gpus(one, requests, weekend) <= gpus] or kept
    costs = [money_a_day(one, requests, weekend) for one in fitting]
    least = min(costs) * (1 + SAME)
    cheapest = [one for one, cost in zip(fitting, costs, strict=True) if cost <= least]
    room = max(one.capacity for one in cheapest)
    chosen = min((one for one in cheapest if one.capacity >= NEARLY * room), key=answer_seconds)
    return Choice(chosen, replace(service, speed=full), kept, len(cheapest), limits != (None, None))


def most_gpus(service: Service, requests: float, weekend: float) -> int:
    """The GPUs of the busiest hour."""
    return max(machines_by_hour(service, requests, weekend)) * service.speed.units


def answer_seconds(service: Service) -> float:
    """Seconds from a request to the end of its answer; without end where no latency is known."""
    ttft, tpot = service.speed.ttft_s, service.speed.tpot_s
    return math.inf if ttft is None or tpot is None else ttft + max(0.0, service.tokens.written - 1) * tpot


def first_to_pay(
    services: Iterable[Service], api: Api, weekend: float = 1.0
) -> tuple[Service, Region | None]:
    """The service that stays cheaper than the API from the fewest requests on, and the region up to there; if none
    does, the cheapest when full, and None. The region begins where the first of all services is cheaper.
    """
    best: dict[int, Service] = {}  # of as many GPUs, the one that takes most requests costs least at every load
    for one in services:
        if one.speed.units not in best or one.capacity > best[one.speed.units].capacity:
            best[one.speed.units] = one
    found = [(one, meeting(one, api, weekend)) for one in best.values()]

    def begins(one: tuple[Service, Region | None]) -> tuple[float, float]:
        service, region = one
        return (region.last if region else math.inf), service.machine_hour / service.capacity

    chosen, region = min(found, key=begins)
    return chosen, region and Region(min(one.first for _, one in found if one), region.last)
