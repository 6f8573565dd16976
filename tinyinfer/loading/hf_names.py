"""Hugging Face tensor names -> canonical names; experts -> one tensor; rows of heads -> the order of rotary positions.

Llama and its descendants differ in names only; what is stored in another form than it is used is hf_storage.py's. Each
expert is a tensor of its own (or, an option of transformers 5, all are fused). An unknown name is kept, so that
checkpoint.check_tensors refuses it: no tensor of a file is ignored, except those that the configuration gives anyway
(COMPUTED: causal masks and the frequencies of rotary positions, in old files only).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from tinyinfer.errors import ModelError
from tinyinfer.loading.checkpoint import LazyTensor
from tinyinfer.loading.hf_storage import STORAGE, Named, plain
from tinyinfer.loading.mxfp4 import with_blocks
from tinyinfer.loading.reorder import partial_rotation_order, reordered
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
OLMO2 = LLAMA | {
    "post_attention_layernorm": "post_attention_norm",
    "post_feedforward_layernorm": "post_mlp_norm",
}
PHI3 = LLAMA | {
    "self_attn.qkv_proj": "qkv",
    "mlp.gate_up_proj": "gate_up",
}
GPT_NEOX = {
    "embed_in": "embedding",
    "embed_out": "head",
    "final_layer_norm": "final_norm",
    "input_layernorm": "attention_norm",
    "attention.query_key_value": "qkv",
    "attention.dense": "o",
    "post_attention_layernorm": "mlp_norm",
    "mlp.dense_h_to_4h": "up",
    "mlp.dense_4h_to_h": "down",
}
MOE = LLAMA | {
    "mlp.gate": "router",
    "mlp.experts.*.gate_proj": "gate",
    "mlp.experts.*.up_proj": "up",
    "mlp.experts.*.down_proj": "down",
    "mlp.experts.gate_up_proj": "gate_up",
    "mlp.experts.down_proj": "down",
}
QWEN2_MOE = MOE | {
    "mlp.shared_expert_gate": "shared_router",
    "mlp.shared_expert.gate_proj": "shared_gate",
    "mlp.shared_expert.up_proj": "shared_up",
    "mlp.shared_expert.down_proj": "shared_down",
}
GPT_OSS = LLAMA | {
    "self_attn.sinks": "sinks",
    "mlp.router": "router",
    "mlp.experts.gate_up_proj": "gate_up",
    "mlp.experts.gate_up_proj_blocks": "gate_up",
    "mlp.experts.gate_up_proj_bias": "gate_up.bias",
    "mlp.experts.down_proj": "down",
    "mlp.experts.down_proj_blocks": "down",
    "mlp.experts.down_proj_bias": "down.bias",
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
MODULES = {
    "gemma2": GEMMA, "gemma3": GEMMA, "gpt2": GPT2, "phi3": PHI3, "olmo2": OLMO2, "olmo3": OLMO2, "gpt_neox": GPT_NEOX,
    "mixtral": MIXTRAL, "qwen2_moe": QWEN2_MOE, "qwen3_moe": MOE, "olmoe": MOE, "gpt_oss": GPT_OSS,
}  # fmt: skip
PREFIX, NUMBER = r"(?:(?:model|transformer|gpt_neox)\.)?", r"(0|[1-9]\d{0,4})"
NAME = re.compile(rf"{PREFIX}(?:(?:layers|h)\.{NUMBER}\.)?(.+?)(?:\.(weight|bias))?")
EXPERT = re.compile(rf"(.*\.experts\.){NUMBER}(\..*)")
COMPUTED = re.compile(
    rf"{PREFIX}(?:(?:layers\.{NUMBER}\.(?:self_attn|attention)\.)?rotary_emb\.inv_freq|"
    rf"(?:h\.{NUMBER}\.attn|layers\.{NUMBER}\.attention)\.(?:bias|masked_bias))"
)


def canonical_tensors(
    path: str, config: ModelConfig, stored: Mapping[str, Stored], may_differ: bool = False
) -> dict[str, LazyTensor]:
    """The tensors of a folder under their canonical names; `path` is for messages.

    may_differ: a head that is no copy of the embedding is kept although the configuration ties them. Raises ModelError
    for a name that is there twice, a number type that is not read, an expert that is missing, a matrix that cannot be
    cut as its family's are, and else such a head.
    """
    tensors: dict[str, LazyTensor] = {}
    stacks: dict[str, dict[int, Stored]] = {}
    modules, store = MODULES.get(config.architecture, LLAMA), STORAGE.get(config.architecture, plain)
    for name, tensor in with_blocks(path, stored).items():
        if COMPUTED.fullmatch(name):
            continue
        tensor.check_float()
        canonical, expert = canonical_name(name, modules)
        if expert is not None:
            stack = stacks.setdefault(canonical, {})
            if expert in stack:
                _refuse_twice(path, tensor.name, stack[expert].name)
            stack[expert] = tensor
        else:
            known = not canonical.startswith("unknown")
            _add(tensors, path, (store if known else plain)(path, config, canonical, tensor))
    for canonical, experts in stacks.items():
        _add(tensors, path, [(canonical, _stack(path, config, experts))])
    if config.tied_head:
        _tie_head(path, tensors, may_differ)
    return _ordered(config, tensors)


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


def _add(tensors: dict[str, LazyTensor], path: str, new: Named) -> None:
    """Adds the new tensors. Raises ModelError for a name that is there already."""
    for name, tensor in new:
        if name in tensors:
            _refuse_twice(path, tensor.name, tensors[name].name)
        tensors[name] = tensor


def _refuse_twice(path: str, name: str, other: str) -> NoReturn:
    raise ModelError(f"{path}: tensors {show(name)} and {show(other)} are the same weight; remove one of them")


def _ordered(c: ModelConfig, tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors, with queries and keys in the order of this engine where only a part of a head is rotated.

    So are their biases and norms. What has not the rows of all heads (of one, for a norm that heads share) stays as it
    is: checkpoint.check_tensors refuses it.
    """
    ordered = dict(tensors)
    for i, rope in enumerate(c.rope):
        if rope is None or rope.size is None:
            continue
        for part in ("q", "q.bias", "q_norm", "k", "k.bias", "k_norm"):
            heads, name = c.num_heads if part[0] == "q" else c.num_kv_heads, f"layers.{i}.{part}"
            heads = 1 if part.endswith("norm") and c.qk_norm == "head" else heads
            tensor = tensors.get(name)
            if tensor is not None and tensor.nbytes and tensor.shape[:1] == (heads * c.head_dim,):
                ordered[name] = reordered(tensor, partial_rotation_order(heads, c.head_dim, rope.size))
    return ordered


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
