"""A comparison as one record, and as text: money, machines by hour, break-even, what moves it, what would change it.

The last lines are the answer, and under it everything that it takes for granted, a sentence each: an answer without its
assumptions is repeated where they do not hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tinyinfer.measure.api_bill import Api, bill
from tinyinfer.measure.api_or_own import times_break_even
from tinyinfer.measure.break_even import MOST_MACHINES, Bar, Range, Region, at_speed, doubtful
from tinyinfer.measure.cost import DAYS_A_YEAR, HOURS, Service, cost_a_day, cost_per_million
from tinyinfer.measure.cost_choice import Choice, first_to_pay
from tinyinfer.measure.cost_levers import Lever
from tinyinfer.measure.cost_speeds import ON_PAPER
from tinyinfer.measure.cost_week import (
    WEEKDAYS,
    days,
    machines_by_hour,
    money_a_day,
    movers,
    repeating,
    utilization_by_hour,
)
from tinyinfer.units import number, table

IDLE = 0.1  # a utilization below which a fleet's machine is too large
BEYOND = f"beyond {MOST_MACHINES:,} machines"
Record = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """All that is compared. requests: of a mean day. levers: predicted changes, of which the first changes nothing.

    weekend: requests of a Saturday or Sunday, over those of another day. ranges: of inputs, by their names in
    break_even.INPUTS. accepted: the share of drafts that the levers take.
    """

    model: str
    choice: Choice
    requests: float
    api: Api | None = None
    levers: Sequence[Lever] = ()
    ranges: Mapping[str, Range] = field(default_factory=dict)
    accepted: float | None = None
    weekend: float = 1.0

    @property
    def service(self) -> Service:
        """The set-up that is chosen for the load."""
        return self.choice.chosen

    def money(self, requests: float, service: Service | None = None) -> float:
        """The money of a mean day with so many requests, on the chosen set-up or on another."""
        return money_a_day(service or self.service, requests, self.weekend)


def report(case: Case) -> Record:
    """The record of a comparison, for JSON and for `cost_text`."""
    service, n, api = case.service, case.requests, case.api
    money, on_paper = case.money(n), service.speed.on_paper
    paid, used = machines_by_hour(service, n, case.weekend), utilization_by_hour(service, n, case.weekend)
    alike = cost_a_day(service, n)
    of_mean = money / alike if alike else 1.0  # a mean day over one of days that are all alike
    of_input, of_output = (one and of_mean * one for one in cost_per_million(service, n))
    found: Record = {
        "model": case.model,
        "requests_per_day": n,
        "currency": service.price.currency,
        "cost_per_day": money,
        "cost_per_day_if_off": [case.money(n, at_speed(service, 1 / off)) for off in ON_PAPER] if on_paper else None,
        "cost_per_request": money / n if n else None,
        "cost_per_million_input_tokens": of_input,
        "cost_per_million_output_tokens": of_output,
        "machines_by_hour": paid,
        "utilization_by_hour": used,
        "utilization": sum(one * count for one, count in zip(used, paid, strict=True)) / sum(paid),
        "requests_per_machine_hour": service.capacity,
        "machine_hour": service.machine_hour,
        **{name: asdict(getattr(service, name)) for name in ("price", "speed", "tokens")},
        "setups": len(case.choice.kept),
        "setups_of_equal_cost": case.choice.equal,
        "limited": case.choice.limited,
        "full_hours": {
            "speed": asdict(case.choice.full.speed),
            "machine_hour": case.choice.full.machine_hour,
            "cost_per_day": case.money(n, case.choice.full),
        },
        "day": service.day,
        "weekend": case.weekend,
        "peak": days(case.weekend) * HOURS * max(repeating(service, case.weekend).day),
        "spare": service.spare,
        "spare_per_day": HOURS * service.spare * service.machine_hour,
        "people_per_day": service.people,
        "busy_at_most": service.busy,
        "levers": [of_lever(one, case) for one in case.levers],
        "accepted_drafts": case.accepted,
    }
    found |= {"api": of_api(case, api) if api else None}
    return found | {"answer": answer(found), "assumptions": assumptions(found)}


def of_lever(one: Lever, case: Case) -> Record:
    """A predicted change: the seconds, the money of a request on a busy machine, and its ratio to no change."""
    price, first = case.service.machine_hour, case.levers[0]
    return {
        "change": one.name,
        "prefill_s": one.prefill,
        "decode_s": one.decode,
        "cost_per_request": one.cost(price),
        "ratio": (one.prefill + one.decode) / (first.prefill + first.decode),
    }


def of_api(case: Case, api: Api) -> Record:
    """The other side: the bill, and where the two meet."""
    n, each = case.requests, bill(api, case.service.tokens)
    service, region, bars = where_they_meet(case, api)
    least, most = doubtful(region, bars)
    return {
        **asdict(api),
        "date": str(api.date),
        "cost_per_day": each * n,
        "cost_per_request": each,
        "break_even": {name: end_of(end) for name, end in asdict(region).items()} if region else None,
        "break_even_speed": asdict(service.speed),
        "break_even_if_moved": [end_of(least), end_of(most)],
        "times_break_even": times_break_even(n, least, most, cheaper=case.money(n) < each * n),
        "tornado": [{"name": bar.name, "low": end_of(bar.low), "high": end_of(bar.high), "range": bar.range}
                    for bar in bars],
    }


def where_they_meet(case: Case, api: Api) -> tuple[Service, Region | None, list[Bar]]:
    """The set-up that pays first, its break-even, and what moves that, the most moving input first."""
    service, region = first_to_pay(case.choice.kept, api, case.weekend)
    return service, region, movers(service, api, case.ranges, case.weekend)


def end_of(end: float | None) -> float | str | None:
    """An end of a region as a record holds it: JSON has no infinity, and null is what never comes."""
    return BEYOND if end == math.inf else end


# As text.


def cost_text(line: Record) -> str:
    """The sections of a comparison."""
    sections = [heading(line), money_table(line), hours_text(line)]
    if line["api"]:
        sections += [break_even_words(line), tornado_table(line)]
    if line["levers"]:
        sections.append(levers_table(line))
    last = [line["answer"], "This takes for granted:", *(f"  - {one}" for one in line["assumptions"])]
    return "\n\n".join([*filter(None, sections), "\n".join(last)])


def money(value: float | None, currency: str = "") -> str:
    """An amount of money with two digits, or four digits of less than one; nothing for None.

    >>> money(1234.5, "USD"), money(0.000123456), money(None)
    ('1,234.50 USD', '0.0001235', '')
    """
    if value is None:
        return ""
    text = f"{value:,.2f}" if value >= 1 or value == 0 else f"{value:.4f}" if value >= 0.1 else f"{value:.4g}"
    return f"{text} {currency}".rstrip()


def count(value: float | str | None) -> str:
    """A number of requests, in three digits; never for None.

    >>> count(48_123.4), count(7.25), count(None), count(BEYOND)
    ('48,100', '7.25', 'never', 'beyond 10,000 machines')
    """
    if value is None or isinstance(value, str):
        return value or "never"
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def of_gpus(speed: Record) -> str:
    """How many GPUs are one machine, where it is several."""
    return f" of {speed['units']} GPUs" if speed["units"] > 1 else ""


def heading(line: Record) -> str:
    """The machine, its speed, why it was taken, and a request."""
    speed, tokens = line["speed"], line["tokens"]
    pace = f"{number(speed['input_tps'])} input and {number(speed['output_tps'])} output tokens a second"
    waits = [f"{number(speed[f'{name}_s'], 1e3)} ms {what}" for name, what in (("ttft", "to the first token"),
             ("tpot", "for each further one")) if speed[f"{name}_s"] is not None]  # fmt: skip
    return "\n".join([
        f"{line['model']} on a machine{of_gpus(speed)}: {money(line['machine_hour'], line['currency'])} an hour",
        f"  {speed['name']}: {pace}" + (f"; {', '.join(waits)}" if waits else ""),
        *why_this(line),
        f"  a request: {tokens['input']:g} tokens in, {tokens['cached']:g} of them cached, {tokens['output']:g} out, "
        f"{tokens['thinking']:g} of thinking; a machine takes {number(line['requests_per_machine_hour'])} an hour",
    ])  # fmt: skip


def why_this(line: Record) -> list[str]:
    """Why this set-up was taken where there are several, and which one is the cheapest in full hours."""
    if line["setups"] == 1:
        return []
    equal, full = line["setups_of_equal_cost"], line["full_hours"]
    soonest = " and answers soonest" * (line["speed"]["tpot_s"] is not None)
    roomy = f"; of {equal} that cost the same, it has room{soonest}" if equal > 1 else ""
    limits = " that keep the limits" * line["limited"]
    told = [f"  taken because its day costs least at this load, of {line['setups']} set-ups{limits}{roomy}"]
    if full["speed"] != line["speed"]:
        day = money(full["cost_per_day"], line["currency"])
        told.append(f"  in full hours {full['speed']['name']}, on a machine{of_gpus(full['speed'])}, would be the "
                    f"cheapest; at this load its day costs {day}")  # fmt: skip
    return told


def money_table(line: Record) -> str:
    """What a day, a month, a request and a million tokens cost on either side."""
    api, month = line["api"], DAYS_A_YEAR / 12
    parts = [("  of it spare machines", line["spare_per_day"]), ("  of it people", line["people_per_day"])]
    rows = [("a day", line["cost_per_day"], api and api["cost_per_day"]),
            *((name, value, None) for name, value in parts if value),
            ("a month", month * line["cost_per_day"], api and month * api["cost_per_day"]),
            ("1000 requests", line["cost_per_request"] and 1e3 * line["cost_per_request"],
             api and 1e3 * api["cost_per_request"]),
            ("a million input tokens", line["cost_per_million_input_tokens"], per_own_token(api, "input")),
            ("a million cached input tokens", 0.0 if line["tokens"]["cached"] else None,
             per_own_token(api, "cached_input")),
            ("a million output tokens", line["cost_per_million_output_tokens"],
             per_own_token(api, "output"))]  # fmt: skip
    if not api:
        return table([(line["currency"], "own"), *((name, money(own)) for name, own, _ in rows)])
    return table([(line["currency"], "own", api["name"]), *((name, money(own), money(of)) for name, own, of in rows)])


def per_own_token(api: Record | None, kind: str) -> float | None:
    """An API's price for the text of a million tokens of the machine's model, batches counted in."""
    return api[kind] * api["characters"] * (1 - api["batched"] * (1 - api["batch_factor"])) if api else None


def hours_text(line: Record) -> str:
    """Machines and utilization by hour, and how busy all are on the mean."""
    rows: list[tuple[str, ...]] = [("hour", *(f"{hour}" for hour in range(HOURS)))]
    for name, first in (("", 0),) if line["weekend"] == 1 else ((", Mon-Fri", 0), (", Sat-Sun", HOURS * WEEKDAYS)):
        hours = range(first, first + HOURS)
        rows += [(f"machines{name}", *(f"{line['machines_by_hour'][hour]}" for hour in hours)),
                 (f"busy, %{name}", *(f"{100 * line['utilization_by_hour'][hour]:.0f}" for hour in hours))]  # fmt: skip
    idle = "; at so little a smaller model or machine, or an API, may cost less" * (line["utilization"] < IDLE)
    busy = f"machines are busy {line['utilization']:.0%}{idle}"
    return f"{table(rows)}\nthe busiest hour has {line['peak']:.3g} times the mean; {busy}"


def break_even_words(line: Record) -> str:
    """From where on machines are cheaper, and between which ends if an input is at an end of its range."""
    api = line["api"]
    region, (least, most) = api["break_even"], api["break_even_if_moved"]
    speed, off = api["break_even_speed"], "one input at an end of its range"
    why = "pays first" if region else "is the cheapest in full hours"
    at_scale = f"\n  with {speed['name']}, on a machine{of_gpus(speed)}, which {why}" * (speed != line["speed"])
    place = f"\n  for --questions: volume={float('{:.3g}'.format(api['times_break_even'])):g}"
    if region is None:
        cheaper = f"; with {off}, from {count(least)} on" if least is not None else ""
        return f"break-even: never, a request costs more on full machines than at the API{cheaper}{at_scale}{place}"
    first, last = region["first"], region["last"]
    whole = f"between {count(first)} and {count(last)} requests a day, as machines are whole"
    at = whole if last != first and last > 1.005 * first else f"{count(last)} requests a day"
    doubt = " to ".join(dict.fromkeys((count(least), count(most))))
    never = " (never: the API stays cheaper, however many requests)" * (most is None or least is None)
    return f"break-even: {BEYOND if last == BEYOND else at}; with {off}: {doubt}{never}{at_scale}{place}"


def tornado_table(line: Record) -> str:
    """The three inputs that move the break-even most."""
    rows = [(bar["name"], " to ".join(f"{100 * (end - 1):+.0f}%" for end in bar["range"]),
             count(bar["low"]), count(bar["high"])) for bar in line["api"]["tornado"][:3]]  # fmt: skip
    return table([("break-even if this alone moves", "range", "at its least", "at its most"), *rows]) if rows else ""


def levers_table(line: Record) -> str:
    """What each change makes of a request on a busy machine, by the roofline: no spare, no people, no waiting."""
    rows = [("predicted, a full machine alone", "prefill s", "decode s", f"{line['currency']} for 1000", "ratio")]
    rows += [(one["change"], number(one["prefill_s"]), number(one["decode_s"]), money(1e3 * one["cost_per_request"]),
              f"{one['ratio']:.2f}") for one in line["levers"]]  # fmt: skip
    return table(rows)


def answer(line: Record) -> str:
    """What a day costs on either side, and which one is cheaper."""
    n, currency, api = line["requests_per_day"], line["currency"], line["api"]
    own = f"At {n:,.10g} requests a day the machines cost {money(line['cost_per_day'], currency)} a day"
    if not api:
        return f"{own}."
    mine, theirs = line["cost_per_day"], api["cost_per_day"]
    side = "The machines are" if mine < theirs else "The API is" if theirs < mine else "Neither is"
    return f"{own}, and {api['name']} costs {money(theirs, currency)}. {side} cheaper."


def assumptions(line: Record) -> list[str]:
    """What the answer takes for granted, a sentence each."""
    paid, price, speed, api = line["machines_by_hour"], line["price"], line["speed"], line["api"]
    how = "paid by the hour" if price["by_hour"] else "paid around the clock"
    counted = f"{min(paid)} to {max(paid)}" if min(paid) < max(paid) else f"{max(paid)}"
    gpus = f", {max(paid) * speed['units']:,} GPUs at most" * (speed["units"] > 1)
    share = f"{100 * line['weekend']:.3g}% of a weekday on a day of a weekend"
    week, busy = share if line["weekend"] != 1 else "all days alike", f"{100 * line['busy_at_most']:.3g}%"
    told = [
        f"{counted} machines ({line['spare']} spare{gpus}) are {how}, each at most {busy} busy.",
        f"People cost {money(line['people_per_day'], line['currency'])} a day.",
        f"Requests come by the hours of --day, {week}; their lengths count by their means.",
    ]
    if speed["on_paper"]:
        told.append("The speed is one on paper; such speeds were {} to {} times those that others published. So a day "
                    "may cost {} to {}.".format(*ON_PAPER, *map(money, line["cost_per_day_if_off"])))  # fmt: skip
    if line["levers"] and line["accepted_drafts"] is not None:
        told.append(f"{line['accepted_drafts']:.0%} of drafts are accepted.")
    if api:
        told += [f"The API's prices are those of {api['date']}; a token here counts as {api['characters']:.3g} there.",
                 "Both models answer well enough."]  # fmt: skip
    return told
