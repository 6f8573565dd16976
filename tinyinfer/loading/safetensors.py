"""safetensors files -> lazy tensors. The `safetensors` library checks a file's header once; NumPy reads the numbers.

A file is 8 bytes with the length of the header, a JSON header (name -> type, shape, place), and the data of all
tensors. The library refuses a header that lies. After that the places in the header are known, and the rows that are
wanted are read from there. (The library would map the whole file: mapped pages count as memory of the process, and a
model must not be in memory twice, as pages and as weights; each page costs a fault, which takes as long as reading it;
and the header would be read anew each time that the file is opened: 4.5 ms for 6000 tensors, as a mixture of experts
has.) Only columns are copied out of a mapped tensor, which is unmapped again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - tells NumPy of bfloat16, which the library asks NumPy for by name
import numpy as np
from safetensors import SafetensorError, safe_open

from tinyinfer.errors import ModelError
from tinyinfer.loading.checkpoint import LazyTensor
from tinyinfer.loading.json_fields import parse_object
from tinyinfer.loading.pointers import refuse_pointer
from tinyinfer.loading.small_files import check_file, check_values
from tinyinfer.units import show

FLOATS = ("F64", "F32", "F16", "BF16")
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "BOOL": 1}
ITEM_BYTES |= {f"{kind}{bits}": bits // 8 for kind in "IU" for bits in (8, 16, 32, 64)}
MAX_AXES = 8
MAX_HEADER = 100_000_000  # bytes; the format's own limit
MAX_TENSORS = 200_000  # of a file: several times as many as the largest mixtures of experts have in all
NUMPY_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "BOOL": "?", **{f"{kind.upper()}{8 * size}": f"<{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)},
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, by its name there; its numbers are read on demand."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    place: int  # bytes before it in the file

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    def rows(self, start: int, stop: int) -> np.ndarray:  # -> (stop - start, ...)
        """Reads rows of the first axis as float32; a number beyond it becomes infinity, which LazyTensor refuses."""
        with np.errstate(over="ignore"):
            return self.raw(start, stop).astype(np.float32, copy=False)

    def raw(self, start: int, stop: int) -> np.ndarray:  # -> (stop - start, ...)
        """Rows of the first axis in the file's own type."""
        kind, one = np.dtype(NUMPY_TYPES[self.dtype]), math.prod(self.shape[1:])
        count = max(0, min(stop, self.shape[0]) - start)
        with self._reading():
            numbers = np.fromfile(self.path, kind, count * one, offset=self.place + start * one * kind.itemsize)
            return numbers.reshape(count, *self.shape[1:])

    def columns(self, start: int, stop: int) -> np.ndarray:  # -> (stop - start, rows)
        """Columns of a matrix as rows, in float32; no tile needs the whole matrix."""
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(self._columns(start, stop).T, dtype=np.float32)

    def check_float(self) -> None:
        """Raises ModelError when the numbers are of a type that is not read."""
        if self.dtype not in FLOATS:
            wrong = f"has type {self.dtype}, and only {', '.join(FLOATS)} are supported"
            cure = "it is quantized by another tool; use the float model that it was made from, or a GGUF file of it"
            raise ModelError(f"{self.path}: tensor {show(self.name)} {wrong}; {cure}")

    def lazy(self) -> LazyTensor:
        """The tensor as it lies in the file."""
        return LazyTensor(self.name, self.shape, self.nbytes, self.rows, str(self.path))

    def _columns(self, start: int, stop: int) -> np.ndarray:  # -> (rows, stop - start)
        kind = NUMPY_TYPES[self.dtype]
        if not self.nbytes:
            return np.empty(self.shape, kind)[:, start:stop]
        with self._reading():
            return np.array(np.memmap(self.path, kind, "r", self.place, self.shape)[:, start:stop])

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Raises ModelError where the file cannot be read, or has not as many numbers as its header said."""
        try:
            yield
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "the file became shorter while in use"
            raise ModelError(f"{self.path}: tensor {show(self.name)} cannot be read ({reason})") from None


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file by name. Raises ModelError unless they fill the file exactly."""
    start, text = _header(path)
    where, size = f"{path}, header", path.stat().st_size
    check_values(text, where, size)  # before the library makes anything of them
    _check(path)
    header = parse_object(text, where, size)  # refuses a name given twice, of which the library takes the last
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        many = f"holds {len(header)} tensors, more than {MAX_TENSORS}"
        raise ModelError(f"{path}: {many}; save the model in several files")
    tensors = {name: _stored(path, name, entry, start) for name, entry in header.items()}
    for name, tensor in tensors.items():
        if tensor.dtype not in ITEM_BYTES:
            wrong = f"has type {show(tensor.dtype)}, which is not known"
            raise ModelError(f"{path}: tensor {show(name)} {wrong}; convert the model to F32, F16 or BF16")
        if len(tensor.shape) > MAX_AXES:
            wrong = f"has shape {show(tensor.shape)}"
            raise ModelError(f"{path}: tensor {show(name)} {wrong}; the file is broken, download it again")
    return tensors


def _stored(path: Path, name: str, entry: dict[str, Any], start: int) -> Stored:
    return Stored(path, name, entry["dtype"], tuple(entry["shape"]), start + entry["data_offsets"][0])


def _header(path: Path) -> tuple[int, bytes]:
    """Where the data begins, and the text of the header: as much as the file has of it."""
    check_file(path)
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            return 8 + length, file.read(min(length, MAX_HEADER))
    except OSError as error:
        raise _unreadable(path, error) from None


def _check(path: Path) -> None:
    """Lets the library check a file. Raises ModelError, which quotes the library, for all that the library refuses."""
    try:
        with safe_open(path, "np"):
            return
    except SafetensorError as error:
        refuse_pointer(path)
        quoted = str(error)[:200]
        unknown = "unknown variant" in quoted  # a type of number that the library does not know
        cure = "convert the model to F32, F16 or BF16" if unknown else "download it again"
        raise ModelError(f"{path}: is no whole safetensors file ({quoted}); {cure}") from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> ModelError:
    return ModelError(f"{path}: cannot be read ({error.strerror or error}); check the file and its permissions")
