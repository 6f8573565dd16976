"""guided/schemas.py: fewer keywords, and the same values; a keyword that asks for something else stays as it is."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from tinyinfer.guided.schemas import plainer

TEXT = {"type": "string"}
WITHOUT_A = {"properties": {"a": False}}
RULES: list[tuple[Any, Any]] = [
    # asks for nothing
    ({"uniqueItems": False}, {}),
    ({"not": False}, {}),
    ({"then": TEXT, "else": TEXT}, {}),
    ({"if": TEXT}, {}),
    ({"minContains": 2, "maxContains": 3}, {}),
    ({"contains": TEXT, "minContains": 0}, {}),
    ({"unevaluatedItems": True, "unevaluatedProperties": {}}, {}),
    ({"propertyNames": True}, {}),
    ({"dependentRequired": {}, "dependentSchemas": {}, "dependencies": {}}, {}),
    ({"$dynamicAnchor": "x", "type": "object"}, {"$anchor": "x", "type": "object"}),
    # has an equal
    ({"properties": {"a": TEXT}, "unevaluatedProperties": False},
     {"properties": {"a": TEXT}, "additionalProperties": False}),
    ({"additionalProperties": TEXT, "unevaluatedProperties": False}, {"additionalProperties": TEXT}),
    ({"prefixItems": [TEXT], "unevaluatedItems": False}, {"prefixItems": [TEXT], "items": False}),
    ({"items": TEXT, "unevaluatedItems": False}, {"items": TEXT}),
    ({"propertyNames": {"pattern": "^a"}}, {"patternProperties": {"^a": True}, "additionalProperties": False}),
    ({"dependentRequired": {"a": ["b"]}}, {"allOf": [{"anyOf": [WITHOUT_A, {"required": ["b"]}]}]}),
    ({"allOf": [TEXT], "dependentSchemas": {"a": TEXT}}, {"allOf": [TEXT, {"anyOf": [WITHOUT_A, TEXT]}]}),
    ({"dependencies": {"a": ["b"], "c": TEXT}},
     {"allOf": [{"anyOf": [WITHOUT_A, {"required": ["b"]}]}, {"anyOf": [{"properties": {"c": False}}, TEXT]}]}),
    # in every place where a schema stands
    ({"items": {"uniqueItems": False}, "anyOf": [{"not": False}], "$defs": {"uniqueItems": {"uniqueItems": False}}},
     {"items": {}, "anyOf": [{}], "$defs": {"uniqueItems": {}}}),
]
KEPT: list[Any] = [
    {"uniqueItems": True},
    {"not": TEXT},
    {"if": TEXT, "then": TEXT},
    {"contains": TEXT, "minContains": 0, "maxContains": 1},
    {"anyOf": [TEXT], "unevaluatedProperties": False},  # anyOf looks at properties, too
    {"$ref": "#/$defs/a", "unevaluatedProperties": False, "$defs": {"a": True}},
    {"contains": TEXT, "unevaluatedItems": False},
    {"items": [TEXT], "unevaluatedItems": False},  # of an older draft
    {"properties": {"a": True}, "propertyNames": {"pattern": "^a"}},
    {"propertyNames": {"pattern": "^a", "maxLength": 3}},
    {"$dynamicAnchor": "x", "items": {"$dynamicRef": "#x"}},
    {"properties": {"uniqueItems": TEXT, "then": TEXT}},  # names of properties are no keywords
    {"enum": [{"uniqueItems": False}], "const": {"not": False}, "default": {"then": 1}},  # nor are values
    {"properties": 5, "anyOf": "x", "dependentRequired": [], "propertyNames": "x"},  # no schema: not ours to say
    True, False, 5,
]


@pytest.mark.parametrize(("schema", "right"), RULES, ids=range(len(RULES)))
def test_a_rule_says_the_same_in_fewer_keywords(schema: Any, right: Any) -> None:
    before = deepcopy(schema)
    assert plainer(schema) == right
    assert schema == before


@pytest.mark.parametrize("schema", KEPT, ids=range(len(KEPT)))
def test_what_asks_for_something_else_stays(schema: Any) -> None:
    """Catches a wish that is dropped: the answer would be wrong, where a refusal is right."""
    assert plainer(schema) == schema
