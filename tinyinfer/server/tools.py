"""The tools of a call: functions that the caller has, of which the model may ask for calls.

The server runs none of them. It shows them to the model as the chat template writes them, reads the calls in the
answer, and gives them back; the caller runs them and asks again with what they gave (ReAct, Yao et al. 2022). A model
whose template has no place for tools was not trained to call any, and is refused with a sentence: an answer that leaves
the tools out without a word would be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinyinfer.server.errors import APIError, wrong
from tinyinfer.server.fields import lacks
from tinyinfer.server.service import Service
from tinyinfer.server.tool_calls.splitter import Format
from tinyinfer.units import show

NAME = re.compile(r"[\w.-]{1,64}")
WORDS = ("none", "auto", "required")
NO_TOOLS = "the chat template of this model has no place for tools; describe them in a message, or use another model"
NO_PARSER = "no parser here is known to read the calls of this model; start the server with --tool-call-parser"


@dataclass(frozen=True)
class Tools:
    """What a caller offers. offered: as chat templates know them. format: how calls are written; None: none are read.

    forced: the functions of which one must be called; none: the model decides. one: whether only one call is wanted.
    """

    offered: tuple[dict[str, Any], ...] = ()
    format: Format | None = None
    forced: tuple[dict[str, Any], ...] = ()
    one: bool = False


def read_tools(given: Mapping[str, Any], service: Service) -> Tools:
    """The tools of a chat completion. Raises APIError for what is no tool, and for a model that cannot call any."""
    offered = tuple(given.get("tools", ()))
    for n, tool in enumerate(offered):
        if tool.get("type") not in (None, "function"):
            raise lacks(f"tools[{n}].type", tool["type"], "the server runs no tools of its own; give functions")
        check_function(tool.get("function"), f"tools[{n}].function")
    functions = {tool["function"]["name"]: tool["function"] for tool in offered}
    if len(functions) < len(offered):
        raise wrong("tools", "two tools have the same name; give each function once")
    word, names = read_choice(given.get("tool_choice", "auto"), functions)
    if not offered or word == "none":
        return Tools()
    offered = tuple({"type": "function", "function": without_nulls(function)} for function in functions.values())
    if not service.knows_tools:
        raise APIError(400, NO_TOOLS, "tools", "unsupported_parameter")
    if service.call_format is None:
        raise APIError(400, NO_PARSER, "tools", "unsupported_parameter")
    one = not given.get("parallel_tool_calls", True) or word == "named"
    return Tools(offered, service.call_format, tuple(functions[name] for name in names), one)


def without_nulls(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function without fields that are null, which a chat template would write."""
    return {key: value for key, value in function.items() if value is not None}


def check_function(function: Any, place: str) -> None:
    """Raises APIError for a function without a name, or with parameters that are no schema of an object."""
    if not isinstance(function, dict):
        raise wrong(place, f"{place}={show(function)} must be an object with a name and parameters")
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        wanted = "must be a text of at most 64 letters, digits, _, . and -"
        raise wrong(f"{place}.name", f"{place}.name={show(name)} {wanted}")
    parameters = function.get("parameters")
    if parameters is not None and not is_schema(parameters):
        wanted = 'must be the JSON schema of an object, {"type": "object", "properties": ...}'
        raise wrong(f"{place}.parameters", f"{place}.parameters={show(parameters)} {wanted}")


def is_schema(parameters: Any) -> bool:
    """Whether parameters are the schema of an object, as far as it is read here."""
    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        return False
    return isinstance(parameters.get("properties", {}), dict) and isinstance(parameters.get("required", []), list)


def read_choice(choice: Any, names: Mapping[str, Any]) -> tuple[str, list[str]]:
    """What `tool_choice` says: one of WORDS or "named", and the functions of which one must be called.

    Raises APIError for a choice that is none, or that is not among the tools.
    """
    if choice in ("none", "auto"):
        return choice, []
    if choice == "required" and names:
        return choice, list(names)
    if isinstance(choice, dict) and choice.get("type") == "function":
        named = choice.get("function", choice)
        name = named.get("name") if isinstance(named, dict) else None
        if isinstance(name, str) and name in names:
            return "named", [name]
        raise wrong("tool_choice", f"tool_choice names the function {show(name)}, which is not among the tools")
    if choice == "required":
        raise wrong("tool_choice", "tool_choice='required' needs tools; give some")
    wanted = f"must be one of {', '.join(WORDS)}, or name a function: {{'type': 'function', ...}}"
    raise wrong("tool_choice", f"tool_choice={show(choice)} {wanted}")
