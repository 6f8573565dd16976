"""Values and bytes that have broken readers of files: edges of number types, names that lead elsewhere, odd Unicode."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

EDGES = (0, 1, 2, 3, 7, 31, 32, 33, 255, 256, 4096, 65535, 65536)
EDGES += tuple(2**bits + offset for bits in (24, 31, 32, 40, 53, 62, 63, 64) for offset in (-1, 0, 1))
NUMBERS = (*EDGES, *(-edge for edge in EDGES), 10**30, 0.5, -0.0, 1e-300, 1e-9, 0.999, 1.5, 1e30, 3.4e38, 1e308)
TEXTS = (
    "", " ", "a", "\u2581", "\u0120", "\0", "\n", "\u202e", "\ufeff", "e\u0301", "\U0001f600", "%s", "{}", "{{ x }}",
    "..", "../x", "/etc/passwd", "C:\\x", "a/b", "~", "x" * 300, "x" * 5000, "1", "-1", "1e999", "NaN", "true", "null",
    "<s>", "</s>", "<unk>", "<|im_end|>", "<0x0A>", "<0xZZ>", "llama", "gpt2", "silu", "float16", "default", "F32",
)  # fmt: skip
RAW = {  # marks in a JSON text -> what is written in their place, which no value of Python is written as
    "@digits@": "1" * 5000, "@minus@": "-" + "9" * 4400, "@inf@": "1e999", "@nan@": "NaN", "@infinity@": "-Infinity",
    "@half@": '"\\ud800"', "@nul@": '"\\u0000"', "@escape@": '"\\x"', "@open@": '"', "@zero@": "-0", "@hex@": "0x10",
    "@deep@": "[" * 500 + "]" * 500, "@deeper@": "[" * 100_000 + "]" * 100_000, "@unclosed@": '{"a":' * 3000,
    "@comma@": "[1,]", "@nothing@": "", "@comment@": "/* x */ 1", "@long@": '"' + "x" * 100_000 + '"',
    "@objects@": "[" + "{}," * 5000 + "{}]", "@strings@": '["' + '","' * 20_000 + '"]',
}  # fmt: skip


def value(rng: random.Random) -> Any:
    """A value of any type of JSON, or a mark of RAW."""
    roll = rng.random()
    if roll < 0.3:
        return rng.choice(NUMBERS)
    if roll < 0.45:
        return rng.randrange(-2, 200)
    if roll < 0.65:
        return rng.choice(TEXTS)
    if roll < 0.8:
        return rng.choice((None, True, False))
    if roll < 0.9:
        return rng.choice(([], {}, [0], [None], [[]], {"a": 1}, [1, "a", None], {"type": "default"}, [True] * 3))
    return rng.choice(list(RAW))


def changed_number(rng: random.Random, number: Any) -> Any:
    """A number near the given one, or an edge."""
    change = rng.randrange(8)
    if change == 0:
        return rng.choice(NUMBERS)
    if change == 1 or isinstance(number, float):
        return number * rng.choice((0.5, 2, -1, 1.0, 1e3, 1e-3, 1e30))
    return (number + 1, number - 1, number * 2, number // 2, -number, str(number))[change - 2]


def changed_text(rng: random.Random, text: str) -> str:
    """A text with a part deleted, doubled, or another text inside."""
    first, last = sorted(rng.randrange(len(text) + 1) for _ in range(2))
    changes: list[Callable[[], str]] = [
        lambda: text[:first] + text[last:],
        lambda: text[:last] + text[first:],
        lambda: text[:first] + rng.choice(TEXTS) + text[first:],
        lambda: text.upper() if rng.random() < 0.5 else text.lower(),
        lambda: text[::-1],
        lambda: rng.choice(TEXTS),
    ]
    return rng.choice(changes)()


def changed_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bytes flipped, deleted, doubled, inserted; cut; or the whole in another encoding."""
    first, last = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    last = last if rng.random() < 0.2 else min(last, first + rng.randrange(1, 40))
    change = rng.randrange(9)
    if change < 3:
        flipped = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8, 64)) if data else 0):
            flipped[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        return bytes(flipped)
    if change == 8:
        encoding = rng.choice(("utf-16", "utf-32", "utf-8-sig", "latin-1", "cp037"))
        return data.decode("utf-8", "replace").encode(encoding, "replace") if len(data) < 100_000 else data[::-1]
    inserted = rng.choice((b"", b"\0" * 9, b"\xff", b"\xed\xa0\x80", data[last : last + 99], rng.randbytes(9)))
    return (
        data[:first],
        data[:first] + data[last:],
        data[:last] + data[first:],
        data[:first] + inserted + data[first:],
        data + inserted,
    )[change - 3]


def several(rng: random.Random) -> int:
    """How many changes an input has: mostly one, for two faults hide one another."""
    return rng.choice((1, 1, 1, 1, 1, 1, 2, 2, 3, 6))
