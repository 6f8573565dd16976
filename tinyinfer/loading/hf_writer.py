"""ModelConfig -> config.json, for a folder that is made of a GGUF file: the inverse of hf_config.py.

The families are those that gguf_families.py has. A folder that is made of another folder gets a copy of its
config.json, which says more than a ModelConfig keeps. What a config.json cannot say is found when the folder is read
back (saving.py), and refused.
"""

from __future__ import annotations

import math
from typing import Any

from tinyinfer.loading.hf_families import FAMILIES
from tinyinfer.model.config import ModelConfig, RopeConfig

WINDOWED = {"llama": "mistral", "olmo2": "olmo3"}  # a GGUF's name -> the model_type of those with windows
BY_LAYER = ("gemma2", "gemma3_text", "olmo3", "gpt_oss")  # whose layers with a window are listed


def config_fields(c: ModelConfig) -> dict[str, Any]:
    """The fields of config.json that describe a model, in the dialect of transformers 5."""
    kind = {"gemma3": "gemma3_text"}.get(c.architecture, c.architecture)
    if any(c.windows):
        kind = WINDOWED.get(kind, kind)
    fields: dict[str, Any] = {
        "architectures": [FAMILIES[kind].classes[0]],
        "model_type": kind,
        "vocab_size": c.vocab_size,
        "tie_word_embeddings": c.tied_head,
        "eos_token_id": list(c.eos_token_ids),
    }
    return fields | (_gpt2(c) if kind == "gpt2" else _decoder(kind, c) | _of_family(kind, c))


def _gpt2(c: ModelConfig) -> dict[str, Any]:
    """GPT-2's fields, which have other names."""
    return {
        "n_embd": c.hidden_size,
        "n_layer": c.num_layers,
        "n_head": c.num_heads,
        "n_positions": c.max_position,
        "n_inner": c.intermediate_size,
        "layer_norm_epsilon": c.norm_eps,
        "activation_function": "gelu_new",
    }


def _decoder(kind: str, c: ModelConfig) -> dict[str, Any]:
    """The fields of every family but GPT-2."""
    family = FAMILIES[kind]
    fields: dict[str, Any] = {
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_dim,
        "max_position_embeddings": c.max_position,
        family.eps_field: c.norm_eps,
        "rope_parameters": _rope_parameters(kind, c),
    }
    if c.experts:
        fields |= {"num_local_experts": c.experts.num_experts, "num_experts_per_tok": c.experts.experts_per_token}
    if family.bias_field:
        fields[family.bias_field] = c.qkv_bias
    if kind in BY_LAYER:
        fields["layer_types"] = ["sliding_attention" if local else "full_attention" for local in c.windows]
    if kind in (*BY_LAYER, "mistral", "mixtral", "phi3"):  # a list of layers without windows needs one, too
        absent = 1 if kind in BY_LAYER else None
        fields["sliding_window"] = next((window for window in c.windows if window), absent)
    return fields


def _of_family(kind: str, c: ModelConfig) -> dict[str, Any]:
    """The fields that only the config.json of this family has."""
    if kind in ("llama", "smollm3"):
        fields: dict[str, Any] = {"mlp_bias": c.mlp_bias}
        return fields | ({"no_rope_layers": [int(rope is not None) for rope in c.rope]} if kind == "smollm3" else {})
    if kind in ("gemma2", "gemma3_text"):
        caps = {"final_logit_softcapping": c.logit_cap} | (
            {"attn_logit_softcapping": c.score_cap} if kind == "gemma2" else {}
        )
        scalar = {"query_pre_attn_scalar": _whole(c.attention_scale**-2)}
        return scalar | caps | {"hidden_activation": "gelu_pytorch_tanh"}
    if kind == "granite":
        scales = {"embedding_multiplier": c.embedding_scale, "residual_multiplier": c.residual_scale}
        scales |= {"attention_multiplier": c.attention_scale, "logits_scaling": 1 / c.logit_scale}
        return scales | {"mlp_bias": c.mlp_bias}
    if kind == "phi3" and (rope := c.rope[0]) and rope.long_divisors:
        return {"original_max_position_embeddings": rope.original_max_position}
    if kind == "gpt_neox":
        return {"hidden_act": "gelu", "use_parallel_residual": c.parallel}
    if kind in ("qwen2_moe", "qwen3_moe") and c.experts:
        shared = {"shared_expert_intermediate_size": c.experts.shared_size}
        fields = {"moe_intermediate_size": c.experts.expert_size, "norm_topk_prob": c.experts.renormalize}
        return fields | {"use_sliding_window": False} | (shared if kind == "qwen2_moe" else {})
    if kind in ("qwen2", "qwen3"):
        return {"use_sliding_window": False}
    return {"norm_topk_prob": False} if kind == "olmoe" else {}


def _whole(x: float) -> float:
    """The whole number nearest to x: the file stores 1/sqrt(n), so computing n again gives a value slightly off."""
    return round(x) if abs(x - round(x)) < 1e-4 * x else x


def _rope_parameters(kind: str, c: ModelConfig) -> dict[str, Any]:
    """The settings of the rotation; some families have one table for layers with a window and one for the others."""
    turned = [(rope, window) for rope, window in zip(c.rope, c.windows, strict=True) if rope]
    first = turned[0][0]
    if kind not in ("gemma3_text", "olmo3"):
        return _rope(first, c)
    local = next((rope for rope, window in turned if window), first)
    whole = next((rope for rope, window in turned if not window), first)
    return {"full_attention": _rope(whole, c), "sliding_attention": _rope(local, c)}


def _rope(rope: RopeConfig, c: ModelConfig) -> dict[str, Any]:
    """One rotation. rope_type "divisors" is known to tinyinfer only: the divisors of the frequencies of a GGUF file."""
    fields: dict[str, Any] = {"rope_type": rope.scaling, "rope_theta": rope.theta}
    if rope.size is not None or c.architecture == "gpt_neox":  # where a config.json that says nothing means a quarter
        size = rope.size or c.head_dim
        share = size / c.head_dim
        fields["partial_rotary_factor"] = share if int(c.head_dim * share) == size else math.nextafter(share, 1)
    if rope.scaling == "longrope" and rope.divisors and rope.long_divisors:
        fields |= {"short_factor": list(rope.divisors), "long_factor": list(rope.long_divisors)}
        return fields | {
            "attention_factor": rope.amplitude,
            "original_max_position_embeddings": rope.original_max_position,
        }
    if rope.scaling == "yarn":
        fields |= {"factor": rope.factor, "attention_factor": rope.amplitude, "truncate": rope.truncate}
        fields |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow}
        return fields | {"original_max_position_embeddings": rope.original_max_position}
    if rope.divisors is not None:
        return fields | {"rope_type": "divisors", "divisors": list(rope.divisors)}
    return fields | ({"factor": rope.factor} if rope.scaling == "linear" else {"rope_type": "default"})
