"""guided/unevaluated.py: on every way, what no schema has surely looked at is closed."""

from __future__ import annotations

from typing import Any

import pytest
from schema_values import allowed, among

from tinyinfer.guided.opposites import Opposites
from tinyinfer.guided.unevaluated import MOST, alone, closed, together, ways_of

TEXT, ONE = {"type": "string"}, {"const": 1}
A, B = {"properties": {"a": ONE}, "required": ["a"]}, {"properties": {"b": ONE}, "required": ["b"]}
DEFS: dict[str, Any] = {"a": A, "loop": {"properties": {"a": {"$ref": "#/$defs/loop"}}}}
NAMES, ITEMS = {"unevaluatedProperties": False}, {"unevaluatedItems": False}
CASES: dict[str, tuple[Any, list[Any]]] = {  # a schema, and values that must still be allowed
    "none beside it": (NAMES, [{}, 1]),
    "properties": ({**A, **NAMES}, [{"a": 1}]),
    "patterns": ({"allOf": [{"patternProperties": {"^a": True}}], **NAMES}, [{"a": 1}, {"ab": 1}]),
    "all of them": ({"allOf": [{"additionalProperties": ONE}], **NAMES}, [{"a": 1, "b": 1, "c": 1}]),
    "another schema": ({"properties": {"a": ONE}, "unevaluatedProperties": TEXT}, [{"a": 1, "b": "a"}]),
    "allOf": ({"allOf": [A, {"properties": {"c": ONE}}], **NAMES}, [1, {"a": 1}, {"a": 1, "c": 1}]),
    "anyOf": ({"anyOf": [A, B], **NAMES}, [{"a": 1}, {"b": 1}]),
    "oneOf": ({"oneOf": [A, B], **NAMES}, [{"a": 1}, {"b": 1}]),
    "if": ({"if": A, "then": B, "else": {"properties": {"c": True}}, **NAMES}, [{}, {"c": 1}]),
    "if alone": ({"if": A, **NAMES}, [{"a": 1}, {}]),
    "else alone": ({"if": A, "else": B, **NAMES}, [{"a": 1}, {"b": 1}]),
    "not": ({"not": A, **NAMES}, [{}]),
    "a reference": ({"$ref": "#/$defs/a", **NAMES}, [{"a": 1}]),
    "a reference that leads back": ({"$ref": "#/$defs/loop", **NAMES}, [{}, {"a": {"a": 1}}]),
    "dependent": ({"properties": {"a": ONE}, "dependentSchemas": {"a": {"properties": {"b": ONE}}}, **NAMES},
                  [{}, {"a": 1}]),
    "dependent, of no object": ({"dependentSchemas": {"a": {"prefixItems": [True]}}, **ITEMS}, [[], {"a": 1}]),
    "nested": ({"allOf": [{"properties": {"a": ONE}, "unevaluatedProperties": ONE}], **NAMES}, [{"a": 1, "c": 1}]),
    "cousins": ({"allOf": [A, {**NAMES}]}, []),
    "items in a row": ({"prefixItems": [ONE], "allOf": [{"prefixItems": [True, ONE]}], **ITEMS}, [[], [1], [1, 1]]),
    "all items": ({"anyOf": [{"items": ONE}, {"prefixItems": [TEXT]}], **ITEMS}, [[1, 1, 1], ["a"]]),
    "items of no branch": ({"not": {"prefixItems": [TEXT]}, **ITEMS}, []),
    "items that are contained": ({"prefixItems": [True], "contains": ONE, **ITEMS}, [[1]]),
}  # fmt: skip


@pytest.mark.parametrize(("schema", "kept"), CASES.values(), ids=CASES)
def test_a_closed_schema_allows_no_other_value(schema: Any, kept: list[Any]) -> None:
    """Catches names that a schema which may not hold has looked at: `oneOf`'s others, `not`, a `dependentSchemas`."""
    found = allowed({**closed(schema, Opposites(DEFS), DEFS), "$defs": DEFS})
    right = allowed({**schema, "$defs": DEFS})
    assert all(among(value, right) for value in found)
    assert all(among(value, found) for value in kept)


def test_a_schema_that_allows_nothing_has_no_way() -> None:
    assert closed({"allOf": [False], **NAMES}, Opposites({}), {}) is False
    assert ways_of(False, Opposites({}), {}, frozenset()) == []


def test_a_schema_that_asks_for_itself_is_looked_into_once() -> None:
    """Catches a way that never ends. The reference stays as a part, which has looked at nothing."""
    loop = {"anyOf": [A, {"$ref": "#/$defs/loop"}]}
    ways = ways_of({"$ref": "#/$defs/loop"}, Opposites({"loop": loop}), {"loop": loop}, frozenset())
    assert [sorted(way.names) for way in ways] == [["a"], []]
    assert {"$ref": "#/$defs/loop"} in ways[1].parts


def test_one_of_several_excludes_those_it_may_meet() -> None:
    """Catches opposites where none is needed: these would drop `b`, whose value's opposite is not of a string."""
    kinds: list[Any] = [{"const": "a"}, {"const": "b"}, {"type": "integer"}, {"minimum": 1}]
    found = alone(kinds, Opposites({}))
    assert [len(others) for _, others in found] == [1, 1, 1, 3]


def test_ways_that_multiply_are_cut() -> None:
    """Catches a list that doubles with each schema; every one that is left is right."""
    ways = ways_of({"allOf": [{"anyOf": [A, B]}] * 12}, Opposites({}), {}, frozenset())
    assert len(ways) == MOST
    assert together([], ways) == []
