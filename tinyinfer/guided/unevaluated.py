"""`unevaluated...` in other words: one choice for each way to keep the schemas beside it, closed to all else.

`unevaluatedProperties: false` allows no property that no schema beside it has looked at. Which ones have looked depends
on the value: a schema of `anyOf` counts if it holds, and the two schemas behind `if` exclude each other. A value is
written from left to right, and which way it takes is chosen while it is written: so each way becomes a choice of its
own. On one way it is known which schemas hold, so it is known which names they look at; one more schema gives these
names to the others and everything else to `unevaluatedProperties`. A value may keep further schemas by chance, which
then look at more: the choice is too narrow there, and never too wide. Items are counted in the same way.

Wins: a schema made of others can be closed. Loses: the ways multiply, and only the first 64 are kept.

JSON Schema 2020-12, core, sections 11.2 and 11.3; 7.7.1.1 (what a schema that does not hold has looked at).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinyinfer.guided.opposites import REF, Opposites, Schema, pairs

CHOICES = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "$ref",
           "unevaluatedProperties", "unevaluatedItems", "$defs")  # fmt: skip
MOST = 64


@dataclass(frozen=True)
class Way:
    """Schemas that hold together, and what these have looked at, at the least."""

    parts: tuple[Any, ...] = ()
    names: frozenset[str] = frozenset()
    patterns: frozenset[str] = frozenset()
    all_names: bool = False
    items: int = 0
    all_items: bool = False

    def __and__(self, other: Way) -> Way:
        return Way(self.parts + other.parts, self.names | other.names, self.patterns | other.patterns,
                   self.all_names or other.all_names, max(self.items, other.items),
                   self.all_items or other.all_items)  # fmt: skip


def closed(schema: Schema, opposites: Opposites, defs: Schema) -> Any:
    """A schema with `unevaluated...` as a choice between schemas without it."""
    ways = ways_of(schema, opposites, defs, frozenset())
    return {"anyOf": [{"allOf": list(way.parts)} for way in ways]} if ways else False


def ways_of(s: Any, opposites: Opposites, defs: Schema, seen: frozenset[str]) -> list[Way]:
    """The ways to keep a schema. seen: the references on the way to it; one that leads back is not looked into."""
    opposites.step(s)
    if not isinstance(s, dict):
        return [] if s is False else [Way()]

    def ways(one: Any) -> list[Way]:
        return ways_of(one, opposites, defs, seen)

    found = [own(s)]
    for one in s.get("allOf", []):
        found = together(found, ways(one))
    ref = s.get("$ref")
    if isinstance(ref, str) and ref.startswith(REF) and ref not in seen:
        found = together(found, ways_of(defs[ref.removeprefix(REF)], opposites, defs, seen | {ref}))
    elif ref is not None:
        found = together(found, [Way(({"$ref": ref},))])
    if "anyOf" in s:
        found = together(found, [way for one in s["anyOf"] for way in ways(one)])
    if "oneOf" in s:
        choices = [together(ways(one), [Way(tuple(others))]) for one, others in alone(s["oneOf"], opposites)]
        found = together(found, [way for some in choices for way in some])
    if "if" in s:
        kept = together(ways(s["if"]), ways(s.get("then", True)))
        fails = opposites.of(s["if"]) if "then" in s or "else" in s else True
        failed = [] if fails is False else together([Way((fails,))], ways(s.get("else", True)))
        found = together(found, [*kept, *failed])
    for name, one in pairs(s.get("dependentSchemas")):
        has, lacks = {"type": "object", "required": [name]}, {"properties": {name: False}}
        found = together(found, [Way((lacks,)), *together([Way((has,))], ways(one))])
    if "not" in s:
        found = together(found, [Way(({"not": s["not"]},))])  # what is refused has looked at nothing
    return [rest(s, way) for way in found]


def own(s: Schema) -> Way:
    """What a schema asks for by itself, without the schemas that it is made of."""
    return Way(({name: value for name, value in s.items() if name not in CHOICES},),
               frozenset(s.get("properties", {})), frozenset(s.get("patternProperties", {})),
               "additionalProperties" in s, len(s.get("prefixItems", [])), "items" in s)  # fmt: skip


def alone(choices: list[Any], opposites: Opposites) -> list[tuple[Any, list[Any]]]:
    """`oneOf` as choices that exclude each other: one schema, and the opposites of those that it may meet."""
    found = []
    for n, one in enumerate(choices):
        others = [opposites.of(other) for m, other in enumerate(choices) if m != n and not opposites.apart(one, other)]
        if False not in others:
            found.append((one, others))
    return found


def together(some: list[Way], others: list[Way]) -> list[Way]:
    """Each way of the one with each of the other; where these are too many, the first ones."""
    return [one & other for one in some for other in others][:MOST]


def rest(s: Schema, way: Way) -> Way:
    """The way with what no schema has looked at kept to `unevaluated...`; then all is looked at."""
    if "unevaluatedProperties" in s:
        rest_of: Schema = {} if way.all_names else {
            "properties": dict.fromkeys(sorted(way.names), True),
            "patternProperties": dict.fromkeys(sorted(way.patterns), True),
            "additionalProperties": s["unevaluatedProperties"],
        }  # fmt: skip
        way = way & Way((rest_of,), all_names=True)
    if "unevaluatedItems" in s:
        rest_of = {} if way.all_items else {"prefixItems": [True] * way.items, "items": s["unevaluatedItems"]}
        way = way & Way((rest_of,), all_items=True)
    return way
