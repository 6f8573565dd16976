"""JSON schemas in fewer keywords: what asks for nothing is dropped, what has an equal is written as that.

A set of next tokens cannot follow every keyword of JSON Schema, and one that is not known is refused by its name
(grammar.py). But tools write keywords that change nothing (`uniqueItems: false`), or say with a hard one what an easy
one says: where nothing beside it looks at properties, `unevaluatedProperties: false` is `additionalProperties: false`;
and what depends on a property is a choice between objects without it and others.
Every rule here keeps exactly the values that the schema allows; narrower.py has the rules that do not.

Wins: fewer schemas are refused. Loses: nothing, but a `$ref` into a keyword that was dropped finds nothing there.

JSON Schema 2020-12, core, sections 10 and 11; validation, section 6.
"""

from __future__ import annotations

from typing import Any

ONE = ("items", "additionalProperties", "additionalItems", "contains", "propertyNames", "not", "if", "then", "else",
       "unevaluatedProperties", "unevaluatedItems")  # fmt: skip
SEVERAL = ("allOf", "anyOf", "oneOf", "prefixItems")
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
IN_PLACE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies", "$ref",
            "$dynamicRef", "$recursiveRef")  # fmt: skip
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minContains", "maxContains", "minProperties",
          "maxProperties")  # fmt: skip
ANYTHING: tuple[Any, ...] = (True, {})


def plainer(schema: Any) -> Any:
    """The same schema in fewer keywords. What is no schema stays as it is: the library says what is wrong."""
    return rewritten(schema, dynamic=names(schema, "$dynamicRef"))


def names(value: Any, keyword: str) -> bool:
    """Whether a keyword stands anywhere in a schema."""
    if isinstance(value, dict):
        return keyword in value or any(names(one, keyword) for one in value.values())
    return isinstance(value, list) and any(names(one, keyword) for one in value)


def rewritten(schema: Any, dynamic: bool) -> Any:
    """The schema with all schemas in it rewritten. dynamic: whether some of them are named by a `$dynamicRef`."""
    if not isinstance(schema, dict):
        return schema
    s = dict(schema)
    for name in ONE:
        if name in s:
            s[name] = rewritten(s[name], dynamic)
    for name in SEVERAL:
        if isinstance(s.get(name), list):
            s[name] = [rewritten(one, dynamic) for one in s[name]]
    for name in NAMED:
        if isinstance(s.get(name), dict):
            s[name] = {key: rewritten(one, dynamic) for key, one in s[name].items()}
    if not dynamic and "$dynamicAnchor" in s:  # then it is an anchor as any other
        s.setdefault("$anchor", s.pop("$dynamicAnchor"))
    if s.get("not") in ANYTHING and "not" in s:
        return False
    return without_effect(of_dependents(of_names(of_the_rest(of_counts(s)))))


def of_counts(s: dict[str, Any]) -> dict[str, Any]:
    """A count that is written as a fraction, 2.0, as a whole number."""
    whole = {name: int(s[name]) for name in COUNTS if isinstance(s.get(name), float) and s[name].is_integer()}
    return s | whole


def of_the_rest(s: dict[str, Any]) -> dict[str, Any]:
    """`unevaluated...` as `additionalProperties` or `items`, where no keyword beside it looks at the same parts."""
    apart = not any(name in s for name in IN_PLACE)
    for hard, easy, free in (("unevaluatedProperties", "additionalProperties", apart),
                             ("unevaluatedItems", "items", apart and "contains" not in s)):  # fmt: skip
        if hard in s and (s[hard] in ANYTHING or (free and not isinstance(s.get("items"), list))):
            value = s.pop(hard)
            if value not in ANYTHING:
                s.setdefault(easy, value)
    return s


def of_names(s: dict[str, Any]) -> dict[str, Any]:
    """`propertyNames` with a pattern alone as `patternProperties`, where no other keyword names properties."""
    asked, others = s.get("propertyNames"), ("properties", "patternProperties", "additionalProperties")
    if asked in ANYTHING:
        s.pop("propertyNames")
    elif isinstance(asked, dict) and list(asked) == ["pattern"] and not any(name in s for name in others):
        s.pop("propertyNames")
        s |= {"patternProperties": {asked["pattern"]: True}, "additionalProperties": False}
    return s


def of_dependents(s: dict[str, Any]) -> dict[str, Any]:
    """What depends on a property, as a choice: without it, or so."""
    needs: dict[tuple[str, str], Any] = {}
    for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
        if isinstance(s.get(keyword), dict):
            pairs = s.pop(keyword).items()
            needs |= {(keyword, name): {"required": one} if isinstance(one, list) else one for name, one in pairs}
    choices = [{"anyOf": [{"properties": {name: False}}, need]} for (_, name), need in needs.items()]
    return s | {"allOf": [*s.get("allOf", []), *choices]} if choices else s


def without_effect(s: dict[str, Any]) -> dict[str, Any]:
    """The schema without keywords that allow every value."""
    idle: set[str] = set()
    if s.get("uniqueItems") is False:
        idle.add("uniqueItems")
    if s.get("not") is False:
        idle.add("not")
    if "if" not in s:
        idle |= {"then", "else"}
    elif "then" not in s and "else" not in s:
        idle.add("if")
    if "contains" not in s or (s.get("minContains") == 0 and "maxContains" not in s):
        idle |= {"contains", "minContains", "maxContains"}
    return {name: value for name, value in s.items() if name not in idle}
