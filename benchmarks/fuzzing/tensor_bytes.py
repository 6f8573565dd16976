"""A safetensors file: its header changed as a JSON text, or one tensor changed so that the file still fits together."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

from fuzzing.trees import changed_tree, written_tree
from fuzzing.values import EDGES, changed_bytes, changed_text, several

TYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "I64", "F4")
BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "U8": 8, "I32": 32, "I64": 64}

Tensors = dict[str, Any]


def changed_safetensors(rng: random.Random, data: bytes) -> bytes:
    """The file with some tensors, parts of the header, or bytes changed."""
    [size] = struct.unpack_from("<Q", data)
    header, numbers = json.loads(data[8 : 8 + size]), data[8 + size :]
    roll = rng.random()
    if roll < 0.05:
        return changed_bytes(rng, data)
    if roll < 0.12:
        return joined(rng, changed_bytes(rng, data[8 : 8 + size]), numbers)
    if roll < 0.45:
        for _ in range(several(rng)):
            header = changed_tree(rng, header)
        return joined(rng, written_tree(rng, header), numbers)
    for _ in range(several(rng)):
        numbers = rng.choice(_CHANGES)(rng, header, numbers)
    return joined(rng, written_tree(rng, header), numbers)


def joined(rng: random.Random, header: bytes, numbers: bytes) -> bytes:
    """The file of this header, whose length may lie."""
    size = len(header)
    if rng.random() < 0.03:
        size = rng.choice((size + 1, size - 1, size + 8, 0, *EDGES)) % 2**64
    return struct.pack("<Q", size) + header + numbers


def _some(rng: random.Random, header: Tensors) -> tuple[str, dict[str, Any]]:
    names = [name for name in header if name != "__metadata__"]
    if not names:
        header["x"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        return "x", header["x"]
    name = rng.choice(names)
    return name, header[name]


def _name(rng: random.Random, header: Tensors, numbers: bytes) -> bytes:
    """Another name, of its own or of another tensor."""
    name, tensor = _some(rng, header)
    other, _ = _some(rng, header)
    near = other.replace("layers.0", f"layers.{rng.choice((1, 99999, 10**6))}")
    del header[name]
    header[rng.choice((changed_text(rng, name), changed_text(rng, name), near, f"model.{name}", other))] = tensor
    return numbers


def _type(rng: random.Random, header: Tensors, numbers: bytes) -> bytes:
    """Another type of the same size, or of another size with a shape that fits."""
    _, tensor = _some(rng, header)
    old, new = BITS.get(tensor["dtype"], 8), rng.choice(TYPES)
    if tensor["shape"] and rng.random() < 0.7:
        tensor["shape"][-1] = tensor["shape"][-1] * old // BITS.get(new, 8)
    tensor["dtype"] = new
    return numbers


def _shape(rng: random.Random, header: Tensors, numbers: bytes) -> bytes:
    """Another shape of as many numbers."""
    _, tensor = _some(rng, header)
    shape = tensor["shape"]
    total = 1
    for size in shape:
        total *= size
    tensor["shape"] = rng.choice(
        (shape[::-1], [total], [1, *shape], [*shape, 1], [1] * rng.choice((6, 30, 99)) + shape, [2, total // 2])
    )
    return numbers


def _places(rng: random.Random, header: Tensors, numbers: bytes) -> bytes:
    """The places of two tensors exchanged, or one place moved."""
    (_, one), (_, other) = _some(rng, header), _some(rng, header)
    if rng.random() < 0.5:
        one["data_offsets"], other["data_offsets"] = other["data_offsets"], one["data_offsets"]
    else:
        one["data_offsets"] = [place + rng.choice((0, 1, -4, 4, *EDGES)) for place in one["data_offsets"]]
    return numbers


def _added(rng: random.Random, header: Tensors, numbers: bytes) -> bytes:
    """More tensors without numbers, or one more with some."""
    name, tensor = _some(rng, header)
    end = len(numbers)
    shape = rng.choice(([0], [0, 2**62], [2**62, 0], [0] * 9, [2**40, 2**40, 0]))
    for i in range(rng.choice((1, 1, 1, 10, 500))):
        new = rng.choice((f"{name}.{i}", f"model.layers.{i}.x", f"model.layers.0.mlp.experts.{i}.up_proj.weight", "x"))
        header[new] = {"dtype": rng.choice(TYPES), "shape": shape, "data_offsets": [end, end]}
    if rng.random() < 0.3:
        first, last = tensor["data_offsets"]
        header[f"{name}x"] = {**tensor, "data_offsets": [end, end + last - first]}
        return numbers + numbers[first:last]
    return numbers


def _removed(rng: random.Random, header: Tensors, numbers: bytes) -> bytes:
    """A tensor without its entry, its numbers or both."""
    name, tensor = _some(rng, header)
    first, last = tensor["data_offsets"]
    if not 0 <= first <= last <= len(numbers):
        return numbers
    del header[name]
    for other in header.values():
        if isinstance(other.get("data_offsets"), list) and other["data_offsets"][0] >= last:
            other["data_offsets"] = [place - (last - first) for place in other["data_offsets"]]
    return numbers[:first] + numbers[last:]


def _numbers(rng: random.Random, header: Tensors, numbers: bytes) -> bytes:
    """Numbers that are not finite, or huge, or noise; or too many of them, or too few."""
    at = rng.randrange(len(numbers) + 1) // 4 * 4
    piece = rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\xff", b"\xff\xff\x7f\x7f", bytes(4), rng.randbytes(4)))
    piece *= rng.choice((1, 1, 16, 2000))
    changed = numbers[:at] + piece + numbers[at + len(piece) :]
    return rng.choice((changed, changed, changed, numbers[:at], numbers + piece))[: len(numbers) + 8000]


_CHANGES: list[Callable[[random.Random, Tensors, bytes], bytes]] = [
    _name, _name, _type, _type, _shape, _shape, _places, _added, _removed, _numbers, _numbers
]  # fmt: skip
