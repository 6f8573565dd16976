"""/v1/responses: items in and items out, typed events, the usage in its form, and what needs a memory refused."""

from __future__ import annotations

import itertools
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import tool_templates
from http_calls import Answer, Served
from scripted import scripted
from thinking_templates import QWEN3

from tinyinfer.errors import NotFiniteError
from tinyinfer.server import responses
from tinyinfer.server.items import join, message_of, messages_of

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
ANSWER = f"<think>\nHm.\n</think>\n\nI look. {CALL} Done."
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": None}


def ask(served: Served, given: Any = "hello", **fields: Any) -> Answer:
    return served.post("/v1/responses", {"input": given, "temperature": 0, **fields})


def events_of(answer: Answer) -> list[dict[str, Any]]:
    """The events of a stream, whose names are their types; nothing stands behind the last one."""
    found = []
    for block in answer.body.decode().split("\n\n")[:-1]:
        name, data = re.fullmatch(r"event: (\S+)\ndata: (.*)", block).groups()  # type: ignore[union-attr]
        found.append(json.loads(data))
        assert found[-1]["type"] == name
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def without_ids(response: dict[str, Any]) -> dict[str, Any]:
    """A response without what differs between two calls."""
    output = [{k: v for k, v in item.items() if k not in ("id", "call_id")} for item in response["output"]]
    return {**response, "output": output, "id": "", "created_at": 0, "completed_at": 0}


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return Served(scripted(tmp_path_factory.mktemp("thinker"), tool_templates.HERMES_THINKING, ANSWER))


def test_an_answer_is_the_same_as_a_chats(served: Served) -> None:
    """One way to the engine. Catches another prompt, or another default."""
    chat = served.chat(max_tokens=6).json
    response = ask(served, max_output_tokens=6).json
    [item] = response["output"]
    assert item["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    assert response["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]
    assert (response["object"], response["status"]) == ("response", "incomplete")
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["id"].startswith("resp_")
    assert response["store"] is False


@pytest.mark.parametrize("drafts", [False, True])
def test_thinking_texts_and_calls_are_items_in_their_order(tmp_path: Path, drafts: bool) -> None:
    """Also where one step brings several. Right: a stream's last event holds what a whole answer is."""
    served = Served(scripted(tmp_path, tool_templates.HERMES_THINKING, ANSWER, drafts))
    whole = ask(served, tools=[WEATHER]).json
    thought, text, call, last = whole["output"]
    assert (thought["type"], thought["content"][0]["text"], thought["summary"]) == ("reasoning", "Hm.", [])
    assert text["content"] == [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}]
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "weather", '{"city": "Paris"}')
    assert last["content"][0]["text"] == " Done."
    assert {item["status"] for item in whole["output"]} == {"completed"}
    events = events_of(ask(served, tools=[WEATHER], stream=True))
    assert events[-1]["type"] == "response.completed"
    assert without_ids(events[-1]["response"]) == without_ids(whole)


def test_each_item_opens_grows_and_closes(thinker: Served) -> None:
    """As OpenAI's reference has it. Catches a delta of an item that was not added, and a done that its deltas miss."""
    events = events_of(ask(thinker, tools=[WEATHER], stream=True))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[0]["response"]["output"] == []
    assert events[0]["response"]["usage"] is None
    text = "output_item.added content_part.added (output_text.delta )+output_text.done "
    text += "content_part.done output_item.done"
    call = r"output_item.added (call.delta )+call.done output_item.done"
    thinking = text.replace("output_text", "reasoning_text")
    kinds = " ".join(event["type"].removeprefix("response.") for event in events[2:-1])
    kinds = kinds.replace("function_call_arguments", "call")
    assert re.fullmatch(f"{thinking} {text} {call} {text}", kinds)
    joined: dict[str, str] = {}
    for event in events[2:-1]:
        if event["type"].endswith(".delta"):
            joined[event["item_id"]] = joined.get(event["item_id"], "") + event["delta"]
        for name in ("text", "arguments"):
            if event["type"].endswith(("text.done", "arguments.done")) and name in event:
                assert joined[event["item_id"]] == event[name]
    output = events[-1]["response"]["output"]
    assert [event["item"] for event in events if event["type"].endswith("output_item.done")] == output
    assert list(joined) == [item["id"] for item in output]


def test_6_usage_is_complete_in_its_own_form(thinker: Served) -> None:
    """The same whole and streamed, and as a chat counts it."""
    whole = ask(thinker).json["usage"]
    streamed = events_of(ask(thinker, stream=True))[-1]["response"]["usage"]
    chat = thinker.chat(max_tokens=400).json["usage"]
    assert whole.keys() == {
        "input_tokens", "input_tokens_details", "output_tokens", "output_tokens_details", "total_tokens",
    }  # fmt: skip
    assert whole == streamed
    assert whole["total_tokens"] == whole["input_tokens"] + whole["output_tokens"] == chat["total_tokens"]
    reasoning = chat["completion_tokens_details"]["reasoning_tokens"]
    assert whole["output_tokens_details"] == {"reasoning_tokens": reasoning}
    assert whole["input_tokens_details"]["cached_tokens"] == chat["prompt_tokens_details"]["cached_tokens"]


def test_2_a_call_that_is_cut_is_incomplete(thinker: Served) -> None:
    beginning = ANSWER.removesuffix('s"}}\n</tool_call> Done.')
    tokens = len(thinker.llm.tokenizer.encode(beginning, add_special_tokens=False))
    events = events_of(ask(thinker, tools=[WEATHER], max_output_tokens=tokens, stream=True))
    assert events[-1]["type"] == "response.incomplete"
    last = events[-1]["response"]["output"][-1]
    assert (last["type"], last["status"], last["arguments"]) == ("function_call", "incomplete", '{"city": "Pari')


def test_a_form_of_the_text_is_kept(thinker: Served) -> None:
    """After the thinking; with tools, the model may call instead. Catches JSON inside the thinking, or none."""
    schema = {"type": "object", "properties": {"x": {"enum": [5]}}, "required": ["x"], "additionalProperties": False}
    form = {"format": {"type": "json_schema", "name": "n", "schema": schema}}
    thought, item = ask(thinker, text=form).json["output"]
    assert thought["content"][0]["text"] == "Hm."
    assert json.loads(item["content"][0]["text"]) == {"x": 5}
    [_, item] = ask(thinker, text=form, tools=[WEATHER], tool_choice="required").json["output"]
    assert item["type"] == "function_call"


def test_a_forced_call_comes(thinker: Served) -> None:
    choice = {"type": "function", "name": "weather"}
    parameters = {"properties": {}, "additionalProperties": False}
    [_, item] = ask(thinker, tools=[{**WEATHER, "parameters": parameters}], tool_choice=choice).json["output"]
    assert (item["type"], item["name"], item["arguments"]) == ("function_call", "weather", "{}")


def test_a_stream_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the tenth of slow steps, so that the stream has begun on any machine. Catches an item that stays open."""
    served = Served(scripted(tmp_path, QWEN3, "a" * 90))
    step, times = served.llm.engine.step, itertools.count()

    def broken(*args: Any) -> Any:
        time.sleep(0.02)
        if next(times) == 10:
            raise NotFiniteError("the model's numbers overflow in layer 1", "use float32")
        return step(*args)

    monkeypatch.setattr(served.llm.engine, "step", broken)
    events = events_of(ask(served, stream=True))
    assert events[-1]["type"] == "response.failed"
    assert "overflow in layer 1" in events[-1]["response"]["error"]["message"]
    assert [item["status"] for item in events[-1]["response"]["output"]] == ["incomplete"]
    assert events[-1]["response"]["status"] == "failed"


CALLED = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
THOUGHT = {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]}


def test_items_of_the_model_become_one_message() -> None:
    """What a template wants: thinking, text and calls of a turn together. Catches a turn that is written as three."""
    items = [{"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
             THOUGHT, SAID, CALLED, {**CALLED, "call_id": "c2"},
             {"type": "function_call_output", "call_id": "c1", "output": "1"},
             {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
             THOUGHT, SAID, SAID, THOUGHT, {"type": None, "role": "developer", "content": "c"}]  # fmt: skip
    system, user, turn, one, two, second, third, fourth, developer = messages_of(items, "Be kind.")
    assert (system["role"], system["content"]) == ("system", "Be kind.")
    assert user == {"role": "user", "content": "a\nb"}
    assert (turn["reasoning_content"], turn["content"]) == ("Hm.", "I look.")
    assert [call["id"] for call in turn["tool_calls"]] == ["c1", "c2"]
    assert (one["tool_call_id"], one["content"]) == ("c1", "1")
    assert (two["tool_call_id"], two["content"]) == ("c2", "2")
    assert (second["reasoning_content"], second["content"]) == ("Hm.", "I look.")
    assert third == {"role": "assistant", "content": "I look."}
    assert fourth == {"role": "assistant", "reasoning_content": "Hm."}
    assert developer == {"role": "system", "content": "c"}


BAD_TOOL = {"type": "function", "name": "f", "parameters": {"properties": {"a": {"type": "nothing"}}}}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"), ({"input": []}, "input"), ({"input": 5}, "input"), ({"input": [5]}, "input[0]"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"), ({"input": [{}]}, "input[0].type"),
    ({"input": [{"role": "other", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
    ({"input": [{**CALLED, "arguments": {}}]}, "input[0].arguments"),
    ({"input": [{**CALLED, "call_id": None}]}, "input[0].call_id"),
    ({"input": [{"type": "function_call_output", "call_id": "x"}]}, "input[0].output"),
    ({"input": [{"type": "reasoning", "content": 0}]}, "input[0].content"),
    ({"input": [{"type": "reasoning", "content": "x", "summary": False}]}, "input[0].summary"),
    ({"max_output_tokens": 0}, "max_output_tokens"), ({"temperature": -1}, "temperature"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"), ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"), ({"text": {"format": "xml"}}, "text.format"),
    *(({"text": {"format": name}}, "text.format") for name in ("json_schema", "json_object", "text", "")),
    ({"text": {"format": {"type": "json_schema", "schema": {"type": "nothing"}}}}, "text.format"),
    ({"reasoning": {"effort": 5}}, "reasoning.effort"),
    ({"stream_options": {"include_usage": "x"}, "stream": True}, "stream_options.include_usage"),
    ({"text": {"format": {"type": "json_object"}}, "tools": [BAD_TOOL]}, "tools"),
    ({"text": {"format": {"type": "json_schema", "schema": {"type": "nothing"}}}, "tools": [WEATHER]}, "text.format"),
    ({"input": "x" * 9000}, "input"), ({"include": [responses.LOGPROBS]}, "include"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), WRONG, ids=range(len(WRONG)))
def test_what_cannot_be_is_400_by_the_callers_own_names(thinker: Served, fields: dict[str, Any], param: str) -> None:
    """Catches a name of the chat's form, which the caller has not written."""
    answer = ask(thinker, **fields)
    assert (answer.status, answer.error["param"]) == (400, param)
    assert "messages" not in answer.error["message"]
    assert "max_tokens" not in answer.error["message"]


def test_calls_are_joined_without_a_copy_of_those_before() -> None:
    """Catches a time that grows with the square of the calls: a body of 16 MB may hold a hundred thousand."""
    first, second = (message_of({**CALLED, "call_id": id}, "") for id in ("a", "b"))
    calls = first["tool_calls"]
    assert join(first, second)
    assert first["tool_calls"] is calls
    assert [one["id"] for one in calls] == ["a", "b"]


def test_a_refusal_of_an_earlier_answer_is_a_text() -> None:
    content = [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "no"}]
    assert messages_of([{"role": "assistant", "content": content}], None) == [{"role": "assistant", "content": "a\nno"}]


def test_what_needs_a_memory_is_refused_and_store_is_passed_over(thinker: Served) -> None:
    """Catches a wish that is passed over in silence. Clients send store=true by default, so that it is none."""
    for name, lacking in responses.OWN_LACKING.items():
        answer = ask(thinker, **{name: [{"wanted": 5}]})
        assert (answer.status, answer.error["param"], answer.error["code"]) == (400, name, "unsupported_parameter")
        assert lacking.instead in answer.error["message"]
    nothing = dict.fromkeys([*responses.KINDS, *responses.OWN_LACKING])
    answer = ask(thinker, **{**nothing, "input": "x", "store": True, "background": False})
    assert (answer.status, answer.json["store"], answer.json["previous_response_id"]) == (200, False, None)
