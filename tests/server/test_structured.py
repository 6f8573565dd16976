"""The form of an answer over HTTP: kept in every spelling; a bad one is 400 and names its field; the engine lives."""

from __future__ import annotations

import json
import re
import string
from typing import Any

import pytest
from http_calls import Served, eventually

from tinyinfer.guided.grammar import MAX_TEXT
from tinyinfer.server.sampling import MAX_IDS

SCHEMA = {
    "type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["n"],
    "additionalProperties": False,
}  # fmt: skip
EXPLODING = "((a{1,1000}){1,1000}){1,1000}"
ODD = string.punctuation + " \n\té|"
FORMS: list[tuple[dict[str, Any], str]] = [
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}}}, "n"),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, "n"),
    ({"structured_outputs": {"json": SCHEMA}}, "n"),
    ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, "n"),
    ({"guided_json": SCHEMA}, "n"),
    ({"structured_outputs": {"regex": "[0-9]{3}é"}}, "[0-9]{3}é"),
    ({"guided_regex": "[0-9]{3}é"}, "[0-9]{3}é"),
    ({"structured_outputs": {"choice": ["yes", ODD]}}, f"yes|{re.escape(ODD)}"),
    ({"guided_choice": [ODD]}, re.escape(ODD)),
    ({"structured_outputs": {"grammar": 'start: "(" start ")" | "x"'}}, r"\(*x\)*"),
    ({"guided_grammar": 'start: "(" start ")" | "x"'}, r"\(*x\)*"),
]


@pytest.mark.parametrize(("form", "right"), FORMS, ids=range(len(FORMS)))
def test_the_form_that_is_asked_for_is_kept(served: Served, form: dict[str, Any], right: str) -> None:
    """In both endpoints, drawn from random weights. Catches a form that is read and passed over."""
    drawn = {"max_tokens": 200, "temperature": 1, "seed": 5}
    completed = served.complete(**drawn, **form).json["choices"][0]
    chatted = served.chat(**drawn, **form).json["choices"][0]
    for text, choice in ((completed["text"], completed), (chatted["message"]["content"], chatted)):
        assert choice["finish_reason"] == "stop"
        if right == "n":
            assert 0 <= json.loads(text)["n"] <= 9
        else:
            assert re.fullmatch(right, text)


OBJECTS: list[dict[str, Any]] = [
    {"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}},
]  # fmt: skip


@pytest.mark.parametrize("form", OBJECTS, ids=["OpenAI's", "vLLM's"])
def test_json_object_is_an_object_of_any_kind(served: Served, form: dict[str, Any]) -> None:
    ended = [choice for seed in range(4) for choice in
             served.complete(max_tokens=400, temperature=1.5, seed=seed, **form).json["choices"]
             if choice["finish_reason"] == "stop"]  # fmt: skip
    assert ended
    assert all(isinstance(json.loads(choice["text"]), dict) for choice in ended)


FREE: list[dict[str, Any]] = [
    {"response_format": {"type": "text"}}, {"structured_outputs": {}}, {"structured_outputs": {"json_object": False}},
    {"logit_bias": {}}, {"min_tokens": 0},
]  # fmt: skip


@pytest.mark.parametrize("form", FREE, ids=range(len(FREE)))
def test_a_form_that_asks_for_nothing_is_free_text(served: Served, form: dict[str, Any]) -> None:
    assert served.complete(**form).json["choices"] == served.complete().json["choices"]


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": {"type": "xml"}}, "response_format", "json_schema"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema", "is missing"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}}, "response_format.json_schema.schema",
     "must be an object"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "strang"}}}},
     "response_format.json_schema.schema", "Invalid type: strang"),
    ({"guided_json": {"type": "array", "uniqueItems": True, "minItems": 2}}, "guided_json", "uniqueItems"),
    ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "is no JSON"),
    ({"structured_outputs": {"json": 5}}, "structured_outputs.json", "must be an object"),
    ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex", "unclosed group"),
    ({"guided_regex": "(a"}, "guided_regex", "unclosed group"),
    ({"guided_regex": "a" * (MAX_TEXT + 1)}, "guided_regex", "write a shorter one"),
    ({"guided_grammar": "start: nothing"}, "guided_grammar", 'unknown name: "nothing"'),
    ({"guided_choice": []}, "guided_choice", "list of texts"),
    ({"guided_choice": "yes"}, "guided_choice", "list of texts"),
    ({"guided_choice": ["yes", ""]}, "guided_choice", "not empty"),
    ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", "write a grammar"),
    ({"structured_outputs": {"jsno": {}}}, "structured_outputs.jsno", "is not known here"),
    ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice", "two forms of one answer"),
    ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex", "two forms of one answer"),
    ({"structured_outputs": {"regex": "a", "grammar": "b"}}, "structured_outputs.grammar", "two forms of one answer"),
    ({"logit_bias": {"a": 1}}, "logit_bias", "token ids as keys"),
    ({"logit_bias": {"5": 101}}, "logit_bias", "at most 100"),
    ({"logit_bias": {"5": "x"}}, "logit_bias", "must be a number"),
    ({"logit_bias": {"999": 1}}, "logit_bias", "outside the vocabulary"),
    ({"logit_bias": {str(n): 1 for n in range(MAX_IDS + 1)}}, "logit_bias", "at most"),
    ({"min_tokens": 9, "max_tokens": 8}, "min_tokens", "more than max_tokens=8"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("form", "param", "words"), BAD, ids=range(len(BAD)))
def test_9_a_bad_form_is_400_and_names_its_field(
    served: Served, form: dict[str, Any], param: str, words: str, stream: bool
) -> None:
    """Before the first byte, also of a stream; the engine lives."""
    answer = served.complete(stream=stream, **form)
    assert (answer.status, answer.error["param"]) == (400, param)
    assert words in answer.error["message"]
    assert served.complete(max_tokens=2).status == 200
    assert eventually(served.at_rest)


def test_9_a_grammar_that_explodes_in_a_step_is_an_error_of_its_request(served: Served) -> None:
    """Catches a dead engine, a 500, and a retry of what would fail again."""
    fields = {"guided_regex": EXPLODING, "max_tokens": 200, "ignore_eos": True}
    answer = served.complete(**fields)
    assert answer.status == 400
    assert "cannot be followed any more" in answer.error["message"]
    assert served.number("request_success_total", finished_reason="error") == 1
    assert served.complete(max_tokens=2).status == 200
    assert eventually(served.at_rest)


STREAMS: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 3, "ignore_eos": True}, "length"),
    ({"guided_regex": "ab"}, "stop"),
    ({"guided_regex": "ab", "ignore_eos": True}, "stop"),
    ({"guided_regex": EXPLODING, "max_tokens": 200, "ignore_eos": True}, "error"),
]


@pytest.mark.parametrize(("fields", "reason"), STREAMS, ids=["length", "end token", "complete", "failed"])
@pytest.mark.parametrize("path", ["chat", "complete"])
def test_1_the_last_chunk_has_a_finish_reason_and_then_comes_done(
    served: Served, path: str, fields: dict[str, Any], reason: str
) -> None:
    """Also when the grammar fails. Catches a client that waits for an end that never comes."""
    answer = getattr(served, path)(stream=True, **fields)
    assert answer.status == 200
    chunks = answer.chunks  # checks [DONE]
    if reason == "error":
        assert "cannot be followed any more" in chunks.pop()["error"]["message"]
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert reasons[-1] == reason
    assert set(reasons[:-1]) <= {None}
    assert served.number("request_success_total") == 1
    assert eventually(served.at_rest)


def test_min_tokens_and_logit_bias_reach_the_engine(served: Served) -> None:
    first = served.complete(max_tokens=1, return_token_ids=True).json["choices"][0]["token_ids"]
    ended = {"stop_token_ids": first, "max_tokens": 8, "min_tokens": 5, "return_token_ids": True}
    ids = served.complete(**ended).json["choices"][0]["token_ids"]
    assert len(ids) >= 5
    assert first[0] not in ids[:5]
    forced = served.complete(max_tokens=4, logit_bias={"40": 100}, return_token_ids=True)
    assert forced.json["choices"][0]["token_ids"] == [40] * 4
