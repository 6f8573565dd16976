"""A few small values of each kind, and which of them a JSON schema allows as the package `jsonschema` judges it."""

from __future__ import annotations

from itertools import product
from typing import Any

from jsonschema import Draft202012Validator

SIMPLE: list[Any] = [None, True, False, 0, 1, 2, 1.5, "", "a", "b", "ab"]
ARRAYS: list[Any] = [[], *([one] for one in (None, 1, 2, "a", {})), *map(list, product((1, 2, "a"), repeat=2)),
                     [1, "a", "b"], ["a", 1, 1], ["a", "a", 2], [2, 1, "a"], [1, 1, 1]]  # fmt: skip
OBJECTS: list[Any] = [{}, {"a": 1}, {"a": "a"}, {"a": {}}, {"b": 1}, {"b": "a"}, {"c": 1}, {"c": "b"}, {"ab": 1},
                      {"a": 1, "b": "a"}, {"a": "a", "b": 1}, {"a": 1, "c": 1}, {"a": "a", "c": "a"}, {"b": 1, "c": 1},
                      {"a": 1, "b": 1, "c": 1}, {"a": "a", "b": "a", "c": "a"}, {"a": {"a": 1}},
                      {"a": {"b": "a"}}]  # fmt: skip
VALUES = SIMPLE + ARRAYS + OBJECTS


def allowed(schema: Any) -> list[Any]:
    """The values that a schema allows."""
    judge = Draft202012Validator(schema)
    return [value for value in VALUES if judge.is_valid(value)]


def among(value: Any, values: list[Any]) -> bool:
    """Whether a value is one of some, where 1 and true differ."""
    return any(repr(value) == repr(one) for one in values)
