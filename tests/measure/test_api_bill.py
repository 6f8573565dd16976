"""An API's bill: each kind of token at its price, from a file that is dated."""

from __future__ import annotations

import doctest
import json
from datetime import date
from typing import Any

import pytest

from tinyinfer.errors import ModelError
from tinyinfer.measure import api_bill
from tinyinfer.measure.api_bill import READY, bill, check_currency, read_api, warnings_of
from tinyinfer.measure.cost import Tokens

PRICES = {"name": "a", "date": "2026-11-01", "source": "here", "currency": "EUR", "input": 1.0, "output": 4.0}


@pytest.fixture
def read(tmp_path):
    """Reads prices out of a file."""

    def from_file(**changed: Any):
        values = {name: value for name, value in (PRICES | changed).items() if value is not None}
        (tmp_path / "prices.json").write_text(json.dumps(values), encoding="utf-8")
        return read_api(str(tmp_path / "prices.json"))

    return from_file


def test_the_examples_of_the_module():
    """A bill with cached tokens, a batch's price and unlike tokenizers, by hand."""
    found = doctest.testmod(api_bill)
    assert (found.failed, found.attempted >= 7) == (0, True)


def test_cached_input_is_paid_as_input_where_no_price_says_else(read):
    """Catches cached tokens for nothing."""
    asked = Tokens(1000, 0, cached=1000)
    assert bill(read(), asked) == pytest.approx(1e-3)
    assert bill(read(cached_input=0.1), asked) == pytest.approx(1e-4)


def test_thinking_is_billed_as_output(read):
    """It is not shown, and is paid."""
    assert bill(read(), Tokens(0, 100, thinking=300)) == bill(read(), Tokens(0, 400))


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"input": -1}, "'input' is -1, but must be a positive number"), ({"output": None}, "'output' is missing"),
     ({"input": "1"}, "'input' is '1'"), ({"currency": None}, "'currency' is missing"),
     ({"date": "yesterday"}, "'date' is 'yesterday', but must be a day such as"), ({"ouput": 1}, "'ouput' is unknown"),
     ({"batch_factor": -0.5}, "'batch_factor' is -0.5"),
     ({"batch_factor": 5}, "'batch_factor' is 5, but is a share"), ({"source": None}, "'source' is missing")],
)  # fmt: skip
def test_a_wrong_price_file_is_one_sentence(read, changed, words):
    """It names the file and the field. Catches a misspelt price that counts as none."""
    with pytest.raises(ModelError, match=r"prices\.json: the field ") as told:
        read(**changed)
    assert words in str(told.value)


def test_no_file_names_the_example():
    """A reader then sees what a price file is."""
    with pytest.raises(ModelError, match="there is no such file; give a price file, or one of the package: example"):
        read_api("nowhere.json")


def test_the_example_says_that_it_is_one():
    """What is shipped is made up, and must never look like an offer."""
    found = read_api("example")
    assert found.example
    assert "made up" in found.source
    assert [one.stem for one in READY.glob("*.json")] == ["example"]
    assert "are an example" in warnings_of(found, found.date)[-1]


def test_old_prices_are_told_with_their_date(read):
    """A year and a day is old, a year is not."""
    assert warnings_of(read(), date(2027, 11, 1)) == []
    [told] = warnings_of(read(), date(2027, 11, 2))
    assert "are of 2026-11-01, older than a year" in told


def test_unlike_currencies_are_refused(read):
    """Catches a comparison of dollars with euros by their numbers."""
    check_currency("EUR", read())
    with pytest.raises(ValueError, match="currency USD is the machine's, and a is priced in EUR"):
        check_currency("USD", read())
