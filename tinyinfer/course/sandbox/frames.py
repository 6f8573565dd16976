"""The outside of a frame (wire.py): its bounds, its header, and the bytes of its arrays.

The grader reads a frame of the child with suspicion. It knows from four bytes how long the header is, from the header
how many bytes follow, and both are bounded before anything is allocated.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import IO, Any, NoReturn

import numpy as np

MOST_HEADER = 1 << 20  # bytes
MOST_ARRAY_BYTES = 64 << 20  # of all arrays of a frame together
MOST_ARRAYS = 256
MOST_NODES = 100_000  # values within values
MOST_NESTING = 20
MOST_BITS = 256  # of a whole number
MOST_KEY_BITS = 63  # of a whole number as a dict's key: a thousand longer ones may have one hash, and take for ever
MOST_AXES = 16
DTYPES = frozenset(
    ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
)
LENGTH = struct.Struct("<I")


class WireError(Exception):
    """A value or a frame that cannot cross; the message is a sentence for the student."""


def read_frame(stream: IO[bytes]) -> bytes:
    """The next frame; nothing where the stream ends, also in the middle of a frame. Raises WireError, OSError."""
    prefix = stream.read(LENGTH.size)
    if len(prefix) < LENGTH.size:
        return b""
    length = header_length(prefix)
    header = stream.read(length)
    if len(header) < length:
        return b""
    nbytes = read_header(header).nbytes
    arrays = stream.read(nbytes)
    return prefix + header + arrays if len(arrays) == nbytes else b""


def header_length(prefix: bytes) -> int:
    """The length of a header from the frame's first four bytes. Raises WireError when it is absurd."""
    (length,) = LENGTH.unpack(prefix)
    if not 0 < length <= MOST_HEADER:
        raise WireError(f"a frame announces a header of {length:,} bytes; {MOST_HEADER:,} are the most")
    return int(length)


@dataclass(frozen=True)
class Header:
    """A header as far as it is checked: the dtype and shape of each array, and the value's JSON."""

    arrays: list[tuple[np.dtype[Any], tuple[int, ...]]]
    tree: Any = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes that follow the header."""
        return sum(prod(shape) * dtype.itemsize for dtype, shape in self.arrays)

    def arrays_of(self, data: memoryview) -> list[np.ndarray]:
        """The arrays, copied out of the bytes behind the header."""
        arrays, start = [], 0
        for dtype, shape in self.arrays:
            flat = np.frombuffer(data, dtype, count=prod(shape), offset=start) if prod(shape) else np.empty(0, dtype)
            arrays.append(flat.reshape(shape).copy())
            start += flat.nbytes
        return arrays


def read_header(data: bytes) -> Header:
    """Parses and checks the header of a frame. Raises WireError."""
    try:
        parsed = json.loads(data.decode(), object_pairs_hook=unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise WireError(f"a frame's header is no JSON of ours: {str(error)[:200]}") from None
    if not isinstance(parsed, dict) or set(parsed) != {"arrays", "value"} or not isinstance(parsed["arrays"], list):
        raise WireError("a frame's header lacks its arrays or its value")
    header = Header([_array_type(entry) for entry in parsed["arrays"]], parsed["value"])
    check_arrays(len(header.arrays), header.nbytes, (), "the result")
    return header


def _array_type(entry: Any) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Checks the dtype and the shape of one announced array."""
    if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and isinstance(entry[1], list)):
        raise WireError("a frame announces an array without a dtype and a shape")
    name, shape = entry
    if name not in DTYPES:
        raise WireError(f"a frame announces an array of dtype {name[:50]!r}")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise WireError("a frame announces an array whose shape is no list of whole numbers from 0")
    check_arrays(1, prod(shape) * np.dtype(name).itemsize, shape, "an array of the result")
    return np.dtype(name), tuple(shape)


def unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A dict of these pairs. Raises ValueError when a key is there twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def check_arrays(count: int, nbytes: int, shape: Iterable[int], what: str) -> None:
    """Raises WireError for more arrays, bytes or axes than a frame may have."""
    if count > MOST_ARRAYS:
        raise WireError(f"{what}: more than {MOST_ARRAYS} arrays at once")
    axes = tuple(shape)
    if nbytes > MOST_ARRAY_BYTES or any(n > MOST_ARRAY_BYTES for n in axes):
        raise WireError(f"{what} has the shape {axes}; {MOST_ARRAY_BYTES >> 20} MB of arrays are the most at once")
    if len(axes) > MOST_AXES:
        raise WireError(f"{what} has {len(axes)} axes; {MOST_AXES} are the most")
