"""The form of an answer, as callers ask for it: OpenAI's response_format, vLLM's structured_outputs and guided_*.

All of them become one of SamplingParams' json_schema, regex and grammar. A choice among texts is a regex; json_object
is the schema of any object. `strict` changes nothing: what is asked for is kept in any case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tinyinfer.server.errors import wrong
from tinyinfer.server.fields import Lacking, lacks, read_fields
from tinyinfer.units import show

FORMS = {"json": "any", "regex": "text", "choice": "list", "grammar": "text"}
FORM_FIELDS = {
    "response_format": "object", "structured_outputs": "object",
    **{f"guided_{name}": kind for name, kind in FORMS.items()},
}  # fmt: skip
SCHEMA_KINDS = {"name": "text", "description": "text", "schema": "object", "strict": "bool"}
FORMAT_KINDS = {"type": "text", "json_schema": "object", **SCHEMA_KINDS}
OUTPUT_KINDS = {**FORMS, "json_object": "bool", "disable_fallback": "bool"}
OUTPUT_LACKING = {
    "structural_tag": Lacking((), "write a grammar"),
    "whitespace_pattern": Lacking((), "JSON has one or two spaces, or a line's end and its indentation"),
    "disable_any_whitespace": Lacking((False,), "JSON has one or two spaces, or a line's end and its indentation"),
    "disable_additional_properties": Lacking((False,), 'write "additionalProperties": false into the schema'),
}
OBJECT = {"type": "object"}
LONGEST_NAME = 40  # letters of an unknown name that an error repeats


class AskedForm(NamedTuple):
    """One field of SamplingParams, its value, and the place in the body that it came from."""

    field: str
    value: Any
    place: str


def asked_form(given: Mapping[str, Any]) -> AskedForm | None:
    """The form that the answer is to have; None: a free text. Raises APIError for what is none, and for two forms."""
    guided = {name: given[f"guided_{name}"] for name in FORMS if f"guided_{name}" in given}
    outputs = given.get("structured_outputs", {})
    forms = [*from_format(given.get("response_format", {}), "response_format"),
             *from_outputs(outputs, "structured_outputs."), *from_outputs(guided, "guided_")]  # fmt: skip
    if len(forms) > 1:
        first, second = forms[0].place, forms[1].place
        raise wrong(second, f"{first} and {second} are two forms of one answer; give only one of them")
    return forms[0] if forms else None


def form_names(form: AskedForm | None) -> dict[str, str]:
    """Where the form of the answer came from, for `as_api_error`."""
    return {form.field: form.place} if form else {}


def from_format(asked: Mapping[str, Any], place: str, *, nested: bool = True) -> Iterator[AskedForm]:
    """OpenAI's field: no form for a text. json_object may have a schema, as in llama.cpp's server.

    nested: the schema stands in a `json_schema`; else beside the type, as in Responses.
    """
    read, _ = read_fields(asked, FORMAT_KINDS, {}, place + ".")
    kind = read.get("type", "text")
    if kind == "json_object":
        yield AskedForm("json_schema", read.get("schema", OBJECT), place + ".schema" if "schema" in read else place)
    elif kind == "json_schema":
        if nested:
            place += ".json_schema"
            read, _ = read_fields(read.get("json_schema", {}), SCHEMA_KINDS, {}, place + ".")
        place += ".schema"
        if "schema" not in read:
            raise wrong(place, f'{place} is missing; give a JSON schema, such as {{"type": "object"}}')
        yield AskedForm("json_schema", read["schema"], place)
    elif kind != "text":
        raise lacks(place, asked, "type is one of text, json_object, json_schema")


def from_outputs(asked: Mapping[str, Any], place: str) -> Iterator[AskedForm]:
    """What vLLM calls the forms of an answer."""
    read, unknown = read_fields(asked, OUTPUT_KINDS, OUTPUT_LACKING, place)
    for name in unknown:
        known = ", ".join([*FORMS, "json_object"])
        raise wrong(place.rstrip("._"), f"{place}{name[:LONGEST_NAME]} is not known here; there are {known}")
    if "json" in read:
        value = read["json"]
        if not isinstance(value, dict | str):
            raise wrong(place + "json", f"{place}json={show(value)} must be an object, or its text")
        yield AskedForm("json_schema", value, place + "json")
    if read.get("json_object"):
        yield AskedForm("json_schema", OBJECT, place + "json_object")
    for name in ("regex", "grammar"):
        if name in read:
            yield AskedForm(name, read[name], place + name)
    if "choice" in read:
        choices = read["choice"]
        if not choices or not all(choices):
            raise wrong(place + "choice", f"{place}choice={show(choices)} must be a list of texts that are not empty")
        yield AskedForm("regex", "|".join(map(literal, choices)), place + "choice")


def literal(text: str) -> str:
    """A regex that matches a text alone: all but letters and digits by their numbers."""
    return re.sub(r"[^A-Za-z0-9]", lambda found: rf"\x{{{ord(found[0]):x}}}", text)
