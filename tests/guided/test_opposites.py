"""guided/opposites.py: no value is of a schema and of its opposite, and the opposite is found where it is simple."""

from __future__ import annotations

import re
from typing import Any

import pytest
from schema_values import allowed, among

from tinyinfer.guided.opposites import Opposites, unlike_words

DEFS = {"text": {"type": "string"}, "loop": {"properties": {"a": {"$ref": "#/$defs/loop"}}, "required": ["b"]}}
CASES: list[tuple[Any, list[Any]]] = [  # a schema, and values that must be of the opposite
    (False, [None, {}, []]),
    ({"type": "integer"}, [None, "a", [], {}]),
    ({"type": ["object", "number"]}, ["a", [], True]),
    ({"const": "a"}, ["b", "", "ab", None]),
    ({"const": 1}, [0, 2, 1.5, "a", True]),
    ({"const": True}, [False, 1]),
    ({"enum": ["a", "ab", 1]}, ["b", 2, 0, None]),
    ({"type": "string", "enum": ["a", 1]}, ["b", 1, 2]),
    ({"required": ["a", "b"]}, [{}, {"a": 1}, {"b": 1}]),
    ({"minimum": 1}, [0]), ({"maximum": 1}, [1.5, 2]),
    ({"exclusiveMinimum": 1}, [0, 1]), ({"exclusiveMaximum": 1}, [1, 2]),
    ({"minLength": 1}, [""]), ({"maxLength": 1}, ["ab"]), ({"minItems": 2}, [[], [1]]), ({"maxItems": 1}, [[1, 2]]),
    ({"minProperties": 1}, [{}]), ({"maxProperties": 1.0}, [{"a": 1, "b": "a"}]),
    ({"properties": {"a": {"type": "string"}}}, [{"a": 1}]),
    ({"prefixItems": [{"const": 1}], "items": {"const": 2}}, [[2], [1, 1], ["a"]]),
    ({"items": False}, [[1]]),
    ({"allOf": [{"type": "object"}, {"required": ["a"]}]}, [1, {}]),
    ({"anyOf": [{"type": "object"}, {"type": "array"}]}, [1, "a"]),
    ({"oneOf": [{"type": "object"}, {"type": "array"}]}, [1, "a"]),
    ({"not": {"type": "string"}}, ["a", ""]),
    ({"if": {"type": "string"}, "then": {"minLength": 1}, "else": {"type": "object"}}, ["", 1, []]),
    ({"$ref": "#/$defs/text"}, [1, None]),
    ({"$ref": "#/$defs/loop"}, [{}, {"a": 1}]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "found"), CASES, ids=range(len(CASES)))
def test_an_opposite_shares_no_value_with_its_schema(schema: Any, found: list[Any]) -> None:
    """Catches the opposite of a keyword that is off by one, or that forgets the values that the keyword ignores."""
    other = Opposites(DEFS).of(schema)
    mine, its = (allowed({"allOf": [one], "$defs": DEFS}) for one in (schema, other))
    assert not any(among(value, mine) for value in its)
    assert all(among(value, its) for value in found)


@pytest.mark.parametrize("schema", [True, {}, {"pattern": "a"}, {"format": "date"}, {"multipleOf": 2}, {"minLength": 0},
                                    {"unevaluatedItems": False}, {"contains": {"const": 1}},
                                    {"if": False}])  # fmt: skip
def test_an_opposite_that_is_not_known_is_nothing(schema: Any) -> None:
    """Catches a keyword without a rule whose opposite is taken to be everything."""
    assert Opposites({}).of(schema) is False


@pytest.mark.parametrize("words", [{"a"}, {"ab", "a"}, {""}, {"a-]^\\é", "b c"}, {"abc", "abd", "x"}])
def test_a_text_unlike_words_is_none_of_them(words: set[str]) -> None:
    """Catches a letter that means something in a regex, and a word that is the beginning of another."""
    pattern = re.compile(unlike_words(words))
    near = {word[:n] + more for word in words for n in range(len(word) + 1) for more in ("", "a", "z", "\n", "]z")}
    assert near & words
    assert {word for word in near if pattern.fullmatch(word)} == near - words


APART: list[tuple[Any, Any, bool]] = [
    ({"type": "string"}, {"type": "number"}, True), ({"type": "integer"}, {"type": "number"}, False),
    ({"const": 1}, {"const": 2}, True), ({"const": 1}, {"enum": [2, 1.0]}, False), ({"const": 1}, {}, False),
    ({"$ref": "#/$defs/text"}, {"const": 1}, True), (False, {}, True), (True, {"const": 1}, False),
    ({"type": "object", "required": ["k"], "properties": {"k": {"const": "a"}}},
     {"type": "object", "required": ["k"], "properties": {"k": {"const": "b"}}}, True),
    ({"type": "object", "properties": {"k": {"const": "a"}}},  # neither needs it
     {"type": "object", "properties": {"k": {"const": "b"}}}, False),
    ({"required": ["k"], "properties": {"k": {"const": "a"}}},  # a number is of both
     {"required": ["k"], "properties": {"k": {"const": "b"}}}, False),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other", "right"), APART, ids=range(len(APART)))
def test_schemas_are_apart_where_no_value_is_of_both(one: Any, other: Any, right: bool) -> None:
    assert Opposites(DEFS).apart(one, other) is right


def test_what_explodes_is_refused() -> None:
    """Catches an opposite whose size doubles at each level."""
    schema: Any = {"type": "string"}
    for _ in range(20):
        schema = {"if": schema, "then": schema, "else": schema}
    with pytest.raises(ValueError, match="too many"):
        Opposites({}).of(schema)
