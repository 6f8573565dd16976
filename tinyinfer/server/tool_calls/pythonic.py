"""Pythonic: calls are a list of Python's own, [get_weather(city="Paris", days=3), now()].

The values are Python's literals, so that they are read by `ast.literal_eval`, which runs nothing, and written as JSON.
A value is told when it is complete: half of a literal is no JSON. Values that are JSON already stay as they are: models
mix both. Written by Llama 3.2 and Llama 4 (Meta's "Llama 3.2
prompt formats", zero-shot function calling), and by models that were trained to act in code.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any, NoReturn

from tinyinfer.server.tool_calls.calls import Calls
from tinyinfer.server.tool_calls.json_letters import DEEPEST, END, Broken, Reading, blank, expect
from tinyinfer.server.tool_calls.splitter import Format, json_rule

NAME = re.compile(r"[\w.-]+")
LONGEST_NAME = 200  # of a function, and of a key: each letter looks at those before it
PAIRS = {"(": ")", "[": "]", "{": "}"}
CLOSING = frozenset(PAIRS.values())


def rules(calls: Calls) -> Reading:
    """The list, whose bracket has opened it."""
    letter = ","
    while letter != "]":
        letter = yield from blank((yield))
        letter = yield from call(letter, calls)
        letter = yield from blank(letter)
        if letter != ",":
            expect(letter, "]")
    return (yield)


def call(letter: str, calls: Calls) -> Reading:
    """One call, name(key=value, ...)."""
    name = ""
    while letter != "(":
        name += letter
        if len(name) > LONGEST_NAME or not NAME.fullmatch(name):
            raise Broken
        letter = yield
    calls.named(name)
    letter, first = (yield from blank((yield))), True
    while letter != ")":
        letter = yield from argument(letter, calls, "{" if first else ", ")
        first = False
        if letter == ",":
            letter = yield from blank((yield))
        else:
            expect(letter, ")")
    calls.argue("{}" if first else "}")
    calls.whole()
    letter = yield
    calls.close()
    return letter


def argument(letter: str, calls: Calls, before: str) -> Reading:
    """One key=value; returns the comma or the bracket behind it."""
    key = ""
    while letter not in ("=", " "):
        key += letter
        if len(key) > LONGEST_NAME or not key.isidentifier():
            raise Broken
        letter = yield
    letter = yield from blank(letter)
    expect(letter, "=")
    text: list[str] = []
    letter = yield from literal((yield), text)
    calls.sure()
    calls.argue(f"{before}{json.dumps(key, ensure_ascii=False)}: {as_json(''.join(text))}")
    return letter


def literal(letter: str, text: list[str]) -> Reading:
    """The letters of a value, up to a comma or a bracket that is not its own."""
    open_brackets: list[str] = []
    while open_brackets or letter not in (",", ")"):
        text.append(letter)
        if letter in PAIRS and len(open_brackets) < DEEPEST:
            open_brackets.append(PAIRS[letter])
        elif letter == END or letter in PAIRS or (letter in CLOSING and [letter] != open_brackets[-1:]):
            raise Broken
        elif letter in CLOSING:
            open_brackets.pop()
        elif letter in ("'", '"'):
            yield from quoted(letter, text)
        letter = yield
    return letter


def quoted(quote: str, text: list[str]) -> Reading:
    """A string, behind its first quote."""
    while (letter := (yield)) != quote:
        text.append(letter)
        if letter == "\\":
            letter = yield
            text.append(letter)
        if letter in (END, "\n"):
            raise Broken
    text.append(letter)
    return letter


def as_json(text: str) -> str:
    """A literal of Python, or of JSON, as JSON. Raises Broken for what is neither, or has no form in JSON."""
    try:
        json.loads(text, parse_constant=no_number)
        return text.strip()
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings(action="ignore"):  # which would show the model's text on stderr
            return json.dumps(ast.literal_eval(text.strip()), ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise Broken from None


def no_number(word: str) -> NoReturn:
    """Raises ValueError for NaN and infinities, which only Python's reader takes for JSON."""
    raise ValueError(word)


def keywords(schema: dict[str, Any], name: str) -> tuple[str, list[str]]:
    """Arguments as key=value, as an expression and rules of Lark; the values are JSON, which `as_json` reads as well.

    Raises ValueError for a schema that says more of its keys than which there are and which are required.
    """
    wanted = schema.get("required", [])
    keys = {key: value for key, value in schema.get("properties", {}).items() if value is not False or key in wanted}
    more = sorted(schema.keys() - PLAIN) or [f"required {name!r}" for name in wanted if name not in keys]
    if more or not all(map(str.isidentifier, keys)):
        raise ValueError(f"a call that must come is written as key=value here, which {more or list(keys)} do not allow")
    shared = {word: schema[word] for word in ("$defs", "definitions") if word in schema}
    values = {key: {"allOf": [value], **shared} if shared else value for key, value in keys.items()}
    rules = [f'{name}_{n}: "{key}=" {json_rule(value)}' for n, (key, value) in enumerate(values.items())]
    required = [n for n, key in enumerate(keys) if key in wanted]
    optional = [n for n in range(len(keys)) if n not in required]
    first = ' ", " '.join(f"{name}_{n}" for n in required)
    rest = [f'(", " {name}_{n})?' for n in optional]
    if required or not optional:
        return " ".join([first, *rest]), rules
    ways = " | ".join(" ".join([f"{name}_{n}", *rest[i + 1 :]]) for i, n in enumerate(optional))
    return f"({ways})?", rules


PLAIN = {"type", "properties", "required", "additionalProperties", "title", "description", "$schema", "$defs",
         "definitions"}  # fmt: skip
PYTHONIC = Format("[", rules, "NAME(ARGUMENTS)", own_line=True, before="[", between=", ", after="]", arguments=keywords)
