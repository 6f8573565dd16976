"""JSON letter by letter: right is what `json.loads` takes, at every cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyinfer.server.tool_calls.json_letters import DEEPEST, END, Broken, value

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def read(text: str) -> str:
    """The beginning of a text that is one value. Raises Broken."""
    kept: list[str] = []
    reading = value(text[:1], kept.append)
    try:
        next(reading)
        for letter in [*text[1:], END]:
            reading.send(letter)
    except StopIteration:
        return "".join(kept)
    raise Broken


def is_json(text: str) -> bool:
    """Whether Python's own reader takes a text, by the grammar alone (it also takes NaN)."""
    try:
        json.loads(text, parse_constant=lambda word: 1 / 0)
    except (ValueError, ZeroDivisionError):
        return False
    return True


@settings(max_examples=50)
@given(VALUES, st.booleans(), st.sampled_from([None, 1]), st.sampled_from(["", " ", "}", ",", "x"]))
def test_a_value_is_read_to_its_last_letter(found: Any, ascii_only: bool, indent: int | None, behind: str) -> None:
    """Whatever stands behind it. Catches a brace in a string that ends an object."""
    text = json.dumps(found, ensure_ascii=ascii_only, indent=indent)
    assert read(text + behind).rstrip() == text


@settings(max_examples=50)
@given(VALUES, st.data())
def test_a_letter_is_refused_where_json_refuses_it(found: Any, data: st.DataObject) -> None:
    """One letter is changed. Right: what is read is JSON, and what is refused is none."""
    text = json.dumps(found)
    at = data.draw(st.integers(0, len(text) - 1))
    text = text[:at] + data.draw(st.sampled_from('"\\{}[],:.-+eE01 \nutx')) + text[at + 1 :]
    try:
        kept = read(text)
    except Broken:
        assert not is_json(text.strip(" \n")) or text[0] in " \n"
    else:
        assert is_json(kept)


@pytest.mark.parametrize("text", ["[01]", "-", "1.", ".5", "1e", "+1", "tru", "nul", "[1,]", '{"a":1,}', "{1:2}",
                                  '{"a"}',
                                  '"\n"', '"\\x"', '"\\u12g4"', "'a'", "NaN", "", "[1 2]", '{"a" 1}'])  # fmt: skip
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(Broken):
        read(text)


def test_a_value_may_be_deep_and_no_deeper() -> None:
    """Each level is two generators: catches Python's own limit, which would end more than this call."""
    deep = "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1)
    assert read(deep) == deep
    with pytest.raises(Broken):
        read("[" + deep + "]")
