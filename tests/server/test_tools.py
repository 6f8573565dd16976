"""Tools of a chat: shown to the model, read from its answer, whole and streamed; and what is refused."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import tool_templates
from http_calls import Answer, Served, talk, together
from scripted import scripted

from tinyinfer.server.events import COMMENT
from tinyinfer.text.stop_strings import text_output

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "x", "parameters": PARAMETERS}}
TIME = {"type": "function", "function": {"name": "now"}}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
ANSWERS = {
    "HERMES": CALL,
    "LLAMA3": '{"name": "get_weather", "parameters": {"city": "Paris"}}',
    "MISTRAL": '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}]',
    "PYTHONIC": "[get_weather(city='Paris')]",
}


def served_with(folder: Path, answer: str, template: str = tool_templates.HERMES, **more: Any) -> Served:
    return Served(scripted(folder, template, answer, **more))


def asked(served: Served, content: str = "hello", **fields: Any) -> Answer:
    return served.chat(content, **{"max_tokens": 400, "tools": [WEATHER, TIME], **fields})


def message_of(answer: Answer) -> dict[str, Any]:
    """The message of a stream, put together as OpenAI's client does it."""
    message: dict[str, Any] = {"content": "", "reasoning": "", "tool_calls": []}
    for choice in answer.choices:
        delta = choice["delta"]
        message["content"] += delta.get("content") or ""
        message["reasoning"] += delta.get("reasoning") or ""
        for part in delta.get("tool_calls", []):
            if part["index"] == len(message["tool_calls"]):
                assert part.keys() == {"index", "id", "type", "function"}
                message["tool_calls"].append({**part, "function": dict(part["function"])})
            else:
                assert part.keys() == {"index", "function"}
                assert part["function"].keys() == {"arguments"}
                message["tool_calls"][part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    message["finish_reason"] = answer.choices[-1]["finish_reason"]
    return message


@pytest.mark.parametrize("name", ANSWERS)
def test_each_family_s_calls_are_read_whole_and_streamed(name: str, tmp_path: Path) -> None:
    """Chosen from the chat template. Catches arguments as an object, ids that are null, and calls left in the text."""
    served = served_with(tmp_path, ANSWERS[name], getattr(tool_templates, name))
    [choice] = asked(served).json["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["refusal"] is None
    [call] = choice["message"]["tool_calls"]
    assert re.fullmatch("[a-zA-Z0-9]{9}" if name == "MISTRAL" else "call_[0-9a-f]{24}", call.pop("id"))
    assert call == {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    answer = asked(served, stream=True)
    streamed = message_of(answer)
    [part] = streamed["tool_calls"]
    assert (part["type"], part["function"]) == ("function", call["function"])
    assert isinstance(part["id"], str)
    assert (streamed["content"], streamed["finish_reason"]) == ("", "tool_calls")
    assert [choice["finish_reason"] for choice in answer.choices[:-1]] == [None] * (len(answer.choices) - 1)
    assert answer.choices[-1]["delta"] == {}


def test_tools_reach_the_template_and_a_choice_of_none_leaves_them_out(tmp_path: Path) -> None:
    """Right: as many tokens of a prompt as the template's own rendering has."""
    served = served_with(tmp_path, CALL)
    llm, messages = served.llm, [{"role": "user", "content": "hello"}]
    with_tools = len(llm.chat_prompt(messages, {"tools": [WEATHER, TIME]}))
    without = len(llm.chat_prompt(messages))
    assert without < with_tools
    assert asked(served).json["usage"]["prompt_tokens"] == with_tools
    assert served.post("/tokenize", {"messages": messages, "tools": [WEATHER, TIME]}).json["count"] == with_tools
    assert served.post("/tokenize", {"messages": messages, "tools": [{"a": 5}]}).error["param"] == "tools[0].function"
    nulls = [{"type": "function", "function": {**tool["function"], "strict": None}} for tool in (WEATHER, TIME)]
    assert served.post("/tokenize", {"messages": messages, "tools": nulls}).json["count"] == with_tools
    assert asked(served, tools=nulls).json["usage"]["prompt_tokens"] == with_tools
    answer = asked(served, tool_choice="none").json
    assert answer["usage"]["prompt_tokens"] == without
    assert answer["choices"][0]["message"]["content"] == CALL
    assert "tool_calls" not in answer["choices"][0]["message"]


def test_a_conversation_goes_on_with_what_a_tool_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's ids are kept (named test 4) and arguments are written as an object. Right: the template's text."""
    served = served_with(tmp_path, "It rains.", tool_templates.HERMES)
    seen: list[str] = []
    render = served.llm.tokenizer.render

    def watched(*args: Any, **more: Any) -> str:
        seen.append(render(*args, **more))
        return seen[-1]

    monkeypatch.setattr(served.llm.tokenizer, "render", watched)
    call = {"id": "own", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "own", "content": "rain"}
    body = {"messages": [{"role": "user", "content": "x"}, said, result], "tools": [WEATHER], "temperature": 0}
    answer = served.post("/v1/chat/completions", body).json["choices"][0]
    assert answer["message"]["content"] == "It rains."
    assert answer["finish_reason"] == "stop"
    wanted = {"name": "get_weather", "arguments": {"city": "Paris"}}
    assert f"<tool_call>\n{json.dumps(wanted)}\n</tool_call>" in seen[0]
    assert "(own)<|im_start|>tool\nrain" in seen[0]


@pytest.mark.parametrize("answer", ["Hello.", "I look. " + CALL, CALL])
def test_3_every_chunk_has_a_finish_reason_and_only_the_last_has_one_that_is_not_null(
    tmp_path: Path, answer: str
) -> None:
    """Strict clients want the key. Catches one that is left out, or that stands beside a call's last piece."""
    served = served_with(tmp_path, answer)
    *before, last = asked(served, stream=True).choices
    assert [choice["finish_reason"] for choice in before] == [None] * len(before)
    assert last["finish_reason"] == ("tool_calls" if CALL in answer else "stop")
    assert last["delta"] == {}


def test_7_strict_clients_find_content_and_refusal_beside_calls(tools_served: Served) -> None:
    """Both null. Catches a content that is left out, or an empty text that such a client shows."""
    message = asked(tools_served).json["choices"][0]["message"]
    assert {key: message[key] for key in ("content", "refusal", "role")} == {
        "content": None, "refusal": None, "role": "assistant",
    }  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
def test_2_a_call_that_is_cut_says_length(tmp_path: Path, stream: bool) -> None:
    """Catches "tool_calls" for half a call, which a client would run. The beginning that came is there."""
    served = served_with(tmp_path, CALL)
    tokens = len(served.llm.tokenizer.encode(CALL, add_special_tokens=False))
    for cut, begun in ((5, False), (tokens - 15, True)):
        answer = asked(served, max_tokens=cut, stream=stream)
        message = message_of(answer) if stream else answer.json["choices"][0]["message"]
        reason = message["finish_reason"] if stream else answer.json["choices"][0]["finish_reason"]
        assert reason == "length"
        assert bool(message.get("tool_calls")) == begun
        assert begun or CALL.startswith(message["content"])
        if begun:
            assert '{"city": "Paris"}'.startswith(message["tool_calls"][0]["function"]["arguments"])


@pytest.mark.parametrize("drafts", [False, True])
@pytest.mark.parametrize("answer", ["<think>\nHm.\n</think>\n\nI look. " + CALL + "\n" + CALL + " Done.",
                                    "<think>Hm.</think>" + CALL, "<tool_call> is a mark."])  # fmt: skip
def test_8_thinking_text_and_calls_in_one_step_lose_nothing(tmp_path: Path, drafts: bool, answer: str) -> None:
    """With drafts a step brings several tokens, and so markers of both kinds. Right: whole and streamed are one."""
    served = served_with(tmp_path, answer, tool_templates.HERMES_THINKING, drafts=drafts)
    whole = asked(served).json["choices"][0]
    streamed = message_of(asked(served, stream=True))
    said = whole["message"]
    assert said["reasoning"] == ("Hm." if "Hm." in answer else None)
    text = answer.partition("</think>")[2] or answer
    assert (said["content"] or "") == re.sub(rf"\s*{re.escape(CALL)}", "", text).strip("\n")
    assert len(said.get("tool_calls", [])) == answer.count(CALL)
    assert whole["finish_reason"] == ("tool_calls" if CALL in answer else "stop")
    assert (streamed["content"], streamed["reasoning"]) == (said["content"] or "", said["reasoning"] or "")
    functions = [[call["function"] for call in calls] for calls in (streamed["tool_calls"], said.get("tool_calls", []))]
    assert functions[0] == functions[1]


def test_11_a_stream_is_the_whole_answer_for_every_max_tokens(tmp_path: Path) -> None:
    """Through text, marks, a name and arguments with letters of several bytes."""
    text = 'é<<tool_call>{"name": "f", "arguments": {"é": "👩"}}</tool_call>'
    served = served_with(tmp_path, text, kv_cache="paged", prefix_cache=True)
    cuts = range(1, len(served.llm.tokenizer.encode(text, add_special_tokens=False)) + 2)
    both = [[talk(max_tokens=cut, tools=[TIME], stream=stream) for cut in cuts] for stream in (False, True)]
    answers = [together(*(served.asked("/v1/chat/completions", body) for body in bodies)) for bodies in both]
    for one, other in zip(*answers, strict=True):
        whole, streamed = one.json["choices"][0], message_of(other)
        assert streamed["content"] == (whole["message"]["content"] or "")
        assert streamed["finish_reason"] == whole["finish_reason"]
        calls = [call["function"] for call in whole["message"].get("tool_calls", [])]
        assert [call["function"] for call in streamed["tool_calls"]] == calls


def test_12_ids_and_logprobs_of_a_stream_are_all_there_while_calls_are_held_back(tmp_path: Path) -> None:
    """Catches the tokens of a mark, which bring no text, lost from the logprobs."""
    served = served_with(tmp_path, "I look. " + CALL)
    asking = {"logprobs": True, "return_token_ids": True}
    whole = asked(served, **asking).json["choices"][0]
    choices = asked(served, stream=True, **asking).choices
    with_ids = [choice for choice in choices if choice.get("token_ids")]
    assert [token for choice in with_ids for token in choice["token_ids"]] == whole["token_ids"]
    entries = [entry for choice in with_ids for entry in choice["logprobs"]["content"]]
    assert entries == whole["logprobs"]["content"]
    assert all(len(choice["token_ids"]) == len(choice["logprobs"]["content"]) for choice in with_ids)


ENUM = {"properties": {"city": {"enum": ["Rome"]}}, "required": ["city"], "additionalProperties": False}
ROME = {"type": "function", "function": {"name": "get_weather", "parameters": ENUM}}
THOUGHT = "<think>\nHm.\n</think>\n\n"


@pytest.mark.parametrize(("name", "answer"), [*((n, "No.") for n in ANSWERS), ("HERMES_THINKING", THOUGHT + "No.")])
def test_a_call_that_must_come_comes_in_every_format(tmp_path: Path, name: str, answer: str) -> None:
    """From a model that would rather say no; one that thinks does so first. Catches a choice that is only a wish."""
    served = served_with(tmp_path, answer, getattr(tool_templates, name))
    asking = {"tools": [ROME], "tool_choice": "required", "parallel_tool_calls": False}
    [choice] = asked(served, **asking).json["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["reasoning"] == ("Hm." if "Hm." in answer else None)
    [call] = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Rome"}'}
    [streamed] = message_of(asked(served, stream=True, **asking))["tool_calls"]
    assert streamed["function"] == call["function"]


@pytest.mark.parametrize("form", [{"guided_grammar": 'start: "x"'}, {"guided_regex": "x"}])
def test_a_call_that_must_come_and_a_grammar_of_the_callers_are_400(
    tools_served: Served, form: dict[str, str]
) -> None:
    """Catches the caller's grammar dropped in silence."""
    answer = asked(tools_served, tool_choice="required", **form)
    assert (answer.status, answer.error["param"]) == (400, next(iter(form)))
    assert "a call must come" in answer.error["message"]


def test_an_error_names_the_form_or_the_tools_whichever_is_wrong(tools_served: Served, tmp_path: Path) -> None:
    """A model that thinks has one grammar of both. Catches "tools" where the caller gave none."""
    thinker = served_with(tmp_path, "No.", tool_templates.HERMES_THINKING)
    bad = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "nothing"}}}}}
    schemas = [{"type": "nothing"}, {"type": "object"}]
    forms = [{"type": "json_schema", "json_schema": {"name": "n", "schema": schema}} for schema in schemas]
    place = "response_format.json_schema.schema"
    for tools, form, param in (([], forms[0], place), ([WEATHER], forms[0], place), ([bad], forms[1], "tools")):
        answer = asked(thinker, tools=tools, response_format=form)
        assert (answer.status, answer.error["param"]) == (400, param)


def test_a_type_that_is_null_is_absent(tools_served: Served) -> None:
    """As in every field. Catches a tool that is refused for it."""
    assert asked(tools_served, tools=[{**WEATHER, "type": None}], max_tokens=1).status == 200


def test_a_function_that_is_named_is_the_one_that_is_called(tmp_path: Path) -> None:
    """Once, also where several calls may come."""
    served = served_with(tmp_path, CALL)
    named = {"type": "function", "function": {"name": "now"}}
    [call] = asked(served, tool_choice=named).json["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "now", "arguments": "{}"}


def test_9_parameters_that_no_grammar_follows_are_400_and_the_engine_lives(tmp_path: Path) -> None:
    served = served_with(tmp_path, "Yes.")
    for schema in ({"properties": {"a": {"type": "nothing"}}}, {"properties": {"a": {"$ref": "#/$defs/none"}}}):
        bad = {"type": "function", "function": {"name": "f", "parameters": schema}}
        answer = asked(served, tools=[bad], tool_choice="required")
        assert (answer.status, answer.error["param"]) == (400, "tools")
        assert asked(served, tools=[bad]).json["choices"][0]["message"]["content"] == "Yes."


def test_an_answer_in_json_beside_tools_is_one_or_the_other(tmp_path: Path) -> None:
    """Agents ask for both in every call. Catches a schema that leaves no tool to be called, or that is passed over."""
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {**ENUM, "type": "object"}}}
    for answer, called in ((CALL, True), ('{"city": "Rome"}', False), ("No.", None)):
        served = served_with(tmp_path / str(called), answer)
        message = asked(served, tools=[WEATHER], response_format=form).json["choices"][0]["message"]
        assert called is None or bool(message.get("tool_calls")) == called
        for call in message.get("tool_calls", []):
            assert call["function"]["name"] == "get_weather"
        if not message.get("tool_calls"):
            assert json.loads(message["content"]) == {"city": "Rome"}


def test_only_one_call_is_given_where_only_one_is_wanted(tmp_path: Path) -> None:
    served = served_with(tmp_path, CALL + CALL)
    for stream in (False, True):
        answer = asked(served, parallel_tool_calls=False, stream=stream)
        message = message_of(answer) if stream else answer.json["choices"][0]["message"]
        assert len(message["tool_calls"]) == 1
    assert len(asked(served).json["choices"][0]["message"]["tool_calls"]) == 2


def test_calls_of_unknown_tools_are_given_as_they_are(tmp_path: Path) -> None:
    """The caller can answer that there is no such tool; text in its place would hide what the model wanted."""
    served = served_with(tmp_path, CALL.replace("get_weather", "other"))
    assert asked(served).json["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "other"


def test_special_tokens_of_a_format_are_spelled_for_its_parser(tmp_path: Path) -> None:
    """Special tokens are no text: catches Mistral's marks gone before the parser sees them. Here <|im_end|>."""
    served = served_with(tmp_path, ANSWERS["MISTRAL"], tool_templates.MISTRAL)
    tokenizer, (mark,) = served.llm.tokenizer, served.llm.tokenizer.specials_in("<|im_start|>")
    for marks, wanted in (((), "ab"), (("<|im_start|>",), "a<|im_start|>b"), (("[TOOL_CALLS]",), "ab")):
        text = text_output(tokenizer, [], marks=marks)
        for token in [*tokenizer.encode("a", False), mark, *tokenizer.encode("b", False)]:
            text.push(token)
        text.finish()
        assert text.text == wanted


def test_a_stream_lives_while_a_long_value_is_held_back(tmp_path: Path) -> None:
    """A proxy would cut what is silent. Each look at this clock is a minute later than the one before."""
    served = served_with(tmp_path, "[f(a='" + "x" * 50 + "')]", tool_templates.PYTHONIC)
    times = itertools.count(0, 60)
    served.service.clock = lambda: float(next(times))  # type: ignore[method-assign]
    body = asked(served, stream=True).body
    opening, _, rest = body.partition(COMMENT)
    assert b'"role":"assistant"' in opening
    assert b"xxx" in rest


def tool(**function: Any) -> list[dict[str, Any]]:
    return [WEATHER, {"type": "function", "function": function}]


NAMED = {"type": "function", "function": {"name": "other"}}
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "functions"),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "an object"),
    ({"tools": tool()}, "tools[1].function.name", "letters"),
    ({"tools": tool(name="a b")}, "tools[1].function.name", "_"),
    ({"tools": tool(name="f", parameters=5)}, "tools[1].function.parameters", "schema"),
    ({"tools": tool(name="f", parameters={"type": "string"})}, "tools[1].function.parameters", "object"),
    ({"tools": tool(name="f", parameters={"properties": []})}, "tools[1].function.parameters", "object"),
    ({"tools": tool(name="f", parameters={"required": 5})}, "tools[1].function.parameters", "object"),
    ({"tool_choice": "maybe"}, "tool_choice", "auto"), ({"tool_choice": NAMED}, "tool_choice", "'other'"),
    ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice", "auto"), ({"tool_choice": 5}, "tool_choice", "5"),
    ({"tools": None, "tool_choice": "required"}, "tool_choice", "needs tools"),
    ({"tools": [TIME, WEATHER, TIME]}, "tools", "the same name"),
    ({"tools": [], "tool_choice": NAMED}, "tool_choice", "'other'"), ({"tools": [5]}, "tools", "objects"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "words"), WRONG, ids=range(len(WRONG)))
def test_what_is_no_tool_or_choice_is_400_and_named(
    tools_served: Served, fields: dict[str, Any], param: str, words: str
) -> None:
    answer = asked(tools_served, **fields)
    assert (answer.status, answer.error["param"]) == (400, param)
    assert words in answer.error["message"]


@pytest.fixture(scope="module")
def tools_served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return served_with(tmp_path_factory.mktemp("tools"), CALL)


def test_a_model_that_knows_no_tools_refuses_them_with_a_sentence(served: Served, tmp_path: Path) -> None:
    """Catches tools that are left out in silence. Without any, or with a choice of none, all is as before."""
    answer = asked(served)
    assert (answer.status, answer.error["param"], answer.error["code"]) == (400, "tools", "unsupported_parameter")
    assert "has no place for tools" in answer.error["message"]
    assert asked(served, tools=[], max_tokens=1).status == asked(served, tool_choice="none", max_tokens=1).status == 200
    unread = Served(scripted(tmp_path, tool_templates.template("{{- c }}"), CALL))
    assert "--tool-call-parser" in asked(unread).error["message"]
    told = Served(unread.llm, tool_call_parser="hermes")
    assert asked(told).json["choices"][0]["finish_reason"] == "tool_calls"
