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
from tinyinfer.loading.checkpoint import Checkpoint, LazyTensor, check_tensors
from tinyinfer.loading.hf_config import read_config
from tinyinfer.loading.hf_names import canonical_tensors
from tinyinfer.loading.json_fields import MAX_BYTES, parse_object, read_json
from tinyinfer.text.tokenizer import Tokenizer
from tinyinfer.units import show

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
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


def load_folder(path: str | os.PathLike[str]) -> Checkpoint:
    """The model in a Hugging Face folder: config.json, safetensors and tokenizer.json.

    Raises ModelError, naming the file and what is wrong with it, when a part is missing, broken or not supported.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ModelError(f"{folder}: there is no such folder; one with config.json and {SINGLE} was looked for")
    if not (folder / "config.json").exists():
        gguf = next(iter(sorted(folder.glob("*.gguf"))), None)
        cure = f"give the file in it, {str(gguf)!r}" if gguf else "give such a folder or a .gguf file"
        needed = f"config.json, tokenizer.json and {SINGLE} (or several by an index)"
        raise ModelError(f"{folder}: is no model folder, which has {needed}; {cure}")
    config, quantization = read_config(folder), read_json(folder / "config.json").get("quantization_config")
    if quantization is None:
        tensors = canonical_tensors(str(folder), config, read_tensors(folder))
    else:
        from tinyinfer.loading.quantized import quantized_tensors, read_grids

        grids = read_grids(str(folder / "config.json"), quantization, config)
        tensors = quantized_tensors(str(folder), config, grids, read_tensors(folder))
    check_tensors(str(folder), config, tensors)
    return Checkpoint(str(folder), config, tensors, Tokenizer.from_folder(str(folder)), quantization)


def read_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of a folder by its name in the files: of its one file, or of all that its index names."""
    single, index = folder / SINGLE, folder / INDEX
    if index.exists():
        return _read_shards(folder, index)
    if single.exists():
        return read_header(single)
    torch = next(iter(sorted(folder.glob("pytorch_model*.bin*"))), None)
    cure = f"only {torch.name}, which is not read; convert it to safetensors" if torch else "download the folder again"
    raise ModelError(f"{folder}: neither {SINGLE} nor {INDEX} is there; {cure}")


def _read_shards(folder: Path, index: Path) -> dict[str, Stored]:
    """The tensors of all files that an index names; index and files must agree."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(_is_shard_name(shard) for shard in places.values()):
        raise ModelError(f"{index}: its weight_map is not a table of .safetensors files beside it; download it again")
    shards = sorted(set(places.values()))
    if (folder / SINGLE).exists() and SINGLE not in shards:
        raise ModelError(f"{folder}: has {SINGLE} and an {INDEX} that names other files; delete the one that is stale")
    tensors: dict[str, Stored] = {}
    for shard in shards:
        if not (folder / shard).exists():
            raise ModelError(f"{index}: names {show(shard)}, which is not there; download that file too")
        for name, stored in read_header(folder / shard).items():
            if name in tensors:
                other = tensors[name].path.name
                raise ModelError(f"{stored.path}: tensor {show(name)} is also in {other}; download both files again")
            tensors[name] = stored
    for name, shard in places.items():
        if name not in tensors or tensors[name].path.name != shard:
            raise ModelError(f"{index}: says that {show(name)} is in {shard}, but it is not; download both again")
    return tensors


def _is_shard_name(name: object) -> bool:
    """Whether it is the plain, printable name of a safetensors file, and no path that could lead out of the folder."""
    plain = isinstance(name, str) and name.isprintable() and not set(name) & {"/", "\\", ":"}
    return plain and str(name).endswith(".safetensors")


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
