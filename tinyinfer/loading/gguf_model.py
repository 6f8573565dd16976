"""From a GGUF file to a Checkpoint: its metadata becomes a ModelConfig, its tensors get their canonical names.

GGUF files follow conventions that they do not state; llama.cpp knows them for each architecture. Here they are a table
(gguf_families.py), and undone:

- Rows of queries and keys are put in this engine's order, and fused matrices cut (gguf_names.py).
- Stretched frequencies come as tensors of divisors, not as the numbers of config.json (gguf_rope.py).
- Gemma's norm weights already hold 1 + w; its local RoPE base, window pattern and embedding scale are not in a file.
- A model has biases and an untied head if the file has their tensors.

A metadata key of the architecture that is neither read here nor known to be neutral is refused, because it could change
the result.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tinyinfer.errors import ModelError
from tinyinfer.loading.checkpoint import Checkpoint, LazyTensor, check_tensors
from tinyinfer.loading.gguf import GGUFFile
from tinyinfer.loading.gguf_families import FAMILIES, Family, read_cap, read_experts, read_scale, read_windows
from tinyinfer.loading.gguf_names import canonical_tensors
from tinyinfer.loading.gguf_parts import read_parts
from tinyinfer.loading.gguf_rope import read_ropes
from tinyinfer.loading.gguf_vocab import read_end_tokens, read_vocabulary
from tinyinfer.loading.json_fields import Fields
from tinyinfer.model.config import ModelConfig
from tinyinfer.text.tokenizer import Tokenizer
from tinyinfer.units import show

# Keys below "{architecture}." that never change the result, and values of others that switch nothing on.
NEUTRAL = {"vocab_size", "rope.scaling.original_context_length"}
HARMLESS: dict[str, tuple[object, ...]] = {
    "tensor_data_layout": ("Meta AI original pth", "reference"),
    "use_parallel_residual": (False,),
    "pooling_type": (0,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (0.0, 1.0),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.finetuned": (True, False),
    "rope.scaling.yarn_ext_factor": (1.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_gating_func": (0, 1),  # 1: softmax
    "expert_weights_scale": (0.0, 1.0),
    "expert_shared_count": (0,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "leading_dense_block_count": (0,),
}
PER_LAYER = ("feed_forward_length", "attention.head_count", "attention.head_count_kv", "expert_feed_forward_length")


def load_gguf(path: str) -> Checkpoint:
    """The model in a GGUF file of the architectures in FAMILIES.

    path: the file, or any part of a model in several files. Raises ModelError, naming the file, when it is missing,
    broken or not supported.
    """
    file = read_parts(path)
    config = read_config(file)
    tensors = canonical_tensors(file, config)
    check_tensors(path, config, tensors)
    return Checkpoint(path, config, tensors, Tokenizer(read_vocabulary(file.fields, path, file.size), path))


def read_config(file: GGUFFile) -> ModelConfig:
    """The ModelConfig that the metadata describe; raises ModelError for a key that is missing, wrong or not known."""
    arch = _architecture(file)
    f, p, family = _fields(file, arch), arch + ".", FAMILIES[arch]
    layers, width, heads = f.size(p + "block_count"), f.size(p + "embedding_length"), f.size(p + "attention.head_count")
    if layers > len(file.tensors):
        f.refuse(p + "block_count", f"is {layers}, more than the file has tensors; it is damaged, download it again")
    kv_heads, head_dim = f.size(p + "attention.head_count_kv", heads), _head_dim(f, p, width, heads)
    if heads % kv_heads:
        f.refuse(p + "attention.head_count_kv", f"is {kv_heads}, which does not divide the {heads} heads; correct one")
    windows, experts = read_windows(f, p, family, layers), read_experts(f, p, family)
    layer_norm = family.config.get("norm") == "layer"
    config = ModelConfig(
        architecture="mixtral" if experts and arch == "llama" else family.name or arch,
        vocab_size=_tensor(file, "token_embd.weight").shape[0],
        hidden_size=width,
        intermediate_size=f.size(p + "feed_forward_length"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        max_position=f.size(p + "context_length"),
        norm_eps=f.number(p + ("attention.layer_norm_epsilon" if layer_norm else "attention.layer_norm_rms_epsilon")),
        attention_scale=_attention_scale(f, p, family, layers, width / heads, head_dim),
        rope=read_ropes(f, p, family, file, windows, head_dim),
        windows=windows,
        qkv_bias=not {"blk.0.attn_q.bias", "blk.0.attn_qkv.bias"}.isdisjoint(file.tensors),
        o_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias=not {"blk.0.ffn_up.bias", "blk.0.ffn_up_exps.bias"}.isdisjoint(file.tensors),
        parallel=family.parallel and f.flag(p + "use_parallel_residual", True),
        embedding_scale=float(np.float32(width**0.5)) if family.width_scale else 1.0,
        logit_cap=read_cap(f, p + "final_logit_softcapping", family.logit_cap),
        score_cap=read_cap(f, p + "attn_logit_softcapping", family.score_cap),
        tied_head="output.weight" not in file.tensors,
        experts=experts,
        **family.config,
    )
    if family.multipliers:
        config = replace(
            config,
            embedding_scale=read_scale(f, p + "embedding_scale"),
            residual_scale=read_scale(f, p + "residual_scale"),
            logit_scale=1 / read_scale(f, p + "logit_scale"),
        )
    harmless = HARMLESS | {"expert_weights_norm": (family.renormalize,)} | family.harmless
    f.refuse_unread({p + key for key in NEUTRAL}, {p + key: values for key, values in harmless.items()})
    ends = read_end_tokens(file.fields, file.path, file.size)
    return replace(config, eos_token_ids=tuple(i for i in ends if i < config.vocab_size))


def _architecture(file: GGUFFile) -> str:
    """The architecture. Raises ModelError when it is not supported or the file is not a model of its own."""
    f = Fields(file.path, file.fields)
    arch = f.text("general.architecture")
    if arch not in FAMILIES:
        known = ", ".join(FAMILIES)
        f.refuse("general.architecture", f"is {show(arch)}, which is not supported in GGUF; supported are {known}")
    if f.text("general.type", "model") != "model":
        f.refuse("general.type", f"is {show(f.get('general.type'))}, not a model of its own; use the model's file")
    return arch


def _fields(file: GGUFFile, arch: str) -> Fields:
    """The architecture's metadata. Values given for each layer must be equal, and are read as one value."""
    values = {key: value for key, value in file.fields.items() if key.startswith(arch + ".")}
    f = Fields(file.path, values)
    for key, value in values.items():
        if isinstance(value, np.ndarray):
            f.values[key] = value[:4096].tolist()
            if key.removeprefix(arch + ".") in PER_LAYER and len(value):
                f.values[key] = value[0].item()
                if (value != value[0]).any():
                    f.refuse(key, "differs between layers, which is not supported; use another model")
    return f


def _tensor(file: GGUFFile, name: str) -> LazyTensor:
    if name not in file.tensors:
        raise ModelError(f"{file.path}: tensor {name!r} is missing; the file is incomplete, download it again")
    return file.tensors[name]


def _head_dim(f: Fields, p: str, width: int, heads: int) -> int:
    """The size of a head; keys and values must have the same."""
    head_dim = f.size(p + "attention.key_length", width // heads or None)
    if head_dim % 2 or (p + "attention.key_length" not in f.values and width % heads):
        f.refuse(p + "attention.head_count", f"is {heads}, which gives heads of no even size for {width}; correct it")
    value_length = f.size(p + "attention.value_length", head_dim)
    if value_length != head_dim:
        f.refuse(p + "attention.value_length", f"is {value_length}, but only {head_dim}, that of keys, is supported")
    return head_dim


def _attention_scale(f: Fields, p: str, family: Family, layers: int, share: float, head_dim: int) -> float:
    """The factor of the scores. The 27B models of Gemma have another one; llama.cpp knows them by their layers."""
    absent = float((share if layers == family.wide else head_dim) ** -0.5)
    return read_scale(f, p + "attention.scale", absent)
