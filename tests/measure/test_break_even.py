"""The region in which a staircase and a line meet, and what moves it."""

from __future__ import annotations

import doctest
import math
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinyinfer.measure import break_even as module
from tinyinfer.measure.api_bill import Api, bill
from tinyinfer.measure.break_even import MOST_MACHINES, Bar, Region, break_even, doubtful, full_cost, tornado
from tinyinfer.measure.cost import FLAT, OFFICE, Price, Service, Speed, Tokens, cost_a_day, machines, shares

API = Api("a", date(2026, 11, 1), "invented", "USD", input=0.5, cached_input=0.25, output=10.0)
MINE = Service(Price(2.0), Speed(2000, 100), Tokens(1000, 50), people=10.0)


def test_the_examples_of_the_module():
    """The region that two whole machines make, by hand."""
    found = doctest.testmod(module)
    assert (found.failed, found.attempted >= 5) == (0, True)


@example(price=2.0, output=10.0, by_hour=True, office=False, spare=0, busy=1.0, people=10.0)
@example(price=0.01, output=10.0, by_hour=True, office=False, spare=1, busy=0.7, people=1e6)  # far, and there
@example(price=5.0, output=10.0, by_hour=True, office=False, spare=1, busy=0.7, people=10.0)  # never
@given(price=st.floats(0.01, 10.0), output=st.floats(0.1, 100.0), by_hour=st.booleans(), office=st.booleans(),
       spare=st.integers(0, 3), busy=st.floats(0.2, 1.0), people=st.sampled_from((0.0, 10.0, 1e9)))  # fmt: skip
def test_the_break_even_inserted_gives_equal_costs(price, output, by_hour, office, spare, busy, people):
    """At both ends; and beyond the last the machines stay cheaper, below the first the API does. Without a last one the
    API stays cheaper. Catches a crossing that is too far to be looked for, and was told as none.
    """
    own = replace(MINE, price=Price(price, by_hour=by_hour), day=shares(OFFICE if office else FLAT), spare=spare,
                  busy=busy, people=people)  # fmt: skip
    api = replace(API, output=output)
    region, each = break_even(own, api), bill(api, own.tokens)
    if region is None:
        assert all(cost_a_day(own, 10.0**n) >= (1 - 1e-9) * each * 10.0**n for n in range(13))
        return
    if region.last == math.inf:
        enough = 1.01 * cost_a_day(own, 0) / (each - full_cost(own))
        assert cost_a_day(own, enough) < each * enough
        assert max(machines(own, enough)) > MOST_MACHINES
        return
    for requests in (region.first, region.last):
        assert cost_a_day(own, requests) == pytest.approx(each * requests, rel=1e-6)
    assert region.first <= region.last
    for factor in (1.01, 1.3, 2, 3, 10):
        assert cost_a_day(own, factor * region.last) < each * factor * region.last
        assert cost_a_day(own, region.first / factor) > each * region.first / factor


def test_a_full_machine_above_the_api_never_pays():
    """However many requests there are. Catches a break-even beyond what one machine can serve."""
    dear = replace(MINE, price=Price(5.0))
    assert full_cost(dear) > bill(API, dear.tokens)
    assert break_even(dear, API) is None


def test_a_machine_for_nothing_is_cheaper_from_the_first_request():
    """Nothing is divided by nothing."""
    assert break_even(replace(MINE, price=Price(0.0), people=0.0), API) == Region(0.0, 0.0)


def test_a_fleet_for_the_peak_pays_later_than_one_that_follows_the_hours():
    """Reserved machines wait at night."""
    own = replace(MINE, day=shares(OFFICE), spare=1, price=Price(1.2))
    follows, waits = break_even(own, API), break_even(replace(own, price=Price(1.2, by_hour=False)), API)
    assert follows.last < waits.last


def test_the_tornado_puts_what_moves_most_first():
    """Two inputs with an effect that is known: half the price of machines or of people, where one is far larger."""
    own = replace(MINE, price=Price(0.1), people=240.0)
    bars = tornado(own, API, {})
    names = [bar.name for bar in bars]
    assert names.index("money for people") < names.index("price of a machine")
    assert Bar("far, however it moves", math.inf, math.inf).swing == 1.0
    assert [bar.swing for bar in bars] == sorted((bar.swing for bar in bars), reverse=True)
    [people] = [bar for bar in bars if bar.name == "money for people"]
    assert people.low < break_even(own, API).last < people.high


def test_an_input_that_is_not_there_is_no_bar():
    """Without people their money moves nothing, and takes no place among the three."""
    names = [bar.name for bar in tornado(replace(MINE, people=0.0), API, {})]
    assert "money for people" not in names
    assert "cached part of the input" not in names


def test_the_doubt_spans_the_three_that_move_most():
    """The fourth is left out, and a bar that ends in never leaves the region open."""
    bars = [Bar("a", 50.0, 400.0), Bar("b", 60.0, 200.0), Bar("c", 70.0, 150.0), Bar("d", 1.0, 1e9)]
    assert doubtful(Region(90.0, 100.0), bars) == (50.0, 400.0)
    assert doubtful(Region(90.0, 100.0), [Bar("a", 50.0, None), *bars[1:]]) == (50.0, None)
    assert doubtful(None, []) == (None, None)
