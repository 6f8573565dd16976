"""The record of a comparison, its text, and its pictures."""

from __future__ import annotations

import doctest
import json
from dataclasses import replace
from datetime import date

import pytest

from tinyinfer.measure import cost_report
from tinyinfer.measure.api_bill import Api
from tinyinfer.measure.cost import FLAT, OFFICE, Price, Service, Speed, Tokens, shares
from tinyinfer.measure.cost_figures import draw_cost
from tinyinfer.measure.cost_levers import Lever
from tinyinfer.measure.cost_report import Case, cost_text, report

API = Api("their model", date(2026, 11, 1), "invented", "USD", input=0.5, cached_input=0.25, output=10.0)
OWN = Service(Price(2.0), Speed(2000, 100, 0.4, 0.02), Tokens(1000, 50), shares(OFFICE), spare=1, people=10.0, busy=0.7)
CASE = Case("a model", OWN, 60_000, API, [Lever("as it is", 1.0, 1.0), Lever("changed", 0.5, 0.5)])


def test_the_examples_of_the_module():
    """Amounts of money, and counts of requests."""
    found = doctest.testmod(cost_report)
    assert (found.failed, found.attempted) == (0, 2)


def test_the_record_holds_both_sides():
    """The money of both, in the same units, and what a change would make of a request."""
    line = report(CASE)
    assert line["cost_per_day"] == pytest.approx(2.0 * sum(line["machines_by_hour"]) + 10.0)
    assert line["api"]["cost_per_day"] == pytest.approx(60_000 * 0.001)
    assert [one["ratio"] for one in line["levers"]] == [1.0, 0.5]
    used = sum(a * b for a, b in zip(line["machines_by_hour"], line["utilization_by_hour"], strict=True))
    assert used == pytest.approx(60_000 / 3600)  # a second of work each, in machine hours


def test_the_sentence_has_the_answer_and_its_assumptions():
    """Catches an answer that can be repeated without what it takes for granted."""
    last = cost_text(report(CASE)).splitlines()[-1]
    for words in ("60,000 requests", "so the API is cheaper", "(1 spare)", "at most 70% busy", "10.00 USD a day",
                  "prices of 2026-11-01", "both answers being good enough"):  # fmt: skip
        assert words in last


def test_the_text_steps_by_whole_machines():
    """Hours, machines and shares stand in columns of 24."""
    lines = cost_text(report(CASE)).splitlines()
    for name in ("hour", "machines", "busy, %"):
        [row] = [line for line in lines if line.startswith(name) and len(line.removeprefix(name).split()) == 24]
        assert all(word.isdigit() for word in row.removeprefix(name).split())


def test_a_day_says_what_its_spare_machine_and_its_people_cost():
    """By hand: a spare machine of 2.00 an hour, paid by the hour, is 48 a day. Catches one that hides in the sum."""
    parts = [line.split() for line in cost_text(report(CASE)).splitlines() if line.startswith("  of it")]
    assert parts == [["of", "it", "spare", "machines", "48.00"], ["of", "it", "people", "10.00"]]
    assert "\n  of it" not in cost_text(report(replace(CASE, service=replace(OWN, spare=0, people=0.0))))


def test_a_fleet_that_waits_says_that_its_machine_is_large():
    """Speeds are chosen for full hours. Catches a small load that is told the price of a machine it does not need."""
    words = "at so little a smaller machine may cost less"
    assert words in cost_text(report(replace(CASE, requests=100)))
    assert words not in cost_text(report(replace(CASE, service=replace(OWN, day=shares(FLAT)), requests=200_000)))


def test_without_an_api_only_the_machines_are_told():
    """Nothing is compared with what is not there."""
    text = cost_text(report(replace(CASE, api=None)))
    assert "break-even" not in text
    assert text.splitlines()[-1].startswith("At 60,000 requests a day the machines cost")


def test_a_machine_that_never_pays_says_so():
    """Also how far an input must be off for another answer."""
    dear = replace(CASE, service=replace(OWN, price=Price(3.0)))
    assert "break-even: never" in cost_text(report(dear))
    assert "from" in cost_text(report(dear)).split("never", 1)[1].splitlines()[0]


FAR = replace(OWN, price=Price(0.01), people=1e6)  # 1428 a request and machine, far below the API's price


def test_a_break_even_beyond_all_machines_is_not_never():
    """Text, sentence and record agree. Catches "a request costs more on full machines" where the machines win."""
    line = report(replace(CASE, service=FAR, requests=2e9))
    text = cost_text(line)
    assert "break-even: beyond 10,000 machines; with one input at an end of its range: " in text
    assert "so the machines are cheaper" in text.splitlines()[-1]
    assert line["api"]["break_even"] == {"first": "beyond 10,000 machines", "last": "beyond 10,000 machines"}
    assert {"never"} != {bar["low"] for bar in line["api"]["tornado"]} <= {"beyond 10,000 machines", None}
    json.dumps(line, allow_nan=False)


def test_no_request_has_no_cost_a_token(tmp_path):
    """Empty cells, and no division by zero; the picture is drawn, too."""
    idle = replace(CASE, requests=0)
    assert report(idle)["cost_per_million_output_tokens"] is None
    assert "a million output tokens" in cost_text(report(idle))
    draw_cost(str(tmp_path / "idle.svg"), idle)


@pytest.mark.parametrize(
    "changed", [{}, {"api": None}, {"service": replace(OWN, price=Price(30.0))}, {"service": FAR}]
)
def test_the_picture_shows_the_day_and_beside_an_api_the_decision(changed, tmp_path):
    """Panels by their titles; also for machines that never pay, whose bars are all endless."""
    path = tmp_path / "cost.svg"
    draw_cost(str(path), replace(CASE, **changed))
    text = path.read_text(encoding="utf-8")
    titles = ["A day", "Cost", "Break-even over the range of one input"]
    assert [title for title in titles if f"<!-- {title} -->" in text] == (titles[:1] if "api" in changed else titles)
