"""Answers with calls in every format, cut everywhere: the same text, names and arguments, and no letter lost."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyinfer.server.tool_calls.calls import Piece
from tinyinfer.server.tool_calls.formats import FORMATS
from tinyinfer.server.tool_calls.splitter import CallSplitter


@dataclass
class Found:
    """An answer, as a client puts its pieces together."""

    text: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    complete: int = 0

    @property
    def values(self) -> list[tuple[str, Any]]:
        return [(name, json.loads(arguments)) for name, arguments in self.calls]


def put_together(pieces: list[Piece], complete: int) -> Found:
    """Checks the order of pieces, too: a name first, and each call after the one before it."""
    found = Found(complete=complete)
    for text, call, name in pieces:
        if call is None:
            assert text
            found.text += text
        elif name is not None:
            assert call == len(found.calls)
            assert not text
            found.calls.append((name, ""))
        else:
            assert call == len(found.calls) - 1
            found.calls[-1] = (found.calls[-1][0], found.calls[-1][1] + text)
    return found


def split(name: str, *texts: str) -> Found:
    splitter = CallSplitter(FORMATS[name])
    pieces = [piece for text in texts for piece in splitter.push(text)] + splitter.finish()
    return put_together(pieces, splitter.complete)


def written(name: str, calls: list[tuple[str, dict[str, Any]]]) -> str:
    """Calls as a model of this format writes them."""
    key = "parameters" if name == "llama3_json" else "arguments"
    objects = [json.dumps({"name": function, key: given}) for function, given in calls]
    if name == "hermes":
        return "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in objects)
    if name == "llama3_json":
        return "; ".join(objects)
    if name == "mistral":
        return f"[TOOL_CALLS] [{', '.join(objects)}]"
    if name == "mistral, newer":
        return "".join(f"[TOOL_CALLS]{function}[ARGS]{json.dumps(given)}" for function, given in calls)
    items = ((f, ", ".join(f"{k}={v!r}" for k, v in given.items())) for f, given in calls)
    return f"[{', '.join(f'{function}({given})' for function, given in items)}]"


WRITERS = [*FORMATS, "mistral, newer"]
NASTY = ["</tool_call>", "<tool_call>", '"}', "[TOOL_CALLS]", "\\", "\n", "é\ud83d", "{", ")]", "', b='", "[f(a=1)]"]
WORDS = st.text() | st.sampled_from(NASTY)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
NAMES = st.from_regex(r"[a-z_]\w{0,8}", fullmatch=True).filter(str.isidentifier)
CALLS = st.lists(st.tuples(NAMES, st.dictionaries(NAMES, VALUES, max_size=3)), min_size=1, max_size=3)


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """The text in pieces, some of which may be empty."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize("writer", WRITERS)
@settings(max_examples=20)
@given(CALLS, st.sampled_from(["", "Let me look. ", "A < b, [1] and {2}.\n"]), st.data())
def test_calls_come_back_as_they_were_meant(writer: str, calls: Any, before: str, data: st.DataObject) -> None:
    """With markers, quotes and half letters inside strings. Catches an end that is looked for by its letters alone."""
    before = before + "\n" * bool(before)
    text = before + written(writer, calls)
    found = split(writer.partition(",")[0], *data.draw(cut(text)))
    wanted = json.loads(json.dumps(calls))
    assert [[name, given] for name, given in found.values] == wanted
    assert found.text == before.rstrip()
    assert found.complete == len(calls)


LETTERS = st.sampled_from(
    ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", '{"name": "f", "arguments": {', '"parameters": {',
     '"a": ', '{"name": "g"', "[f(a=", "f(", "1", '"x"', "'y'", "}", "}}", "]", ")", ", ", ";", " ", "\n", "b", "{",
     "[", "\\"]
)  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40)
@given(st.lists(LETTERS, max_size=12).map("".join), st.data())
def test_any_text_is_the_same_however_it_is_cut(name: str, text: str, data: st.DataObject) -> None:
    """Broken calls, calls in calls, ends without a beginning. Catches a parser that looks at pieces, not letters."""
    whole = split(name, text)
    assert split(name, *data.draw(cut(text))) == whole
    assert split(name, *text) == whole
    assert sum(is_object(given) for _, given in whole.calls) == whole.complete


def is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40)
@given(st.lists(LETTERS, max_size=12).map("".join))
def test_no_letter_is_lost(name: str, text: str) -> None:
    """Without a call, the text is what came. With calls, text and arguments hold all that is no mark of the format."""
    found = split(name, text)
    if not found.calls:
        assert found.text == text
    kept = found.text + "".join(function + given for function, given in found.calls)
    marks = r"</?tool_call>|\[TOOL_CALLS\]|\[ARGS\]|\"?(name|arguments|parameters)\"?"
    left = re.sub(marks, "", text)
    for letter in "bfgxy1":
        assert kept.count(letter) >= left.count(letter)


def test_text_streams_until_it_may_be_a_call() -> None:
    """Catches a parser that holds all text back, or shows half a mark."""
    splitter = CallSplitter(FORMATS["hermes"])
    assert splitter.push("Hello <b> ") == [Piece("Hello <b>")]
    assert splitter.push("there <tool") == [Piece(" there")]
    assert splitter.push("box>") == [Piece(" <toolbox>")]


def test_a_name_that_is_too_long_for_one_is_text_at_once() -> None:
    """A name or a key. Catches letters that are all looked at again at each new one: 8 s for 32,000."""
    for begun in ("[", "[f("):
        assert CallSplitter(FORMATS["pythonic"]).push(begun + "a" * 300) == [Piece(begun + "a" * 300)]


def test_many_blanks_are_held_back_once() -> None:
    """They belong to what stands behind them: text, or a call. Catches blanks that are lost or are doubled."""
    blanks = "\n" + " " * 64_000
    assert split("hermes", "a" + blanks + "<b" + blanks).text == "a" + blanks + "<b" + blanks
    found = split("pythonic", "a" + blanks + "[f(a=1)]" + blanks)
    assert (found.text, found.calls) == ("a", [("f", '{"a": 1}')])


def test_arguments_stream_as_they_come() -> None:
    """The name comes once, with the first value. Catches a call that is shown at its end alone."""
    splitter = CallSplitter(FORMATS["hermes"])
    assert splitter.push('<tool_call>{"name": "write", "arguments": {"text": ') == []
    assert splitter.push('"Once') == [Piece("", 0, "write"), Piece('{"text": "Once', 0)]
    assert splitter.push(" upon") == [Piece(" upon", 0)]
    assert splitter.push(' a time"}') == [Piece(' a time"}', 0)]
    assert splitter.push("}</tool_call>") == splitter.finish() == []
    assert splitter.complete == 1


BROKEN = [
    '<tool_call>{"name": "f", "arguments": [1]}</tool_call>', '<tool_call>{"name": "f", "arguments": "{}"}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {bad}}</tool_call>', '<tool_call>{"name": "f"}</tool_call>', "<tool_call>",
    '<tool_call>{"name": "", "arguments": {}}</tool_call>', '<tool_call>{"name": "f", "arguments": {"a": None}}',
    '<tool_call>{"name": "f", "argu', "<tool_call>f()</tool_call>", '<tool_call>{"arguments": {"a": 1}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": [[' + "[" * 100, "<tool_", "</tool_call>",
]  # fmt: skip


@pytest.mark.parametrize("text", BROKEN)
def test_a_call_that_does_not_parse_is_text(text: str) -> None:
    found = split("hermes", text)
    assert found.text.startswith(text) or found.calls
    assert found.complete == 0
    assert not found.calls or "[[" in text


def test_a_call_that_breaks_late_keeps_its_beginning_and_the_rest_is_text() -> None:
    """What was streamed cannot be taken back; a beginning of JSON is taken for no whole one."""
    found = split("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1, oops}}</tool_call>.')
    assert (found.calls, found.text, found.complete) == ([("f", '{"a": 1, ')], "oops}}</tool_call>.", 0)
    found = split("pythonic", "[f(a=1, b=oops)]")
    assert (found.calls, found.text) == ([("f", '{"a": 1')], " b=oops)]")


def test_a_call_that_is_cut_has_the_arguments_so_far() -> None:
    found = split("hermes", '<tool_call>{"name": "f", "arguments": {"a": "b')
    assert (found.calls, found.text, found.complete) == ([("f", '{"a": "b')], "", 0)


@pytest.mark.parametrize("end", ["", "}", "}\n", "}\n</tool_", "}\n</tool_call>", "}</tool_call>\n"])
def test_a_call_whose_arguments_are_complete_is_a_call(end: str) -> None:
    """Models forget the last brace, and an answer may end inside the mark. Catches half a mark as text."""
    found = split("hermes", '<tool_call>{"name": "f", "arguments": {}' + end)
    assert (found.calls, found.text, found.complete) == ([("f", "{}")], "", 1)


def test_arguments_are_the_models_own_letters() -> None:
    """Catches arguments that are read and written again: escapes, numbers and the order of keys would change."""
    own = '{ "b":1.50, "a" : "\\u00e9\\/" ,"b":-0E1}'
    assert split("hermes", f'<tool_call>{{"arguments": {own}, "name": "f", "x": 1}}</tool_call>').calls == [("f", own)]


def test_an_object_of_another_kind_is_text_for_llama() -> None:
    """Its calls have no mark. Catches JSON that was asked for, given as a call."""
    for text in ('{"name": "Bob"}', '{"city": {"name": "x", "parameters": {}}}', '{"name": 5, "parameters": {}} {}',
                 'So: {"name": "x", "parameters": {}}', "f() {\n{}}"):  # fmt: skip
        assert split("llama3_json", text) == Found(text)


def test_a_list_inside_a_line_is_text_for_pythonic() -> None:
    text = "see [f(a=1)] and [1, 2]\n[x] []"
    assert split("pythonic", text) == Found(text)
    for literal in ("{1, 2}", "b'x'", "1j", "open('x')", "-" * 90_000 + "1", "f'{x}'", "", "x y", "[" * 200):
        assert split("pythonic", f"[f(a={literal})]").complete == 0


def test_a_literal_that_pythons_parser_warns_of_is_not_shown() -> None:
    """Catches the model's text on stderr. pytest makes no error of this warning, so the test does."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert split("pythonic", "[f(a=1if 1else 2)]").calls == []
    assert seen == []


def test_newer_mistral_calls_may_bring_an_id() -> None:
    text = '[TOOL_CALLS]f[CALL_ID]abc123[ARGS]{"a": 1}[TOOL_CALLS]g {}'
    assert split("mistral", text).calls == [("f", '{"a": 1}'), ("g", "{}")]
    for head in ("two words", "f[OTHER]", "x" * 300):
        assert split("mistral", f"[TOOL_CALLS]{head}{{}}").calls == []


def test_ids_are_made_as_the_templates_want_them() -> None:
    """Mistral's refuse any other form; all differ."""
    assert re.fullmatch(r"[a-zA-Z0-9]{9}", FORMATS["mistral"].new_id())
    for one in FORMATS.values():
        assert one.new_id() != one.new_id()
