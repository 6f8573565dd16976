"""A week whose weekends differ from its other days: machines that are paid all the time wait in them.

cost.py and break_even.py count the hours of a day. A week is a longer day: 168 hours, Monday first, each with its share
of the week's requests. Machines on demand follow these hours, and an hour's price is divided by 7, so that the sum is
the money of the mean day. A fleet that is paid around the clock is as large as the busiest hour of the week needs, and
its money is the same every day.

Wins: the same formulas for both. Loses: a week is all that repeats; holidays and seasons are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tinyinfer.measure.api_bill import Api
from tinyinfer.measure.break_even import Bar, Range, Region, break_even, tornado
from tinyinfer.measure.cost import Service, cost_a_day, machines

WEEKDAYS, WEEKEND = 5, 2


def days(weekend: float) -> int:
    """After how many days the hours repeat. weekend: requests of a Saturday or Sunday, over those of another day."""
    return 1 if weekend == 1 else WEEKDAYS + WEEKEND


def repeating(service: Service, weekend: float) -> Service:
    """The service over `days(weekend)` days: the shares of its hours, and money that comes to that of a mean day.

    >>> from tinyinfer.measure.cost import Price, Speed, Tokens
    >>> week = repeating(Service(Price(7.0), Speed(2000, 100), Tokens(1000, 50)), 0.5)
    >>> len(week.day), round(24 * week.day[0], 6), round(24 * week.day[-1], 6), week.price.per_hour
    (168, 0.166667, 0.083333, 1.0)
    """
    if weekend == 1:
        return service
    of_days = (1.0,) * WEEKDAYS + (weekend,) * WEEKEND
    shares = tuple(share * one / sum(of_days) for one in of_days for share in service.day)
    price = service.price
    if price.by_hour:
        price = replace(price, per_hour=price.per_hour / len(of_days))
    return replace(service, day=shares, price=price)


def money_a_day(service: Service, requests: float, weekend: float = 1.0) -> float:
    """The money of a mean day with so many requests on the mean.

    A machine takes 3600 requests an hour. 120,000 on a weekday and none on a weekend fill two machines for 5 days, and
    leave one for 2: (5 x 48 + 2 x 24) hours of 2.00, over 7 days.

    >>> from tinyinfer.measure.cost import Price, Speed, Tokens
    >>> mine = Service(Price(2.0), Speed(2000, 100), Tokens(1000, 50))
    >>> round(money_a_day(mine, 5 * 120_000 / 7, weekend=0), 4), round((5 * 48 + 2 * 24) * 2 / 7, 4)
    (82.2857, 82.2857)
    """
    return cost_a_day(repeating(service, weekend), days(weekend) * requests)


def machines_by_hour(service: Service, requests: float, weekend: float = 1.0) -> list[int]:
    """The machines that are paid in each hour that repeats: 24 of them, or 168 from Monday on."""
    repeated = repeating(service, weekend)
    paid = machines(repeated, days(weekend) * requests)
    return paid if service.price.by_hour else paid[:1] * len(repeated.day)


def utilization_by_hour(service: Service, requests: float, weekend: float = 1.0) -> list[float]:
    """For each of these hours, the share of the paid machines' time that is work."""
    shares, paid = repeating(service, weekend).day, machines_by_hour(service, requests, weekend)
    work = days(weekend) * requests * service.busy / service.capacity  # machine hours of all these requests
    return [work * share / count for share, count in zip(shares, paid, strict=True)]


# Beside an API.


def a_day_of(api: Api, weekend: float) -> Api:
    """The API at prices for which the requests of all days that repeat cost what a mean day costs."""
    n = days(weekend)
    return replace(api, input=api.input / n, cached_input=api.cached_input / n, output=api.output / n)


def meeting(service: Service, api: Api, weekend: float = 1.0) -> Region | None:
    """The break-even, in requests of a mean day; None where the machines never stay cheaper."""
    found = break_even(repeating(service, weekend), a_day_of(api, weekend))
    return found and Region(found.first / days(weekend), found.last / days(weekend))


def movers(service: Service, api: Api, ranges: Mapping[str, Range], weekend: float = 1.0) -> list[Bar]:
    """What moves the break-even, in requests of a mean day; the most moving input first."""
    n = days(weekend)
    bars = tornado(repeating(service, weekend), a_day_of(api, weekend), ranges)
    return [replace(bar, low=over(bar.low, n), high=over(bar.high, n)) for bar in bars]


def over(end: float | None, n: int) -> float | None:
    """An end of a region over so many days; None stays None."""
    return None if end is None else end / n
