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
from tinyinfer.measure.cost_choice import choose
from tinyinfer.measure.cost_figures import draw_cost, draw_tornado
from tinyinfer.measure.cost_levers import Lever
from tinyinfer.measure.cost_report import Case, cost_text, report

API = Api("their model", date(2026, 11, 1), "invented", "USD", input=0.5, cached_input=0.25, output=10.0)
OWN = Service(Price(2.0), Speed(2000, 100, 0.4, 0.02), Tokens(1000, 50), shares(OFFICE), spare=1, people=10.0, busy=0.7)
LEVERS = [Lever("as it is", 1.0, 1.0), Lever("changed", 0.5, 0.5)]


def case_of(service: Service = OWN, requests: float = 60_000, speeds: tuple[Speed, ...] = (), weekend: float = 1.0):
    """A case of these speeds; of the service's own where there are none."""
    choice = choose(service, speeds or (service.speed,), requests, (None, None), weekend)
    return Case("a model", choice, requests, API, LEVERS, weekend=weekend)


CASE = case_of()


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


def test_the_answer_stands_above_its_assumptions():
    """A sentence each, in text and record. Catches an answer that is repeated without what it takes for granted."""
    line = report(CASE)
    last = cost_text(line).split("\n\n")[-1].splitlines()
    assert last[0] == line["answer"]
    assert last[1:] == ["This takes for granted:", *(f"  - {one}" for one in line["assumptions"])]
    assert line["answer"].startswith("At 60,000 requests a day the machines cost ")
    assert line["answer"].endswith("The API is cheaper.")
    said = " ".join(line["assumptions"])
    for words in ("(1 spare)", "at most 70% busy", "People cost 10.00 USD a day", "all days alike",
                  "those of 2026-11-01", "Both models answer well enough"):  # fmt: skip
        assert words in said
    assert all(one.endswith(".") and len(one) < 120 for one in line["assumptions"])


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
    assert "\n  of it" not in cost_text(report(case_of(replace(OWN, spare=0, people=0.0))))


def test_a_fleet_that_waits_says_that_its_machine_is_large():
    """Even the smallest of those that are compared. Catches a small load that is told only what it costs."""
    words = "at so little a smaller model or machine, or an API, may cost less"
    assert words in cost_text(report(case_of(requests=100)))
    assert words not in cost_text(report(case_of(replace(OWN, day=shares(FLAT)), 200_000)))


SMALL = Speed(2000, 100, 0.1, 0.02, 1, "one GPU")
LARGE = Speed(20000, 1000, 0.2, 0.04, 4, "four GPUs")


def test_the_text_says_why_a_set_up_was_taken():
    """And which one full hours would take. Catches the choice for full hours that is recommended for a small load."""
    text = cost_text(report(case_of(requests=1000, speeds=(SMALL, LARGE))))
    assert "\n  one GPU: " in text
    assert "taken because its day costs least at this load, of 2 set-ups\n" in text
    day = 2 * 24 * 8.0 + 10.0  # two machines of four GPUs at 2.00, and people
    assert f"four GPUs, on a machine of 4 GPUs, would be the cheapest; at this load its day costs {day:.2f} USD" in text
    full = cost_text(report(case_of(requests=1_000_000, speeds=(SMALL, LARGE))))
    assert "\n  four GPUs: " in full
    assert "in full hours" not in full
    assert "taken because" not in cost_text(report(CASE))  # nothing was chosen from
    twice = cost_text(report(case_of(requests=1000, speeds=(SMALL, replace(SMALL, ttft_s=0.4, name="late")))))
    assert "\n  one GPU: " in twice
    assert "of 2 set-ups; of 2 that cost the same, it has room and answers soonest" in twice


def test_a_break_even_is_of_the_set_up_that_pays_first():
    """It asks about a larger load than today's. Catches "never", said of a machine that a larger load outgrows."""
    line = report(case_of(requests=1000, speeds=(replace(SMALL, output_tps=20), LARGE)))
    assert line["speed"]["name"] == "one GPU"
    assert line["api"]["break_even_speed"]["name"] == "four GPUs"
    assert line["api"]["break_even"] == report(case_of(speeds=(LARGE,)))["api"]["break_even"]
    assert "with four GPUs, on a machine of 4 GPUs, which pays first" in cost_text(line)
    assert "which pays first" not in cost_text(report(CASE))
    never = cost_text(report(case_of(replace(OWN, price=Price(30.0)), 1000, (SMALL, LARGE))))
    assert "break-even: never" in never
    assert "with four GPUs, on a machine of 4 GPUs, which is the cheapest in full hours" in never


def test_the_place_beside_the_break_even_is_told_for_the_questions():
    """Ten times the far end of the range is ten, a tenth of the near end a tenth."""
    cheap = replace(OWN, price=Price(1.0))
    least, most = report(case_of(cheap))["api"]["break_even_if_moved"]
    for requests, times in ((least / 10, 0.1), (10 * most, 10.0), (least, 1.0)):
        line = report(case_of(cheap, requests))
        assert line["api"]["times_break_even"] == pytest.approx(times)
        assert f"for --questions: volume={times:.3g}\n" in cost_text(line)


def test_a_quiet_weekend_is_in_the_money_and_in_the_hours():
    """Machines of 168 hours; the text has a row of either kind of day. Catches a weekend left out of a cost."""
    bought = replace(OWN, price=Price(2.0, by_hour=False))
    for service in (OWN, bought):
        line = report(case_of(service, 300_000, weekend=0.2))
        assert len(line["machines_by_hour"]) == len(line["utilization_by_hour"]) == 168
        assert line["cost_per_day"] == pytest.approx(2.0 * sum(line["machines_by_hour"]) / 7 + 10.0)
        worked = sum(a * b for a, b in zip(line["machines_by_hour"], line["utilization_by_hour"], strict=True))
        assert worked == pytest.approx(7 * 300_000 / 3600)
        text = cost_text(line)
        for name in ("machines, Mon-Fri", "busy, %, Mon-Fri", "machines, Sat-Sun", "busy, %, Sat-Sun"):
            assert f"\n{name} " in text
        assert "20% of a weekday on a day of a weekend" in " ".join(line["assumptions"])
        paid = line["cost_per_million_input_tokens"] * 300 + line["cost_per_million_output_tokens"] * 15
        assert paid == pytest.approx(line["cost_per_day"])


def test_without_an_api_only_the_machines_are_told():
    """Nothing is compared with what is not there."""
    text = cost_text(report(replace(CASE, api=None)))
    assert "break-even" not in text
    assert "\nAt 60,000 requests a day the machines cost " in text
    assert "API" not in text


def test_a_machine_that_never_pays_says_so():
    """Also how far an input must be off for another answer."""
    dear = case_of(replace(OWN, price=Price(3.0)))
    assert "break-even: never" in cost_text(report(dear))
    assert "from" in cost_text(report(dear)).split("never", 1)[1].splitlines()[0]


FAR = replace(OWN, price=Price(0.01), people=1e6)  # 1428 a request and machine, far below the API's price


def test_a_break_even_beyond_all_machines_is_not_never():
    """Text, sentence and record agree. Catches "a request costs more on full machines" where the machines win."""
    line = report(case_of(FAR, 2e9))
    text = cost_text(line)
    assert "break-even: beyond 10,000 machines; with one input at an end of its range: " in text
    assert line["answer"].endswith("The machines are cheaper.")
    assert line["api"]["break_even"] == {"first": "beyond 10,000 machines", "last": "beyond 10,000 machines"}
    assert {"never"} != {bar["low"] for bar in line["api"]["tornado"]} <= {"beyond 10,000 machines", None}
    json.dumps(line, allow_nan=False)


def test_no_request_has_no_cost_a_token(tmp_path):
    """Empty cells, and no division by zero; the picture is drawn, too."""
    idle = case_of(requests=0)
    assert report(idle)["cost_per_million_output_tokens"] is None
    assert "a million output tokens" in cost_text(report(idle))
    draw_cost(str(tmp_path / "idle.svg"), idle)


@pytest.mark.parametrize("case", [CASE, replace(CASE, api=None), case_of(replace(OWN, price=Price(30.0))),
                                  case_of(FAR), case_of(requests=1000, speeds=(SMALL, LARGE)),
                                  case_of(weekend=0.2)])  # fmt: skip
def test_the_picture_shows_the_day_and_beside_an_api_the_decision(case, tmp_path):
    """Panels by their titles; also for machines that never pay, whose bars are all endless, for a week of 168 hours,
    and for a set-up that is not the one that pays first.
    """
    path = tmp_path / "cost.svg"
    draw_cost(str(path), case)
    text = path.read_text(encoding="utf-8")
    titles = ["A day" if case.weekend == 1 else "A week", "Cost", "Break-even over the range of one input"]
    assert [title for title in titles if f"<!-- {title} -->" in text] == (titles[:1] if case.api is None else titles)


def test_a_tornado_that_nothing_moves_says_so():
    """Catches an empty picture with a legend, whose axis counts in thousandths of a request."""
    figures = pytest.importorskip("matplotlib.figure")
    axes = figures.Figure().subplots()
    draw_tornado(axes, None, [])
    assert [one.get_text() for one in axes.texts] == ["no input within its range moves it"]
    assert axes.get_legend() is None
