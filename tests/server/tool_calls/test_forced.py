"""Calls that must come: a model without any will of its own writes them, and the format's own parser reads them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from golden import write_hf_folder

from tinyinfer import LLM, SamplingParams
from tinyinfer.guided.grammar import bars
from tinyinfer.request import RequestOutput
from tinyinfer.server.tool_calls.forced import Asked, grammar_of
from tinyinfer.server.tool_calls.formats import FORMATS
from tinyinfer.server.tool_calls.mistral import NEWER_MISTRAL
from tinyinfer.server.tool_calls.splitter import CallSplitter, Format

CITY = {"enum": ["Paris", "Rome", "\"'\\é"]}
FUNCTIONS: list[dict[str, Any]] = [
    {"name": "weather", "parameters": {"type": "object", "properties": {"city": CITY, "days": {"enum": [1, 2, 30]}},
                                       "required": ["city"], "additionalProperties": False}},
    {"name": "now"},
    {"name": "look", "parameters": {"properties": {"a": {"$ref": "#/$defs/x"}, "b": {"type": "boolean"},
                                                   "c": {"type": "null", "uniqueItems": False}, "d": False},
                                    "additionalProperties": False, "$defs": {"x": {"enum": [[], [True], {}]}}}},
]  # fmt: skip
ALL = {**FORMATS, "newer mistral": NEWER_MISTRAL}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    """Random weights: what conforms does so by the grammar alone."""
    changes = {"max_position_embeddings": 2000}
    return LLM(str(write_hf_folder("llama", tmp_path_factory.mktemp("forced"), changes=changes)))


def answers(llm: LLM, grammar: str, count: int = 6) -> list[RequestOutput]:
    """Different answers of the grammar, which all end by themselves."""
    prompt = llm.tokenizer.encode("x")
    params = [SamplingParams(900, 5.0, seed=seed, grammar=grammar) for seed in range(count)]
    return llm.generate([prompt] * count, params)


def read(format: Format, text: str) -> list[tuple[str, Any]]:
    splitter = CallSplitter(format)
    pieces = splitter.push(text) + splitter.finish()
    assert not [piece for piece in pieces if piece.call is None]
    names = [piece.name for piece in pieces if piece.name]
    arguments = ["".join(p.text for p in pieces if p.call == n) for n in range(len(names))]
    return [(name, json.loads(given)) for name, given in zip(names, arguments, strict=True)]


def conforms(function: str, given: dict[str, Any]) -> bool:
    """Whether these are arguments of one of FUNCTIONS, by hand."""
    if function == "weather":
        return given.pop("city") in CITY["enum"] and given.pop("days", 1) in (1, 2, 30) and not given
    if function == "look":
        right = given.get("a", []) in ([], [True], {}) and isinstance(given.get("b", True), bool)
        return right and given.get("c") is None and given.keys() <= {"a", "b", "c"}
    return function == "now" and given == {}


@pytest.mark.parametrize("name", ALL)
def test_what_comes_is_a_call_that_conforms(llm: LLM, name: str) -> None:
    """In every format, by its own parser. Catches a form that the parser does not read, and a schema left out."""
    seen = set()
    for out in answers(llm, grammar_of(Asked(FUNCTIONS, True), ALL[name])):
        assert out.finish_reason == "stop"
        [(function, given)] = read(ALL[name], out.text)
        assert conforms(function, given), given
        seen.add((function, str(given)))
    assert len(seen) > 1


def test_a_required_key_without_a_schema_is_refused_for_key_value() -> None:
    """Catches a call without it, which breaks the schema that the caller gave."""
    parameters = {"properties": {"a": {}}, "required": ["b"]}
    with pytest.raises(ValueError, match="required 'b'"):
        grammar_of(Asked([{"name": "f", "parameters": parameters}]), FORMATS["pythonic"])


@pytest.mark.parametrize("name", ALL)
def test_a_function_may_have_any_name(llm: LLM, name: str) -> None:
    """Catches a name that is taken for a place of the format's own, so that no parser finds the call."""
    own = "see_ARGUMENTS_of_NAME"
    [out] = answers(llm, grammar_of(Asked([{"name": own}], True), ALL[name]), count=1)
    assert read(ALL[name], out.text) == [(own, {})]


def test_several_calls_may_come(llm: LLM) -> None:
    """And one alone, as the model likes."""
    grammar = grammar_of(Asked(FUNCTIONS), FORMATS["hermes"])
    counts = {len(read(FORMATS["hermes"], out.text)) for out in answers(llm, grammar)}
    assert len(counts) > 1


def test_an_answer_in_json_may_be_a_call_instead(llm: LLM) -> None:
    """Where a schema and tools are asked for at once. Catches tools that can never be called beside a schema."""
    schema = {"type": "object", "properties": {"x": {"enum": [1]}}, "required": ["x"], "additionalProperties": False}
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    grammar = grammar_of(Asked(FUNCTIONS[1:2], schema=schema), FORMATS["hermes"])
    for text, fits in (('{"x": 1}', True), (call, True), ('{"x": 2}', False), (call + '{"x": 1}', False)):
        assert follows(llm, grammar, text) == fits


@pytest.mark.parametrize("name", ALL)
def test_a_schema_may_be_true_or_false(llm: LLM, name: str) -> None:
    """Of a property. Catches a schema that is taken for an object."""
    parameters = {"properties": {"a": True}, "required": ["a"], "additionalProperties": False}
    grammar = grammar_of(Asked([{"name": "f", "parameters": parameters}], True), ALL[name])
    texts = [ALL[name].before + ALL[name].call.replace("NAME", "f").replace("ARGUMENTS", one) + ALL[name].after
             for one in ('{"a": [1, null]}', "a=[1, null]")]  # fmt: skip
    assert any(follows(llm, grammar, text) for text in texts)


def follows(llm: LLM, grammar: str, text: str) -> bool:
    """Whether the grammar allows this text."""
    matcher = bars(llm.tokenizer, SamplingParams(grammar=grammar), frozenset()).matcher
    assert matcher is not None
    for token in llm.tokenizer.encode(text, add_special_tokens=False):
        if not matcher.allowed().tokens[token]:
            return False
        matcher.follow(token)
    return bool(matcher.allowed().end)


def test_marks_that_are_special_tokens_stand_by_their_ids(llm: LLM) -> None:
    """Catches [TOOL_CALLS] spelled letter by letter, which the model has never seen."""
    [(id, name)] = llm.tokenizer.specials_in("<|bos|>").items()
    format = replace(NEWER_MISTRAL, call=f"{name}NAME(ARGUMENTS)")
    [out] = answers(llm, grammar_of(Asked(FUNCTIONS[1:2], True, special={name: id}), format), count=1)
    assert out.token_ids[0] == id
    assert out.text == "now({})"


def test_a_schema_that_key_and_value_cannot_hold_is_refused() -> None:
    """The pythonic form writes each key apart. Catches arguments that do not conform to the rest of the schema."""
    for parameters in ({"properties": {"a b": {}}}, {"properties": {"a": {}}, "anyOf": [{"required": ["a"]}]}):
        with pytest.raises(ValueError, match="key=value"):
            grammar_of(Asked([{"name": "f", "parameters": parameters}]), FORMATS["pythonic"])
