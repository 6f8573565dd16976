"""Frames: how values cross the pipe between the grader and the student's code. Nothing in a frame can execute.

    4 bytes    length of the header, little-endian
    header     JSON: {"arrays": [[dtype, shape], ...], "value": value}
    the rest   the bytes of all arrays, one after another

A value is null, true, false, a whole number, a finite float, a string or a list; anything else is an object of one key
that says what it is:

    {"float": "nan"}                             also "inf" and "-inf"
    {"tuple": [...]}   {"dict": [[key, value], ...]}   keys are strings or whole numbers
    {"array": i}                                 the i-th array; each array is used once, in this order
    {"record": ["module:Class", {field: ...}]}   a dataclass or a named tuple
    {"object": i}                                an object that stays in the child, by its number
    {"dtype": "float32"}   {"module": "numpy"}

Both directions use the same frames, and differ in what a frame may become. The child builds records by their classes,
for the grader can be trusted. For the grader a record of the child is a `Received`: names and plain data. An array is
always a fresh copy: neither side keeps a view of the other's memory.

Sizes, counts and nesting are bounded on both sides. Wins: a frame that lies ends as a WireError. Loses: aliases; an
array that is in a value twice comes out as two arrays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from math import isfinite
from types import ModuleType
from typing import Any, NoReturn

import numpy as np

from tinyinfer.course.sandbox.frames import (
    DTYPES,
    LENGTH,
    MOST_BITS,
    MOST_HEADER,
    MOST_KEY_BITS,
    MOST_NESTING,
    MOST_NODES,
    WireError,
    check_arrays,
    header_length,
    read_header,
    unique,
)
from tinyinfer.course.sandbox.records import Objects, Plain
from tinyinfer.course.sandbox.stand_ins import stand_in

# Packing.


def pack(value: object, objects: Objects | None = None, what: str = "the result") -> bytes:
    """The frame of a value; what: the value's name in an error. Raises WireError, with the place within the value."""
    packing = _Packing(objects or Plain())
    tree = packing.node(value, what, 0)
    shapes = [[array.dtype.name, list(array.shape)] for array in packing.arrays]
    header = json.dumps({"arrays": shapes, "value": tree}, separators=(",", ":"), allow_nan=False).encode()
    if len(header) > MOST_HEADER:
        raise WireError(f"{what} needs {len(header):,} bytes beside its arrays; {MOST_HEADER:,} are the most")
    return b"".join([LENGTH.pack(len(header)), header, *(array.tobytes() for array in packing.arrays)])


class _Packing:
    """A value on its way into a frame: the arrays found so far, and how much was found."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.arrays: list[np.ndarray] = []
        self.nbytes = self.nodes = 0

    def node(self, value: Any, what: str, depth: int) -> Any:
        """The JSON of a value. what: its place, for errors."""
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise WireError(f"{what}: more than {MOST_NODES:,} values; give numbers as an array")
        if depth > MOST_NESTING:
            raise WireError(f"{what}: nested more than {MOST_NESTING} deep")
        if isinstance(value, (np.bool_, np.number)) and value.dtype.name in DTYPES:
            value = value.item()
        if value is None or isinstance(value, (bool, int, float, str)):
            return _scalar(value, what)
        number = self.objects.number(value)
        return {"object": number} if number is not None else self._compound(stand_in(value), what, depth + 1)

    def _compound(self, value: Any, what: str, depth: int) -> Any:
        if isinstance(value, np.ndarray):
            return self._array(value, what)
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            return {"tuple": [self.node(x, f"{what}[{i}]", depth) for i, x in enumerate(value)]}
        if isinstance(value, list):
            return [self.node(x, f"{what}[{i}]", depth) for i, x in enumerate(value)]
        if isinstance(value, Mapping):
            return {"dict": [[_key(k, what), self.node(x, f"{what}[{k!r}]", depth)] for k, x in value.items()]}
        if (token := _token(value)) is not None:
            return token
        if isinstance(value, type) or not (is_dataclass(value) or hasattr(value, "_fields")):
            raise WireError(f"{what} is {_named(value)}; give numbers, strings, lists, tuples, dicts and arrays")
        names = getattr(value, "_fields", None) or [one.name for one in fields(value)]
        inner = {name: self.node(getattr(value, name), f"{what}.{name}", depth) for name in names}
        return {"record": [f"{type(value).__module__}:{type(value).__qualname__}", inner]}

    def _array(self, array: np.ndarray, what: str) -> dict[str, int]:
        if type(array) not in (np.ndarray, np.memmap):
            raise WireError(f"{what} is {_named(array)}; give a plain array of NumPy")
        if not array.dtype.isnative:
            raise WireError(f"{what} is an array of dtype {array.dtype.str!r}: wrong byte order for this machine")
        if array.dtype.name not in DTYPES:
            raise WireError(f"{what} is an array of dtype {array.dtype}; give one of {', '.join(sorted(DTYPES))}")
        self.nbytes += array.nbytes
        check_arrays(len(self.arrays) + 1, self.nbytes, array.shape, what)
        self.arrays.append(array)
        return {"array": len(self.arrays) - 1}


def _scalar(value: Any, what: str) -> Any:
    if isinstance(value, float) and not isfinite(value):
        return {"float": str(float(value))}
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise WireError(f"{what} is a whole number of {value.bit_length():,} bits; {MOST_BITS} are the most")
    if isinstance(value, str) and not _is_text(value):
        raise WireError(f"{what} is a string with half a character (a lone surrogate)")
    return value


def _key(key: object, what: str) -> object:
    if isinstance(key, np.integer):
        key = key.item()
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise WireError(f"{what} is a dict with the key {_named(key)}; keys are strings or whole numbers")
    if isinstance(key, int) and key.bit_length() > MOST_KEY_BITS:
        raise WireError(f"{what} is a dict with a key of {key.bit_length()} bits; {MOST_KEY_BITS} are the most")
    return _scalar(key, what)


def _token(value: Any) -> dict[str, str] | None:
    """A dtype, or NumPy as an array module; None for any other value."""
    if isinstance(value, ModuleType) and value is np:
        return {"module": "numpy"}
    if isinstance(value, type) and issubclass(value, np.generic):
        value = np.dtype(value)
    if isinstance(value, np.dtype) and value.name in DTYPES and value.isnative:
        return {"dtype": value.name}
    return None


def _named(value: object) -> str:
    """The value's type with its article, for a sentence."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# Unpacking.


def unpack(frame: bytes, objects: Objects | None = None) -> Any:
    """The value of a frame. Raises WireError for a frame that `pack` does not make."""
    if len(frame) < LENGTH.size:
        raise WireError("a frame ends before its header")
    stop = LENGTH.size + header_length(frame[: LENGTH.size])
    header = read_header(frame[LENGTH.size : stop])
    if len(frame) != stop + header.nbytes:
        raise WireError(f"a frame announces {header.nbytes:,} bytes of arrays and has {max(0, len(frame) - stop):,}")
    unpacking = _Unpacking(objects or Plain(), header.arrays_of(memoryview(frame)[stop:]))
    value = unpacking.value(header.tree, 0)
    if unpacking.used != len(header.arrays):
        raise WireError(f"a frame brings {len(header.arrays)} arrays and uses {unpacking.used}")
    return value


class _Unpacking:
    """A frame on its way to a value: the arrays, and how many of them were used."""

    def __init__(self, objects: Objects, arrays: list[np.ndarray]) -> None:
        self.objects, self.arrays = objects, arrays
        self.used = self.nodes = 0

    def value(self, tree: Any, depth: int) -> Any:
        """The value of a node."""
        self.nodes += 1
        if self.nodes > MOST_NODES or depth > MOST_NESTING:
            raise WireError(f"a frame holds more than {MOST_NODES:,} values, or nested more than {MOST_NESTING} deep")
        if isinstance(tree, list):
            return [self.value(node, depth + 1) for node in tree]
        if not isinstance(tree, dict):
            return _scalar(tree, "the result")
        (tag, content), *more = tree.items() or [("", None)]
        makers: dict[str, Callable[[Any, int], Any]] = {
            "float": self._float, "tuple": self._tuple, "dict": self._dict, "array": self._array,
            "record": self._record, "object": self._object, "dtype": self._dtype, "module": self._module,
        }  # fmt: skip
        if more or tag not in makers:
            raise WireError(f"a frame holds a value of the unknown kind {tag[:50]!r}")
        try:
            return makers[tag](content, depth + 1)
        except (TypeError, ValueError, KeyError, AttributeError, ImportError) as error:
            raise WireError(f"a frame holds a broken {tag}: {type(error).__name__}: {str(error)[:200]}") from None

    def _float(self, content: Any, depth: int) -> float:
        return {"nan": float("nan"), "inf": float("inf"), "-inf": -float("inf")}[content]

    def _tuple(self, content: Any, depth: int) -> tuple[Any, ...]:
        return tuple(self.value(node, depth) for node in _list(content))

    def _dict(self, content: Any, depth: int) -> dict[Any, Any]:
        pairs = [(_key(key, "the result"), self.value(node, depth)) for key, node in map(_list, _list(content))]
        return unique(pairs)

    def _array(self, content: Any, depth: int) -> np.ndarray:
        if content != self.used or type(content) is not int:
            raise ValueError("its number is not the next one")
        self.used += 1
        return self.arrays[self.used - 1] if content < len(self.arrays) else _raise(ValueError("it was not announced"))

    def _record(self, content: Any, depth: int) -> Any:
        kind, values = _list(content)
        if not (isinstance(kind, str) and isinstance(values, dict) and all(name.isidentifier() for name in values)):
            raise ValueError("its class or fields have no names")
        return self.objects.record(kind, {name: self.value(node, depth) for name, node in values.items()})

    def _object(self, content: Any, depth: int) -> Any:
        if type(content) is not int:
            raise ValueError("its number is no whole number")
        return self.objects.known(content)

    def _dtype(self, content: Any, depth: int) -> np.dtype[Any]:
        return np.dtype(content) if content in DTYPES else _raise(ValueError("its name is unknown"))

    def _module(self, content: Any, depth: int) -> ModuleType:
        return np if content == "numpy" else _raise(ValueError("it is not numpy"))


def _list(content: Any) -> list[Any]:
    return content if isinstance(content, list) else _raise(ValueError("it is no list"))


def _raise(error: Exception) -> NoReturn:
    raise error
