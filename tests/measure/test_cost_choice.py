"""The set-up for a load: none within the objective is cheaper a day, and full hours decide where all hours are full."""

from __future__ import annotations

import doctest
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyinfer.measure import cost_choice
from tinyinfer.measure.api_bill import Api, bill
from tinyinfer.measure.break_even import full_cost
from tinyinfer.measure.cost import OFFICE, Price, Service, Speed, Tokens, best_within, shares, within
from tinyinfer.measure.cost_choice import choose, first_to_pay
from tinyinfer.measure.cost_week import meeting, money_a_day

API = Api("a", date(2026, 11, 1), "invented", "USD", input=0.5, cached_input=0.5, output=10.0)
SPEED = st.builds(Speed, st.floats(500.0, 50_000.0), st.floats(20.0, 5_000.0), st.floats(0.05, 2.0),
                  st.floats(0.005, 0.2), st.sampled_from([1, 2, 4, 8, 16]))  # fmt: skip
SPEEDS = st.lists(SPEED, min_size=1, max_size=12)
PRICES = st.builds(Price, st.floats(0.1, 20.0), by_hour=st.booleans())
WEEKENDS = st.sampled_from([0.0, 0.3, 1.0])


def service_of(price: Price, spare: int = 1) -> Service:
    """A service whose own speed is none of those that are chosen from."""
    return Service(price, Speed(1, 1), Tokens(1000, 50), shares(OFFICE), spare, people=30.0, busy=0.7)


def test_the_examples_of_the_module():
    """A load for one GPU, and one for four."""
    assert doctest.testmod(cost_choice) == (0, 4)


@given(SPEEDS, PRICES, st.floats(0.0, 1e7), st.integers(0, 2), WEEKENDS, st.sampled_from([None, 0.05, 0.1]))
def test_no_other_set_up_within_the_objective_is_cheaper_a_day(speeds, price, requests, spare, weekend, tpot_s):
    """Whatever the load. Catches the cheapest of full hours where no hour is full: eight GPUs, and four would do."""
    if all(one.tpot_s > (tpot_s or 1.0) for one in speeds):
        return  # there is nothing to choose from, as a test below holds
    service = service_of(price, spare)
    found = choose(service, speeds, requests, (None, tpot_s), weekend)
    mine = money_a_day(found.chosen, requests, weekend)
    kept = [replace(service, speed=one) for one in speeds if within(one.tpot_s, tpot_s)]
    assert found.chosen in kept
    assert found.kept == kept
    costs = [money_a_day(one, requests, weekend) for one in kept]
    assert mine <= min(costs) * (1 + 1e-8)
    alike = [one for one, cost in zip(kept, costs, strict=True) if cost == mine]
    assert found.chosen.capacity >= 0.9 * max(one.capacity for one in alike)


@given(SPEEDS, PRICES, WEEKENDS)
def test_a_very_large_load_takes_the_cheapest_of_full_hours(speeds, price, weekend):
    """There whole machines and the spare one are next to nothing. Catches a choice that never leaves small machines."""
    found = choose(service_of(price), speeds, 1e12, (None, None), weekend)
    assert found.full.speed == best_within(speeds, found.full.tokens, None, None)
    assert full_cost(found.chosen) <= full_cost(found.full) * 1.001


def test_an_objective_that_no_set_up_keeps_is_refused():
    """With the best there is, as `best_within` says it. Catches a set-up that is cheap and too slow."""
    with pytest.raises(ValueError, match="tpot 5 ms: the machine never keeps that; the best it does is 20 ms"):
        choose(service_of(Price(1.0)), [Speed(2000, 100, 0.1, 0.02)], 10, (None, 0.005))


def test_a_load_takes_no_more_gpus_than_there_are_if_another_set_up_does():
    """In the one busy hour of a day 15 small machines and a spare one, or 2 large ones and a spare one of 4 GPUs each.
    Catches a plan that is cheapest and cannot run, beside one that can.
    """
    small, large = Speed(2000, 100, name="16 GPUs"), Speed(16_000, 800, units=4, name="12 GPUs")
    evening = shares([0.0] * 23 + [1.0])
    service = Service(Price(1.0), small, Tokens(1000, 50), evening, spare=1)
    names = [choose(service, [small, large], 15 * 3600, (None, None), gpus=gpus).chosen.speed.name
             for gpus in (None, 16, 15, 12, 11)]  # fmt: skip
    assert names == ["16 GPUs", "16 GPUs", "12 GPUs", "12 GPUs", "16 GPUs"]  # none does with 11


def test_the_region_begins_where_the_first_of_all_set_ups_is_cheaper():
    """The small one is cheaper from 80,000 on, up to 86,400 and so on, and the large one stays so from 160,000 on.
    Catches "break-even: 160,000", and cheaper machines below that.
    """
    small, large = Service(Price(2.0), Speed(2000, 100), Tokens(1000, 50)), Speed(8000, 400, units=2)
    api = replace(API, input=0.3, output=6.0)
    chosen, region = first_to_pay([small, replace(small, speed=large)], api)
    assert chosen.speed == large
    assert region is not None
    assert (region.first, region.last) == (pytest.approx(80_000), pytest.approx(160_000))


def test_equal_costs_take_the_set_up_with_most_room():
    """Of those with nearly as much, the one that answers soonest; a latency that is not known is the last choice.
    Catches one sequence at a time, behind which a second one waits.
    """
    soon, late = Speed(2000, 100, 0.1, 0.01, name="soon"), Speed(9000, 900, 0.5, 0.1, name="late")
    silent = Speed(9000, 900, name="silent")
    for order in ([soon, late, silent], [silent, late, soon]):
        found = choose(service_of(Price(1.0)), order, 100, (None, None))
        assert (found.chosen.speed.name, found.equal) == ("late", 3)


@given(SPEEDS, PRICES, WEEKENDS, st.floats(1.0, 1e8))
def test_from_the_first_break_even_on_the_choice_is_cheaper_than_the_api(speeds, price, weekend, requests):
    """And no set-up stays cheaper from fewer requests on. Catches a break-even of the set-up for a small load."""
    kept = [replace(service_of(price), speed=one) for one in speeds]
    _, region = first_to_pay(kept, API, weekend)
    others = [found for one in kept if (found := meeting(one, API, weekend))]
    assert (region is None) == (not others)
    if region is not None:
        assert region.last <= min(one.last for one in others) * (1 + 1e-9)
        if requests < 0.999999 * region.first:
            chosen = choose(kept[0], speeds, requests, (None, None), weekend).chosen
            assert money_a_day(chosen, requests, weekend) > bill(API, chosen.tokens) * requests
        if requests > 1.000001 * region.last:
            chosen = choose(kept[0], speeds, requests, (None, None), weekend).chosen
            assert money_a_day(chosen, requests, weekend) < bill(API, chosen.tokens) * requests
