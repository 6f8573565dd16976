"""A model folder as found on the Hugging Face Hub -> a Checkpoint.

    config.json          the model's shape                          hf_config.py
    model.safetensors    the weights; or several files, and         safetensors.py, hf_names.py
                         model.safetensors.index.json, which names the file of every tensor
    tokenizer.json ...   the vocabulary and the chat template       hf_vocab.py

A folder that `tinyinfer quantize` wrote has a `quantization_config` in config.json; its tensors are read by
quantized.py. A folder of another kind is told for what it is by strangers.py. Only headers are read here: a tensor's
numbers are read when a builder asks for them.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from tinyinfer.errors import ModelError, note
from tinyinfer.loading.checkpoint import Checkpoint, check_tensors, join_end_tokens
from tinyinfer.loading.hf_config import is_ours, read_config
from tinyinfer.loading.hf_names import canonical_tensors
from tinyinfer.loading.hf_nested import is_nested, text_tensors
from tinyinfer.loading.hf_vocab import read_vocabulary
from tinyinfer.loading.json_fields import read_json
from tinyinfer.loading.quantized import quantized_tensors, read_forms
from tinyinfer.loading.safetensors import Stored, read_header
from tinyinfer.loading.small_files import read_whole
from tinyinfer.loading.strangers import ADAPTER, DRAFT_HEAD, told_of
from tinyinfer.model.config import ModelConfig
from tinyinfer.text.tokenizer import Tokenizer
from tinyinfer.units import show

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def load_folder(path: str | os.PathLike[str]) -> Checkpoint:
    """The model in a Hugging Face folder: config.json, safetensors and tokenizer.json.

    Raises ModelError, naming the file and what is wrong with it, when a part is missing, broken or not supported.
    """
    folder = model_folder(Path(path))
    fields = read_json(folder / "config.json")
    if fields.get("model_type") == DRAFT_HEAD:
        cure = "name the model that it was made for, and this one for its drafts (speculative=draft, draft_model)"
        raise ModelError(f"{folder}: is a draft head, which is no model by itself; {cure}")
    config = read_config(folder)
    given, nested = fields.get("quantization_config"), is_nested(fields)
    quantization = given if is_ours(given) else None  # gpt-oss's, the only other one that is read, is no other folder
    stored = read_tensors(folder)
    if (folder / ADAPTER).exists():
        note(f"{folder}: the adapter beside the model ({ADAPTER}) is not read; merge the two unless they are merged")
    if quantization is not None:
        config = _tied_as_stored(config, stored.keys()) if nested else config
        forms = read_forms(str(folder / "config.json"), quantization, config)
        tensors = quantized_tensors(str(folder), config, forms, stored)
    elif nested:
        tensors = canonical_tensors(str(folder), config, text_tensors(str(folder), stored), may_differ=True)
        config = _tied_as_stored(config, tensors.keys())
    else:
        tensors = canonical_tensors(str(folder), config, stored)
    check_tensors(str(folder), config, tensors)
    tokenizer = Tokenizer(read_vocabulary(str(folder)), str(folder))
    config = join_end_tokens(config, tokenizer.end_token_ids)
    return Checkpoint(str(folder), config, tensors, tokenizer, quantization)


def model_folder(folder: Path) -> Path:
    """The folder with the model: this one, or of a model in the hub's cache the version that it names.

    Raises ModelError, which says what the folder holds instead, for one without config.json.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: there is no such folder; one with config.json and {SINGLE} was looked for")
    if not (folder / "config.json").exists() and (folder / "snapshots").is_dir():
        folder = _snapshot(folder)
    if (folder / "config.json").exists():
        return folder
    instead = told_of(folder) or "give such a folder or a .gguf file"
    needed = f"config.json, tokenizer.json and {SINGLE} (or several by an index)"
    raise ModelError(f"{folder}: is no model folder, which has {needed}; {instead}")


def _snapshot(root: Path) -> Path:
    """The version of a model in the hub's cache that refs/main names, else the only one."""
    versions = sorted(path for path in (root / "snapshots").iterdir() if path.is_dir())
    named = root / "refs" / "main"
    main = read_whole(named).decode("utf-8", "replace").strip() if named.is_file() else ""
    chosen = [path for path in versions if path.name == main] or versions
    if len(chosen) != 1:
        held = f"{len(versions)} versions of a model, and refs/main names none of them" if versions else "no version"
        raise ModelError(f"{root}: is a folder of the hub's cache with {held}; give the folder of one below snapshots")
    return chosen[0]


def _tied_as_stored(config: ModelConfig, names: Collection[str]) -> ModelConfig:
    """The configuration of a nested text model: untied where a head is stored, whatever the two levels say."""
    return replace(config, tied_head=config.tied_head and not {"head", "head.codes"} & set(names))


def read_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of a folder by its name in the files: of its one file, or of all that its index names.

    Where both are there, the one file is read, as by transformers. Raises ModelError when neither is there, or when
    the index and the files that it names do not agree.
    """
    single, index = folder / SINGLE, folder / INDEX
    if single.exists():
        if index.exists() and _is_stale(index):
            note(f"{folder}: {SINGLE} is read, and {INDEX} beside it, which names other files, is not")
        return read_header(single)
    if index.exists():
        return _read_shards(folder, index)
    instead = told_of(folder) or "download the folder again"
    raise ModelError(f"{folder}: neither {SINGLE} nor {INDEX} is there; {instead}")


def _places(index: Path) -> dict[str, str]:
    """An index's table: the name of each tensor -> its file."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(_is_shard_name(shard) for shard in places.values()):
        raise ModelError(f"{index}: its weight_map is not a table of .safetensors files beside it; download it again")
    return places


def _read_shards(folder: Path, index: Path) -> dict[str, Stored]:
    """The tensors of all files that an index names; index and files must agree."""
    places = _places(index)
    shards = sorted(set(places.values()))
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


def _is_stale(index: Path) -> bool:
    """Whether an index beside the one file names others, or is broken."""
    try:
        return set(_places(index).values()) != {SINGLE}
    except ModelError:
        return True


def _is_shard_name(name: object) -> bool:
    """Whether it is the plain, printable name of a safetensors file, and no path that could lead out of the folder."""
    plain = isinstance(name, str) and name.isprintable() and not set(name) & {"/", "\\", ":"}
    return plain and len(str(name).encode()) < 256 and str(name).endswith(".safetensors")
