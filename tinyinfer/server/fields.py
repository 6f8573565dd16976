"""The fields of a JSON body: what is absent, wrong, unknown, or not there yet.

Clients send more than a server reads. null means that a field is absent, in every field (many clients write all that
they know). An unknown field is passed over, and the log names it. A field of a wrong type is refused with its name. A
field that asks for what the engine lacks is refused, too, because an answer that leaves a wish out without a word is a
wrong answer; with the value that asks for nothing, such as n=1, it is fine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from tinyinfer.server.errors import APIError, wrong
from tinyinfer.units import show


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a JSON value is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a JSON value is a number that a float can hold; true and false are none."""
    return isinstance(value, float) or (is_whole(value) and abs(value) < sys.float_info.max)


def is_list_of(check: Callable[[object], bool]) -> Callable[[object], bool]:
    """The check for a list whose items all pass a check."""
    return lambda value: isinstance(value, list) and all(map(check, value))


def is_text(value: object) -> bool:
    """Whether a JSON value is a text."""
    return isinstance(value, str)


KINDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "whole": ("a whole number", is_whole),
    "number": ("a number", is_number),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "text": ("a text", is_text),
    "texts": ("a text or a list of texts", lambda value: is_text(value) or is_list_of(is_text)(value)),
    "list": ("a list of texts", is_list_of(is_text)),
    "ids": ("a list of whole numbers", is_list_of(is_whole)),
    "object": ("an object", lambda value: isinstance(value, dict)),
    "objects": ("a list of objects", is_list_of(lambda value: isinstance(value, dict))),
    "any": ("anything", lambda value: True),
}
SCHEMAS: dict[str, dict[str, Any]] = {  # what passes each check, as JSON Schema has it (openapi.py)
    "whole": {"type": "integer"},
    "number": {"type": "number"},
    "bool": {"type": "boolean"},
    "text": {"type": "string"},
    "texts": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    "list": {"type": "array", "items": {"type": "string"}},
    "ids": {"type": "array", "items": {"type": "integer"}},
    "object": {"type": "object"},
    "objects": {"type": "array", "items": {"type": "object"}},
    "any": {},
}


@dataclass(frozen=True)
class Lacking:
    """A field for which there is nothing behind it. neutral: the values that ask for nothing; instead: what there is.
    """

    neutral: tuple[Any, ...]
    instead: str


def read_fields(
    body: Mapping[str, Any], kinds: Mapping[str, str], lacking: Mapping[str, Lacking], place: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """The fields that were given, and the names of those that nothing here knows.

    kinds: a field that is read -> one of KINDS. place: where the object stands in the body, for messages. Raises
    APIError for a wrong type and for what is lacking.
    """
    given = {name: value for name, value in body.items() if value is not None}
    unknown = [name for name in given if name not in kinds and name not in lacking]
    for name, value in given.items():
        if name in kinds:
            words, check = KINDS[kinds[name]]
            if not check(value):
                raise wrong(place + name, f"{place}{name}={show(value)} must be {words}")
        elif name in lacking and not is_one_of(value, lacking[name].neutral):
            raise lacks(place + name, value, lacking[name].instead)
    return {name: value for name, value in given.items() if name in kinds}, unknown


def lacks(name: str, value: object, instead: str) -> APIError:
    """The refusal of a field that the engine has nothing for."""
    return APIError(400, f"{name}={show(value)} is not supported here; {instead}", name, "unsupported_parameter")


def is_one_of(value: object, values: tuple[Any, ...]) -> bool:
    """Whether a value is among others, true and 1 being two things."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in values)
