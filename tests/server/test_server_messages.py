"""What the chat template is given of a conversation with calls."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from http_calls import Served

from tinyinfer.server.messages import for_template


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


def test_no_calls_are_no_key() -> None:
    """Templates ask whether there is such a key. Catches an answer without calls that is written as one with."""
    assert for_template([{"role": "assistant", "content": "x", "tool_calls": []}]) == [
        {"role": "assistant", "content": "x"}
    ]


WRONG = [
    (5, "messages[0].tool_calls"), ([5], "messages[0].tool_calls[0]"), ([{}], "messages[0].tool_calls[0]"),
    ([{"function": {"name": None}}], "messages[0].tool_calls[0]"),
    ([call("x", "{}"), call("y", [1])], "messages[0].tool_calls[1].function.arguments"),
]  # fmt: skip


@pytest.mark.parametrize(("calls", "param"), WRONG, ids=range(len(WRONG)))
def test_what_is_no_call_is_400_and_the_place_is_named(served: Served, calls: Any, param: str) -> None:
    body = {"messages": [{"role": "assistant", "content": "x", "tool_calls": calls}]}
    answer = served.post("/v1/chat/completions", body)
    assert (answer.status, answer.error["param"]) == (400, param)
