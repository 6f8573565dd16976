"""The money for machines: whole ones, paid whether they work or not, so that utilization divides."""

from __future__ import annotations

import doctest
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyinfer.measure import cost
from tinyinfer.measure.cost import (
    OFFICE,
    Price,
    Service,
    Speed,
    Tokens,
    best_within,
    cost_a_day,
    cost_per_million,
    machines,
    owned,
    shares,
    utilization,
)

RENTED = Service(Price(2.0), Speed(2000, 100), Tokens(1000, 50))  # 3600 requests an hour
ASKED = Tokens(1000, 50)
FOUND = st.floats(1.0, 1e4)


def test_the_examples_of_the_module():
    """The hand-worked ones; every function that computes money has one."""
    found = doctest.testmod(cost)
    assert found.failed == 0
    assert found.attempted >= 15


def test_half_the_utilization_doubles_the_cost_of_a_token():
    """Catches a calculator that multiplies by utilization: there an idle machine is a cheap one."""
    full, half = 80_000, 40_000
    assert machines(RENTED, full) == machines(RENTED, half) == [1] * 24
    assert utilization(RENTED, half)[0] == pytest.approx(utilization(RENTED, full)[0] / 2)
    for dear, cheap in zip(cost_per_million(RENTED, half), cost_per_million(RENTED, full), strict=True):
        assert dear == pytest.approx(2 * cheap)


def test_no_request_costs_the_machine_and_its_spare():
    """Catches a cost that goes to zero with the traffic: the machine waits, and is paid."""
    spare = replace(RENTED, spare=1, people=7.0)
    assert cost_a_day(spare, 0) == 2 * 24 * 2.0 + 7.0
    assert cost_per_million(spare, 0) == (None, None)
    assert utilization(spare, 0) == [0.0] * 24


def test_the_peak_sizes_a_fleet_that_is_paid_around_the_clock_and_not_the_mean():
    """10,000 requests are an eighth of a machine on the mean, and 2.8 machines in the only hour in which they come."""
    evening = shares([0.0] * 23 + [1.0])
    reserved = replace(RENTED, day=evening, price=Price(2.0, by_hour=False))
    assert machines(reserved, 10_000) == [3] * 24
    assert machines(replace(RENTED, day=evening), 10_000) == [1] * 23 + [3]


def test_the_machines_of_an_hour_are_whole():
    """One request beyond what a machine takes needs the second machine, and costs as much as all before it."""
    flat = 24 * 3600
    assert machines(RENTED, flat) == [1] * 24
    assert machines(RENTED, flat + 24) == [2] * 24
    assert cost_a_day(RENTED, flat + 24) == 2 * cost_a_day(RENTED, flat)


@given(st.floats(0.0, 1e6), FOUND, FOUND)
def test_the_cost_rises_with_the_price_and_falls_with_the_speed(requests, one, other):
    """Whatever the load. Catches a division that is upside down, and rounding that makes a faster machine dearer."""
    low, high = sorted((one, other))

    def at(price: float, speed: float) -> float:
        own = Service(Price(price), Speed(20 * speed, speed), ASKED, shares(OFFICE), busy=0.7)
        return cost_a_day(own, requests)

    assert at(low, 100) <= at(high, 100)
    assert at(1.0, low) >= at(1.0, high)


@given(st.floats(1.0, 1e6), FOUND, FOUND, FOUND, FOUND)
def test_what_all_tokens_pay_is_the_money_of_the_day(requests, input_tps, output_tps, inputs, outputs):
    """Catches seconds that are given to neither phase, or to both."""
    own = Service(Price(2.0), Speed(input_tps, output_tps), Tokens(inputs, outputs), people=5.0)
    of_input, of_output = cost_per_million(own, requests)
    assert requests * (inputs * of_input + outputs * of_output) / 1e6 == pytest.approx(cost_a_day(own, requests))


def test_cached_input_takes_no_time_and_thinking_takes_as_much_as_an_answer():
    """Catches thinking tokens left out, and a prefix that is computed although it is there."""
    speed = Speed(2000, 100)
    assert speed.seconds(Tokens(1000, 50, cached=1000)) == (0.0, 0.5)
    assert speed.seconds(Tokens(1000, 50, thinking=50)) == (0.5, 1.0)


def test_a_machine_of_several_gpus_costs_all_of_them():
    """The price is of one GPU there."""
    assert cost_a_day(replace(RENTED, speed=Speed(2000, 100, units=8)), 0) == 8 * 24 * 2.0


def test_the_cheapest_of_those_that_keep_the_objective():
    """The largest batch is cheapest, and may be too slow. Catches throughput that is quoted without its latency."""
    one, many = Speed(2000, 100, 0.5, 0.01, name="1"), Speed(2000, 800, 4.0, 0.05, name="64")
    assert best_within([one, many], ASKED, None, None) is many
    assert best_within([one, many], ASKED, 1.0, None) is one
    assert best_within([one, many], ASKED, None, 0.05) is many


@pytest.mark.parametrize(
    ("ttft", "tpot", "best"),
    [(0.1, None, "ttft 100 ms: the machine never keeps that; the best it does is 500 ms"),
     (None, 0.001, "tpot 1 ms: the machine never keeps that; the best it does is 10 ms"),
     (1.0, 0.01, "never keeps both; the best it does is 4000 ms to the first token, 10 ms a token")],
)  # fmt: skip
def test_an_objective_that_is_never_kept_says_the_best_there_is(ttft, tpot, best):
    """A user then knows how much to ask for."""
    with pytest.raises(ValueError, match=best):
        best_within([Speed(2000, 100, 4.0, 0.01), Speed(2000, 100, 0.5, 0.05)], ASKED, ttft, tpot)


def test_a_latency_that_no_one_has_measured_keeps_no_promise():
    """Catches None that counts as zero."""
    with pytest.raises(ValueError, match="nothing was measured of it"):
        best_within([Speed(2000, 100)], ASKED, None, 1.0)


@pytest.mark.parametrize("weights", [[1.0] * 23, [1.0] * 25, [0.0] * 24, [-1.0] + [2.0] * 23, [float("nan")] * 24])
def test_a_day_that_is_none_is_refused(weights):
    """A sum of zero would divide by it, a negative hour send requests back."""
    with pytest.raises(ValueError, match=r"24|at least 0"):
        shares(weights)


def test_power_is_paid_all_the_time():
    """Price over years and power apart: 1000 W at 0.5 is half a unit an hour."""
    assert owned(0, 3, 1000, 0.5).per_hour == 0.5
    assert owned(8766, 1, 0, 0.5).per_hour == 1.0
