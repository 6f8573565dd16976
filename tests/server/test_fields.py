"""The fields of a body: absent by null, wrong types named, unknown ones passed over, lacking ones refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from http_calls import Served, talk

from tinyinfer import SamplingParams
from tinyinfer.sampling_params import GRAMMARS
from tinyinfer.server import chat, completions
from tinyinfer.server.fields import KINDS, is_one_of
from tinyinfer.server.sampling import LACKING, MAX_STOPS, SAMPLING

WRONG = {
    "whole": "x", "number": "x", "bool": 1, "text": 5, "texts": [1], "list": "x", "ids": ["a"], "object": [],
    "objects": [1],
}  # fmt: skip
ENDPOINTS = [(chat, "/v1/chat/completions", talk()), (completions, "/v1/completions", {"prompt": "hello"})]


@pytest.mark.parametrize(("module", "path", "body"), ENDPOINTS, ids=["chat", "completions"])
def test_5_null_means_absent_in_every_field(served: Served, module: Any, path: str, body: dict[str, Any]) -> None:
    """Catches a client refused because it writes all fields that it knows."""
    nothing = dict.fromkeys([*module.KINDS, *module.OWN_LACKING, "a_field_of_another_server"])
    answer = served.post(path, {**nothing, "max_tokens": 2, **body})
    assert answer.status == 200
    assert len(served.lines) == 1  # a null is not even an unknown field


@pytest.mark.parametrize(("module", "path", "body"), ENDPOINTS, ids=["chat", "completions"])
def test_a_wrong_type_is_400_and_names_its_field(served: Served, module: Any, path: str, body: dict[str, Any]) -> None:
    for name, kind in module.KINDS.items():
        if kind != "any":
            answer = served.post(path, {**body, name: WRONG[kind]})
            assert (answer.status, answer.error["param"]) == (400, name)
            assert name in answer.error["message"]


@pytest.mark.parametrize(("module", "path", "body"), ENDPOINTS, ids=["chat", "completions"])
def test_what_is_lacking_is_refused_by_name_unless_it_asks_for_nothing(
    served: Served, module: Any, path: str, body: dict[str, Any]
) -> None:
    """Catches a wish that is passed over in silence: the answer would be wrong."""
    neutral = {name: lacking.neutral[0] for name, lacking in module.OWN_LACKING.items() if lacking.neutral}
    assert served.post(path, {**body, "max_tokens": 1, **neutral}).status == 200
    for name, lacking in module.OWN_LACKING.items():
        answer = served.post(path, {**body, name: [{"wanted": 5}]})
        assert (answer.status, answer.error["param"], answer.error["code"]) == (400, name, "unsupported_parameter")
        assert lacking.instead in answer.error["message"]


def test_unknown_fields_are_passed_over_with_one_line(served: Served) -> None:
    """Without their values, which may be private, and on one line whatever their names hold."""
    assert served.complete(max_tokens=1, zebra="secret", **{"ape\n\x1b[2J": 1}).status == 200
    [note] = [line for line in served.lines if "passed over" in line]
    assert "zebra" in note
    assert "secret" not in note
    assert "\n" not in note
    assert "\x1b" not in note


def test_every_field_of_sampling_params_is_read_or_refused() -> None:
    """Catches a field that the engine has won and the server passes over."""
    known = {*SAMPLING, *LACKING, *GRAMMARS, "logprobs", "prompt_logprobs"}  # GRAMMARS: see test_structured.py
    assert {one.name for one in fields(SamplingParams)} <= known
    assert not set(SAMPLING) & set(LACKING)
    assert set(WRONG) | {"any"} == set(KINDS)


RANGES = {
    "temperature": -1, "top_p": 2, "top_k": -5, "min_p": 7, "repetition_penalty": 0, "presence_penalty": 1e9,
    "frequency_penalty": -1e9, "max_tokens": 0, "seed": 2**70, "stop": [""], "stop_token_ids": [999], "min_tokens": -1,
    "logit_bias": {"5": -101}, "cache_salt": "", "n": 0, "best_of": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", RANGES)
def test_a_value_out_of_range_is_400_and_names_its_field(served: Served, name: str) -> None:
    answer = served.complete(**{name: RANGES[name]})
    assert (answer.status, answer.error["param"]) == (400, name)


TOO_MUCH = [("stop", ["x"] * 10_000), ("stop", "x" * 1000), ("stop", ["y"] * (MAX_STOPS + 1)),
            ("stop_token_ids", [1] * 10_000), ("temperature", 10**400)]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), TOO_MUCH, ids=range(len(TOO_MUCH)))
def test_more_than_a_field_may_hold_is_400(served: Served, name: str, value: Any) -> None:
    """Ten thousand stop strings would be compared with each token on the engine's thread."""
    answer = served.complete(**{name: value})
    assert (answer.status, answer.error["param"]) == (400, name)


def test_sampling_fields_reach_the_engine(served: Served) -> None:
    """Catches a field that is checked and then dropped: each of these changes the answer, or keeps a seed's."""
    fixed = {"temperature": 1.5, "seed": 7, "max_tokens": 8, "ignore_eos": True}
    plain = served.complete(**fixed).json["choices"][0]["text"]
    assert served.complete(**fixed).json["choices"][0]["text"] == plain
    greedy = served.complete(max_tokens=8, ignore_eos=True).json["choices"][0]["text"]
    for change in ({"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-9}):
        assert served.complete(**fixed, **change).json["choices"][0]["text"] == greedy
    for change in ({"repetition_penalty": 5.0}, {"presence_penalty": 50.0}, {"frequency_penalty": 50.0}):
        assert served.complete(max_tokens=8, ignore_eos=True, **change).json["choices"][0]["text"] != greedy
    assert plain != greedy
    first = served.complete(max_tokens=1, return_token_ids=True).json["choices"][0]["token_ids"]
    ended = served.complete(max_tokens=8, stop_token_ids=first).json
    assert (ended["choices"][0]["finish_reason"], ended["usage"]["completion_tokens"]) == ("stop", 1)


def test_stream_options_need_a_stream(served: Served) -> None:
    assert served.complete(stream_options={"include_usage": True}).error["param"] == "stream_options"
    answer = served.complete(stream=True, stream_options={"include_usage": "yes"})
    assert answer.error["param"] == "stream_options.include_usage"


@pytest.mark.parametrize(("value", "values", "found"), [(1, (1,), True), (True, (1,), False), ([], ([],), True),
                                                        (0, (False,), False), (False, (False,), True)])  # fmt: skip
def test_true_is_not_one(value: object, values: tuple[Any, ...], found: bool) -> None:
    assert is_one_of(value, values) == found
