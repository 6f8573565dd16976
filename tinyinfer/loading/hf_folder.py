"""A model folder as found on the Hugging Face Hub -> a Checkpoint.

    config.json          the model's shape                          hf_config.py
    model.safetensors    the weights; or several files, and         safetensors.py, hf_names.py
                         model.safetensors.index.json, which names the file of every tensor
    tokenizer.json ...   the vocabulary and the chat template       hf_vocab.py

A folder that `tinyinfer quantize` wrote has a `quantization_config` in config.json; its tensors are read by
quantized.py. Only headers are read here: a tensor's numbers are read when a builder asks for them.
"""

from __future__ import annotations

import os
from pathlib import Path

from tinyinfer.errors import ModelError
from tinyinfer.loading.checkpoint import Checkpoint, check_tensors, join_end_tokens
from tinyinfer.loading.hf_config import read_config
from tinyinfer.loading.hf_names import canonical_tensors
from tinyinfer.loading.hf_vocab import read_vocabulary
from tinyinfer.loading.json_fields import read_json
from tinyinfer.loading.quantized import quantized_tensors, read_schemes
from tinyinfer.loading.safetensors import Stored, read_header
from tinyinfer.text.tokenizer import Tokenizer
from tinyinfer.units import show

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


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
        schemes = read_schemes(str(folder / "config.json"), quantization, config)
        tensors = quantized_tensors(str(folder), config, schemes, read_tensors(folder))
    check_tensors(str(folder), config, tensors)
    tokenizer = Tokenizer(read_vocabulary(str(folder)), str(folder))
    return Checkpoint(str(folder), join_end_tokens(config, tokenizer.end_token_ids), tensors, tokenizer, quantization)


def read_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of a folder by its name in the files: of its one file, or of all that its index names.

    Raises ModelError when neither is there, or when index and files do not agree.
    """
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
