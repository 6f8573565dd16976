"""What is surely not of a schema: another schema, none of whose values the first one allows.

`not` asks for the values that a schema refuses. A set of next tokens can follow some of them: a value fails a schema if
it fails one keyword. It is of no type that `type` names, it lacks a name of `required`, it is shorter than `minLength`.
Each keyword gives one choice, or none where its opposite is not simple (`pattern`, `format`, `multipleOf`): so what is
found may be less than all that fails, and is never more. That side is the safe one for `not`, for the other schemas of
a `oneOf`, for `else`, and for the items that `contains` does not count.

Wins: most of what is written with `not`. Loses: values, where a keyword gives less than its opposite.

JSON Schema 2020-12, core, sections 10.2.1 and 10.2.2; validation, section 6.
"""

from __future__ import annotations

import re
from typing import Any

Schema = dict[str, Any]
KINDS = ("null", "boolean", "number", "string", "array", "object")
BOUNDS = {"minimum": ("number", "exclusiveMaximum", 0), "maximum": ("number", "exclusiveMinimum", 0),
          "exclusiveMinimum": ("number", "maximum", 0), "exclusiveMaximum": ("number", "minimum", 0),
          "minLength": ("string", "maxLength", -1), "maxLength": ("string", "minLength", 1),
          "minItems": ("array", "maxItems", -1), "maxItems": ("array", "minItems", 1),
          "minProperties": ("object", "maxProperties", -1), "maxProperties": ("object", "minProperties", 1),
}  # fmt: skip
LONG = ("enum", "const", "required", "pattern")  # keywords whose values may be long
ANY = r"[\s\S]"
MOST_LETTERS = 1000  # of words that a text is not
REF = "#/$defs/"
MOST_STEPS = 5_000  # into the schemas of one document, so that nothing explodes


class Opposites:
    """Opposites of the schemas of one document, whose references name `defs`."""

    def __init__(self, defs: Schema) -> None:
        self._defs = defs
        self._steps = 0

    def step(self, schema: Any) -> None:
        """Counts a schema that is looked at, by its length. Raises ValueError behind the last that may be."""
        own = schema if isinstance(schema, dict) else {}
        self._steps += 1 + sum(len(str(own.get(name, ""))) for name in LONG) // 100
        if self._steps > MOST_STEPS:
            raise ValueError("the ways to keep it are too many")

    def of(self, schema: Any, seen: frozenset[str] = frozenset()) -> Any:
        """A schema that allows only what `schema` refuses; False where none is known. seen: references on the way."""
        if schema in (True, {}) or not isinstance(schema, dict):
            return schema is False
        self.step(schema)
        choices = [*simple(schema), *self._of_parts(schema, seen), *self._of_choices(schema, seen)]
        choices = [one for one in choices if one is not False]
        return choices[0] if len(choices) == 1 else {"anyOf": choices} if choices else False

    def _of_parts(self, s: Schema, seen: frozenset[str]) -> list[Any]:
        """A property, or an item, that fails its schema."""
        found: list[Any] = []
        for name, one in pairs(s.get("properties")):
            if (other := self.of(one, seen)) is not False:
                found.append({"type": "object", "required": [name], "properties": {name: other}})
        items = s.get("prefixItems") if isinstance(s.get("prefixItems"), list) else []
        for place, one in enumerate([*(items or []), *([s["items"]] if "items" in s else [])]):
            if (other := self.of(one, seen)) is not False:
                before = [True] * place
                found.append({"type": "array", "minItems": place + 1, "prefixItems": [*before, other]})
        return found

    def _of_choices(self, s: Schema, seen: frozenset[str]) -> list[Any]:
        """Where a schema is made of others: what fails those that must hold."""
        found: list[Any] = []
        if "not" in s:
            found.append(s["not"])
        if isinstance(s.get("allOf"), list):
            found += [self.of(one, seen) for one in s["allOf"]]
        for name in ("anyOf", "oneOf"):
            if isinstance(s.get(name), list):
                found.append(both(*(self.of(one, seen) for one in s[name])))
        if "if" in s and "then" in s:
            found.append(both(s["if"], self.of(s["then"], seen)))
        if "if" in s and "else" in s:
            found.append(both(self.of(s["if"], seen), self.of(s["else"], seen)))
        ref = s.get("$ref")
        if isinstance(ref, str) and ref.startswith(REF) and ref not in seen:
            found.append(self.of(self._defs[ref.removeprefix(REF)], seen | {ref}))
        return found

    def apart(self, one: Any, other: Any, depth: int = 3) -> bool:
        """Whether surely no value is of both schemas. depth: so many objects within objects are looked at."""
        one, other = self.target(one), self.target(other)
        if one is False or other is False:
            return True
        if not isinstance(one, dict) or not isinstance(other, dict):
            return False
        kinds = kinds_of(one) & kinds_of(other)
        given = [values_of(one), values_of(other)]
        if not kinds or (None not in given and not any(a == b for a in given[0] or [] for b in given[1] or [])):
            return True
        named = [dict(pairs(some.get("properties"))) for some in (one, other)]
        needed = set(one.get("required", [])) & set(other.get("required", [])) & set(named[0]) & set(named[1])
        if kinds != {"object"} or not depth:
            return False
        return any(self.apart(named[0][name], named[1][name], depth - 1) for name in needed)

    def target(self, schema: Any) -> Any:
        """What a schema refers to, if it does nothing else."""
        for _ in self._defs:
            ref = schema.get("$ref") if isinstance(schema, dict) and len(schema) == 1 else None
            if not isinstance(ref, str) or not ref.startswith(REF):
                break
            schema = self._defs[ref.removeprefix(REF)]
        return schema


def simple(s: Schema) -> list[Schema]:
    """What fails a keyword that has no schema in it."""
    others = [kind for kind in KINDS if kind not in kinds_of(s)]
    found: list[Schema] = [{"type": others}] if others else []
    found += unlike(values_of(s) or [])
    for name in s.get("required", []):
        found.append({"type": "object", "properties": {name: False}})
    for keyword, (kind, bound, more) in BOUNDS.items():
        value = s.get(keyword)
        if isinstance(value, int | float) and (kind == "number" or (value == int(value) and value + more >= 0)):
            found.append({"type": kind, bound: value if kind == "number" else int(value) + more})
    return found


def unlike(values: list[Any]) -> list[Schema]:
    """Strings, numbers and booleans that are none of some values."""
    found: list[Schema] = []
    words = {value for value in values if isinstance(value, str)}
    if words and sum(map(len, words)) <= MOST_LETTERS:
        found.append({"type": "string", "pattern": unlike_words(words)})
    flags = [value for value in values if isinstance(value, bool)]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if numbers:
        bounds: list[Schema] = [{"exclusiveMinimum": max(numbers)}, {"exclusiveMaximum": min(numbers)}]
        found += [{"type": "number", **bound} for bound in bounds]
    return [*found, {"const": not flags[0]}] if len(set(flags)) == 1 else found


def unlike_words(words: set[str]) -> str:
    """A pattern of all texts but some words: a text leaves them at a letter, or ends before or behind their end."""
    places: dict[str, set[str]] = {"": set()}  # each beginning of a word -> the letters that may follow it in one
    for word in words:
        for n, letter in enumerate(word):
            places.setdefault(word[:n], set()).add(letter)
        places.setdefault(word, set())
    choices = []
    for start, letters in sorted(places.items()):
        other = "[^" + "".join(map(re.escape, sorted(letters))) + "]" if letters else ANY
        choices.append(f"{re.escape(start)}{other}{ANY}*")
        if start not in words:
            choices.append(re.escape(start))
    return f"^({'|'.join(choices)})$"


def kinds_of(s: Schema) -> set[str]:
    """All kinds of value that a schema may allow, by its types and values."""
    given = s.get("type", list(KINDS))
    kinds = {"number" if kind == "integer" else kind for kind in ([given] if isinstance(given, str) else given)}
    values = values_of(s)
    return kinds if values is None else kinds & {kind_of(value) for value in values}


def values_of(s: Schema) -> list[Any] | None:
    """The values that a schema lists; None if it lists none."""
    if "const" in s:
        return [s["const"]]
    return s["enum"] if isinstance(s.get("enum"), list) else None


def kind_of(value: Any) -> str:
    """What JSON calls a value."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    return {int: "number", float: "number", str: "string", list: "array"}.get(type(value), "object")


def pairs(value: Any) -> list[tuple[str, Any]]:
    """The names and schemas of a keyword; none where its value is no object."""
    return list(value.items()) if isinstance(value, dict) else []


def both(*schemas: Any) -> Any:
    """What is of all schemas."""
    return False if any(one is False for one in schemas) else {"allOf": list(schemas)}
