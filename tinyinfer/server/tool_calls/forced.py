"""An answer that must have a form: a call, JSON of a schema, or either, as one grammar.

`tool_choice` may ask for a call. A wish in the prompt is followed often; a grammar is followed always
(tinyinfer/guided): what comes is a call of one of the functions, with arguments that conform to its schema, in the form
that the model writes anyway, so that the same parser reads it. Where an answer in JSON is asked for, and tools are
offered, too, it is one or the other. Guided decoding itself lets a model think first (guided/thoughts.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinyinfer.guided.thoughts import literal
from tinyinfer.server.tool_calls.splitter import Format, json_rule


@dataclass(frozen=True)
class Asked:
    """What may come: calls of these functions, or only one call; or JSON of a schema; or either.

    special: the marks that are special tokens, name -> id.
    """

    functions: Sequence[Mapping[str, Any]] = ()
    one: bool = False
    schema: dict[str, Any] | None = None
    special: Mapping[str, int] = field(default_factory=dict)


def grammar_of(asked: Asked, format: Format | None) -> str:
    """The grammar, in Lark's syntax, of an answer."""
    ways, rules = [], list[str]()
    if asked.schema is not None:
        ways, rules = ["json"], [f"json: {json_rule(asked.schema)}"]
    if format is not None and asked.functions:
        rules += call_rules(format, asked)
        ways.append("calls")
    return "\n".join([f"start: {' | '.join(ways)}", *rules, ""])


def call_rules(format: Format, asked: Asked) -> list[str]:
    """The rules of calls."""
    rules = []
    for n, function in enumerate(asked.functions):
        head, _, tail = format.call.partition("ARGUMENTS")
        head = head.replace("NAME", function["name"])
        expression, more = format.arguments(schema_of(function), f"a{n}")
        rules += [f"c{n}: {literal(head, asked.special)} {expression} {literal(tail, asked.special)}", *more]
    before, between, after = (literal(text, asked.special) for text in (format.before, format.between, format.after))
    several = "" if asked.one else f"({between} call)*"
    call = "call: " + " | ".join(f"c{n}" for n in range(len(asked.functions)))
    return [f"calls: {before} call {several} {after}", call, *rules]


def schema_of(function: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of the arguments; without parameters there are none."""
    schema = function.get("parameters") or {"properties": {}, "additionalProperties": False}
    return {**schema, "type": "object"}

