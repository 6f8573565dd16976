"""guided/references.py: every reference names a schema of the document's own `$defs`, and no value changes sides."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from schema_values import allowed

from tinyinfer.guided.references import one_document

TEXT, NUMBER = {"type": "string"}, {"type": "number"}
LIST = {"$id": "list", "type": "array", "items": {"$dynamicRef": "#item"}, "$defs": {"any": {"$dynamicAnchor": "item"}}}
ROOT = "http://x.example/root"
SCHEMAS: dict[str, Any] = {
    "pointer": {"$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": TEXT}},
    "pointer into a keyword": {"properties": {"a": TEXT, "b": {"$ref": "#/properties/a"}}},
    "pointer into a list": {"prefixItems": [TEXT, {"$ref": "#/prefixItems/0"}]},
    "a schema in no keyword's place": {"$ref": "#/elsewhere/a", "elsewhere": {"a": TEXT}},
    "anchor": {"$ref": "#t", "$defs": {"x": {"$anchor": "t", **TEXT}}},
    "address": {"$id": ROOT, "$ref": "sub", "$defs": {"x": {"$id": "sub", **TEXT}}},
    "address that is no path": {"$id": "urn:a:b", "$ref": "#t", "$defs": {"x": {"$anchor": "t", **TEXT}}},
    "address within `if`": {"$ref": "http://x.example/if", "if": {"$id": "http://x.example/if", **TEXT}},
    "an address around it": {"$id": ROOT, "properties": {"a": {"$ref": "sub/x#/$defs/y"}}, "$defs": {
        "x": {"$id": "sub/x", "$defs": {"y": {"$ref": "z"}}}, "z": {"$id": "sub/z", **TEXT},
        "no": {"$id": "z", **NUMBER}}},
    "itself": {"properties": {"a": {"$ref": "#"}}, "type": "object"},
    "true and false": {"properties": {"a": {"$ref": "#/$defs/yes"}, "b": {"$ref": "#/$defs/no"}},
                       "$defs": {"yes": True, "no": False}},
    "dynamic, the first one on the way": {"$id": ROOT, "$ref": "list", "$defs": {
        "t": {"$dynamicAnchor": "item", **TEXT}, "list": LIST}},
    "dynamic, the way of each": {"$id": ROOT, "properties": {"a": {"$ref": "texts"}, "b": {"$ref": "nums"}}, "$defs": {
        "texts": {"$id": "texts", "$ref": "list", "$defs": {"t": {"$dynamicAnchor": "item", **TEXT}}},
        "nums": {"$id": "nums", "$ref": "list", "$defs": {"t": {"$dynamicAnchor": "item", **NUMBER}}},
        "list": LIST}},
    "dynamic, not an anchor that is not": {"$id": ROOT, "$ref": "list", "$defs": {
        "t": {"$anchor": "item", **TEXT}, "list": LIST}},
    "dynamic, as any other": {"$id": ROOT, "$ref": "list", "$defs": {"t": {"$dynamicAnchor": "item", **TEXT}, "list": {
        "$id": "list", "type": "array", "items": {"$dynamicRef": "#item"}, "$defs": {"any": {"$anchor": "item"}}}}},
}  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_references_name_defs_and_mean_the_same(schema: Any) -> None:
    """Catches a reference that is followed from the wrong address, or a dynamic one that forgets its way."""
    found = one_document(schema)
    text = json.dumps(found)
    assert not any(word in text for word in ("$id", "nchor", "$dynamicRef"))
    assert text.count('"$ref": "#/$defs/') == text.count('"$ref": ') > 0
    assert allowed(found) == allowed(schema)


@pytest.mark.parametrize("ref", ["http://x.example/other", "#none", "#/$defs/none", "#/properties/a/0", "list"])
def test_a_reference_out_of_the_document_is_refused(ref: str) -> None:
    """Catches a part that is dropped with what it refers to: nothing is fetched."""
    with pytest.raises(ValueError, match="leads out of the document"):
        one_document({"properties": {"a": TEXT, "b": {"$ref": ref}}})


def test_ways_that_multiply_are_refused() -> None:
    """Catches a document whose resources refer to each other, written once for each order of them."""
    names = [f"r{n}" for n in range(8)]
    refs = [{"$ref": name} for name in names]
    others = {"items": {"anyOf": refs}, "$defs": {"d": {"$dynamicAnchor": "d"}}}
    resources = {name: {"$id": name, **deepcopy(others)} for name in names}
    with pytest.raises(ValueError, match="more than 1000 schemas"):
        one_document({"$id": ROOT, "anyOf": refs, "$defs": {**resources, "x": {"$dynamicRef": "r0#d"}}})
