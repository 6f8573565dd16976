"""/openapi.json: every endpoint and field, for programs that make clients and tests out of a description.

The fields come from the tables that check a body (fields.py), so what is described is what is read: each kind has its
JSON Schema beside its check, and a field for which there is nothing behind it is described by the values that ask for
nothing. null means absent, so each may be null. What no table has is written here: the few fields with parts, and the
answers. A schema says what a body may be, not which numbers a field allows beside which others: of a temperature below
0 the answer's sentence tells. The form: the OpenAPI Initiative's "OpenAPI Specification" 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from tinyinfer.sampling_params import SamplingParams
from tinyinfer.server import chat, completions, endpoints, items, responses
from tinyinfer.server.fields import SCHEMAS, Lacking
from tinyinfer.server.messages import CHAT_PARTS
from tinyinfer.server.sampling import STREAM_OPTIONS

Schema = dict[str, Any]
ABOUT = {one.name: one.metadata["help"].partition(";")[0] for one in fields(SamplingParams) if one.metadata}
NULL: Schema = {"type": "null"}
IDS: Schema = SCHEMAS["ids"]


def listed(one: Schema, **more: Any) -> Schema:
    """The schema of a list."""
    return {"type": "array", "items": one, **more}


def record(required: Mapping[str, Schema], **optional: Schema) -> Schema:
    """The schema of an object."""
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


WHOLE, TEXT = SCHEMAS["whole"], SCHEMAS["text"]


def parts(fields: Mapping[str, str]) -> Schema:
    """The schema of a list of parts of a content. fields: the type of a part -> the field that holds its text."""
    return listed({"anyOf": [record({"type": {"const": kind}, name: TEXT}) for kind, name in fields.items()]})


MESSAGES = listed(record({"role": TEXT}, content={"anyOf": [TEXT, NULL, parts(CHAT_PARTS)]}), minItems=1)
PROMPTS = {"anyOf": [TEXT, {**IDS, "minItems": 1}, listed({"anyOf": [TEXT, IDS]}, minItems=1)]}
OPTIONS = {name: {"anyOf": [SCHEMAS[kind], NULL]} for name, kind in STREAM_OPTIONS.items()}
SCHEMA = {"anyOf": [{"type": "object"}, TEXT]}
WORD = {**TEXT, "minLength": 1}
WITH_PARTS = {
    "messages": MESSAGES, "stream_options": record({}, **OPTIONS), "guided_json": SCHEMA, "cache_salt": WORD,
    "guided_choice": listed(WORD, minItems=1), "guided_regex": WORD, "guided_grammar": WORD,
}  # fmt: skip
FUNCTION = {"type": {"const": "function"}}
TOOLS = listed(record({"function": record({"name": TEXT})}, type={"anyOf": [FUNCTION["type"], NULL]}))

USAGE = record({"prompt_tokens": WHOLE, "completion_tokens": WHOLE, "total_tokens": WHOLE})
OR_NULL = {"anyOf": [{"type": "object"}, NULL]}
CHOICE = {"index": WHOLE, "logprobs": OR_NULL, "finish_reason": {"enum": ["stop", "length", "tool_calls"]}}
MESSAGE = record({"role": {"const": "assistant"}, "content": {"anyOf": [TEXT, NULL]}})
HEAD = {"id": TEXT, "object": TEXT, "created": WHOLE, "model": TEXT, "usage": USAGE}
MODEL = record({"id": TEXT, "object": {"const": "model"}, "created": WHOLE, "owned_by": TEXT, "max_model_len": WHOLE})
STATUS = record({"status": TEXT})
WORDS = {"anyOf": [TEXT, NULL]}
ERROR = record({"error": record({"message": TEXT, "type": TEXT, "param": WORDS, "code": WORDS})})


@dataclass(frozen=True)
class Operation:
    """One method of a path. answer: the schema of its JSON; None: it is text. kinds, lacking: the tables of its fields;
    parts: fields with a schema of their own; needed: those that must be there. streams: the answer may be events.
    """

    summary: str
    answer: Schema | None
    kinds: Mapping[str, str] | None = None
    lacking: Mapping[str, Lacking] | None = None
    parts: Mapping[str, Schema] | None = None
    needed: tuple[str, ...] = ()
    streams: bool = False

    def as_dict(self, path: str, model: str) -> Schema:
        """The operation as OpenAPI has it. model: the name that is served."""
        content: Schema = {"text/plain": {}} if self.answer is None else {"application/json": {"schema": self.answer}}
        if self.streams:
            content["text/event-stream"] = {}
        told = {"description": "the answer", "content": content}
        error = {"description": "an error", "content": {"application/json": {"schema": ERROR}}}
        found: Schema = {"summary": self.summary, "responses": {"200": told, "default": error}}
        if path == "/ready":
            found["responses"]["503"] = told | {"description": "the server ends"}
        if self.kinds is not None:
            body = {"application/json": {"schema": self.body(self.kinds)}}
            found["requestBody"] = {"required": True, "content": body}
        if "{" in path:
            found["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"const": model}}]
        return found

    def body(self, kinds: Mapping[str, str]) -> Schema:
        """The schema of the fields; an unknown one is passed over."""
        known = {**WITH_PARTS, **(self.parts or {})}
        properties: Schema = {}
        for name, kind in kinds.items():
            schema, about = known.get(name, SCHEMAS[kind]), {"description": ABOUT[name]} if name in ABOUT else {}
            properties[name] = about | (schema if name in self.needed or not schema else {"anyOf": [schema, NULL]})
        for name, lack in (self.lacking or {}).items():
            properties[name] = {"enum": [None, *lack.neutral], "description": f"nothing else: {lack.instead}"}
        return {"type": "object", "properties": properties, "required": list(self.needed)}


RESPONSE = {"id": TEXT, "object": {"const": "response"}, "status": TEXT, "model": TEXT, "usage": {"type": "object"}}
RESPONSE["output"] = listed(record({"type": TEXT}))
CONTENT = {"anyOf": [TEXT, parts(items.PARTS)]}
CALL = {"type": {"const": "function_call"}, **dict.fromkeys(("call_id", "name", "arguments"), TEXT)}
GIVEN = {"type": {"const": "function_call_output"}, "call_id": TEXT, "output": CONTENT}
THOUGHT: dict[str, Schema] = {name: {"anyOf": [NULL, CONTENT]} for name in ("content", "summary")}
SAID: dict[str, Schema] = {"role": {"enum": list(items.ROLES)}, "content": CONTENT}
ITEM = [record(SAID, type={"anyOf": [{"const": "message"}, NULL]}), record(CALL), record(GIVEN),
        record({"type": {"const": "reasoning"}}, **THOUGHT)]  # fmt: skip
INPUT = {"anyOf": [TEXT, listed({"anyOf": ITEM}, minItems=1)]}
CHAT = record({**HEAD, "choices": listed(record({**CHOICE, "message": MESSAGE}))})
COMPLETION = record({**HEAD, "choices": listed(record({**CHOICE, "text": TEXT}))})
OPERATIONS = {
    ("POST", "/v1/chat/completions"): Operation(
        "a conversation and its next message", CHAT, chat.KINDS, chat.OWN_LACKING, {"tools": TOOLS}, ("messages",),
        True,
    ),
    ("POST", "/v1/completions"): Operation(
        "texts or token ids go on", COMPLETION, completions.KINDS, completions.OWN_LACKING, {"prompt": PROMPTS},
        ("prompt",), True,
    ),
    ("POST", "/v1/responses"): Operation(
        "a conversation and its next items, none of which are kept", record(RESPONSE), responses.KINDS,
        responses.OWN_LACKING, {"input": INPUT, "tools": listed(record({**FUNCTION, "name": TEXT}))}, ("input",), True,
    ),
    ("GET", "/v1/models"): Operation("the model", record({"object": {"const": "list"}, "data": listed(MODEL)})),
    ("GET", "/v1/models/{name}"): Operation("the model of this name", MODEL),
    ("POST", "/tokenize"): Operation(
        "a text or messages to token ids",
        record({"count": WHOLE, "max_model_len": WHOLE, "tokens": IDS}, token_strs=listed(TEXT)), endpoints.TOKENIZE,
    ),
    ("POST", "/detokenize"): Operation(
        "token ids to a text", record({"prompt": TEXT}), endpoints.DETOKENIZE, None, None, ("tokens",)
    ),
    ("GET", "/tokenizer_info"): Operation(
        "special tokens and the chat template", record({"tokenizer_class": TEXT, "chat_template": WORDS})
    ),
    ("GET", "/health"): Operation("whether the process answers", STATUS),
    ("GET", "/ready"): Operation("whether new requests are taken", STATUS),
    ("GET", "/version"): Operation("tinyinfer's version", record({"version": TEXT})),
    ("GET", "/metrics"): Operation("all numbers, as Prometheus reads them", None),
    ("GET", "/openapi.json"): Operation("this description", {"type": "object"}),
}  # fmt: skip


def described(version: str, model: str, with_key: bool) -> Schema:
    """The description of the server. model: the name that is served; with_key: whether calls must bring a key."""
    paths: dict[str, Schema] = {}
    for (method, path), operation in OPERATIONS.items():
        found = operation.as_dict(path, model)
        if with_key and path != "/health":
            found["security"] = [{"key": []}]
        paths.setdefault(path, {})[method.lower()] = found
    schemes = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if with_key else {}
    info = {"title": "tinyinfer", "version": version}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": schemes}
