"""A week with a quiet weekend: the money of a mean day, by hand and beside seven days that are summed one by one."""

from __future__ import annotations

import doctest
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyinfer.measure import cost_week
from tinyinfer.measure.api_bill import Api, bill
from tinyinfer.measure.break_even import break_even, tornado
from tinyinfer.measure.cost import OFFICE, Price, Service, Speed, Tokens, cost_a_day, machines, shares, utilization
from tinyinfer.measure.cost_week import machines_by_hour, meeting, money_a_day, movers, utilization_by_hour

RENTED = Service(Price(2.0), Speed(2000, 100), Tokens(1000, 50), shares(OFFICE), spare=1, people=7.0, busy=0.7)
BOUGHT = replace(RENTED, price=Price(2.0, by_hour=False))
API = Api("a", date(2026, 11, 1), "invented", "USD", input=0.5, cached_input=0.5, output=10.0)
REQUESTS, WEEKENDS = st.floats(0.0, 1e6), st.floats(0.0, 3.0)


def test_the_examples_of_the_module():
    """A week by hand."""
    assert doctest.testmod(cost_week) == (0, 6)


def test_a_fleet_that_is_bought_waits_on_weekends_and_is_paid():
    """By hand: a machine takes 2520 requests an hour. 120,960 on a weekday, flat, fill two, which stand there on the
    weekend, too: 48 hours of 2.00 a day. On demand one is left for the weekend: (5 x 48 + 2 x 24) x 2.00 / 7.
    """
    flat = {"day": shares([1.0] * 24), "spare": 0, "people": 0.0}
    mean = 5 * 120_960 / 7
    assert money_a_day(replace(BOUGHT, **flat), mean, weekend=0) == pytest.approx(96.0)
    assert money_a_day(replace(RENTED, **flat), mean, weekend=0) == pytest.approx((5 * 48 + 2 * 24) * 2 / 7)


@given(REQUESTS, WEEKENDS)
def test_a_mean_day_is_a_seventh_of_seven_days(requests, weekend):
    """On demand each day is paid for itself; a bought fleet is as large as the busier kind of day needs. Catches a
    weekend that is averaged away: its quiet hours keep at least one machine.
    """
    weekday = 7 * requests / (5 + 2 * weekend)
    seven = 5 * cost_a_day(RENTED, weekday) + 2 * cost_a_day(RENTED, weekend * weekday)
    assert money_a_day(RENTED, requests, weekend) == pytest.approx(seven / 7)
    busier = cost_a_day(BOUGHT, max(1.0, weekend) * weekday)
    assert money_a_day(BOUGHT, requests, weekend) == pytest.approx(busier)


@given(REQUESTS)
def test_a_weekend_like_any_day_changes_nothing(requests):
    """Money, hours and break-even are those of a day. Catches a factor that is left over."""
    assert money_a_day(RENTED, requests) == cost_a_day(RENTED, requests)
    for service in (RENTED, BOUGHT):
        assert machines_by_hour(service, requests) == machines(service, requests)
        assert utilization_by_hour(service, requests) == pytest.approx(utilization(service, requests))
    assert meeting(RENTED, API) == break_even(RENTED, API)
    assert movers(RENTED, API, {}) == tornado(RENTED, API, {})


@pytest.mark.parametrize("service", [RENTED, replace(BOUGHT, price=Price(0.5, by_hour=False))])
@pytest.mark.parametrize("weekend", [0.0, 0.3, 1.5])
def test_at_the_break_even_both_sides_cost_the_same(service, weekend):
    """Of a mean day, and beyond it the machines stay cheaper. Catches an API that is billed for a week."""
    region, each = meeting(service, API, weekend), bill(API, service.tokens)
    assert region is not None
    for requests in (region.first, region.last):
        assert money_a_day(service, requests, weekend) == pytest.approx(each * requests)
    for factor in (1.01, 2.0, 10.0):
        assert money_a_day(service, factor * region.last, weekend) < each * factor * region.last
    assert money_a_day(service, 0.99 * region.first, weekend) > each * 0.99 * region.first


def test_a_quiet_weekend_moves_the_break_even_of_a_bought_fleet_up():
    """The peak sizes it, and the mean pays the API. Catches a break-even that does not know of the weekend."""
    cheap = replace(BOUGHT, price=Price(0.5, by_hour=False))
    assert meeting(cheap, API, 0.0).last > meeting(cheap, API).last
