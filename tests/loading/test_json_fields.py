"""JSON that lies is refused in one line that names the file, whatever it holds."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyinfer.errors import ModelError
from tinyinfer.loading import json_fields
from tinyinfer.loading.json_fields import Fields, parse_object, read_json, typed_fields
from tinyinfer.units import show

BROKEN = {
    "empty": b"",
    "cut off": b'{"a": 1, "b',
    "not JSON": b"model: llama",
    "not text": b"\xff\xfe{}",
    "a list": b"[1, 2]",
    "a number": b"7",
    "two objects": b"{}{}",
    "the same key twice": b'{"a": 1, "a": 2}',
    "the same key twice, deep inside": b'{"b": [{"a": 1, "a": 2}]}',
    "nested ten thousand deep": b'{"a":' + b"[" * 10000 + b"]" * 10000 + b"}",
    "objects ten thousand deep": b'{"a":' * 10000 + b"1" + b"}" * 10000,
    "a number of ten thousand digits": b'{"a": ' + b"9" * 10000 + b"}",
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_json_is_refused_in_one_line(case: str) -> None:
    """json's own errors differ (ValueError, RecursionError, UnicodeDecodeError) and none names the file."""
    with pytest.raises(ModelError, match=r"^the\.file: [^\n]*$"):
        parse_object(BROKEN[case], "the.file")


def test_a_fault_is_told_by_line_and_column() -> None:
    """Counted from 1, as editors do, in letters of JSON and in bytes that are no text. Catches a file of a hundred
    lines that is only "not valid".
    """
    assert doctest.testmod(json_fields) == (0, 1)
    for text, place in ((b'{"a": 1,\n "b" 2}', "in line 2, column 6 (Expecting ':' delimiter)"),
                        (b'{"a": "\xff"}', "in line 1, column 8 (invalid start byte of UTF-8)"),
                        (b'{\n "a": "\xe4"}', "in line 2, column 8 (invalid continuation byte of UTF-8)")):  # fmt: skip
        with pytest.raises(ModelError) as caught:
            parse_object(text, "the.file")
        assert str(caught.value) == f"the.file: not valid JSON {place}; download it again"


def test_a_file_that_is_written_by_hand_is_corrected(tmp_path: Path) -> None:
    """It cannot be downloaded. Catches the cure of a model's file: for JSON, for a missing field also of a table in
    it, for another value than an object, for a file that is too large, and for one of too many values.
    """
    file = tmp_path / "prices.json"
    for text in (b"{,}", b"\xff", b"[1]", b'{"a": 1, "a": 2}', b" " * 4_000_001, b"[" + b"1," * 300_000 + b"1]"):
        file.write_bytes(text)
        with pytest.raises(ModelError, match=r"prices\.json: .*; correct the file$"):
            typed_fields(file)
    file.write_bytes(b'\xef\xbb\xbf{"gpu": {"x": [1, null]}}')  # as some editors save it
    f = typed_fields(file, "as typed")
    gpu = f.table("gpu", f.get("gpu"))
    for missing in (lambda: f.text("name"), lambda: gpu.number("memory"), lambda: gpu.numbers("x")):
        with pytest.raises(ModelError, match=r"^as typed.* is missing, and nothing else says its value; add it$"):
            missing()


@settings(max_examples=200)
@given(st.binary(max_size=40) | st.text('{}[]":,-.eE0123456789antrufls \\', max_size=20).map(str.encode))
def test_no_bytes_end_in_another_error(text: bytes) -> None:
    try:
        found: object = parse_object(text, "the.file")
    except ModelError:
        found = {}
    assert isinstance(found, dict)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    for name, wrong in {"missing.json": "is missing", "folder.json": "cannot be read"}.items():
        with pytest.raises(ModelError, match=f"{name}: .*{wrong}"):
            read_json(tmp_path / name)


def test_values_are_shown_short_and_on_one_line() -> None:
    """A value of a megabyte, or one that moves the cursor, would hide the message that shows the value."""
    assert len(show("x" * 10**6)) < 100
    assert len(show([[["x" * 10**6] * 100] * 100] * 100)) < 200
    assert "\n" not in show("a\nb\x1b[2J")
    assert "\x1b" not in show("a\nb\x1b[2J")
    assert "\n" not in show(np.arange(300) * 2**40), "an array in a GGUF, where one number belongs"
    assert show("a   b  ") == "'a   b  '"


def test_an_unread_field_is_refused() -> None:
    f = Fields("the.file", {"read": 1, "neutral": 2, "harmless": False})
    f.size("read")
    f.refuse_unread({"neutral"}, {"harmless": (False,)})
    with pytest.raises(ModelError, match="'harmless' is False, which is not supported"):
        f.refuse_unread({"neutral"}, {"harmless": (None,)})
    with pytest.raises(ModelError, match=r"'neutral'.*not known"):
        f.refuse_unread({"harmless"}, {})


def test_two_spellings_of_one_field_must_agree() -> None:
    f = Fields("the.file", {"a": 1, "b": 1, "c": 2})
    f.alias("a", "b")
    f.alias("new", "c")
    assert f.size("new") == 2
    with pytest.raises(ModelError, match=r"'c' is 2, but 'a' means the same and is 1"):
        f.alias("a", "c")
