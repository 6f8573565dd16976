"""A GGUF file taken apart, changed field by field and written again, so that a change stays the only fault.

A pair is [key, type, payload] with the payload as bytes: an array's begins with the type of its items and their number.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass

from fuzzing.values import EDGES, NUMBERS, TEXTS, changed_bytes, changed_text, several

FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
KINDS = (0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 23, 24, 26, 27, 28, 30, 34, 35, 38, 99)
KEYS = [
    b"tokenizer.ggml." + name
    for name in b"model pre tokens scores token_type merges bos_token_id eos_token_id eot_token_id unknown_token_id "
    b"padding_token_id add_bos_token add_eos_token add_space_prefix fim_pad_token_id".split()
] + b"general.alignment general.architecture general.type split.no split.count split.tensors.count".split()


@dataclass
class Gguf:
    """The parts of a file. tensors: lists [name, dimensions, type, offset]; data: the bytes of all tensors."""

    version: int
    pairs: list[list]
    tensors: list[list]
    data: bytes

    def packed(self, rng: random.Random | None = None) -> bytes:
        """The file; with rng its counts may lie."""
        counts = [len(self.tensors), len(self.pairs)]
        if rng and rng.random() < 0.02:
            counts[rng.randrange(2)] = rng.choice(EDGES) % 2**64
        head = [b"GGUF", struct.pack("<IQQ", self.version % 2**32, *counts)]
        for key, kind, payload in self.pairs:
            head += [string(key), struct.pack("<I", kind), payload]
        for name, dimensions, kind, offset in self.tensors:
            sizes = [size % 2**64 for size in dimensions]
            head += [string(name), struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)]
            head.append(struct.pack("<IQ", kind, offset % 2**64))
        header = b"".join(head)
        return header + bytes(-len(header) % 32) + self.data


def string(data: bytes) -> bytes:
    """A string as the file has it."""
    return struct.pack("<Q", len(data)) + data


def parsed(data: bytes) -> Gguf:
    """The parts of a whole file."""
    version, tensors, pairs = struct.unpack_from("<IQQ", data, 4)
    at, found = 24, Gguf(version, [], [], b"")
    for _ in range(pairs):
        key, at = _string(data, at)
        [kind] = struct.unpack_from("<I", data, at)
        end = _end(data, at + 4, kind)
        found.pairs.append([key, kind, data[at + 4 : end]])
        at = end
    for _ in range(tensors):
        name, at = _string(data, at)
        [count] = struct.unpack_from("<I", data, at)
        dimensions = list(struct.unpack_from(f"<{count}Q", data, at + 4))
        kind, offset = struct.unpack_from("<IQ", data, at + 4 + 8 * count)
        found.tensors.append([name, dimensions, kind, offset])
        at += 16 + 8 * count
    found.data = data[-(-at // 32) * 32 :]
    return found


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    [size] = struct.unpack_from("<Q", data, at)
    return data[at + 8 : at + 8 + size], at + 8 + size


def _end(data: bytes, at: int, kind: int) -> int:
    """Where the value that begins at `at` ends."""
    if kind == STRING:
        return _string(data, at)[1]
    if kind == ARRAY:
        item, count = struct.unpack_from("<IQ", data, at)
        at += 12
        if item in FORMATS:
            return at + count * struct.calcsize("<" + FORMATS[item])
        for _ in range(count):
            at = _end(data, at, item)
        return at
    return at + struct.calcsize("<" + FORMATS[kind])


def items(payload: bytes) -> list[bytes]:
    """The items of an array, each as bytes."""
    kind, count = struct.unpack_from("<IQ", payload)
    found, at = [], 12
    for _ in range(count):
        end = _end(payload, at, kind)
        found.append(payload[at:end])
        at = end
    return found


def array(kind: int, parts: list[bytes]) -> bytes:
    """An array of these items."""
    return struct.pack("<IQ", kind, len(parts)) + b"".join(parts)


def scalar(rng: random.Random) -> tuple[int, bytes]:
    """A value of any type but an array's, and its type."""
    kind = rng.choice((*FORMATS, STRING, STRING))
    if kind == STRING:
        return kind, string(rng.choice(TEXTS).encode())
    size = struct.calcsize("<" + FORMATS[kind])
    if kind in (6, 12):
        number = rng.choice((float("nan"), float("inf"), *NUMBERS))
        number = number if kind == 12 or abs(number) < 3e38 else 1e38
        return kind, struct.pack("<" + FORMATS[kind], number)
    return kind, (rng.choice((*EDGES, rng.randrange(300))) % 256**size).to_bytes(size, "little")


def changed_gguf(rng: random.Random, data: bytes) -> bytes:
    """The file with some fields changed, or some bytes, mostly of the header."""
    roll = rng.random()
    if roll < 0.05:
        return changed_bytes(rng, data)
    if roll < 0.12:
        cut = rng.randrange(len(data))
        return changed_bytes(rng, data[:cut]) + data[cut:]
    file = parsed(data)
    for _ in range(several(rng)):
        rng.choice(_CHANGES)(rng, file)
    return file.packed(rng)


def _value(rng: random.Random, file: Gguf) -> None:
    """A value of the same type, or of another one."""
    if not file.pairs:
        return
    pair = rng.choice(file.pairs)
    if pair[1] == ARRAY and rng.random() < 0.9:
        pair[2] = _changed_array(rng, pair[2])
    elif pair[1] == STRING and rng.random() < 0.7:
        text = _string(pair[2], 0)[0].decode("utf-8", "replace")
        pair[2] = string(changed_text(rng, text).encode("utf-8", "surrogatepass"))
    elif pair[1] in FORMATS and rng.random() < 0.7:
        size = len(pair[2])
        number = int.from_bytes(pair[2], "little") + rng.choice((1, -1, *EDGES))
        pair[2] = (number % 256**size).to_bytes(size, "little")
    else:
        pair[1:] = scalar(rng)


def _changed_array(rng: random.Random, payload: bytes) -> bytes:
    kind, count = struct.unpack_from("<IQ", payload)
    if rng.random() < 0.05 or count > len(payload):
        return struct.pack("<IQ", rng.choice((kind, *range(14))), rng.choice((count, *EDGES)) % 2**64) + payload[12:]
    try:
        parts = items(payload)
    except (struct.error, KeyError):  # an earlier change has made the array unreadable
        return payload
    for _ in range(several(rng)):
        if not parts:
            break
        i, other = rng.randrange(len(parts)), rng.choice(parts)
        if kind == STRING:
            text = _string(parts[i], 0)[0].decode("utf-8", "replace")
            new = string(changed_text(rng, text).encode("utf-8", "surrogatepass"))
        else:
            new = rng.choice((rng.randbytes(len(other)), b"\xff" * len(other), bytes(len(other)), other))
        parts[i : i + rng.choice((0, 1, 1, 1, 1))] = rng.choice(([new], [new], [other], [], [new] * 3))
    return array(kind, rng.choice((parts, parts, parts, parts, parts[: rng.randrange(len(parts) + 1)], parts[::-1])))


def _pair(rng: random.Random, file: Gguf) -> None:
    """A pair removed, doubled, renamed, added, or with the value of another."""
    if not file.pairs:
        return
    i, other = rng.randrange(len(file.pairs)), rng.choice(file.pairs)
    key, *value = file.pairs[i]
    arch = rng.choice((b"llama.", b"gemma3.", b"qwen3.")) if rng.random() < 0.2 else key.partition(b".")[0] + b"."
    new = rng.choice(([rng.choice(KEYS)], [other[0]], [arch + rng.choice(TEXTS).encode()], [key + b"x"]))
    changes = (
        [],
        [[key, *value]] * 2,
        [[*new, *value]],
        [[key, *value], [*new, *scalar(rng)]],
        [[key, *other[1:]]],
        [[key, ARRAY, array(value[0], [value[1]] * rng.choice((0, 1, 3)))]],
    )
    file.pairs[i : i + 1] = rng.choice(changes)


def _tensor(rng: random.Random, file: Gguf) -> None:
    """A tensor removed, doubled, renamed, moved, of another type or shape."""
    if not file.tensors:
        return
    i, other = rng.randrange(len(file.tensors)), rng.choice(file.tensors)
    name, dimensions, kind, offset = file.tensors[i]
    j = rng.randrange(len(dimensions) + 1)
    size = dimensions[j] if j < len(dimensions) else 1
    resized = [*dimensions[:j], rng.choice((size + 1, size - 1, size * 2, 0, *EDGES)), *dimensions[j + 1 :]]
    renamed = changed_text(rng, name.decode("utf-8", "replace")).encode("utf-8", "surrogatepass")
    changes = (
        [],
        [file.tensors[i]] * 2,
        [[renamed, dimensions, kind, offset]],
        [[other[0], dimensions, kind, offset]],
        [[name, resized, kind, offset]],
        [[name, rng.choice((dimensions[::-1], dimensions[1:], dimensions * 2, [1, *dimensions])), kind, offset]],
        [[name, dimensions, rng.choice(KINDS), offset]],
        [[name, dimensions, kind, rng.choice((other[3], offset + 32, offset - 32, offset + 1, *EDGES))]],
    )
    file.tensors[i : i + 1] = rng.choice(changes)


def _data(rng: random.Random, file: Gguf) -> None:
    """Numbers that are not finite, or huge; or bytes that are missing or too many."""
    at = rng.randrange(len(file.data) + 1) // 32 * 32
    piece = rng.choice((b"\xff", b"\x7f", b"\0\0\x80\x7f", b"\0\x7c", rng.randbytes(4))) * rng.choice((1, 16, 500))
    data = file.data[:at] + piece + file.data[at + len(piece) :]
    file.data = rng.choice((data, data, data, file.data[:at], file.data + piece))


def _version(rng: random.Random, file: Gguf) -> None:
    file.version = rng.choice((0, 1, 2, 3, 4, 2 << 24, 2**32 - 1))


_CHANGES: list[Callable[[random.Random, Gguf], None]] = [
    *[_value] * 5, *[_pair] * 4, *[_tensor] * 4, _data, _data, _version
]  # fmt: skip
