"""guided/narrower.py: a schema in keywords that can be followed, all of whose values the given one allows."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from schema_values import allowed, among

from tinyinfer.guided.narrower import distinct, narrower
from tinyinfer.guided.schemas import ONE as ONE_PART
from tinyinfer.guided.schemas import plainer

HARD = ('"not"', "oneOf", '"if"', "ontains", "unique", "propertyNames", "unevaluated", "$dynamicRef", "$id", "nchor")
TEXT, ONE = {"type": "string"}, {"const": 1}
CASES: dict[str, tuple[Any, list[Any]]] = {  # a schema, and values that must still be allowed
    "contains": ({"contains": ONE}, [[1], [1, 2], "a", {}]),
    "contains behind others": ({"prefixItems": [TEXT], "contains": ONE}, [["a", 1]]),
    "contains several": ({"contains": ONE, "minContains": 2.0}, [[1, 1], [1, 1, 1]]),
    "contains at most": ({"contains": ONE, "maxContains": 1}, [[1], [1, 2]]),
    "contains none": ({"contains": ONE, "minContains": 0, "maxContains": 0}, [[], ["a"]]),
    "contains what cannot be": ({"contains": ONE, "minContains": 2, "maxContains": 1}, [1, {}]),
    "contains what has no opposite": ({"contains": {"multipleOf": 2}, "maxContains": 1}, [[2]]),
    "unique": ({"uniqueItems": True}, [[], [1], "a"]),
    "unique of a list": ({"uniqueItems": True, "items": {"enum": ["a", 1, True, 1.0, 2]}}, [[], ["a"]]),
    "unique in a row": ({"uniqueItems": True, "prefixItems": [TEXT, {"type": "integer"}], "items": False}, [[]]),
    "unique in a row of one kind": ({"uniqueItems": True, "prefixItems": [TEXT, TEXT]}, [["a"]]),
    "if": ({"if": TEXT, "then": {"minLength": 1}, "else": {"type": "array"}}, ["a", []]),
    "if without else": ({"if": TEXT, "then": {"minLength": 1}}, ["a", 1]),
    "oneOf": ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, [0, 1, "a"]),
    "oneOf of none": ({"oneOf": [True, True]}, []),
    "not": ({"not": {"required": ["a"]}, "type": "object"}, [{}, {"b": 1}]),
    "names of a list": ({"propertyNames": {"enum": ["a", "b", 5]}}, [{}, {"a": 1}, {"a": 1, "b": "a"}]),
    "one name": ({"propertyNames": {"const": "a"}}, [{"a": 1}]),
    "names of a length": ({"propertyNames": {"minLength": 2, "maxLength": 3.0}}, [{}, {"ab": 1}]),
    "names of a pattern": ({"propertyNames": {"type": "string", "pattern": "^a"}}, [{"a": 1}, {"ab": 1}]),
    "no names": ({"propertyNames": False}, [{}, 1]),
    "names that are none": ({"propertyNames": {"type": "integer"}}, [{}, 1]),
    "names beside properties": ({"propertyNames": {"const": "a"}, "properties": {"b": True}}, [{"a": 1}]),
    "patterns that meet": ({"patternProperties": {"a": TEXT, "b": {"maxLength": 1}}}, [{}, {"a": "a"}]),
    "unevaluated": ({"anyOf": [{"properties": {"a": ONE}}], "unevaluatedProperties": False}, [{}, {"a": 1}]),
    "a tree": ({"$defs": {"t": {"properties": {"a": {"$ref": "#/$defs/t", "unevaluatedProperties": False}}}},
                "$ref": "#/$defs/t", "unevaluatedProperties": False}, [{}, {"a": {}}, {"a": {"a": 1}}]),
    "rules within rules": ({"oneOf": [{"contains": {"not": TEXT}}, {"type": "integer"}]}, ["a", [1]]),
}  # fmt: skip


@pytest.mark.parametrize(("schema", "kept"), CASES.values(), ids=CASES)
def test_a_rule_leaves_only_values_of_the_schema(schema: Any, kept: list[Any]) -> None:
    """Catches a rule that is wider than its keyword, one that leaves nothing, and one that changes what is given."""
    before = deepcopy(schema)
    found = plainer(narrower(schema))
    assert schema == before
    right, values = allowed(schema), allowed(found)
    assert all(among(value, right) for value in values)
    assert all(among(value, values) for value in kept)


@pytest.mark.parametrize("name", CASES)
def test_no_hard_keyword_is_left(name: str) -> None:
    """Catches a rule that does not reach the places within what another one has written."""
    text = json.dumps(plainer(narrower(CASES[name][0])))
    assert not any(word in text for word in HARD)


KEPT: list[Any] = [
    {"not": {"pattern": "a"}},  # whose opposite is not known
    {"not": {"multipleOf": 2, "contains": {"const": 1}}},  # a narrower one within it would be a wider one
    {"propertyNames": {"format": "date"}},
    {"patternProperties": {"^a": TEXT, "^b-": ONE}, "additionalProperties": False},  # can be followed as it is
    {"$schema": "http://json-schema.org/draft-07/schema#", "uniqueItems": True},  # of an older draft
    True, False, 5,
]  # fmt: skip


@pytest.mark.parametrize("schema", KEPT, ids=range(len(KEPT)))
def test_what_no_rule_is_for_stays(schema: Any) -> None:
    """Catches a wish that is dropped: what stays is refused by its name."""
    assert narrower(schema) == schema


@pytest.mark.parametrize("schema", [{"contains": True, "minContains": 301}, {"contains": True, "maxContains": 1e6}])
def test_a_row_that_is_too_long_is_refused(schema: Any) -> None:
    with pytest.raises(ValueError, match="more than 300 items"):
        narrower(schema)


@pytest.mark.parametrize(("patterns", "right"), [
    (["^a", "^b"], True), (["^a", "^ab"], False), (["^a", "b"], False), (["^a|b", "^c"], False),
    (["^ab*", "^ac"], False),
    (["^x-", "^y_[0-9]+$"], True),
])  # fmt: skip
def test_patterns_are_distinct_by_their_first_letters(patterns: list[str], right: bool) -> None:
    assert distinct(patterns) is right


LEAVES: st.SearchStrategy[Any] = st.sampled_from([
    True, False, TEXT, ONE, {"type": "integer"}, {"enum": ["a", 1, None]}, {"type": ["object", "array"]},
    {"minimum": 1}, {"minLength": 1}, {"maxItems": 1}, {"required": ["a"]}, {"multipleOf": 2},
])  # fmt: skip
NAMED = st.sampled_from([{"$ref": "#/$defs/d"}, {"$dynamicRef": "#x"}, {"$ref": "e"}])


def made_of(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Schemas that have others in them."""
    some, named = st.lists(parts, min_size=1, max_size=2), st.dictionaries(st.sampled_from("abc"), parts, max_size=2)
    patterns = st.dictionaries(st.sampled_from(["a", "^b", "^a"]), parts, max_size=2)
    names = st.sampled_from([{"enum": ["a", "c"]}, {"maxLength": 1}, {"pattern": "^a"}, False])
    keywords = {
        **dict.fromkeys(set(ONE_PART) - {"additionalItems", "propertyNames"}, parts),
        **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), some),
        "properties": named, "patternProperties": patterns, "dependentSchemas": named, "propertyNames": names,
        "minContains": st.integers(0, 2), "maxContains": st.integers(0, 2), "uniqueItems": st.just(True),
    }  # fmt: skip
    one = st.sampled_from(sorted(keywords)).flatmap(lambda name: st.builds(lambda value: {name: value}, keywords[name]))
    return st.lists(one, min_size=1, max_size=3).map(lambda found: {k: v for one in found for k, v in one.items()})


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.recursive(LEAVES | NAMED, made_of, max_leaves=6), *[st.recursive(LEAVES, made_of, max_leaves=6)] * 2)
def test_no_value_is_let_in(root: Any, d: Any, e: Any) -> None:
    """Schemas of every keyword at once, none of which asks for itself: the judge does not survive an endless one.

    Catches rules that are right alone and wrong together.
    """
    resource = {"$id": "e", "properties": {"a": e}, "$defs": {"x": {"$dynamicAnchor": "x", "type": "integer"}}}
    schema = {"$id": "http://x.example/root", "allOf": [root], "$defs": {"d": d, "e": resource, "x": {
        "$dynamicAnchor": "x", "enum": ["a", {}]}}}  # fmt: skip
    try:
        found = plainer(narrower(schema))
    except ValueError:  # it has too many parts
        assume(False)
    right, values = allowed(schema), allowed(found)
    assert '"not"' in json.dumps(found) or all(among(value, right) for value in values)
