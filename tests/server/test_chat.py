"""/v1/chat/completions: messages in, a message out, thinking apart from it, and streams of the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from http_calls import Served
from scripted import scripted
from thinking_templates import QWEN3

from tinyinfer import LLM, SamplingParams
from tinyinfer.server.collected import Collected

THOUGHT = "<think>\nA greeting.\n</think>\n\nHello!"


def test_an_answer_is_llm_chats_own(served: Served, served_llm: LLM) -> None:
    """Catches a prompt that is tokenized with special tokens twice, and another default for the longest answer."""
    out = served_llm.chat([{"role": "user", "content": "hello"}], SamplingParams(max_tokens=6))
    answer = served.chat(max_tokens=6).json
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    [choice] = answer["choices"]
    assert choice["message"]["content"] == out.text
    assert answer["usage"]["prompt_tokens"] == len(out.prompt_token_ids)


def test_7_strict_clients_find_every_field_of_a_message(served: Served) -> None:
    [choice] = served.chat(max_tokens=2).json["choices"]
    assert set(choice) == {"index", "message", "logprobs", "finish_reason"}
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["refusal"] is None
    assert choice["logprobs"] is None


def test_24_n_messages_are_those_of_single_calls(served: Served) -> None:
    """Each begins with the role where it is streamed. Catches one of them that has the thinking or end of another."""
    drawn = {"temperature": 1.3, "max_tokens": 6}
    alone = [served.chat(seed=7 + i, **drawn).json["choices"][0]["message"] for i in range(3)]
    whole = served.chat(seed=7, n=3, **drawn).json
    assert [(one["index"], one["message"]) for one in whole["choices"]] == list(enumerate(alone))
    streamed = served.chat(seed=7, n=3, stream=True, **drawn).choices
    for index, message in enumerate(alone):
        first, *rest = (one["delta"] for one in streamed if one["index"] == index)
        assert first["role"] == "assistant"
        assert "".join(one.get("content", "") for one in rest) == message["content"]
    assert served.chat(n=3, best_of=5).error["param"] == "best_of"


def test_a_stream_begins_with_the_role_and_joins_to_the_whole(served: Served) -> None:
    """Catches a role in every chunk, and a finish chunk that carries text some clients do not read."""
    whole = served.chat(max_tokens=9).json["choices"][0]
    answer = served.chat(max_tokens=9, stream=True)
    assert {chunk["object"] for chunk in answer.chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in answer.chunks}) == 1
    first, *between, last = answer.choices
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert "".join(one["delta"]["content"] for one in between) == whole["message"]["content"]
    assert between  # how many there are is the pace of the reader
    assert not any("role" in one["delta"] for one in between)
    assert (last["delta"], last["finish_reason"]) == ({}, whole["finish_reason"])
    assert all(one["finish_reason"] is None for one in (first, *between))


@pytest.mark.parametrize("drafts", [False, True])
def test_8_thinking_comes_under_both_names_and_nothing_is_lost(drafts: bool, tmp_path: Path) -> None:
    """Also where one step brings thinking, marker and text (drafts). Catches text lost beside a marker."""
    served = Served(scripted(tmp_path, QWEN3, THOUGHT, drafts))
    message = served.chat(max_tokens=100).json["choices"][0]["message"]
    assert (message["reasoning_content"], message["reasoning"], message["content"]) == (
        "A greeting.", "A greeting.", "Hello!",
    )  # fmt: skip
    deltas = [choice["delta"] for choice in served.chat(max_tokens=100, stream=True).choices]
    for name, text in (("reasoning_content", "A greeting."), ("reasoning", "A greeting."), ("content", "Hello!")):
        assert "".join(delta.get(name, "") for delta in deltas) == text


def test_6_reasoning_tokens_are_counted_the_same_streamed_and_whole(tmp_path: Path) -> None:
    """With several tokens a step and with one. Catches a count that depends on what a step brings."""
    counts = []
    for drafts in (False, True):
        served = Served(scripted(tmp_path / str(drafts), QWEN3, THOUGHT, drafts))
        counts.append(served.chat(max_tokens=100).json["usage"])
        last = served.chat(max_tokens=100, stream=True, stream_options={"include_usage": True}).chunks[-1]
        counts.append(last["usage"])
    assert counts[1:] == counts[:-1]
    details = counts[0]["completion_tokens_details"]
    assert 0 < details["reasoning_tokens"] < counts[0]["completion_tokens"]


def test_thinking_can_be_left_out_or_switched_off(tmp_path: Path) -> None:
    served = Served(scripted(tmp_path, QWEN3, THOUGHT))
    assert served.chat(max_tokens=100, include_reasoning=False).json["choices"][0]["message"]["reasoning"] is None
    off = {"enable_thinking": False}
    message = served.chat(max_tokens=100, chat_template_kwargs=off).json["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == (None, THOUGHT)


def test_logprobs_have_bytes_and_the_best_alternatives(served: Served, served_llm: LLM) -> None:
    [choice] = served.chat(max_tokens=4, logprobs=True, top_logprobs=3, ignore_eos=True).json["choices"]
    entries = choice["logprobs"]["content"]
    assert len(entries) == 4
    assert [len(entry["top_logprobs"]) for entry in entries] == [3] * 4
    spelled = b"".join(bytes(entry["bytes"]) for entry in entries)
    assert spelled.decode("utf-8", "replace").startswith(choice["message"]["content"].rstrip("\ufffd"))
    alone = served.chat(max_tokens=4, logprobs=True).json["choices"][0]["logprobs"]["content"]
    assert all(entry["top_logprobs"] == [] for entry in alone)
    assert served.chat(top_logprobs=3).error["param"] == "top_logprobs"
    assert served.chat(logprobs=True, top_logprobs=1000).error["param"] == "top_logprobs"


def test_the_newer_name_of_max_tokens_wins_and_is_named(served: Served) -> None:
    answer = served.chat(max_completion_tokens=3, max_tokens=7, ignore_eos=True)
    assert answer.json["usage"]["completion_tokens"] == 3
    error = served.chat(max_completion_tokens=0).error
    assert error["param"] == "max_completion_tokens"
    assert error["message"].startswith("max_completion_tokens=0")


def test_without_a_limit_an_answer_goes_on_to_the_contexts_end(tmp_path: Path) -> None:
    """OpenAI's default. Catches SamplingParams' 256."""
    served = Served(scripted(tmp_path, "{{ messages[0]['content'] }}", "a" * 400))
    assert served.chat().json["usage"]["completion_tokens"] == 401


MESSAGES: list[tuple[Any, str]] = [
    (None, "messages"), ([], "messages"), ("hi", "messages"), ([1], "messages"),
    ([{"content": "x"}], "messages[0].role"),
    ([{"role": 1, "content": "x"}], "messages[0].role"), ([{"role": "user", "content": 5}], "messages[0].content"),
    ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0]"),
    ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
]  # fmt: skip


@pytest.mark.parametrize(("messages", "param"), MESSAGES)
def test_wrong_messages_are_400_and_the_place_is_named(served: Served, messages: Any, param: str) -> None:
    answer = served.post("/v1/chat/completions", {"messages": messages})
    assert (answer.status, answer.error["param"]) == (400, param)


def test_parts_of_text_are_read(served: Served) -> None:
    parts = [{"type": "text", "text": "hello"}]
    body = {"messages": [{"role": "user", "content": parts}], "max_tokens": 1}
    answer = served.post("/v1/chat/completions", body)
    assert answer.json["usage"]["prompt_tokens"] == served.chat(max_tokens=1).json["usage"]["prompt_tokens"]


def test_9_a_template_that_refuses_is_400_and_the_engine_lives(tmp_path: Path) -> None:
    """Catches a 500 for what the template says of these messages."""
    template = "{% if messages[0]['content'] == 'no' %}{{ raise_exception('not this') }}{% endif %}x"
    served = Served(scripted(tmp_path, template, "yes"))
    answer = served.chat("no")
    assert answer.status == 400
    assert "not this" in answer.error["message"]
    assert served.chat("hello").json["choices"][0]["message"]["content"] == "yes"


@pytest.mark.parametrize("depth", [200, 500, 900])
@pytest.mark.parametrize("field", ["tool_calls", "chat_template_kwargs"])
def test_a_value_that_is_nested_deeply_is_the_callers_mistake(served: Served, field: str, depth: int) -> None:
    """Deep for what looks for control tokens in it, and not too deep for JSON. Catches a 500, by Python's own limit."""
    value: Any = {"x": 1}
    for _ in range(depth):
        value = [value]
    message = {"role": "user", "content": "x"}
    inside = {"messages": [{**message, "tool_calls": value}]}
    body = inside if field == "tool_calls" else {"messages": [message], field: {"x": value}}
    assert served.post("/v1/chat/completions", {**body, "max_tokens": 1}).status in (200, 400)
    assert not any("exception" in line for line in served.lines)
    assert served.chat(max_tokens=1).status == 200


def test_a_stream_with_usage_in_each_chunk_reads_each_token_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where thinking ends is looked for in every chunk. Catches an answer that is decoded anew for each: a long
    one held up all other calls.
    """
    served = Served(scripted(tmp_path, QWEN3, THOUGHT))
    options = {"include_usage": True, "continuous_usage_stats": True}
    read: list[int] = []
    honest = Collected.reasoning_tokens.fget

    def counting(answer: Collected) -> int:
        before = answer._read
        found: int = honest(answer)  # type: ignore[misc]
        read.append(answer._read - before)
        return found

    monkeypatch.setattr(Collected, "reasoning_tokens", property(counting))
    chunks = served.chat(max_tokens=100, stream=True, stream_options=options).chunks
    told = [chunk["usage"]["completion_tokens_details"]["reasoning_tokens"] for chunk in chunks]
    assert told == sorted(told)
    assert 0 < told[-1] < chunks[-1]["usage"]["completion_tokens"]
    assert sum(read) == chunks[-1]["usage"]["completion_tokens"]
