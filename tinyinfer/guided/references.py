"""All references of a JSON schema as `#/$defs/NAME`, so that a rule which looks through one need not know addresses.

A `$ref` names a schema by an address, which is relative to the `$id` around it, or by an anchor. A `$dynamicRef` names
no one schema: of those with its anchor, the one whose resource was entered first on the way to it. So the same text
means different things by the way that leads to it. But there are only so many ways that differ: what matters is the
order in which resources were entered, each counted once. A schema is written once for each such order, and then a
`$dynamicRef` names one schema. That is how a compiler specialises a function of its free variables.

Wins: what reads the schema afterwards knows one kind of reference. Loses: a schema of many resources that refer to each
other may become much larger; and the addresses are gone from what is said of it.

JSON Schema 2020-12, core, sections 8.2 (identifiers, references) and 7.1 (dynamic scope).
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from tinyinfer.guided.schemas import NAMED, ONE, SEVERAL, names

Scope = tuple[str, ...]  # the addresses of the resources that were entered, the first one first
ADDRESSES = ("$id", "$schema", "$anchor", "$dynamicAnchor", "$defs", "definitions", "$comment")
MOST = 1000  # schemas with a name


def one_document(schema: Any) -> Any:
    """The same schema whose references all name its own `$defs`.

    Raises ValueError where one leads out of the document, which is not fetched, and where they are too many.
    """
    return References(schema).document() if isinstance(schema, dict) else schema


def children(schema: dict[str, Any]) -> list[Any]:
    """The schemas that stand in a schema."""
    several = [schema[name] for name in SEVERAL if isinstance(schema.get(name), list)]
    named = [schema[name].values() for name in NAMED if isinstance(schema.get(name), dict)]
    return [*(schema[name] for name in ONE if name in schema), *(one for some in [*several, *named] for one in some)]


class References:
    """Where each address of a document leads, and the schemas that were given a name so far."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._base: dict[int, str] = {}  # of each schema's `id`: the address around it
        self._found: dict[str, Any] = {"": root}  # address, or address#anchor -> schema
        self._dynamic: set[str] = set()  # those of address#anchor that are dynamic
        self._names: dict[tuple[int, str, Scope], str] = {}
        self._waiting: list[tuple[str, Any, str, Scope]] = []
        self._scoped = names(root, "$dynamicRef")  # without one, no way differs from another
        self._enter(root, "")

    def _enter(self, schema: Any, base: str) -> None:
        if not isinstance(schema, dict):
            return
        if isinstance(schema.get("$id"), str):
            base = address(base, schema["$id"])[0]
            self._found.setdefault(base, schema)
        self._base[id(schema)] = base
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(schema.get(keyword), str):
                place = f"{base}#{schema[keyword]}"
                self._found.setdefault(place, schema)
                if keyword == "$dynamicAnchor":
                    self._dynamic.add(place)
        for one in children(schema):
            self._enter(one, base)

    def document(self) -> dict[str, Any]:
        """The root, and every schema that a reference leads to."""
        root = self._written(self._root, "", ("",) if self._scoped else ())
        defs: dict[str, Any] = {}
        while self._waiting:
            name, schema, base, scope = self._waiting.pop()
            defs[name] = self._written(schema, base, scope)
        return root | {"$defs": defs} if defs else root

    def _written(self, schema: Any, base: str, scope: Scope) -> Any:
        """A schema in which references name `$defs`."""
        if not isinstance(schema, dict):
            return schema
        base = self._base.get(id(schema), base)
        scope = entered(scope, base) if self._scoped else ()
        s = {name: value for name, value in schema.items() if name not in ADDRESSES}
        for name in ONE:
            if name in s:
                s[name] = self._written(s[name], base, scope)
        for name in SEVERAL:
            if isinstance(s.get(name), list):
                s[name] = [self._written(one, base, scope) for one in s[name]]
        for name in NAMED:
            if isinstance(s.get(name), dict):
                s[name] = {key: self._written(one, base, scope) for key, one in s[name].items()}
        if isinstance(s.get("$ref"), str):
            s["$ref"] = self._named(s["$ref"], base, scope)
        if isinstance(s.get("$dynamicRef"), str):
            s["allOf"] = [*s.get("allOf", []), {"$ref": self._named(s.pop("$dynamicRef"), base, scope, dynamic=True)}]
        return s

    def _named(self, reference: str, base: str, scope: Scope, dynamic: bool = False) -> str:
        """The name of what a reference leads to. Raises ValueError where that is not in the document."""
        place, fragment = address(base, reference)
        if dynamic and f"{place}#{fragment}" in self._dynamic:
            place = next((one for one in scope if f"{one}#{fragment}" in self._dynamic), place)
        found = self._at(place, fragment)
        if found is None:
            raise ValueError(f"{reference!r} leads out of the document")
        target, base = found
        scope = entered(scope, base) if self._scoped else ()
        key = (id(target), base, scope)
        if key not in self._names:
            if len(self._names) == MOST:
                raise ValueError(f"its references lead to more than {MOST} schemas")
            self._names[key] = f"{len(self._names)}"
            self._waiting.append((self._names[key], target, base, scope))
        return f"#/$defs/{self._names[key]}"

    def _at(self, place: str, fragment: str) -> tuple[Any, str] | None:
        """The schema at an address, and the address around it."""
        if fragment and not fragment.startswith("/"):
            target = self._found.get(f"{place}#{fragment}")
            return None if target is None else (target, self._base[id(target)])
        node, base = self._found.get(place), place
        for step in fragment.split("/")[1:]:
            step = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(node, list) and step.isdigit() and int(step) < len(node):
                node = node[int(step)]
            elif isinstance(node, dict):
                node = node.get(step)
            else:
                return None
            base = self._base.get(id(node), base)
        return (node, base) if isinstance(node, dict | bool) else None


def entered(scope: Scope, base: str) -> Scope:
    """The scope after a resource was entered."""
    return scope if base in scope else (*scope, base)


def address(base: str, reference: str) -> tuple[str, str]:
    """An absolute address, and its fragment."""
    if reference.startswith("#"):  # also behind an address that is no path, as a URN
        return base, reference[1:]
    place, fragment = urldefrag(urljoin(base, reference))
    return place, fragment
