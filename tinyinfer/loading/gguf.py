"""The GGUF file: metadata and tensor infos first, then the tensors' bytes, quantized in blocks.

    magic, version, counts | key type value ... | name dimensions type offset ... | padding | bytes of every tensor

Two ideas. Every length in the header is compared with the bytes that remain, before anything is allocated: a file that
is cut or wrong is refused in one sentence. And a block of 32 to 256 numbers is dequantized without its neighbours, so
rows start..stop of a tensor are one seek, one read and some float32, whatever the size of the file.

Why not gguf.GGUFReader: it checks fewer of these lengths, makes several arrays for each token of the vocabulary, and
maps the file, whose pages then count as memory of the process. The dequantization is the gguf package's, but for the
types whose blocks are a group of 32 codes each (gguf_blocks.py). (GGUF: ggml's docs/gguf.md; versions 2 and 3.)
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.quants import dequantize

from tinyinfer.errors import ModelError
from tinyinfer.loading.checkpoint import LazyTensor
from tinyinfer.loading.gguf_blocks import SIMPLE, block_codes, block_floats
from tinyinfer.loading.pointers import refuse_pointer
from tinyinfer.loading.small_files import check_file
from tinyinfer.units import show

if TYPE_CHECKING:
    from tinyinfer.model.quantized_matrix import QuantizedMatrix

MAX_PAIRS = MAX_TENSORS = 1 << 14  # keys and tensors of a file; real ones have some dozen keys, some thousand tensors
MAX_TEXTS = 1 << 22  # texts in the metadata of a file; Gemma 3 has 776,000 with its merges
MAX_NAME = 256  # characters of a tensor's name; llama.cpp allows 64
MAX_BYTES = 1 << 28  # of one metadata value: more than any real file has, and little enough to allocate
PIECE = 1 << 15  # numbers dequantized at a time: intermediate arrays then stay in the processor's cache

KEPT = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")  # see gguf_blocks.py

U32, U64, BOOL = GGUFValueType.UINT32, GGUFValueType.UINT64, GGUFValueType.BOOL
DTYPES = {
    GGUFValueType.UINT8: "<u1", GGUFValueType.UINT16: "<u2", U32: "<u4", U64: "<u8",
    GGUFValueType.INT8: "<i1", GGUFValueType.INT16: "<i2", GGUFValueType.INT32: "<i4", GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT32: "<f4", GGUFValueType.FLOAT64: "<f8", BOOL: "?",
}  # fmt: skip


@dataclass(frozen=True)
class GGUFFile:
    """What a GGUF file holds: metadata by key, and tensors by their names in the file, read lazily.

    A field is an int, float, bool or str, a list of str, or a NumPy array of numbers. size: in bytes, of all its parts.
    """

    path: str
    fields: dict[str, Any]
    tensors: dict[str, LazyTensor]
    size: int = 0


@dataclass(frozen=True)
class TensorInfo:
    """Name, shape, type and place of a tensor. shape: rows first (the file has the columns first). offset: in bytes."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        block, size = GGML_QUANT_SIZES[self.kind]
        return prod(self.shape) // block * size


def read_gguf(path: str) -> GGUFFile:
    """Reads the header of a GGUF file (version 2 or 3, little endian); the tensors are read when asked for.

    Raises ModelError, naming the file, when it is missing, cut, damaged or holds a tensor that cannot be dequantized.
    """
    check_file(path)
    try:
        with open(path, "rb") as file:
            header = Header(path, file)
            fields, infos = header.contents()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    alignment = _alignment(header, fields)
    start = -(-(header.size - header.left) // alignment) * alignment
    _check_places(header, infos, start, alignment)
    return GGUFFile(path, fields, {info.name: lazy_tensor(path, info, start) for info in infos}, header.size)


class Header:
    """Reads forwards through a file. `left` is how many bytes remain, against which every claimed length is checked."""

    def __init__(self, path: str, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = self.left = os.fstat(file.fileno()).st_size
        self.texts = 0  # read so far

    def contents(self) -> tuple[dict[str, Any], list[TensorInfo]]:
        """Reads all metadata and all tensor infos."""
        self._check_version()
        tensors, pairs = (self.integer(U64, "the header") for _ in range(2))
        self.expect(pairs * 13 + tensors * 32, "the header")  # the least that so many can take
        if pairs > MAX_PAIRS or tensors > MAX_TENSORS:
            self.refuse(f"has {pairs} metadata keys and {tensors} tensors, and {MAX_PAIRS} of each are the most")
        fields: dict[str, Any] = {}
        for _ in range(pairs):
            key = self.string("a metadata key")
            if key in fields:
                self.refuse(f"holds the metadata key {key[:80]!r} twice")
            fields[key] = self.value(self.integer(U32, key), key)
        infos = [self.tensor_info() for _ in range(tensors)]
        if len({info.name for info in infos}) < tensors:
            self.refuse("holds two tensors of the same name")
        return fields, infos

    def _check_version(self) -> None:
        if self.take(4, "the header") != b"GGUF":
            refuse_pointer(self.path)
            raise ModelError(f"{self.path}: is not a GGUF file; give a .gguf file or a Hugging Face folder")
        version = self.integer(U32, "the header")
        if version & 0xFFFF == 0:
            raise ModelError(f"{self.path}: is a big-endian GGUF file, which is not supported; use a little-endian one")
        if version not in (2, 3):
            raise ModelError(f"{self.path}: has GGUF version {version}; 2 and 3 are supported, convert the model again")

    def tensor_info(self) -> TensorInfo:
        """The next tensor info. Raises ModelError for a shape or a type that is not supported."""
        name = self.string("a tensor name")
        label = f"tensor {name[:80]!r}"
        if len(name) > MAX_NAME:
            self.refuse(f"has a name of {len(name)} characters, {label}")
        count = self.integer(U32, label)
        if not 1 <= count <= 4:
            self.refuse(f"says that {label} has {count} dimensions")
        shape = tuple(reversed(self.numbers(U64, count, label).tolist()))
        if 0 in shape:
            self.refuse(f"says that {label} has no elements")
        kind, offset = self.integer(U32, label), self.integer(U64, label)
        if not can_dequantize(kind):
            known = kind in GGML_QUANT_SIZES
            what = GGMLQuantizationType(kind).name if known else f"number {kind}"
            cure = "use a file with another quantization" if known else "update the gguf package or download it again"
            raise ModelError(f"{self.path}: {label} is of type {what}, which cannot be dequantized; {cure}")
        if shape[-1] % GGML_QUANT_SIZES[GGMLQuantizationType(kind)][0]:
            self.refuse(f"says that {label} has rows of {shape[-1]} elements, which is no whole number of blocks")
        return TensorInfo(name, shape, GGMLQuantizationType(kind), offset)

    def value(self, kind: int, what: str) -> Any:
        """The next value of this type; `what` names it in errors."""
        if kind == GGUFValueType.STRING:
            return self.string(what)
        if kind in DTYPES:
            return self.numbers(kind, 1, what)[0].item()
        if kind == GGUFValueType.ARRAY:
            kind, count = self.integer(U32, what), self.integer(U64, what)
            if kind == GGUFValueType.STRING:
                return self.strings(count, what)
            if kind in DTYPES:
                return self.numbers(kind, count, what)
        return self.refuse(f"has a value of unknown type, or an array of arrays, in {what[:80]!r}")

    def integer(self, kind: int, what: str) -> int:
        """Reads the next whole number, of this type."""
        return int(self.numbers(kind, 1, what)[0])

    def numbers(self, kind: int, count: int, what: str) -> np.ndarray:
        """Reads the next `count` numbers, of this type."""
        dtype = np.dtype(DTYPES[GGUFValueType(kind)])
        values = np.frombuffer(self.take(count * dtype.itemsize, what), dtype)
        if kind == BOOL and values.view(np.uint8).max(initial=0) > 1:
            self.refuse(f"holds a truth value that is neither 0 nor 1 in {what[:80]!r}")
        return values

    def string(self, what: str) -> str:
        """Reads the next string. Raises ModelError if the string is not UTF-8."""
        return self.strings(1, what)[0]

    def strings(self, count: int, what: str) -> list[str]:
        """The next `count` strings. A vocabulary has 100 000 of them, so the loop calls no method."""
        self.expect(count * 8, what)
        self.texts += count
        if self.texts > MAX_TEXTS:
            self.refuse(f"holds {self.texts} texts up to {what[:80]!r}, more than {MAX_TEXTS}")
        read, left, strings = self.file.read, self.left, []
        try:
            for _ in range(count):
                size = int.from_bytes(read(8), "little")
                left -= 8 + size
                if left < 0 or size > MAX_BYTES:
                    self.truncated(what)
                strings.append(read(size).decode())
        except UnicodeDecodeError:
            self.refuse(f"holds text that is not UTF-8 in {what[:80]!r}")
        self.left = left
        return strings

    def take(self, size: int, what: str) -> bytes:
        """The next `size` bytes. Raises ModelError when so many do not remain, or are too many for one value."""
        self.expect(size, what)
        if size > MAX_BYTES:
            self.refuse(f"claims {size} bytes for {what[:80]!r}")
        data = self.file.read(size)
        self.left -= size
        return data if len(data) == size else self.truncated(what)

    def expect(self, size: int, what: str) -> None:
        """Raises ModelError when fewer bytes remain."""
        if size > self.left:
            self.truncated(what)

    def truncated(self, what: str) -> NoReturn:
        """Raises ModelError: the file ends too early."""
        raise ModelError(f"{self.path}: the file is truncated: it ends inside {what[:80]!r}; download it again")

    def refuse(self, fault: str) -> NoReturn:
        """Raises ModelError: the file contradicts itself or the specification."""
        raise ModelError(f"{self.path}: the file is damaged: it {fault}; download it again")


def _alignment(header: Header, fields: dict[str, Any]) -> int:
    """The data, and every tensor in the data, begin at a multiple of so many bytes."""
    alignment = fields.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        header.refuse(f"has the alignment {show(alignment)}, which is no power of two from 8 on")
    return alignment


def _check_places(header: Header, infos: list[TensorInfo], start: int, alignment: int) -> None:
    """Raises ModelError when a tensor lies outside the file, off its alignment or over another one."""
    for info in infos:
        if info.offset % alignment:
            header.refuse(f"puts tensor {info.name[:80]!r} off the alignment of {alignment} bytes")
        if start + info.offset + info.nbytes > header.size:
            header.truncated(f"tensor {info.name[:80]}")
    for before, after in pairwise(sorted(infos, key=lambda info: info.offset)):
        if before.offset + before.nbytes > after.offset:
            header.refuse(f"puts tensor {after.name[:80]!r} over {before.name[:80]!r}")


@cache
def can_dequantize(kind: int) -> bool:
    """Whether gguf knows this type of tensor and can make float32 of it."""
    try:
        size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)][1]
        dequantize(np.zeros((1, size), np.uint8), GGMLQuantizationType(kind))
    except (ValueError, KeyError, NotImplementedError):
        return False
    return True


def lazy_tensor(path: str, info: TensorInfo, data_start: int) -> LazyTensor:
    """The tensor; its rows are read and dequantized on demand."""
    width, (block, size) = prod(info.shape[1:]), GGML_QUANT_SIZES[info.kind]

    def read(start: int, stop: int) -> np.ndarray:  # -> (stop - start, ...)
        first, last = start * width // block, -(-stop * width // block)  # the blocks that hold these rows
        raw = _read_bytes(path, info.name, data_start + info.offset + first * size, (last - first) * size)
        numbers = _dequantize(raw.reshape(-1, size), info.kind)
        return numbers[start * width - first * block : stop * width - first * block].reshape(-1, *info.shape[1:])

    def codes(start: int, stop: int) -> QuantizedMatrix:
        raw = _read_bytes(path, info.name, data_start + info.offset + start * row, (stop - start) * row)
        return block_codes(raw.reshape(stop - start, row // size, size), info.kind)

    row = info.shape[-1] // block * size  # bytes of a row of the last axis
    keeps = info.kind.name in KEPT and len(info.shape) > 1
    return LazyTensor(info.name, info.shape, info.nbytes, read, path, codes if keeps else None)


def _read_bytes(path: str, name: str, offset: int, count: int) -> np.ndarray:
    try:
        raw = np.fromfile(path, np.uint8, count, offset=offset)
    except OSError as error:
        raise ModelError(f"{path}: tensor {show(name)} cannot be read ({error.strerror}); check the file") from None
    if len(raw) < count:
        raise ModelError(f"{path}: the file is truncated: it ends inside tensor {show(name)}; download it again")
    return raw


def _dequantize(blocks: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:  # (blocks, bytes) -> (numbers,)
    """float32 of blocks of bytes. gguf works on 16 rows at a time, so the blocks are passed to it as few, long rows."""
    per_block = GGML_QUANT_SIZES[kind][0]
    numbers = np.empty((len(blocks), per_block), np.float32)
    count = PIECE // per_block
    with np.errstate(all="ignore"):  # a scale that is not finite is found in LazyTensor
        for i in range(0, len(blocks), count):
            piece, out = blocks[i : i + count], numbers[i : i + count]
            if kind in SIMPLE:
                block_floats(piece, kind, out)
            else:
                out[...] = dequantize(piece.reshape(1, -1), kind).reshape(-1, per_block)
    return numbers.reshape(-1)
