"""Items of the Responses API: what is asked, as messages, and what is answered, as items and events.

A message has a role, a text, and perhaps calls; a response is a list of items of which each is one thing: what the
model thought, a text, a call, what a tool gave. So neighbouring items of the model become one message for the chat
template, and one message of the model becomes items again. Their order stays: a text, a call and another text are three
items, where a chat completion joins the texts.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from tinyinfer.request import Delta, Request
from tinyinfer.server.collected import Collected
from tinyinfer.server.errors import wrong
from tinyinfer.server.messages import text_of_part
from tinyinfer.server.tool_calls.splitter import Format
from tinyinfer.units import show

TEXTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")
PARTS = {**dict.fromkeys(TEXTS, "text"), "refusal": "refusal"}
ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
PREFIXES = {"reasoning": "rs_", "message": "msg_", "function_call": "fc_"}


# What is asked.


def messages_of(given: Any, instructions: str | None) -> list[dict[str, Any]]:
    """The messages of an input and its instructions. Raises APIError, which names the place, for anything else."""
    messages = [] if instructions is None else [{"role": "system", "content": instructions}]
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    if not given or not isinstance(given, list):
        raise wrong("input", f"input={show(given)} must be a text, or a list of at least one item")
    for n, item in enumerate(given):
        place = f"input[{n}]"
        if not isinstance(item, dict):
            raise wrong(place, f"{place}={show(item)} must be an object")
        message = message_of(item, place)
        if not (messages and join(messages[-1], message)):
            messages.append(message)
    return messages


def message_of(item: dict[str, Any], place: str) -> dict[str, Any]:
    """The message that holds an item alone."""
    kind = item.get("type")
    if kind is None and "role" in item:
        kind = "message"
    if kind == "message":
        role = ROLES.get(str(item.get("role")))
        if role is None:
            raise wrong(f"{place}.role", f"{place}.role={show(item.get('role'))} must be one of {', '.join(ROLES)}")
        return {"role": role, "content": text_of(item.get("content"), f"{place}.content")}
    if kind == "function_call":
        function = {name: text_field(item, name, place) for name in ("name", "arguments")}
        call = {"id": text_field(item, "call_id", place), "type": "function", "function": function}
        return {"role": "assistant", "tool_calls": [call]}
    if kind == "function_call_output":
        output = text_of(item.get("output"), f"{place}.output")
        return {"role": "tool", "tool_call_id": text_field(item, "call_id", place), "content": output}
    if kind == "reasoning":
        given = [name for name in ("content", "summary") if item.get(name) is not None]
        texts = [text_of(item[name], f"{place}.{name}") for name in given]
        return {"role": "assistant", "reasoning_content": next(filter(None, texts), "")}
    known = "message, function_call, function_call_output and reasoning"
    raise wrong(f"{place}.type", f"{place}.type={show(kind)} is not read here; there are {known}")


def text_field(item: dict[str, Any], name: str, place: str) -> str:
    """A field that must be a text. Raises APIError."""
    value = item.get(name)
    if not isinstance(value, str):
        raise wrong(f"{place}.{name}", f"{place}.{name}={show(value)} must be a text")
    return value


def text_of(content: Any, place: str) -> str:
    """The text of a content, which is a text or a list of parts. Raises APIError for a part that is no text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong(place, f"{place}={show(content)} must be a text or a list of parts")
    return "\n".join(text_of_part(part, PARTS, f"{place}[{i}]") for i, part in enumerate(content))


def join(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Adds a message of the model to its neighbour: thinking, then text, then calls; False where that is not so."""
    begins = "reasoning_content" in after or ("content" in after and before.keys() & {"content", "tool_calls"})
    if begins or not before["role"] == after["role"] == "assistant":
        return False
    if "tool_calls" in before:
        before["tool_calls"] += after["tool_calls"]  # in place: a conversation may hold thousands of calls
    else:
        before |= after
    return True


# What is answered.


class Items(Collected):
    """An answer as items. items: those so far; told: the events of the newest delta."""

    def __init__(self, request: Request, format: Format | None, one: bool) -> None:
        super().__init__(request, format, one)
        self.items: list[dict[str, Any]] = []
        self.told: list[dict[str, Any]] = []
        self._open: str | None = None  # the kind of the last item, which goes on
        self._grown = ""  # its text, or arguments

    def add(self, delta: Delta) -> None:
        """Takes what is new, and says it as events."""
        super().add(delta)
        self.told = []
        if delta.reasoning:
            self._grow("reasoning", delta.reasoning)
        for text, call, name in self.new:
            if name is not None and call is not None:
                self._close()
                made = self.calls[call]
                self._begin("function_call", call_id=made.id, name=made.name, arguments="")
            elif text:
                self._grow("message" if call is None else "function_call", text)
        if delta.finish_reason is not None:
            self._close("completed" if delta.finish_reason == "stop" else "incomplete")

    def _begin(self, kind: str, **own: Any) -> None:
        item = {"id": PREFIXES[kind] + secrets.token_hex(12), "type": kind, "status": "in_progress", **own}
        self.items.append(item)
        self._open, self._grown = kind, ""
        self._tell("output_item.added", item=dict(item))
        if kind != "function_call":
            self._tell("content_part.added", part=part_of(kind, ""))

    def _grow(self, kind: str, text: str) -> None:
        if kind != self._open:
            self._close()
            own: dict[str, Any] = {"summary": []} if kind == "reasoning" else {"role": "assistant"}
            self._begin(kind, **own, content=[])
        self._grown += text
        self._tell(f"{EVENTS[kind]}.delta", delta=text, **NO_LOGPROBS.get(kind, {}))

    def _close(self, status: str = "completed") -> None:
        kind, text = self._open, self._grown
        if kind is None:
            return
        self._open = None
        if kind == "function_call":
            status = "completed" if is_json(text) else "incomplete"
            own: dict[str, Any] = {"arguments": text}
            self._tell(f"{EVENTS[kind]}.done", name=self.items[-1]["name"], arguments=text)
        else:
            part = part_of(kind, text)
            own = {"content": [part]}
            self._tell(f"{EVENTS[kind]}.done", text=text, **NO_LOGPROBS.get(kind, {}))
            self._tell("content_part.done", part=part)
        self.items[-1] = {**self.items[-1], "status": status, **own}
        self._tell("output_item.done", item=self.items[-1])

    def _tell(self, kind: str, **own: Any) -> None:
        place: dict[str, Any] = {"output_index": len(self.items) - 1}
        if not kind.startswith("output_item"):
            place["item_id"] = self.items[-1]["id"]
            if not kind.startswith("function_call"):
                place["content_index"] = 0
        self.told.append({"type": f"response.{kind}", **place, **own})


EVENTS = {"reasoning": "reasoning_text", "message": "output_text", "function_call": "function_call_arguments"}

NO_LOGPROBS: dict[str, dict[str, Any]] = {"message": {"logprobs": []}}  # clients want the list, also an empty one


def part_of(kind: str, text: str) -> dict[str, Any]:
    """The one part of the content of an item."""
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def is_json(text: str) -> bool:
    """Whether arguments are complete."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
