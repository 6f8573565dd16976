"""A call that must come: the format of the calls and the schemas of the functions, as one grammar.

`tool_choice` may ask for a call. A wish in the prompt is followed often; a grammar is followed always
(tinyinfer/guided): what comes is a call of one of the functions, with arguments that conform to its schema, in the form
that the model writes anyway, so that the same parser reads it. A model that thinks first may do so, to the end marker
of its thinking.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tinyinfer.server.tool_calls.splitter import Format
from tinyinfer.text.reasoning import Thinking

ANYTHING = r"/(.|\n)*/"
BLANK = r"/\n{0,2}/"


def forced(
    format: Format, functions: Sequence[Mapping[str, Any]], one: bool, special: Mapping[str, int],
    thinking: Thinking | None,
) -> str:  # fmt: skip
    """The grammar, in Lark's syntax, of an answer that calls some of the functions, or only one of them.

    special: the marks that are special tokens, name -> id. thinking: how the answer begins; None: with the call.
    """
    rules = []
    for n, function in enumerate(functions):
        head, _, tail = format.call.replace("NAME", function["name"]).partition("ARGUMENTS")
        expression, more = format.arguments(schema_of(function), f"a{n}")
        rules += [f"c{n}: {literal(head, special)} {expression} {literal(tail, special)}", *more]
    before, between, after = (literal(text, special) for text in (format.before, format.between, format.after))
    several = "" if one else f"({between} call)*"
    start = f"start: {begun(thinking)} {before} call {several} {after}"
    calls = "call: " + " | ".join(f"c{n}" for n in range(len(functions)))
    return "\n".join([start, calls, *thought(thinking, special), *rules, ""])


def schema_of(function: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of the arguments; without parameters there are none."""
    schema = function.get("parameters") or {"properties": {}, "additionalProperties": False}
    return {**schema, "type": "object"}


def literal(text: str, special: Mapping[str, int]) -> str:
    """A text in Lark's syntax, in which special tokens stand by their ids."""
    names = "|".join(map(re.escape, special)) or "$^"
    parts: Iterable[str] = re.split(f"({names})", text)
    return " ".join(f"<[{special[part]}]>" if part in special else json.dumps(part) for part in parts if part)


def begun(thinking: Thinking | None) -> str:
    """What stands before the first call."""
    if thinking is None:
        return ""
    return "thought" if thinking.opened else "(opening thought)?"


def thought(thinking: Thinking | None, special: Mapping[str, int]) -> list[str]:
    """The rules of a block of thinking."""
    if thinking is None:
        return []
    rules = [f"opening: {literal(thinking.start, special)}", f"blank: {BLANK}"]
    if thinking.end in special:
        return [*rules, f"thought: {ANYTHING} {literal(thinking.end, special)} blank"]
    return [*rules, "thought: thinking blank", f"thinking[suffix={json.dumps(thinking.end)}]: {ANYTHING}"]
