"""A comparison of costs as pictures: a day's machines, the staircase beside the API's line, what moves their meeting.

Wins: shows at a glance how flat or steep the decision is. Loses: what the pictures leave out stands in the sentence.
"""

from __future__ import annotations

import math
import os
from typing import Any

from tinyinfer.measure.api_bill import Api, bill
from tinyinfer.measure.break_even import Bar, Region, doubtful, last_of
from tinyinfer.measure.cost import HOURS, Service
from tinyinfer.measure.cost_report import Case, where_they_meet
from tinyinfer.measure.cost_week import machines_by_hour, utilization_by_hour
from tinyinfer.measure.figures import drawable, save

POINTS = 2000  # of a staircase
WEEK = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def draw_cost(path: str, case: Case) -> None:
    """One panel where nothing is compared, three beside an API."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16 if case.api else 6, 4.6), layout="constrained")
    panels = figure.subplots(1, 3 if case.api else 1, squeeze=False)[0]
    draw_hours(panels[0], case)
    if case.api:
        service, region, bars = where_they_meet(case, case.api)
        draw_lines(panels[1], case, case.api, service, doubtful(region, bars), region)
        draw_tornado(panels[2], region, bars[::-1])
    name = drawable(os.path.basename(case.model).removesuffix(".json"))
    figure.suptitle(f"{name}, {case.requests:,.10g} requests a day")
    save(figure, path)


def draw_hours(axes: Any, case: Case) -> None:
    """Machines that are paid, and the part of them that works, over the hours of a day, or of a week from Monday on."""
    paid = machines_by_hour(case.service, case.requests, case.weekend)
    used, hours = utilization_by_hour(case.service, case.requests, case.weekend), range(len(paid))
    day = len(paid) == HOURS
    width = 0.9 if day else 1.0  # gaps between 168 bars are stripes
    axes.bar(hours, paid, width=width, color="lightgray", label="machines paid")
    work = [count * share for count, share in zip(paid, used, strict=True)]
    axes.bar(hours, work, width=width, color="tab:blue", label="of these at work")
    axes.set(title="A day" if day else "A week", xlabel="hour" if day else "day", ylabel="machines")
    ticks = range(0, HOURS, 3) if day else range(HOURS // 2, len(paid), HOURS)
    axes.set_xticks(ticks, None if day else WEEK)
    axes.set_ylim(0, 1.25 * max(paid))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="upper left")


def draw_lines(
    axes: Any, case: Case, api: Api, service: Service, doubt: tuple[float | None, float | None], region: Region | None
) -> None:
    """Money a day over requests a day, and the region in which the API and the set-up that pays first meet."""
    (least, most), last = map(drawn, doubt), drawn(last_of(region))
    top = 1.6 * max(case.requests, last or 0.0, least or 0.0) or 1.0
    counts = [top * i / POINTS for i in range(POINTS + 1)]
    own = [case.money(n, service) for n in counts]
    two = service != case.service
    axes.plot(counts, own, color="tab:blue", label=f"pays first: {service.speed.name}" if two else "own machines")
    if two:
        chosen = [case.money(n) for n in counts]
        axes.plot(counts, chosen, color="tab:blue", linestyle="--", label=f"taken: {case.service.speed.name}")
    axes.plot([0, top], [0, top * bill(api, service.tokens)], color="tab:orange", label=api.name)
    if least is not None:
        axes.axvspan(least, min(top, top if most is None else most), color="gold", alpha=0.25,
                     label="break-even within the ranges of inputs")  # fmt: skip
    if region and last is not None:
        axes.axvspan(region.first, last, color="tab:green", alpha=0.3, label="break-even")
        axes.axvline(last, color="tab:green")
    axes.axvline(case.requests, color="black", linestyle=":", label="asked for")
    axes.set(title="Cost", xlabel="requests a day", ylabel=f"{service.price.currency} a day", xlim=(0, top))
    axes.set_ylim(0, 1.3 * max(own[-1], top * bill(api, service.tokens)))
    for axis in (axes.xaxis, axes.yaxis):
        short_numbers(axis, 5)
    axes.legend(loc="upper left", fontsize="small")


def draw_tornado(axes: Any, region: Region | None, bars: list[Bar]) -> None:
    """How far each input moves the break-even; one to the edge never comes, or beyond what is looked at."""
    axes.set(title="Break-even over the range of one input", xlabel="requests a day")
    if not bars:
        axes.text(0.5, 0.5, "no input within its range moves it", ha="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[], xlabel="")
        return
    ends = [end for bar in bars for one in (bar.low, bar.high) if (end := drawn(one)) is not None]
    middle = drawn(last_of(region))
    edge = 1.15 * max([*ends, middle or 0.0]) or 1.0
    for at, bar in enumerate(bars):
        draw_bar(axes, at, bar, edge if middle is None else middle, edge)
    if middle is not None:
        axes.axvline(middle, color="black", linewidth=0.8)
    axes.set_yticks(range(len(bars)), [f"{bar.name} ({bar.range[0]:.3g} to {bar.range[1]:.3g})" for bar in bars])
    axes.set_xlim(0, 1.1 * edge)
    short_numbers(axes.xaxis, 4)
    for label, color in (("lower", "tab:blue"), ("higher", "tab:red")):
        axes.barh([0], [0], color=color, label=label)
    axes.legend(loc="lower right")


def short_numbers(axis: Any, most: int) -> None:
    """At most so many ticks, as 500 k and 2 M: a load of 1e11 has no room for its digits."""
    from matplotlib.ticker import EngFormatter

    axis.set_major_formatter(EngFormatter())
    axis.get_major_locator().set_params(nbins=most)


def drawn(end: float | None) -> float | None:
    """An end of a region that has a place in a picture; None for never, and for beyond all machines."""
    return end if end is not None and end < math.inf else None


def draw_bar(axes: Any, at: int, bar: Bar, middle: float, edge: float) -> None:
    """The two halves of a bar, from the break-even to where the lower and the higher input move it."""
    for end, color in ((bar.low, "tab:blue"), (bar.high, "tab:red")):
        shown = drawn(end)
        axes.barh([at], [(edge if shown is None else shown) - middle], left=middle, color=color, height=0.7)
        if shown is None:
            word = "never" if end is None else "beyond"
            axes.annotate(word, (edge, at), (2, 0), textcoords="offset points", va="center", fontsize="small")
