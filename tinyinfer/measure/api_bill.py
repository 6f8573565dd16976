"""What the same requests cost at an API: a price for each kind of token, read from a file with a date and a source.

    input tokens x price + cached ones x their price + generated ones x theirs, thinking among them

Two models cut the same text into different numbers of tokens, so a price per token compares nothing. The text is the
same: with c characters a token here and d characters a token there, a token here is c/d tokens there.

The file is JSON, prices for a million tokens:

    name, date, source, currency     what it is, 2026-11-01, where the prices are from, USD
    input, output                    prices
    cached_input                     (without it: as input)
    batch_factor                     the price of what may wait a day, as a share of the price (without it: 1)
    characters_per_token             of the API's model on your text; counts where that of your model is given, too
    example                          true: made up to show the format

Wins: the bill is exact for a count of tokens. Loses: prices change on a day (so a file has a date, and an old one is
told), what writes into a cache costs is left out, and an API's model answers at another length and quality.
Source: the price pages of APIs, which have these fields.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from tinyinfer.errors import ModelError, SwitchError
from tinyinfer.loading.json_fields import Fields, typed_fields
from tinyinfer.measure.cluster import at_least_0, refuse_unknown
from tinyinfer.measure.cost import MILLION, Tokens

READY = Path(__file__).parent / "prices"
OLD = 365  # days


@dataclass(frozen=True)
class Api:
    """An API's prices for a million tokens. batched: the share of requests that wait for the price of a batch.

    characters: those of one token of the machine's model, over those of one token of the API's.
    """

    name: str
    date: date
    source: str
    currency: str
    input: float
    cached_input: float
    output: float
    batch_factor: float = 1.0
    batched: float = 0.0
    characters: float = 1.0
    characters_per_token: float | None = None
    example: bool = False


def bill(api: Api, tokens: Tokens) -> float:
    """The money for one request.

    1000 tokens in, 400 of them cached, 200 out; then the half of all requests may wait, at half the price:

    >>> from dataclasses import replace
    >>> api = Api("a", date(2026, 11, 1), "invented", "USD", input=1.0, cached_input=0.5, output=4.0)
    >>> asked = Tokens(input=1000, output=200, cached=400)
    >>> round(bill(api, asked), 9), round(bill(replace(api, batch_factor=0.5, batched=0.5), asked), 9)
    (0.0016, 0.0012)
    >>> round(bill(replace(api, characters=1.25), asked), 9)  # 5 characters a token here, 4 there
    0.002
    """
    whole = tokens.computed * api.input + tokens.cached * api.cached_input + tokens.written * api.output
    return whole * api.characters / MILLION * (1 - api.batched * (1 - api.batch_factor))


def read_api(path: str) -> Api:
    """The prices in a file, or in an example of the package by its name. Raises ModelError, naming file and field."""
    ready = sorted(one.stem for one in READY.glob("*.json"))
    file = READY / f"{path}.json" if path in ready and not os.path.exists(path) else Path(path)
    if not file.is_file():
        raise ModelError(f"{path}: there is no such file; give a price file, or one of the package: {', '.join(ready)}")
    f = typed_fields(file, path)
    price = at_least_0(f, "input")
    api = Api(
        name=f.text("name"),
        date=read_date(f),
        source=f.text("source"),
        currency=f.text("currency"),
        input=price,
        cached_input=price if f.get("cached_input") is None else at_least_0(f, "cached_input"),
        output=at_least_0(f, "output"),
        batch_factor=1.0 if f.get("batch_factor") is None else at_least_0(f, "batch_factor"),
        characters_per_token=None if f.get("characters_per_token") is None else f.number("characters_per_token"),
        example=f.flag("example", False),
    )
    if not api.name.strip():
        f.refuse("name", "is empty; write what the tables may call it")
    if api.batch_factor > 1:
        f.refuse("batch_factor", f"is {api.batch_factor:g}, but is a share of the price; write a number up to 1")
    refuse_unknown(f)
    return api


def read_date(f: Fields) -> date:
    """The day of the prices. Raises ModelError for what is no date."""
    text = f.text("date")
    try:
        return date.fromisoformat(text)
    except ValueError:
        f.refuse("date", f"is {text[:40]!r}, but must be a day such as 2026-11-01; correct it")


def check_currency(own: str, api: Api) -> None:
    """Raises SwitchError where the two sides are priced in unlike currencies."""
    if own != api.currency:
        reason = "{field} {value} is the machine's, and {name} is priced in {other}"
        cure = "give both in one currency, at the rate of a day that you note"
        raise SwitchError("currency", own, reason, cure, name=api.name, other=api.currency)


def warnings_of(api: Api, today: date) -> list[str]:
    """What a reader of the bill must know: that the prices are old, or made up.

    >>> api = Api("a", date(2025, 1, 31), "invented", "USD", 1.0, 1.0, 2.0)
    >>> warnings_of(api, date(2026, 2, 1))
    ["the prices of a are of 2025-01-31, older than a year; look up today's and write them into a file"]
    """
    told = []
    if api.date > today:
        told.append(f"the prices of {api.name} are of {api.date}, which is still to come; correct the date")
    if (today - api.date).days > OLD:
        told.append(f"the prices of {api.name} are of {api.date}, older than a year; look up today's and write them "
                    "into a file")  # fmt: skip
    if api.example:
        told.append(f"the prices of {api.name} are an example, and no one's offer; give your own with --api FILE")
    return told
