"""safetensors files -> lazy tensors: a header of names, types and places, then nothing but numbers.

A file is 8 bytes with the header's length, a JSON header, and the data of all tensors one after the other. Tiles are
read by seeking, not through a mapping, whose pages count as the process's memory once touched: a mapped model is soon
there twice, as pages and as weights. Every number in the header is checked before it is believed.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import ml_dtypes
import numpy as np

from tinyinfer.errors import ModelError
from tinyinfer.loading.checkpoint import LazyTensor
from tinyinfer.loading.json_fields import MAX_BYTES, parse_object
from tinyinfer.units import show

FLOATS = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}
PACKED = {"U8": np.dtype(np.uint8)}  # codes in a folder that tinyinfer quantized
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "BOOL": 1}
ITEM_BYTES |= {f"{kind}{bits}": bits // 8 for kind in "IU" for bits in (8, 16, 32, 64)}
MAX_AXES = 8


@dataclass(frozen=True)
class Stored:
    """Where in a file a tensor lies; its numbers are read on demand, as float32."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    def rows(self, start: int, stop: int) -> np.ndarray:  # -> (stop - start, ...)
        """Rows of the first axis: one piece of the file."""
        return self.raw(start, stop).astype(np.float32, copy=False)

    def raw(self, start: int, stop: int) -> np.ndarray:  # -> (stop - start, ...)
        """The same in the file's own type."""
        width = math.prod(self.shape[1:])
        return self._pieces(1, (stop - start) * width, start * width, 0).reshape(stop - start, *self.shape[1:])

    def columns(self, start: int, stop: int) -> np.ndarray:  # -> (stop - start, rows)
        """Columns of a matrix as rows: a piece of each of its rows, so that no tile needs the whole matrix."""
        rows, width = self.shape
        return np.ascontiguousarray(self._pieces(rows, stop - start, start, width).T, dtype=np.float32)

    def check_float(self) -> None:
        """Raises ModelError when the numbers are of a type that is not read."""
        if self.dtype not in FLOATS:
            known = ", ".join(FLOATS)
            wrong = f"has type {self.dtype}, and only {known} are supported"
            raise ModelError(f"{self.path}: tensor {show(self.name)} {wrong}; convert the model")

    def lazy(self) -> LazyTensor:
        """The tensor as it lies in the file."""
        return LazyTensor(self.name, self.shape, self.nbytes, self.rows, str(self.path))

    def _pieces(self, count: int, items: int, first: int, step: int) -> np.ndarray:  # -> (count, items)
        """`count` pieces of `items` numbers, `step` numbers apart."""
        dtype = PACKED.get(self.dtype) or FLOATS[self.dtype]
        raw = np.empty((count, items * dtype.itemsize), np.uint8)
        try:
            with open(self.path, "rb") as file:
                for i, piece in enumerate(raw):
                    file.seek(self.offset + (first + i * step) * dtype.itemsize)
                    if file.readinto(piece.data) != len(piece):
                        raise ModelError(f"{self.path}: ends within tensor {show(self.name)}; download it again")
        except OSError as error:
            raise ModelError(f"{self.path}: cannot be read ({error.strerror}); check the disk and the file") from None
        return raw.view(dtype)


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file by name. Raises ModelError unless they fill the file exactly."""
    text, size = _header_text(path)
    entries = parse_object(text, f"{path}, header")
    entries.pop("__metadata__", None)
    places = sorted((*_place(path, name, entry), name) for name, entry in entries.items())
    start, end = 8 + len(text), 0
    tensors = {}
    for first, last, name in places:
        if first != end:
            wrong = "overlaps the tensor before it" if first < end else "leaves a gap before it"
            raise _bad(path, name, wrong)
        entry, end = entries[name], last
        tensors[name] = Stored(path, name, entry["dtype"], tuple(entry["shape"]), start + first)
    if start + end != size:
        raise ModelError(f"{path}: has {size} bytes, but its header describes {start + end}; download it again")
    return tensors


def _header_text(path: Path) -> tuple[bytes, int]:
    """The JSON of the header, and the size of the file."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_BYTES):
                raise ModelError(f"{path}: has {size} bytes, too few for its header; download it again")
            return file.read(length), size
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from None


def _place(path: Path, name: str, entry: Any) -> tuple[int, int]:
    """First and last byte of a tensor within the data, after a check of all that the header says of it."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        raise _bad(path, name, f"is described by {show(entry)}")
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if entry["dtype"] not in ITEM_BYTES:
        wrong = f"has type {show(entry['dtype'])}, which is not known"
        raise ModelError(f"{path}: tensor {show(name)} {wrong}; convert the model to F32, F16 or BF16")
    if not _are_counts(shape) or len(shape) > MAX_AXES:
        raise _bad(path, name, f"has shape {show(shape)}")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise _bad(path, name, f"lies at {show(offsets)}")
    if offsets[1] - offsets[0] != math.prod(shape) * ITEM_BYTES[entry["dtype"]]:
        raise _bad(path, name, f"of shape {show(shape)} does not fit its place {show(offsets)}")
    return offsets[0], offsets[1]


def _are_counts(values: object) -> TypeGuard[list[int]]:
    """Whether it is a list of whole numbers that could count bytes."""
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in values)


def _bad(path: Path, name: str, what: str) -> ModelError:
    """What to raise when the header says of a tensor what cannot be."""
    return ModelError(f"{path}: tensor {show(name)} {what}; the file is broken, download it again")
