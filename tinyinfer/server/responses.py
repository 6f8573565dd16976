"""/v1/responses: the same turn of a conversation, asked and answered in items (items.py).

Only what needs no memory is here: the server keeps no answer, so that a caller sends the conversation as input each
time. `store`, which is on unless a caller says otherwise, is passed over, as vLLM does; what can only be done with a
stored answer (previous_response_id, conversation, background) is refused. The prefix cache keeps what a conversation
begins with, so that a long input costs what its end costs.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

from tinyinfer.prompts import Prompt
from tinyinfer.request import Delta, Request
from tinyinfer.server.collected import CUT, Collected, usage
from tinyinfer.server.errors import APIError
from tinyinfer.server.events import named_event
from tinyinfer.server.fields import Lacking, lacks, read_fields
from tinyinfer.server.items import Items, messages_of
from tinyinfer.server.sampling import IGNORED, SAMPLING, check_model, sampling_params, stream_options
from tinyinfer.server.service import Service
from tinyinfer.server.structured import FORMS, from_format
from tinyinfer.server.template_fields import template_variables
from tinyinfer.server.tools import check_function, read_tools
from tinyinfer.server.turn import Turn

OTHER_NAME = ("max_tokens", "n")
KINDS = {
    **{name: kind for name, kind in SAMPLING.items() if name not in OTHER_NAME}, **IGNORED,
    "model": "text", "input": "any", "instructions": "text", "max_output_tokens": "whole", "stream": "bool",
    "stream_options": "object", "tools": "objects", "tool_choice": "any", "parallel_tool_calls": "bool",
    "text": "object", "reasoning": "object", "include": "texts", "store": "bool", "metadata": "object",
    "chat_template_kwargs": "object",
}  # fmt: skip
NO_MEMORY = "the server keeps no answers; send the whole conversation as input"
NO_FORM = "write the schema as text.format; /v1/chat/completions has the other forms"
OWN_LACKING = {
    "previous_response_id": Lacking((), NO_MEMORY),
    "conversation": Lacking((), NO_MEMORY),
    "background": Lacking((False,), NO_MEMORY),
    "prompt": Lacking((), "the server keeps no prompts; send the text as input"),
    "truncation": Lacking(("disabled",), "shorten the input; /tokenize counts its tokens"),
    "max_tool_calls": Lacking((), "the server runs no tools of its own"),
    "top_logprobs": Lacking((0,), "/v1/chat/completions gives log-probabilities"),
    "max_tokens": Lacking((), "write max_output_tokens"),
    "n": Lacking((1,), "send several requests, or use /v1/chat/completions"),
    "response_format": Lacking(({"type": "text"},), NO_FORM),
    "structured_outputs": Lacking(({},), NO_FORM),
    **{f"guided_{name}": Lacking((), NO_FORM) for name in FORMS},
    "context_management": Lacking(([],), "shorten the input; /tokenize counts its tokens"),
}
LOGPROBS = "message.output_text.logprobs"
ENDS = {"completed": "response.completed", "incomplete": "response.incomplete"}


class Responses:
    """One call of /v1/responses. Raises APIError for what it cannot be."""

    count = 1

    def __init__(self, service: Service, body: Mapping[str, Any]) -> None:
        given, self.unknown = read_fields(body, KINDS, OWN_LACKING)
        check_model(given, service.name)
        self.stream = given.get("stream", False)
        messages = messages_of(given.get("input"), given.get("instructions"))
        if LOGPROBS in given.get("include", ()):
            raise lacks("include", LOGPROBS, OWN_LACKING["top_logprobs"].instead)
        stream_options(given)  # which say nothing here: a stream ends with the usage in any case
        reasoning, _ = read_fields(given.get("reasoning", {}), {"effort": "text"}, {}, "reasoning.")
        effort = reasoning.get("effort")
        variables = template_variables(given if effort is None else {**given, "reasoning_effort": effort})
        self._tools = read_tools({**given, "tools": chat_tools(given.get("tools", []))}, service)
        self._turn = Turn(service.llm, messages, variables, self._tools)
        form = "tools" if self._tools.offered else "text.format"
        self.names = {"": "input", "max_tokens": "max_output_tokens", "grammar": form, "json_schema": "text.format"}
        text, _ = read_fields(given.get("text", {}), {"format": "object"}, {}, "text.")
        asked = next(from_format(text.get("format", {}), "text.format", nested=False), None)
        self.params = sampling_params(given, asked, self.names, max_tokens=given.get("max_output_tokens"))
        self._shown = shown(given, service.name)
        self._sent = 0

    def prompts(self) -> list[Prompt]:
        """What the engine is given: the conversation as the chat template writes it; takes time."""
        prompt, self.params = self._turn.prepared(self.params)
        return [prompt]

    def collect(self, request: Request) -> Collected:
        """What gathers the answer of a request."""
        return Items(request, self._tools.format, self._tools.one)

    def body(self, answers: list[Collected]) -> dict[str, Any]:
        """The response, which has ended."""
        [answer] = answers
        if answer.finish_reason == "length":
            return self._response(answers, "incomplete", incomplete_details={"reason": "max_output_tokens"})
        return self._response(answers, "completed", completed_at=int(time.time()))

    def begin(self) -> bytes:
        """What a stream begins with: the response without an item."""
        response = self._response([], "in_progress")
        return self._events({"type": f"response.{kind}", "response": response} for kind in ("created", "in_progress"))

    def events(self, answers: list[Collected], index: int, delta: Delta) -> bytes:
        """What a stream says of a delta."""
        answer = answers[index]
        assert isinstance(answer, Items)
        return self._events(answer.told)

    def end(self, answers: list[Collected]) -> bytes:
        """What a stream ends with: the response as a whole one is."""
        response = self.body(answers)
        return self._events([{"type": ENDS[response["status"]], "response": response}])

    def failed(self, answers: list[Collected], error: APIError) -> bytes:
        """What a stream ends with when it is cut."""
        told = {"code": "server_error", "message": error.message}
        last = {"type": "response.failed", "response": self._response(answers, "failed", error=told)}
        cut = [one for one in answers if isinstance(one, Items) and one.finish_reason == CUT.finish_reason]
        return self._events([*(event for one in cut for event in one.told), last])

    def _response(self, answers: list[Collected], status: str, **more: Any) -> dict[str, Any]:
        items = [item for answer in answers if isinstance(answer, Items) for item in answer.items]
        counted = response_usage(answers) if status != "in_progress" else None
        return {**self._shown, "status": status, "output": items, "usage": counted, **more}

    def _events(self, events: Any) -> bytes:
        told = []
        for one in events:
            told.append(named_event({**one, "sequence_number": self._sent}))
            self._sent += 1
        return b"".join(told)


def chat_tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tools in the form of chat completions, as chat templates know them. Raises APIError for what is no function."""
    for n, tool in enumerate(tools):
        if tool.get("type") != "function":
            raise lacks(f"tools[{n}].type", tool.get("type"), "the server runs no tools of its own; give functions")
        check_function(tool, f"tools[{n}]")
    kept = ("name", "description", "parameters", "strict")
    functions = ({key: tool[key] for key in kept if tool.get(key) is not None} for tool in tools)
    return [{"type": "function", "function": function} for function in functions]


def shown(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The fields of a response that say how it was asked."""
    reasoning = given.get("reasoning", {})
    return {
        "id": "resp_" + secrets.token_hex(12), "object": "response", "created_at": int(time.time()), "model": name,
        "error": None, "incomplete_details": None, "instructions": given.get("instructions"), "background": False,
        "max_output_tokens": given.get("max_output_tokens"), "metadata": given.get("metadata", {}),
        "parallel_tool_calls": given.get("parallel_tool_calls", True), "previous_response_id": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": None}, "service_tier": "default", "store": False,
        "temperature": given.get("temperature", 1.0), "text": given.get("text") or {"format": {"type": "text"}},
        "tool_choice": given.get("tool_choice", "auto"), "tools": given.get("tools", []), "top_logprobs": 0,
        "top_p": given.get("top_p", 1.0), "truncation": "disabled", "user": given.get("user"),
    }  # fmt: skip


def response_usage(answers: list[Collected]) -> dict[str, Any]:
    """The tokens of a call in the form of Responses. Nothing is written to a cache at a price of its own."""
    counted = usage(answers)
    cached = counted["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": counted["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": counted["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": counted["completion_tokens_details"]["reasoning_tokens"]},
        "total_tokens": counted["total_tokens"],
    }
