"""One list, object or array of a file with thousands of entries more: what takes memory or time beyond a file's size.

A change of one field finds wrong values; what only many values do, such as a table that is made anew for each of them,
needs many. The entries are near to those that are there, so that they are read as far as real ones.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from fuzzing.gguf_bytes import ARRAY, STRING, array, items, parsed, string
from fuzzing.trees import place


def grown_json(rng: random.Random, text: bytes) -> bytes:
    """The text with one of its lists or objects grown, or a text in it, or a number of a new list's entries."""
    tree = json.loads(text)
    holder, key = place(rng, tree)
    inside = rng.random() < 0.7 and holder is not None and isinstance(holder[key], dict | list | str)
    node = holder[key] if inside else tree
    count = int(10 ** rng.uniform(3, 5.6))
    if isinstance(node, dict):
        _grow_object(rng, node, count)
    elif isinstance(node, list):
        node += [_another(node[i % len(node)] if node else i, i) for i in range(count)]
    else:
        holder[key] = node + rng.choice("ax \u00e9{") * count
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _grow_object(rng: random.Random, node: dict[str, Any], count: int) -> None:
    keys = list(node) or ["x"]
    key, form = rng.choice(keys), rng.choice(("{}{}", "{1}", "{0}_{1}_token", "layers.{1}.{0}", "{1:030d}"))
    value = node.get(key, 1)
    if rng.random() < 0.3:
        node[key] = [_another(value, i) for i in range(count)]
        return
    for i in range(count):
        node[form.format(key[-20:], i)] = _another(value, i)


def _another(value: Any, i: int) -> Any:
    """An entry like this one, but with another number or text in it."""
    if isinstance(value, dict):
        return {key: _another(part, i) for key, part in list(value.items())[:8]}
    if isinstance(value, list):
        return [_another(part, i) for part in value[:4]]
    if isinstance(value, str):
        return f"{value[:20]}{i}"
    return i if isinstance(value, int) and not isinstance(value, bool) else deepcopy(value)


def grown_gguf(rng: random.Random, data: bytes) -> bytes:
    """The file with one of its arrays grown, or with more keys, or with more tensors."""
    file, count = parsed(data), int(10 ** rng.uniform(3, 5.6))
    arrays = [pair for pair in file.pairs if pair[1] == ARRAY]
    choice = rng.randrange(6)
    if choice < 4 and arrays:
        pair = rng.choice(arrays)
        pair[2] = _grown_array(rng, pair[2], count)
        if b"tokens" in pair[0] or rng.random() < 0.3:  # lists of the same length grow with it
            for other in arrays:
                if other[0].endswith((b"token_type", b"scores", b"tokens")) and other is not pair:
                    other[2] = _grown_array(rng, other[2], count)
    elif choice == 4:
        key, kind, payload = rng.choice(file.pairs)
        file.pairs += [[b"%s.%x" % (key, i), kind, payload[:64]] for i in range(min(count, 50_000))]
    else:
        name, _, _, _ = rng.choice(file.tensors)
        start, many = -(-len(file.data) // 32) * 32, min(count, 50_000)
        file.tensors += [[b"%s.%d" % (name[:-7], i), [4], 0, start + 32 * i] for i in range(many)]
        file.data = file.data.ljust(start, b"\0") + bytes(32 * many)
    return file.packed()


def _grown_array(rng: random.Random, payload: bytes, count: int) -> bytes:
    [kind] = struct.unpack_from("<I", payload)
    parts = items(payload)
    if kind != STRING:
        return array(kind, parts + [rng.choice(parts)] * count)
    texts = [part[8:] for part in parts] or [b"x"]
    forms: tuple[Callable[[int], bytes], ...] = (
        lambda i: b"%x" % i,
        lambda i: b"%s%d" % (texts[i % len(texts)][:30], i),
        lambda i: b"<%d>" % i,
        lambda i: texts[i % len(texts)],
    )
    new = map(rng.choice(forms), range(count))
    if rng.random() < 0.2:
        new = (b"Q" * i for i in range(min(count, 3000)))
    return array(kind, parts + [string(text) for text in new])
