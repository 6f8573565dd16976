"""A model in memory -> a folder that loads like any other (loading/quantized.py says what is in it).

Everything is written into a hidden folder beside the wanted one (whole.py), synced, read back, and only then given its
name: an interruption, a full disk or an error leaves nothing behind, and what a kill leaves the next run removes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from tinyinfer.errors import ModelError
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.loading.checksums import write_sums
from tinyinfer.loading.export import Exported, export
from tinyinfer.loading.hf_config import OURS, config_file
from tinyinfer.loading.hf_folder import INDEX, SINGLE, load_folder
from tinyinfer.loading.hf_nested import is_nested
from tinyinfer.loading.hf_writer import changed_fields, config_fields
from tinyinfer.loading.json_fields import read_json
from tinyinfer.loading.quantized import VERSION
from tinyinfer.loading.whole import sweep, try_place, whole
from tinyinfer.model.config import ModelConfig
from tinyinfer.model.transformer import Model

SHARD_BYTES = 1 << 29  # of one file, whose arrays are in memory until it is written


def check_target(folder: str | os.PathLike[str]) -> None:
    """Raises ValueError for a folder that cannot be made: makes and removes one beside it, before any work.

    Removes what killed writers left there.
    """
    target = Path(folder)
    if target.is_symlink():
        raise ValueError(f"{target}: is a symbolic link; give the name of a new folder, or the folder it leads to")
    if target.is_dir() and any(target.iterdir()):
        raise ValueError(f"{target}: is there already and not empty; give the name of a new folder")
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target}: is a file; give the name of a new folder")
    if not target.absolute().parent.is_dir():
        raise ValueError(f"{target}: there is no folder {str(target.parent)!r} to make it in; create that first")
    if not target.name:
        raise ValueError(f"{str(folder)!r}: is the folder that you are in; give the name of a new folder")
    if target.name in sweep(target.absolute().parent):
        raise ValueError(f"{target}: is being written by another program; wait for it, or give another name")
    try:
        try_place(target)
    except OSError as error:  # permissions alone do not tell: not of root, nor in /proc
        where, reason = str(target.absolute().parent), error.strerror or error
        raise ValueError(f"{target}: cannot be made in {where!r} ({reason}); choose another place") from None


def save_model(
    folder: str | os.PathLike[str],
    model: Model,
    source: Checkpoint,
    about: dict[str, Any],
    on_tensor: Callable[[int, int], None] = lambda done, of: None,
) -> int:
    """Writes a quantized model and returns the number of bytes of its files.

    source: the checkpoint that the model was made of, for tokenizer and config.json. about: further fields of the
    quantization_config (the method at least). on_tensor(done, total): called for each tensor. Raises ValueError as
    check_target does, ModelError when the disk is full or may not be written.
    """
    check_target(folder)
    tensors = list(export(model))
    quantization = {"quant_method": OURS, "version": VERSION, **about, "grids": scheme_table(tensors)}
    if not quantization["grids"]:
        raise ValueError(f"{source.path}: holds no matrix in a few bits that could be kept; choose how to quantize it")
    with whole_folder(Path(folder)) as part:
        write_weights(part, tensors, on_tensor)
        write_configs(part, model.config, source, {"quantization_config": quantization})
        return finish(part, model.config, source)


def finish(part: Path, c: ModelConfig, source: Checkpoint) -> int:
    """Adds tokenizer and checksums to weights and config, and reads back; returns all files' bytes.

    All files are synced. Raises ModelError as check_read_back does.
    """
    source.tokenizer.save(str(part))
    check_read_back(part, c, source)
    write_sums(part)
    for file in part.iterdir():
        sync(file)
    return sum(file.stat().st_size for file in part.iterdir())


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder that gets its name at the end; after an error it is removed. Raises ModelError."""
    try:
        with whole(target) as part:
            part.mkdir()
            yield part
            if target.is_dir():
                target.rmdir()  # empty; where a name can be taken over, this is not needed, on Windows it is
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"{target}: cannot be written ({reason}); make room, or choose another place") from None


def write_weights(folder: Path, tensors: list[Exported], on_tensor: Callable[[int, int], None]) -> None:
    """One safetensors file; beyond SHARD_BYTES several, and the index that names the file of every tensor.

    The library writes a file out of arrays that are all in memory. Shards keep the peak at the model plus one shard.
    """
    shards, done = list(_shards(tensors)), count(1)
    places: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        arrays: dict[str, np.ndarray] = {}
        for tensor in shard:
            names = (name for name, *_ in tensor.layout())
            arrays |= zip(names, map(np.ascontiguousarray, tensor.arrays()), strict=True)
            on_tensor(next(done), len(tensors))
        file = SINGLE if len(shards) == 1 else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        save_file(arrays, folder / file, {"format": "np"})
        (folder / file).chmod(folder.stat().st_mode & 0o666)  # the library lets only the owner read it
        places |= dict.fromkeys(arrays, file)
    if len(shards) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": sum(map(_nbytes, tensors))}, "weight_map": places})


def _shards(tensors: list[Exported]) -> Iterator[list[Exported]]:
    """The tensors in order, in groups of at most SHARD_BYTES; a larger tensor is a group of its own."""
    shard: list[Exported] = []
    size = 0
    for tensor in tensors:
        size += _nbytes(tensor)
        if shard and size > SHARD_BYTES:
            yield shard
            shard, size = [], _nbytes(tensor)
        shard.append(tensor)
    yield shard


def _nbytes(tensor: Exported) -> int:
    return sum(prod(shape) * dtype.itemsize for _, dtype, shape in tensor.layout())


def scheme_table(tensors: list[Exported]) -> dict[str, dict[str, Any]]:
    """Name -> scheme of every quantized matrix; one entry `layers.*.NAME` where all layers have the same."""
    entries = {tensor.name: _entry(tensor) for tensor in tensors if len(tensor.shape) > 1}
    schemes: dict[str, dict[str, Any]] = {}
    for name, entry in entries.items():
        layer, _, short = name.rpartition(".")
        alike = layer and all(other == entry for key, other in entries.items() if key.endswith(f".{short}"))
        if entry:
            schemes[f"layers.*.{short}" if alike else name] = entry
    return schemes


def _entry(tensor: Exported) -> dict[str, Any] | None:
    """The fields of one matrix in config.json; None for floats."""
    scheme, sparse = tensor.scheme, {"sparse": tensor.sparse} if tensor.sparse else {}
    if scheme is None:
        return sparse or None
    entry: dict[str, Any] = {"bits": scheme.bits, "group": scheme.group_size, "symmetric": scheme.symmetric}
    entry |= {"whole": True} if scheme.per_tensor else {}
    entry |= {"nested": scheme.nested} if scheme.nested else {}
    return entry | ({"activation_bits": 8} if scheme.integer_inputs else {}) | sparse


def write_configs(
    part: Path, c: ModelConfig, source: Checkpoint, more: dict[str, Any], own_names: bool = False
) -> None:
    """config.json with the fields of `more`, too, and generation_config.json where the source has one.

    config.json is the source's, with what differs in a model that has become smaller; written anew for a GGUF file, and
    for a source that also reads images, if the model has become smaller or the weights have their own_names.
    """
    file = config_file(source.path)
    fields = read_json(file) if file.exists() else None
    if fields is None or ((own_names or c != source.config) and is_nested(fields)):
        fields = config_fields(c)
    elif c != source.config:
        fields = changed_fields(fields, source.config, c)
    fields.pop("quantization_config", None)  # that of the source; `more` says it of this folder
    write_json(part / "config.json", fields | more)
    generation = file.parent / "generation_config.json"
    if file.exists() and generation.exists():
        shutil.copyfile(generation, part / "generation_config.json")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a JSON file, indented for people to read."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check_read_back(part: Path, c: ModelConfig, source: Checkpoint) -> None:
    """Reads the folder back. Raises ModelError when it would not be the same model.

    A llama of a GGUF file may have become a mistral, and the attention scale of a GGUF file is a float32.
    """
    saved = load_folder(part).config
    wanted = replace(c, architecture=saved.architecture)
    if np.float32(saved.attention_scale) == np.float32(wanted.attention_scale):
        wanted = replace(wanted, attention_scale=saved.attention_scale)
    if saved != wanted:
        names = [name for name in vars(saved) if getattr(saved, name) != getattr(wanted, name)]
        what = f"a setting of this model has no place in a config.json ({', '.join(names)})"
        raise ModelError(f"{source.path}: {what}; start from the folder that it was made from")


def sync(file: Path) -> None:
    """Waits until the file is on the disk."""
    with open(file, "rb+") as opened:
        os.fsync(opened.fileno())  # or a power cut could leave the name without the bytes
