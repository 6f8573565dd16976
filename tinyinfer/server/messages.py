"""The messages of a conversation: what is refused, and what the chat template is given.

Clients keep the arguments of a call as the text that they received; templates write them as an object, so that a text
would be quoted twice, and the model would learn from it to write texts. A call without an id gets one, since templates
write ids and compare them; an id that a client gives stays.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from tinyinfer.server.errors import wrong
from tinyinfer.units import show

CHAT_PARTS = {"text": "text", "refusal": "refusal"}  # the type of a part -> the field with its text


def check_messages(messages: Any) -> None:
    """Raises APIError, which names the place, for messages that are no conversation in text."""
    if not messages:
        raise wrong("messages", 'messages must be a list of at least one {"role": ..., "content": ...}')
    for n, message in enumerate(messages):
        place = f"messages[{n}]"
        if not isinstance(message.get("role"), str):
            raise wrong(f"{place}.role", f"{place}.role={show(message.get('role'))} must be a text, such as 'user'")
        content = message.get("content")
        if isinstance(content, list):
            for i, part in enumerate(content):
                text_of_part(part, CHAT_PARTS, f"{place}.content[{i}]")
        elif content is not None and not isinstance(content, str):
            raise wrong(f"{place}.content", f"{place}.content={show(content)} must be a text or a list of parts")
        check_id(message, "tool_call_id", place)
        if message.get("tool_calls") is not None:
            check_calls(message["tool_calls"], f"{place}.tool_calls")


def text_of_part(part: Any, fields: Mapping[str, str], place: str) -> str:
    """The text of a part of a content. fields: the type of a part -> the field that holds its text.

    Raises APIError for a part that is no text, such as an image.
    """
    kind = part.get("type") if isinstance(part, dict) else part
    text = part.get(fields.get(str(kind), "")) if isinstance(part, dict) else None
    if not isinstance(text, str):
        first = next(iter(fields))
        message = f'{place} of type {show(kind)} is not read here; the model reads {{"type": "{first}", "text": ...}}'
        raise wrong(place, message)
    return text


def check_id(one: dict[str, Any], name: str, place: str) -> None:
    """Raises APIError for the id of a call that is no text; it may be absent."""
    if not isinstance(one.get(name), str | None):
        raise wrong(f"{place}.{name}", f"{place}.{name}={show(one[name])} must be a text")


def check_calls(calls: Any, place: str) -> None:
    """Raises APIError for calls of an earlier answer that name no function."""
    if not isinstance(calls, list):
        raise wrong(place, f"{place}={show(calls)} must be a list of calls")
    for i, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            example = '{"id": ..., "type": "function", "function": {"name": ..., "arguments": ...}}'
            raise wrong(f"{place}[{i}]", f"{place}[{i}]={show(call)} is no call, which is {example}")
        check_id(call, "id", f"{place}[{i}]")
        if not isinstance(function.get("arguments", ""), str | dict | None):
            where = f"{place}[{i}].function.arguments"
            raise wrong(where, f"{where}={show(function['arguments'])} must be a text that holds a JSON object")


def for_template(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Checked messages as templates know them: arguments are objects where they are JSON, each call has an id, and a
    refusal is a text.
    """
    numbers, unanswered = count(), OrderedDict[str, int]()
    return [one if one["role"] != "tool" else answered(one, unanswered)
            for one in (called(as_texts(message), numbers, unanswered) for message in messages)]  # fmt: skip


def as_texts(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose parts are all of the type that templates read; a refusal without a content is the content."""
    content, refusal = message.get("content"), message.get("refusal")
    if content is None and isinstance(refusal, str):
        return {**message, "content": refusal}
    if not isinstance(content, list):
        return message
    parts = [{**part, "type": "text", "text": part[CHAT_PARTS[part["type"]]]} for part in content]
    return {**message, "content": parts}


def called(message: dict[str, Any], numbers: Iterator[int], unanswered: OrderedDict[str, int]) -> dict[str, Any]:
    """A message with its calls as objects; their ids go to `unanswered`: id -> calls that have it."""
    if not message.get("tool_calls"):
        return {key: value for key, value in message.items() if key != "tool_calls"}  # none is not a call
    calls = []
    for call in message["tool_calls"]:
        id = call.get("id") or f"call{next(numbers):05d}"  # nine letters and digits, as Mistral's templates want
        unanswered[id] = unanswered.get(id, 0) + 1
        function = {**call["function"], "arguments": as_object(call["function"].get("arguments"))}
        calls.append({**call, "id": id, "type": "function", "function": function})
    return {**message, "tool_calls": calls}


def answered(message: dict[str, Any], unanswered: OrderedDict[str, int]) -> dict[str, Any]:
    """What a tool gave, with the id of its call: its own, or that of the first one without an answer."""
    id = message.get("tool_call_id") or next(iter(unanswered), None)
    if id is not None and id in unanswered:
        unanswered[id] -= 1
        if not unanswered[id]:
            del unanswered[id]
    return message if id is None else {**message, "tool_call_id": id}


def as_object(arguments: str | dict[str, Any] | None) -> Any:
    """Arguments as an object, or as the text that they are when it holds none."""
    if not isinstance(arguments, str):
        return arguments or {}
    try:
        found = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return found if isinstance(found, dict) else arguments
