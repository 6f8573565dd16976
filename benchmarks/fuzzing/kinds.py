"""The kinds of inputs: which file of which model is changed, and how.

An input is a function of its kind and its number alone: `made("gguf", 12345)` is the same files on every machine and in
every run, as long as the seeds and these functions stay as they are.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from fuzzing import seeds
from fuzzing.gguf_bytes import changed_gguf
from fuzzing.grammar import changed_parts, changed_template
from fuzzing.grown import grown_gguf, grown_json
from fuzzing.seeds import Seed
from fuzzing.tensor_bytes import changed_safetensors
from fuzzing.trees import changed_json, written_tree
from fuzzing.values import TEXTS, changed_bytes, changed_text, several

FIELDS = (
    "architectures", "attention_bias", "eos_token_id", "head_dim", "hidden_act", "hidden_size", "intermediate_size",
    "layer_types", "max_position_embeddings", "max_window_layers", "mlp_bias", "model_type", "n_embd", "n_head",
    "n_inner", "n_layer", "n_positions", "norm_topk_prob", "num_attention_heads", "num_experts", "num_experts_per_tok",
    "num_hidden_layers", "num_key_value_heads", "num_local_experts", "partial_rotary_factor", "quantization_config",
    "query_pre_attn_scalar", "rms_norm_eps", "rope_local_base_freq", "rope_parameters", "rope_scaling", "rope_theta",
    "scale_attn_weights", "sliding_window", "sliding_window_pattern", "text_config", "tie_word_embeddings",
    "use_sliding_window", "vocab_size", "moe_intermediate_size", "torch_dtype", "quant_method", "grids", "bits",
    "group",
    "symmetric", "whole", "activation_bits", "version", "factor", "rope_type", "type", "divisors",
)  # fmt: skip
TOKENS = (
    "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens", "tokenizer_class", "chat_template",
    "bos_token", "eos_token", "unk_token", "pad_token", "add_bos_token", "add_eos_token", "add_prefix_space", "x_token",
    "content", "special", "normalized", "lstrip", "single_word",
)  # fmt: skip
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d7a' * 16}\nsize 12345\n"
SHARDS = (
    "../model.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors", "C:x.safetensors", "x\0.safetensors",
    "\u202emodel.safetensors", "a" * 300 + ".safetensors", "\u00e9" * 200 + ".safetensors", ".safetensors",
    "config.json",
    "model-00001-of-00002.safetensors", "./model-00001-of-00002.safetensors", "", "\udcff.safetensors",
)  # fmt: skip

Change = Callable[[random.Random, Seed], dict[str, bytes]]


@dataclass(frozen=True)
class Kind:
    """share: how many of a million inputs. seeds: what is changed. change: the files that differ from the seed's."""

    share: int
    seeds: Callable[[], tuple[Seed, ...]]
    change: Change


def made(kind: str, number: int) -> tuple[Seed, dict[str, bytes]]:
    """The seed of this input, and the files that differ from the seed's."""
    rng = random.Random(f"{kind} {number}")
    seed = rng.choice(KINDS[kind].seeds())
    return seed, KINDS[kind].change(rng, seed)


def _opened(rng: random.Random, seed: Seed) -> dict[str, bytes]:
    return {seed.opened: changed_gguf(rng, seed.files[seed.opened])}


def _part(rng: random.Random, seed: Seed) -> dict[str, bytes]:
    name, other = rng.choice(list(seed.files)), rng.choice(list(seed.files))
    if rng.random() < 0.1:
        return {name: seed.files[other]}
    return {name: changed_gguf(rng, seed.files[name])}


def _weights(rng: random.Random, seed: Seed) -> dict[str, bytes]:
    name = rng.choice([name for name in seed.files if name.endswith(".safetensors")])
    return {name: changed_safetensors(rng, seed.files[name])}


def _json(*names: str, fields: tuple[str, ...] = FIELDS) -> Change:
    """Changes one of the files of these names that the seed has."""

    def change(rng: random.Random, seed: Seed) -> dict[str, bytes]:
        name = rng.choice([name for name in names if name in seed.files])
        return {name: changed_json(rng, seed.files[name], fields)}

    return change


def _tokenizer(rng: random.Random, seed: Seed) -> dict[str, bytes]:
    data = seed.files["tokenizer.json"]
    if rng.random() < 0.5:
        return {"tokenizer.json": changed_json(rng, data, ("padding", "truncation", "added_tokens", "normalizer"))}
    tree = json.loads(data)
    for _ in range(several(rng)):
        tree = changed_parts(rng, tree)
    return {"tokenizer.json": written_tree(rng, tree)}


def _merges(rng: random.Random, seed: Seed) -> dict[str, bytes]:
    if rng.random() < 0.5:
        return _json("vocab.json", "tokenizer_config.json", "config.json", fields=TOKENS)(rng, seed)
    data = seed.files["merges.txt"]
    if rng.random() < 0.3:
        return {"merges.txt": changed_bytes(rng, data)}
    lines = data.decode().split("\n")
    for _ in range(several(rng)):
        i, other = rng.randrange(len(lines)), rng.choice(lines)
        new = changed_text(rng, lines[i])
        lines[i : i + 1] = rng.choice(([new], [], [other], [lines[i], other], [rng.choice(TEXTS)], [f"{other} {new}"]))
        lines = lines or [""]
    return {"merges.txt": "\n".join(lines).encode("utf-8", "surrogatepass")}


def _index(rng: random.Random, seed: Seed) -> dict[str, bytes]:
    name = "model.safetensors.index.json"
    if rng.random() < 0.6:
        return {name: changed_json(rng, seed.files[name], ("weight_map", "metadata", *SHARDS))}
    tree = json.loads(seed.files[name])
    for _ in range(several(rng)):
        key = rng.choice(list(tree["weight_map"]))
        tree["weight_map"][key] = rng.choice((*SHARDS, changed_text(rng, tree["weight_map"][key])))
    return {name: written_tree(rng, tree)}


def _template(rng: random.Random, seed: Seed) -> dict[str, bytes]:
    known = [case["template"] for case in _templates()]
    text = changed_template(rng, rng.choice(known))
    data = text.encode("utf-8", "surrogatepass")
    return {"chat_template.jinja": changed_bytes(rng, data) if rng.random() < 0.05 else data}


def _templates() -> list[dict[str, str]]:
    cases = json.loads((seeds.GOLDEN_DIR / "chat_templates.json").read_text(encoding="utf-8"))
    return [case for case in cases if "template" in case]


def _pointer(rng: random.Random, seed: Seed) -> dict[str, bytes]:
    """A Git LFS pointer, or what remains of one, or another file of the model, in place of some files."""
    found = {}
    for name in rng.sample(list(seed.files), min(len(seed.files), rng.choice((1, 1, 2, 5)))):
        text = POINTER.encode()
        other = seed.files[rng.choice(list(seed.files))]
        found[name] = rng.choice((text, text, changed_bytes(rng, text), b"", other))
    return found


def _grown(rng: random.Random, seed: Seed) -> dict[str, bytes]:
    if seed.opened:
        return {seed.opened: grown_gguf(rng, seed.files[seed.opened])}
    name = rng.choice([name for name in seed.files if name.endswith(".json")])
    return {name: grown_json(rng, seed.files[name])}


def _any() -> tuple[Seed, ...]:
    return tuple(seeds.every())


KINDS = {
    "gguf": Kind(220_000, seeds.ggufs, _opened),
    "gguf vocabulary": Kind(60_000, seeds.vocabularies, _opened),
    "gguf in parts": Kind(40_000, seeds.parts, _part),
    "safetensors": Kind(150_000, lambda: seeds.folders() + seeds.sharded(), _weights),
    "config.json": Kind(130_000, seeds.folders, _json("config.json")),
    "nested config.json": Kind(50_000, seeds.nested, _json("config.json")),
    "our config.json": Kind(60_000, seeds.quantized, _json("config.json")),
    "our safetensors": Kind(60_000, seeds.quantized, _weights),
    "tokenizer.json": Kind(70_000, seeds.tokenizers, _tokenizer),
    "special tokens": Kind(
        50_000,
        seeds.small_files,
        _json("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", fields=TOKENS),
    ),
    "vocab.json, merges.txt": Kind(30_000, seeds.without_tokenizer_json, _merges),
    "index.json": Kind(30_000, seeds.sharded, _index),
    "generation_config.json": Kind(20_000, seeds.folders, _json("generation_config.json")),
    "chat template": Kind(20_000, seeds.tokenizers, _template),
    "Git LFS pointer": Kind(10_000, _any, _pointer),
    "grown files": Kind(2_000, _any, _grown),  # some hundred times as slow as the others
}


def whole(seed: Seed, changed: dict[str, bytes]) -> Seed:
    """The seed with its changed files."""
    return replace(seed, files=seed.files | changed)
