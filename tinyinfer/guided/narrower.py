"""A JSON schema that a set of next tokens can follow, all of whose values another schema allows.

An answer must be of its schema; it need not be able to be every value of it. So where the library refuses a keyword
(grammar.py), there may be a narrower schema in keywords that it reads: an array that contains a number may begin with
it, and one whose items differ may have one item. Each rule here replaces keywords of one schema by others, which allow
no value that the first ones refuse; a keyword for which no rule is known stays, and is refused by its name. What
`references.py` has written is read, so every reference names `$defs`.

`not` and `oneOf` need what surely is not of a schema (opposites.py), `unevaluated...` what was surely looked at
(unevaluated.py). Both are asked about the schemas as they were given: the opposite of a narrower one would be wider.

Wins: a third of a test suite's schemas is not refused. Loses: values that the schema allows and the model may want to
write; so a schema that can be followed exactly is never rewritten.

JSON Schema 2020-12, core, sections 10 and 11; validation, sections 6 and 7.
"""

from __future__ import annotations

import re
from itertools import count, pairwise
from typing import Any

from tinyinfer.guided.opposites import KINDS, REF, Opposites, Schema, kinds_of
from tinyinfer.guided.references import one_document
from tinyinfer.guided.schemas import ANYTHING, NAMED, ONE, SEVERAL
from tinyinfer.guided.unevaluated import alone, closed

DRAFTS = ("https://json-schema.org/draft/2020-12/schema", "https://json-schema.org/draft/2019-09/schema")
MOST_LISTED = 300  # items that are written for `contains`
LETTER = r"[a-zA-Z0-9]"
FORMATS: dict[str, Schema] = {
    "idn-email": {"format": "email"},
    "idn-hostname": {"pattern": rf"^{LETTER}{{1,20}}(\.{LETTER}{{1,20}}){{0,3}}$"},
    "iri": {"format": "uri"},
    "iri-reference": {"format": "uri"},
    "uri-reference": {"format": "uri"},
    "uri-template": {"pattern": rf"^({LETTER}|[/._~-]|\{{[a-z]{{1,20}}\}})*$"},
    "json-pointer": {"pattern": "^(/([^/~]|~[01])*)*$"},
    "relative-json-pointer": {"pattern": "^[0-9](#|(/([^/~]|~[01])*)*)$"},
    "regex": {"pattern": rf"^({LETTER}|[ _.-])*$"},
}  # the narrowest of RFC 6531, 5890, 3987, 3986, 6570, 6901 and ECMA-262 that is simple


def narrower(schema: Any) -> Any:
    """A schema whose values are all of `schema`. Raises ValueError where it would be too large."""
    if not isinstance(schema, dict) or str(schema.get("$schema", DRAFTS[0])).rstrip("#") not in DRAFTS:
        return schema
    document = one_document(schema)
    defs = document.pop("$defs", {})
    narrowing = Narrowing(defs)
    root = narrowing.of(document)
    found = {name: narrowing.of(one) for name, one in defs.items()} | narrowing.named
    return {**root, "$defs": found} if isinstance(root, dict) and found else root


class Narrowing:
    """The rules, for the schemas of one document.

    A rule writes out what a reference names. Where that leads back to a schema that is being rewritten, a reference to
    what comes of it stands there: `named`.
    """

    def __init__(self, defs: Schema) -> None:
        self.named: Schema = {}
        self._defs = defs
        self._opposites = Opposites(defs)
        self._numbers = count()
        self._begun: dict[int, str] = {}  # `id` of a schema that is being rewritten -> its name, "" until it has one

    def of(self, schema: Any) -> Any:
        """A schema that can be followed, if there is a rule for each of its keywords, and so are those in it."""
        self._opposites.step(schema)
        if not isinstance(schema, dict):
            return schema
        me = id(schema)
        if me in self._begun:
            self._begun[me] = self._begun[me] or f"again{next(self._numbers)}"
            return {"$ref": REF + self._begun[me]}
        self._begun[me] = ""
        found = self._of_keywords(schema)
        if name := self._begun.pop(me):
            self.named[name] = found
            return {"$ref": REF + name}
        return found

    def _of_keywords(self, schema: Schema) -> Any:
        if any(schema.get(name, True) not in ANYTHING for name in ("unevaluatedProperties", "unevaluatedItems")):
            return self.of(closed(schema, self._opposites, self._defs))
        s = dict(schema)
        also = [*self._of_one(s), *self._of_if(s), *self._of_not(s), *of_contains(s, self._opposites),
                *of_unique(s, self._opposites), *of_names(s), *of_format(s), *of_patterns(s)]  # fmt: skip
        if also:
            s["allOf"] = [*s.get("allOf", []), *also]
        return self._inside(s)

    def _inside(self, s: Schema) -> Any:
        """The schema with all schemas in it rewritten, but for a `not` that stays: its narrower form allowed more."""
        for name in ONE:
            if name in s and name != "not":
                s[name] = self.of(s[name])
        for name in SEVERAL:
            if isinstance(s.get(name), list):
                s[name] = [self.of(one) for one in s[name]]
        for name in NAMED:
            if isinstance(s.get(name), dict):
                s[name] = {key: self.of(one) for key, one in s[name].items()}
        return s

    def _of_one(self, s: Schema) -> list[Any]:
        """`oneOf` as a choice between schemas that exclude each other (core, 10.2.1.3)."""
        if "oneOf" not in s:
            return []
        choices = alone(s.pop("oneOf"), self._opposites)
        return [any_of([{"allOf": [one, *others]} if others else one for one, others in choices])]

    def _of_if(self, s: Schema) -> list[Any]:
        """`if` as a choice: it holds, and so does `then`; or it surely fails, and `else` holds (core, 10.2.2)."""
        if "if" not in s:
            return []
        asked, then, other = s.pop("if"), s.pop("then", True), s.pop("else", True)
        failed = self._opposites.of(asked)
        return [any_of([{"allOf": [asked, then]}, *([] if failed is False else [{"allOf": [failed, other]}])])]

    def _of_not(self, s: Schema) -> list[Any]:
        """`not` as what surely fails (core, 10.2.1.4). It stays where nothing is known to."""
        if "not" not in s or (failed := self._opposites.of(s["not"])) is False:
            return []
        s.pop("not")
        return [failed]


def of_contains(s: Schema, opposites: Opposites) -> list[Any]:
    """`contains` as items in a row, from the beginning or behind `prefixItems`; the others surely are none of these.

    Core, section 10.3.1.3; validation, 6.4.4 and 6.4.5.
    """
    if "contains" not in s:
        return []
    one, least, most = s.pop("contains"), int(s.pop("minContains", 1)), s.pop("maxContains", None)
    if max(least, int(most or 0)) > MOST_LISTED:
        raise ValueError(f"more than {MOST_LISTED} items cannot be contained")
    if most is None:
        starts = sorted({0, len(s.get("prefixItems", []))})
        return [any_of([{"prefixItems": [True] * n + [one] * least, "minItems": n + least} for n in starts])]
    if most < least:
        return [{"type": [kind for kind in KINDS if kind != "array"]}]
    row = [one] * least + [True] * (int(most) - least)
    return [{"prefixItems": row, "minItems": least, "items": opposites.of(one)}]


def of_unique(s: Schema, opposites: Opposites) -> list[Any]:
    """`uniqueItems` as one item, or as places no two of which allow the same value (validation, 6.4.3)."""
    if s.get("uniqueItems") is not True:
        return []
    s.pop("uniqueItems")
    items, row = s.get("items"), s.get("prefixItems", [])
    if row and all(opposites.apart(one, other) for n, one in enumerate(row) for other in row[:n]):
        return [{"maxItems": len(row)}]
    values: list[Any] = []
    for value in items.get("enum", []) if isinstance(items, dict) and not row else []:
        if value not in values:
            values.append(value)
    places = min(len(values), max(int(s.get("minItems", 0)), (len(values) + 1) // 2))
    if places < 2:
        return [{"maxItems": 1}]
    return [{"prefixItems": [{"enum": values[n::places]} for n in range(places)], "items": False}]


def of_names(s: Schema) -> list[Any]:
    """`propertyNames` as the only names, or as a pattern of these (core, 10.3.2.4)."""
    asked = s.get("propertyNames", True)
    keys = set(asked) - {"type"} if isinstance(asked, dict) else set()
    found: Schema
    if asked is False or (isinstance(asked, dict) and "string" not in kinds_of(asked)):
        found = {"maxProperties": 0}
    elif keys in ({"const"}, {"enum"}):
        given = asked.get("enum", [asked.get("const")])
        names = dict.fromkeys((name for name in given if isinstance(name, str)), True)
        found = {"properties": names, "additionalProperties": False}
    elif keys and keys <= {"minLength", "maxLength"}:
        most = int(asked["maxLength"]) if "maxLength" in asked else ""
        length = f"^.{{{int(asked.get('minLength', 0))},{most}}}$"  # without a line's end in it
        found = {"patternProperties": {length: True}, "additionalProperties": False}
    elif keys == {"pattern"}:
        found = {"patternProperties": {asked["pattern"]: True}, "additionalProperties": False}
    else:
        return []
    s.pop("propertyNames")
    return [found]


def of_format(s: Schema) -> list[Any]:
    """A format that the library does not know as one that it knows, or as a pattern (validation, 7.3)."""
    return [FORMATS[s.pop("format")]] if isinstance(s.get("format"), str) and s["format"] in FORMATS else []


def of_patterns(s: Schema) -> list[Any]:
    """Several patterns of names: a name may match more than one, so each value keeps the schemas of all (10.3.2.2)."""
    patterns = s.get("patternProperties")
    if not isinstance(patterns, dict) or len(patterns) < 2 or distinct(list(patterns)):
        return []
    every = {"allOf": list(s.pop("patternProperties").values())}
    named = {name: {"allOf": [one, every]} for name, one in s.get("properties", {}).items()}
    others = {"allOf": [every, s.pop("additionalProperties", True)]}
    s.pop("properties", None)
    return [{"properties": named, "additionalProperties": others}]


def distinct(patterns: list[str]) -> bool:
    """Whether surely no name matches two of the patterns: each begins with letters that no other one begins with."""
    found = [re.match(r"\^([a-zA-Z0-9_-]+)(?![*?{|])", one) for one in patterns if "|" not in one]
    heads = sorted(one[1] for one in found if one)
    return len(heads) == len(patterns) and not any(b.startswith(a) for a, b in pairwise(heads))


def any_of(choices: list[Any]) -> Any:
    """A choice; False where there is none."""
    return {"anyOf": choices} if choices else False
