"""ModelConfig -> config.json, for a folder that is made of a GGUF file: the inverse of hf_config.py.

The families are those that gguf_families.py has. A folder that is made of another folder gets a copy of its
config.json, which says more than a ModelConfig keeps. What a config.json cannot say is found when the folder is read
back (saving.py), and refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tinyinfer.loading.hf_families import FAMILIES
from tinyinfer.model.config import ModelConfig, RopeConfig

WINDOWED = {"llama": "mistral", "olmo2": "olmo3"}  # a GGUF's name -> the model_type of those with windows
SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "n_embd", "n_inner", "n_layer", "n_head",
)  # fmt: skip
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
    own = OF_FAMILY[kind](c) if kind in OF_FAMILY else {}
    return fields | own | (_gpt2(c) if kind == "gpt2" else _decoder(kind, c))


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


def _llama(c: ModelConfig) -> dict[str, Any]:
    return {"mlp_bias": c.mlp_bias}


def _smollm3(c: ModelConfig) -> dict[str, Any]:
    return {"mlp_bias": c.mlp_bias, "no_rope_layers": [int(rope is not None) for rope in c.rope]}


def _qwen(c: ModelConfig) -> dict[str, Any]:
    return {"use_sliding_window": False}


def _qwen_moe(c: ModelConfig) -> dict[str, Any]:
    assert c.experts
    fields = {"moe_intermediate_size": c.experts.expert_size, "norm_topk_prob": c.experts.renormalize}
    return fields | ({"shared_expert_intermediate_size": c.experts.shared_size} if c.experts.shared_size else {})


def _gemma3(c: ModelConfig) -> dict[str, Any]:
    scalar = {"query_pre_attn_scalar": _whole(c.attention_scale**-2)}
    return scalar | {"final_logit_softcapping": c.logit_cap, "hidden_activation": "gelu_pytorch_tanh"}


def _gemma2(c: ModelConfig) -> dict[str, Any]:
    return _gemma3(c) | {"attn_logit_softcapping": c.score_cap}


def _granite(c: ModelConfig) -> dict[str, Any]:
    scales = {"embedding_multiplier": c.embedding_scale, "residual_multiplier": c.residual_scale}
    scales |= {"attention_multiplier": c.attention_scale, "logits_scaling": 1 / c.logit_scale}
    return scales | {"mlp_bias": c.mlp_bias}


def _phi3(c: ModelConfig) -> dict[str, Any]:
    lengths = [rope.original_max_position for rope in c.rope if rope and rope.long_divisors]
    return {"original_max_position_embeddings": lengths[0]} if lengths else {}


def _gpt_neox(c: ModelConfig) -> dict[str, Any]:
    return {"hidden_act": "gelu", "use_parallel_residual": c.parallel}


def _olmoe(c: ModelConfig) -> dict[str, Any]:
    return {"norm_topk_prob": False}


OF_FAMILY: dict[str, Callable[[ModelConfig], dict[str, Any]]] = {  # the fields that only this family's config.json has
    "llama": _llama, "smollm3": _smollm3, "qwen2": _qwen, "qwen3": _qwen, "qwen2_moe": _qwen_moe,
    "qwen3_moe": _qwen_moe, "gemma2": _gemma2, "gemma3_text": _gemma3, "granite": _granite, "phi3": _phi3,
    "gpt_neox": _gpt_neox, "olmoe": _olmoe,
}  # fmt: skip


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


def changed_fields(fields: dict[str, Any], old: ModelConfig, new: ModelConfig) -> dict[str, Any]:
    """A config.json's fields with what differs between two configurations, and with all sizes.

    A size may follow from another that has changed, as head_dim from hidden_size. Which layers have a window is listed
    as soon as layers differ, since a rule that counts layers would count others. Rotations never change: each kind of
    layer keeps its own.
    """
    before, after = config_fields(old), config_fields(new)
    kept = {"model_type", "rope_parameters", "architectures"}
    changed = {name: value for name, value in after.items() if name not in kept and value != before.get(name)}
    sizes = {name: after[name] for name in SIZES if name in after}
    aliases = set(SIZES) - sizes.keys() if "n_embd" in after else set()  # GPT-2's other names
    own = {name: value for name, value in fields.items() if name not in aliases}
    if "layer_types" in fields or len(set(old.windows)) > 1:
        changed["layer_types"] = ["sliding_attention" if window else "full_attention" for window in new.windows]
    architectures = [FAMILIES[fields["model_type"]].classes[0]]  # with a head, whatever the source was
    return own | changed | sizes | {"architectures": architectures}
