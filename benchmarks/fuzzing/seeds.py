"""Small whole models to be changed: the goldens of tests/golden.py with one layer or two, in every form that loads.

A seed is the bytes of a model's files by name, and the name of the file to open ("" for the folder). Small files make
many inputs a second; what a fault needs is the kind of a field, not the number of layers.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from gguf_writer import GGUF_FAMILIES, write_gguf
from golden import FAMILIES, GOLDEN_DIR, Golden, load_golden, write_hf_folder
from safetensors.numpy import save_file

from fuzzing.gguf_bytes import STRING, array, parsed, string
from tinyinfer import LLM
from tinyinfer.loading import load
from tinyinfer.loading.gguf_vocab import read_vocabulary
from tinyinfer.loading.saving import save_model

TYPES = (None, "F16", "Q8_0", "Q4_0", "BF16", "Q4_1", "Q5_1", None, "Q8_0", "F16", "Q5_0")
VARIANTS: tuple[dict[str, Any], ...] = (
    {}, {"dialect": 4}, {"dtype": "bfloat16", "template_file": True}, {"dtype": "float16", "dialect": 4}
)  # fmt: skip
VOCABULARIES = json.loads((GOLDEN_DIR / "vocabularies.json").read_text(encoding="utf-8"))
QUANTIZATIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("llama", {"quantize": "int8"}), ("qwen3", {"quantize": "int4"}), ("mixtral", {"quantize": "int4"}),
    ("gpt2", {"quantize": "w8a8"}), ("gemma3", {"quantize": "int4", "quantize_head": "int8"}),
)  # fmt: skip
IMAGES = {"model_type": "siglip_vision_model", "hidden_size": 8, "num_hidden_layers": 1}


@dataclass(frozen=True)
class Seed:
    """A whole model: the bytes of its files by name, and the name of the file to open; "" for the folder."""

    name: str
    files: dict[str, bytes]
    opened: str = ""


def shrunk(name: str, layers: int = 1, vocab: int | None = None) -> Golden:
    """The golden with fewer layers, and a vocabulary of another size."""
    golden = load_golden(name)
    key = "n_layer" if "n_layer" in golden.config else "num_hidden_layers"
    config, tensors = golden.config | {key: layers}, {}
    if config.get("layer_types"):
        config["layer_types"] = config["layer_types"][:layers]
    for tensor, shape in golden.tensors.items():
        layer = re.search(r"\b(?:layers|h)\.(\d+)\.", tensor)
        if layer is None or int(layer[1]) < layers:
            tensors[tensor] = (vocab, *shape[1:]) if vocab and shape[0] == config["vocab_size"] else shape
    return replace(golden, config=config | ({"vocab_size": vocab} if vocab else {}), tensors=tensors)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@cache
def folders() -> tuple[Seed, ...]:
    """A Hugging Face folder of each family, in one of four spellings."""
    found = []
    for i, name in enumerate(FAMILIES):
        with tempfile.TemporaryDirectory() as folder:
            golden = shrunk(name, layers=2 if "window" in name or "gemma" in name else 1)
            found.append(Seed(name, _files(write_hf_folder(golden, folder, **VARIANTS[i % len(VARIANTS)]))))
    return tuple(found)


@cache
def sharded() -> tuple[Seed, ...]:
    """Folders with two files of weights and an index."""
    found = []
    for name in ("llama", "gpt2", "mixtral"):
        with tempfile.TemporaryDirectory() as folder:
            found.append(Seed(f"{name} in 2", _files(write_hf_folder(shrunk(name), folder, shards=2))))
    return tuple(found)


@cache
def ggufs() -> tuple[Seed, ...]:
    """A GGUF file of each family that has one, of several types of numbers."""
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in zip(GGUF_FAMILIES, TYPES, strict=True):
            write_gguf(shrunk(name, layers=2 if "gemma" in name else 1), f"{folder}/{name}.gguf", kind)
        return tuple(Seed(name, {name: data}, name) for name, data in _files(Path(folder)).items())


@cache
def vocabularies() -> tuple[Seed, ...]:
    """GGUF files with the vocabularies of SentencePiece and of byte-level BPE that the tests have."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("llama", "gemma", "byte_level"):
            fields = VOCABULARIES[name]["fields"]
            size = len(fields["tokenizer.ggml.tokens"])
            path = write_gguf(shrunk("llama2", vocab=size), f"{folder}/{name}.gguf", "Q8_0")
            file = parsed(path.read_bytes())
            file.pairs = [pair for pair in file.pairs if not pair[0].startswith(b"tokenizer.")]
            file.pairs += [[key.encode(), *_encoded(value)] for key, value in fields.items()]
            found.append(Seed(f"{name} vocabulary", {path.name: file.packed()}, path.name))
    return tuple(found)


def _encoded(value: Any) -> tuple[int, bytes]:
    """The type and the bytes of a value in a GGUF."""
    if isinstance(value, bool):
        return 7, bytes([value])
    if isinstance(value, int):
        return 4, value.to_bytes(4, "little")
    if isinstance(value, str):
        return STRING, string(value.encode())
    if isinstance(value[0], str):
        return 9, array(STRING, [string(text.encode()) for text in value])
    kind, numbers = (6, "<f4") if isinstance(value[0], float) else (5, "<i4")
    return 9, array(kind, [item.tobytes() for item in np.array(value, numbers)])


@cache
def parts() -> tuple[Seed, ...]:
    """GGUF models in several files, each opened by one of them."""
    found = []
    for name in ("llama2", "mixtral"):
        with tempfile.TemporaryDirectory() as folder:
            write_gguf(shrunk(name), f"{folder}/m.gguf", "Q8_0", tensors_in_a_part=5)
            files = _files(Path(folder))
        found += [Seed(f"{name} in {len(files)}", files, opened) for opened in (min(files), max(files))]
    return tuple(found)


@cache
def quantized() -> tuple[Seed, ...]:
    """Folders that `tinyinfer quantize` writes."""
    found = []
    for name, switches in QUANTIZATIONS:
        with tempfile.TemporaryDirectory() as place:
            source, target = write_hf_folder(shrunk(name), f"{place}/a"), f"{place}/b"
            save_model(target, LLM(str(source), **switches).model, load(source), {"method": "rtn"})
            found.append(Seed(f"{name} {switches['quantize']}", _files(Path(target))))
    return tuple(found)


@cache
def nested() -> tuple[Seed, ...]:
    """Models that also read images; their text part is a golden."""
    found = []
    for outer, name in (("gemma3", "gemma3"), ("llava", "llama"), ("mistral3", "mistral"), ("internvl", "qwen2")):
        with tempfile.TemporaryDirectory() as place:
            golden, folder = shrunk(name), Path(place)
            write_hf_folder(golden, folder)
            whole = {"model_type": outer, "architectures": ["XForConditionalGeneration"], "vision_config": IMAGES}
            (folder / "config.json").write_text(json.dumps(whole | {"text_config": golden.config}))
            weights = {f"language_model.{tensor}": numbers for tensor, numbers in golden.weights().items()}
            weights["vision_tower.encoder.weight"] = np.ones((8, 8), np.float32)
            save_file(weights, folder / "model.safetensors")
            found.append(Seed(f"{outer} of {name}", _files(folder)))
    return tuple(found)


@cache
def without_tokenizer_json() -> tuple[Seed, ...]:
    """Folders with vocab.json and merges.txt, and folders with the older small files."""
    found = []
    for seed in folders():
        if seed.name in ("gpt2", "gpt2_inner", "qwen2", "qwen3"):
            model = json.loads(seed.files["tokenizer.json"])["model"]
            merges = "\n".join(" ".join(merge) for merge in model["merges"])
            files = {name: data for name, data in seed.files.items() if name != "tokenizer.json"}
            kind = "GPT2Tokenizer" if "gpt2" in seed.name else "Qwen2Tokenizer"
            files["tokenizer_config.json"] = json.dumps({"tokenizer_class": kind, "eos_token": "<|im_end|>"}).encode()
            files["vocab.json"] = json.dumps(model["vocab"]).encode()
            files["merges.txt"] = f"#version: 0.2\n{merges}\n".encode()
            found.append(Seed(f"{seed.name} merges", files))
    return tuple(found)


@cache
def tokenizers() -> tuple[Seed, ...]:
    """Folders with a tokenizer.json of each kind: byte-level, and SentencePiece's as Llama and Gemma have it."""
    found = [seed for seed in folders() if seed.name in ("llama2", "gpt2", "gemma3")]
    for name in ("llama", "gemma"):
        fields = dict(VOCABULARIES[name]["fields"])
        for key in ("tokenizer.ggml.token_type", "tokenizer.ggml.scores"):
            fields[key] = np.array(fields[key])
        whole = read_vocabulary(fields, name).backend.to_str().encode()
        with tempfile.TemporaryDirectory() as folder:
            files = _files(write_hf_folder(shrunk("llama2", vocab=640), folder))
        small = {"tokenizer_class": f"{name.title()}Tokenizer", "add_bos_token": True, "bos_token": "<s>"}
        files |= {"tokenizer.json": whole, "tokenizer_config.json": json.dumps(small).encode()}
        found.append(Seed(f"{name} tokenizer", files))
    return tuple(found)


@cache
def small_files() -> tuple[Seed, ...]:
    """Folders with every small file in which a tokenizer's special tokens may stand."""
    found = []
    token = {"content": "<|im_end|>", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    for seed in tokenizers():
        config = json.loads(seed.files["tokenizer_config.json"])
        newer = config | {"added_tokens_decoder": {"2": token | {"special": True}, "700": token | {"content": "<new>"}}}
        newer |= {"extra_special_tokens": {"image_token": "<image>"}, "model_max_length": 10**30, "pad_token": None}
        older = {"eos_token": token, "additional_special_tokens": ["<a>", token], "bos_token": "<s>"}
        found.append(Seed(f"{seed.name} new", seed.files | {"tokenizer_config.json": json.dumps(newer).encode()}))
        files = {"special_tokens_map.json": older, "added_tokens.json": {"<a>": 641, "<b>": 642}}
        listed = {name: json.dumps(value).encode() for name, value in files.items()}
        found.append(Seed(f"{seed.name} old", seed.files | listed))
    return tuple(found)


def every() -> Iterator[Seed]:
    """All seeds, once each."""
    for group in (folders, sharded, ggufs, vocabularies, parts, quantized, nested, without_tokenizer_json):
        yield from group()
    yield from tokenizers()
    yield from small_files()
