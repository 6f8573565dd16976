"""What the chat template is given of a conversation with calls."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from http_calls import Served

from tinyinfer.server.messages import check_messages, for_template


def call(id: Any, arguments: Any, name: str = "f") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_arguments_are_objects_where_they_are_json() -> None:
    """Templates write them as JSON: catches a text that is quoted twice. The caller's messages stay as they are."""
    texts = ['{"a": 1}', "", None, {"a": 1}, '{"a": ', "[1]", "[" * 5000]
    messages = [{"role": "assistant", "content": None, "tool_calls": [call("x", text) for text in texts]}]
    before = deepcopy(messages)
    [message] = for_template(messages)
    found = [one["function"]["arguments"] for one in message["tool_calls"]]
    assert found == [{"a": 1}, {}, {}, {"a": 1}, '{"a": ', "[1]", "[" * 5000]
    assert messages == before


def test_4_ids_are_never_null_and_the_clients_are_kept() -> None:
    """Clients send null for an id that another server did not give. Catches a template that writes None, or refuses."""
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [call(None, "{}"), call("own", "{}"), call("", "{}")]},
        {"role": "tool", "content": "of the first"},
        {"role": "tool", "tool_call_id": "own", "content": "of the second"},
        {"role": "tool", "tool_call_id": None, "content": "of the third"},
        {"role": "tool", "content": "of none"},
    ]
    _, said, *results = for_template(messages)
    assert [one["id"] for one in said["tool_calls"]] == ["call00000", "own", "call00001"]
    assert [one.get("tool_call_id") for one in results] == ["call00000", "own", "call00001", None]


class Compared(str):
    """An id that counts how often it is compared with another one."""

    times = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Compared.times += 1
        return str.__eq__(self, other)


def test_each_answer_of_a_tool_finds_its_call_without_a_search() -> None:
    """The last call is answered first. Catches a list that is searched: half a minute for a body of 2 MB."""
    ids = [f"id{n}" for n in range(300)]
    said = {"role": "assistant", "content": "", "tool_calls": [call(Compared(id), "{}") for id in ids]}
    results = [{"role": "tool", "tool_call_id": Compared(id), "content": id} for id in reversed(ids)]
    _, *found = for_template([said, *results, {"role": "tool", "content": "of none"}])
    assert [one.get("tool_call_id") for one in found] == [*reversed(ids), None]
    assert Compared.times < 10 * len(ids)


def test_two_calls_of_one_id_have_two_answers() -> None:
    """Catches the second answer, which names no call, given to a call of another name."""
    said = {"role": "assistant", "content": "", "tool_calls": [call("a", "{}"), call("a", "{}"), call("b", "{}")]}
    results = [{"role": "tool", "tool_call_id": "a"}, {"role": "tool"}, {"role": "tool"}]
    assert [one["tool_call_id"] for one in for_template([said, *results])[1:]] == ["a", "a", "b"]


def test_any_number_of_calls_gets_ids() -> None:
    """Catches numbers that end at 100,000, and a 500."""
    said = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}] * 100_001}
    [message] = for_template([said])
    assert message["tool_calls"][-1]["id"] == "call100000"


def test_an_answer_to_a_call_whose_id_is_no_text_is_400(served: Served) -> None:
    """Catches an id that cannot be a key, which would be a 500."""
    answer = served.post("/v1/chat/completions", {"messages": [{"role": "tool", "tool_call_id": ["x"]}]})
    assert (answer.status, answer.error["param"]) == (400, "messages[0].tool_call_id")


def test_no_calls_are_no_key() -> None:
    """Templates ask whether there is such a key. Catches an answer without calls that is written as one with."""
    assert for_template([{"role": "assistant", "content": "x", "tool_calls": []}]) == [
        {"role": "assistant", "content": "x"}
    ]


WRONG = [
    (5, "messages[0].tool_calls"), ([5], "messages[0].tool_calls[0]"), ([{}], "messages[0].tool_calls[0]"),
    ([{"function": {"name": None}}], "messages[0].tool_calls[0]"),
    ([call("x", "{}"), call("y", [1])], "messages[0].tool_calls[1].function.arguments"),
    ([call(5, "{}")], "messages[0].tool_calls[0].id"), ([call(["x"], "{}")], "messages[0].tool_calls[0].id"),
]  # fmt: skip


@pytest.mark.parametrize(("calls", "param"), WRONG, ids=range(len(WRONG)))
def test_what_is_no_call_is_400_and_the_place_is_named(served: Served, calls: Any, param: str) -> None:
    body = {"messages": [{"role": "assistant", "content": "x", "tool_calls": calls}]}
    answer = served.post("/v1/chat/completions", body)
    assert (answer.status, answer.error["param"]) == (400, param)


def test_a_refusal_of_an_earlier_answer_is_a_text() -> None:
    """OpenAI's clients give back the message that they got. Catches a part that no template reads, and a lost text."""
    parts = [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "no"}]
    messages = [{"role": "assistant", "content": parts}, {"role": "assistant", "content": None, "refusal": "never"}]
    check_messages(messages)
    first, second = for_template(messages)
    assert [(part["type"], part["text"]) for part in first["content"]] == [("text", "a"), ("text", "no")]
    assert second["content"] == "never"
