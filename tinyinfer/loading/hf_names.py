"""Hugging Face tensor names -> canonical names; stored matrices -> rows are outputs, columns are inputs.

Llama and its descendants differ in names only, with two exceptions: Gemma's norms multiply by 1 + w, and each expert is
a tensor of its own (or, an option of transformers 5, all are fused). GPT-2 stores matrices inputs first, and queries,
keys and values as one. An unknown name is kept, so that checkpoint.check_tensors refuses it: no tensor of a file is
ignored, except those that the configuration gives anyway (COMPUTED).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tinyinfer.errors import ModelError
from tinyinfer.loading.checkpoint import LazyTensor
from tinyinfer.model.config import ModelConfig
from tinyinfer.units import show

if TYPE_CHECKING:
    from tinyinfer.loading.safetensors import Stored

LLAMA = {
    "embed_tokens": "embedding",
    "norm": "final_norm",
    "lm_head": "head",
    "input_layernorm": "attention_norm",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "o",
    "self_attn.q_norm": "q_norm",
    "self_attn.k_norm": "k_norm",
    "post_attention_layernorm": "mlp_norm",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
}
GEMMA = LLAMA | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "mlp_norm",
    "post_feedforward_layernorm": "post_mlp_norm",
}
MOE = LLAMA | {
    "mlp.gate": "router",
    "mlp.experts.*.gate_proj": "gate",
    "mlp.experts.*.up_proj": "up",
    "mlp.experts.*.down_proj": "down",
    "mlp.experts.gate_up_proj": "gate_up",
    "mlp.experts.down_proj": "down",
}
MIXTRAL = MOE | {
    "block_sparse_moe.gate": "router",
    "block_sparse_moe.experts.*.w1": "gate",
    "block_sparse_moe.experts.*.w3": "up",
    "block_sparse_moe.experts.*.w2": "down",
}
GPT2 = {
    "wte": "embedding",
    "wpe": "positions",
    "ln_f": "final_norm",
    "lm_head": "head",
    "ln_1": "attention_norm",
    "attn.c_attn": "qkv",
    "attn.c_proj": "o",
    "ln_2": "mlp_norm",
    "mlp.c_fc": "up",
    "mlp.c_proj": "down",
}
MODULES = {"gemma3": GEMMA, "gpt2": GPT2, "mixtral": MIXTRAL, "qwen3_moe": MOE, "olmoe": MOE}
NUMBER = r"(0|[1-9]\d{0,4})"
NAME = re.compile(rf"(?:(?:model|transformer)\.)?(?:(?:layers|h)\.{NUMBER}\.)?(.+?)(?:\.(weight|bias))?")
EXPERT = re.compile(rf"(.*\.experts\.){NUMBER}(\..*)")
COMPUTED = re.compile(r".*(\.rotary_emb\.inv_freq|\.?h\.\d+\.attn\.(bias|masked_bias))")  # in old files only


def canonical_tensors(
    path: str, config: ModelConfig, stored: Mapping[str, Stored], may_differ: bool = False
) -> dict[str, LazyTensor]:
    """The tensors of a folder under their canonical names; `path` is for messages.

    may_differ: a head that is no copy of the embedding is kept although the configuration ties them. Raises ModelError
    for a name that is there twice, a number type that is not read, an expert that is missing, and else such a head.
    """
    tensors: dict[str, LazyTensor] = {}
    stacks: dict[str, dict[int, Stored]] = {}
    modules, store = MODULES.get(config.architecture, LLAMA), _STORAGE.get(config.architecture, _plain)
    for name, tensor in stored.items():
        if COMPUTED.fullmatch(name):
            continue
        tensor.check_float()
        canonical, expert = canonical_name(name, modules)
        if expert is not None:
            stacks.setdefault(canonical, {})[expert] = tensor
        else:
            known = not canonical.startswith("unknown")
            _add(tensors, path, (store if known else _plain)(path, canonical, tensor))
    for canonical, experts in stacks.items():
        _add(tensors, path, [(canonical, _stack(path, config, experts))])
    if config.tied_head:
        _tie_head(path, tensors, may_differ)
    return tensors


def canonical_name(name: str, modules: Mapping[str, str]) -> tuple[str, int | None]:
    """`model.layers.3.mlp.experts.7.up_proj.weight` -> ("layers.3.up", 7); an unknown name -> ("unknown ...", None)."""
    match = NAME.fullmatch(name)
    layer, module, kind = match.groups() if match else (None, name, None)
    expert = EXPERT.fullmatch(module)
    short = modules.get(expert[1] + "*" + expert[3] if expert else module)
    if short is None:
        return f"unknown {name}", None
    canonical = ("" if layer is None else f"layers.{layer}.") + short + (".bias" if kind == "bias" else "")
    return canonical, int(expert[2]) if expert else None


Named = list[tuple[str, LazyTensor]]


def _add(tensors: dict[str, LazyTensor], path: str, new: Named) -> None:
    """Adds the new tensors. Raises ModelError for a name that is there already."""
    for name, tensor in new:
        if name in tensors:
            other = show(tensors[name].name)
            raise ModelError(f"{path}: tensors {show(tensor.name)} and {other} are the same weight; remove one of them")
        tensors[name] = tensor


def _plain(path: str, name: str, tensor: Stored) -> Named:
    return [(name, tensor.lazy())]


def _gemma(path: str, name: str, tensor: Stored) -> Named:
    """Gemma's norms store w and multiply by 1 + w."""
    lazy = tensor.lazy()
    if not name.endswith("norm"):
        return [(name, lazy)]
    return [(name, replace(lazy, read=lambda start, stop: tensor.rows(start, stop) + np.float32(1)))]


def _gpt2(path: str, name: str, tensor: Stored) -> Named:
    """GPT-2 stores a layer's matrices inputs first, and queries, keys and values side by side."""
    short = name.removesuffix(".bias").rpartition(".")[2]
    if short not in ("qkv", "o", "up", "down"):
        return _plain(path, name, tensor)
    bias = name.endswith(".bias")
    _check_axes(path, tensor, 1 if bias else 2, axis=-1, parts=3 if short == "qkv" else 1)
    whole = tensor.lazy() if bias else replace(tensor.lazy(), shape=tensor.shape[::-1], read=tensor.columns)
    if short != "qkv":
        return [(name, whole)]
    third = whole.shape[0] // 3
    return [(name.replace("qkv", part), _rows(whole, i * third, (i + 1) * third)) for i, part in enumerate("qkv")]


def _moe(path: str, name: str, tensor: Stored) -> Named:
    """Splits the fused gate and up of all experts, gate above up."""
    if not name.endswith(".gate_up"):
        return _plain(path, name, tensor)
    _check_axes(path, tensor, 3, axis=1, parts=2)
    experts, both, width = tensor.shape
    half = both // 2
    prefix = name.removesuffix("gate_up")
    part = replace(tensor.lazy(), shape=(experts, half, width), nbytes=tensor.nbytes // 2)
    gate = replace(part, read=lambda start, stop: tensor.rows(start, stop)[:, :half])
    up = replace(part, read=lambda start, stop: tensor.rows(start, stop)[:, half:])
    return [(prefix + "gate", gate), (prefix + "up", up)]


def _rows(whole: LazyTensor, first: int, last: int) -> LazyTensor:
    """Rows first ... last of a tensor as a tensor."""
    nbytes = whole.nbytes * (last - first) // max(1, whole.shape[0])
    shape, read = (last - first, *whole.shape[1:]), whole.read
    return replace(whole, shape=shape, nbytes=nbytes, read=lambda a, b: read(first + a, first + b))


def _stack(path: str, config: ModelConfig, parts: dict[int, Stored]) -> LazyTensor:
    """The tensors of X experts as one tensor (X, ...), whose rows are experts."""
    count = config.experts.num_experts if config.experts else 0
    sample = next(iter(parts.values()))
    for i in sorted(parts.keys() ^ set(range(count))):
        wrong = "is missing" if i < count else f"is one more than the {count} of config.json"
        raise ModelError(f"{path}: expert {i} beside {show(sample.name)} {wrong}; download the folder again")
    for part in parts.values():
        if part.shape != sample.shape:
            wrong = f"has shape {part.shape}, but other experts have {sample.shape}"
            raise ModelError(f"{path}: tensor {show(part.name)} {wrong}; download the folder again")

    def read(start: int, stop: int) -> np.ndarray:
        return np.stack([parts[i].lazy().numpy() for i in range(start, stop)])  # checked, each under its own name

    nbytes = sum(part.nbytes for part in parts.values())
    return replace(sample.lazy(), shape=(count, *sample.shape), nbytes=nbytes, read=read)


def _check_axes(path: str, tensor: Stored, axes: int, axis: int, parts: int) -> None:
    """Raises ModelError unless the tensor has so many axes and one of them can be cut into `parts`."""
    if len(tensor.shape) != axes or tensor.shape[axis] % parts:
        wrong = f"has shape {tensor.shape}, not {axes} axes of which one is {parts} alike"
        raise ModelError(f"{path}: tensor {show(tensor.name)} {wrong}; download it again")


def _tie_head(path: str, tensors: dict[str, LazyTensor], may_differ: bool) -> None:
    """Leaves one matrix, the embedding, whether the file stores it as embedding, as head (safetensors.torch), or twice.

    Raises ModelError when the head differs from the embedding, unless it may.
    """
    head, table = tensors.get("head"), tensors.get("embedding")
    if head is None:
        return
    if table is None:
        tensors["embedding"] = tensors.pop("head")
        return
    if head.shape != table.shape or not head.shape or not _equal(head, table):
        if may_differ:
            return
        raise ModelError(
            f"{path}: {show(head.name)} differs from the embedding, but config.json ties them; "
            "set its tie_word_embeddings to false"
        )
    del tensors["head"]


def _equal(a: LazyTensor, b: LazyTensor) -> bool:
    """Whether two tensors of one shape hold the same numbers."""
    return all(np.array_equal(rows, b.read(start, start + len(rows))) for start, rows in a.tiles())


_STORAGE = {"gemma3": _gemma, "gpt2": _gpt2, "mixtral": _moe, "qwen3_moe": _moe, "olmoe": _moe}
