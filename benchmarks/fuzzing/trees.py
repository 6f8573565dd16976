"""A JSON text with some nodes changed: replaced, deleted, duplicated, renamed, copied from elsewhere, wrapped.

The place of a change is found by walking down from the root, a random child at a time, so that the few fields of an
object are tried as often as the thousand entries of a list beside them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from fuzzing.values import RAW, TEXTS, changed_bytes, changed_number, changed_text, several, value

TWICE = "@twice@"  # at the end of a key: taken away in the text, so that the key is there twice
HEAVY = 1 / 4000  # of all texts: some MB of values, which only their number makes hard


def changed_json(rng: random.Random, text: bytes, names: Sequence[str] = ()) -> bytes:
    """The text with some nodes changed, or some bytes. names: of fields that may be added, too."""
    if rng.random() < 0.1:
        return changed_bytes(rng, text)
    tree = json.loads(text)
    for _ in range(several(rng)):
        tree = changed_tree(rng, tree, names)
    written = written_tree(rng, tree)
    return changed_bytes(rng, written) if rng.random() < 0.02 else written


def written_tree(rng: random.Random, tree: Any) -> bytes:
    """The tree as a text; marks become what they stand for."""
    text = json.dumps(tree, ensure_ascii=rng.random() < 0.5, indent=2 if rng.random() < 0.1 else None)
    for mark, raw in RAW.items():
        if mark in text:
            text = text.replace(f'"{mark}"', raw)
    if rng.random() < HEAVY:
        unit = rng.choice(("{},", "[[]],", '"a",', "1e9,", '{"a":1},', '"\\u00e9",'))
        many = unit * (rng.choice((100_000, 1_000_000, 20_000_000)) // len(unit))
        text = f'{{"many": [{many}0], {text[1:]}' if text[:1] == "{" else f"[{many}{text}]"
    return text.replace(TWICE, "").encode("utf-8", "surrogatepass")


def changed_tree(rng: random.Random, tree: Any, names: Sequence[str] = ()) -> Any:
    """The tree with one node changed; `tree` itself may be changed, too."""
    holder, key = place(rng, tree)
    if holder is None:
        return value(rng)
    node, roll = holder[key], rng.random()
    if isinstance(holder, dict) and names and roll < 0.15:
        holder[rng.choice(names)] = value(rng)
    elif roll < 0.4:
        holder[key] = value(rng)
    elif roll < 0.65:
        holder[key] = near(rng, node)
    elif roll < 0.78:
        del holder[key]
    else:
        rng.choice(_MOVES)(rng, tree, holder, key)
    return tree


def place(rng: random.Random, tree: Any) -> tuple[Any, Any]:
    """A random object or list of the tree, and a key or index of it; (None, None) where the tree has none."""
    holder, key, node = None, None, tree
    while isinstance(node, dict | list) and node and (holder is None or rng.random() < 0.7):
        holder, key = node, rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        node = holder[key]
    return holder, key


def near(rng: random.Random, node: Any) -> Any:
    """A value of the same type, near to the node's."""
    if isinstance(node, bool) or node is None:
        return rng.choice((True, False, None))
    if isinstance(node, int | float):
        return changed_number(rng, node)
    if isinstance(node, str):
        return changed_text(rng, node)
    if isinstance(node, list):
        return rng.choice((node * 2, node[1:], node[:-1], node[::-1], [*node, value(rng)], node[:1] * 100, [node]))
    return dict(rng.sample(list(node.items()), rng.randrange(len(node) + 1)))


def _copy(rng: random.Random, tree: Any, holder: Any, key: Any) -> None:
    other, at = place(rng, tree)
    holder[key] = deepcopy(other[at])


def _swap(rng: random.Random, tree: Any, holder: Any, key: Any) -> None:
    at = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    holder[key], holder[at] = holder[at], holder[key]


def _twice(rng: random.Random, tree: Any, holder: Any, key: Any) -> None:
    if isinstance(holder, dict):
        holder[str(key) + TWICE] = value(rng) if rng.random() < 0.5 else holder[key]
    else:
        holder.insert(key, deepcopy(holder[key]))


def _rename(rng: random.Random, tree: Any, holder: Any, key: Any) -> None:
    if isinstance(holder, dict):
        holder[changed_text(rng, str(key))] = holder.pop(key)


def _wrap(rng: random.Random, tree: Any, holder: Any, key: Any) -> None:
    holder[key] = rng.choice(([holder[key]], {"a": holder[key]}, {str(key): holder[key]}, str(holder[key])[:1000]))


def _insert(rng: random.Random, tree: Any, holder: Any, key: Any) -> None:
    if isinstance(holder, dict):
        holder[rng.choice(TEXTS)] = value(rng)
    else:
        holder.insert(key, value(rng))


_MOVES: list[Callable[[random.Random, Any, Any, Any], None]] = [_copy, _copy, _swap, _twice, _rename, _wrap, _insert]
