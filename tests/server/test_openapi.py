"""/openapi.json: what it describes is what is there, field by field and value by value."""

from __future__ import annotations

import re
from typing import Any

import pytest
from http_calls import Served, talk
from starlette.routing import Route

from tinyinfer import LLM
from tinyinfer.server.chat import Chat
from tinyinfer.server.completions import Completions
from tinyinfer.server.endpoints import DETOKENIZE, TOKENIZE, Endpoints
from tinyinfer.server.errors import APIError, as_api_error
from tinyinfer.server.fields import KINDS, SCHEMAS, read_fields
from tinyinfer.server.openapi import OPERATIONS
from tinyinfer.server.responses import Responses
from tinyinfer.server.tools import NO_TOOLS

TYPES: dict[str, Any] = {"string": str, "boolean": bool, "null": type(None), "object": dict, "array": list}
PARTS: list[Any] = [
    [{"type": "function", "function": {"name": "f"}}], [{"function": {"name": "f"}}],
    [{"type": "function", "name": "f"}], [{"role": "user", "content": "x"}],
    [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}],
    [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}], [{"type": "message", "role": "user"}],
    [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}], [{"type": "reasoning"}],
    [{"type": "function_call_output", "call_id": "a", "output": "x"}], [{"type": "function_call", "call_id": "a"}],
]  # fmt: skip
VALUES = [0, -1, 10**30, True, False, 0.5, "", "a", [], ["a"], [1], [True], ["a", 1], [{}], [[]], {}, {"a": 1}]


def passes(schema: dict[str, Any], value: Any) -> bool:
    """Whether a value fits a schema of the few words that the description uses."""
    if "anyOf" in schema:
        return any(passes(one, value) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return any(value == one and type(value) is type(one) for one in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return isinstance(value, int if kind == "integer" else (int, float)) and not isinstance(value, bool)
    if kind is not None and not isinstance(value, TYPES[kind]):
        return False
    if kind == "string":
        return len(value) >= schema.get("minLength", 0)
    if kind == "array":
        return len(value) >= schema.get("minItems", 0) and all(passes(schema["items"], one) for one in value)
    named = schema.get("properties", {})
    return kind != "object" or (
        all(name in value for name in schema.get("required", ()))
        and all(passes(named[name], one) for name, one in value.items() if name in named)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_of_a_kind_and_its_check_agree(kind: str) -> None:
    """Catches a description of other values than those that are taken."""
    assert list(SCHEMAS) == list(KINDS)
    _, check = KINDS[kind]
    assert [passes(SCHEMAS[kind], value) for value in VALUES] == [check(value) for value in VALUES]


def test_every_route_is_described_and_nothing_else(served: Served) -> None:
    """Catches an endpoint that is added without a word, and one that is gone."""
    there = {
        (method, route.path.replace(":path", ""))
        for route in served.app.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert there == set(OPERATIONS)
    described = served.get("/openapi.json").json["paths"]
    assert {(method.upper(), path) for path, operations in described.items() for method in operations} == there


BODIES = {
    "/v1/chat/completions": talk(max_tokens=2), "/v1/completions": {"prompt": "x", "max_tokens": 2},
    "/v1/responses": {"input": "x", "max_output_tokens": 2}, "/tokenize": {"prompt": "x", "return_token_strs": True},
    "/detokenize": {"tokens": [5]},
}  # fmt: skip


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_answers_are_as_described(served: Served, method: str, path: str) -> None:
    """Right ones, and errors."""
    told = served.get("/openapi.json").json["paths"][path][method.lower()]
    place = path.replace("{name}", "tiny")
    answer = served.post(place, BODIES[path]) if method == "POST" else served.get(place)
    assert answer.status == 200
    kind = answer.headers["content-type"].partition(";")[0]
    schema = told["responses"]["200"]["content"][kind].get("schema")
    assert schema is None or passes(schema, answer.json)
    wrong = served.post(place, []) if method == "POST" else served.get(place, host="evil.example")
    assert passes(told["responses"]["default"]["content"]["application/json"]["schema"], wrong.json)
    assert schema is None or not passes(schema, wrong.json) or path == "/openapi.json"


@pytest.mark.parametrize("path", BODIES)
def test_each_field_takes_what_is_described_and_refuses_what_is_not(served: Served, path: str) -> None:
    """By kinds: a value of a described kind may still be out of range. Catches a field that only the description has,
    or that only the server reads.
    """
    body = served.get("/openapi.json").json["paths"][path]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    for name, field in schema["properties"].items():
        for value in [None, *VALUES, *PARTS]:
            error = refusal(served, path, {**BODIES[path], name: value})
            if not passes(field, value):
                assert error is not None, (name, value)
                assert str(error.param).startswith(name), (name, value)
            elif error is not None:
                assert value is not None or path == "/tokenize", name  # which has no prompt then
                assert error.code != "unsupported_parameter" or NO_TOOLS in str(error), (name, value)
                assert not re.search(" must be (true|an object|a text|a list)|not read here", str(error)), (name, value)


def refusal(served: Served, path: str, body: dict[str, Any]) -> APIError | None:
    """What the server says to the fields of a call; None: it takes them."""
    service, small = served.service, Endpoints(served.service)
    forms: dict[str, Any] = {"/v1/chat/completions": Chat, "/v1/completions": Completions, "/v1/responses": Responses}
    try:
        if path in forms:
            forms[path](service, body)
        else:
            kinds, work = (TOKENIZE, small._tokens) if path == "/tokenize" else (DETOKENIZE, small._text)
            work(read_fields(body, kinds, {})[0])
    except Exception as error:
        return as_api_error(error)
    return None


def test_a_key_is_described_where_one_is_asked_for(served_llm: LLM, served: Served) -> None:
    with_key = Served(served_llm, api_key=("a-key",)).get("/openapi.json", authorization="Bearer a-key").json
    assert with_key["paths"]["/v1/models"]["get"]["security"] == [{"key": []}]
    assert "security" not in with_key["paths"]["/health"]["get"]
    assert "security" not in served.get("/openapi.json").json["paths"]["/v1/models"]["get"]
