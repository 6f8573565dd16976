"""ModelConfig -> config.json, for a folder that is made of a GGUF file: the inverse of hf_config.py.

The families are those that gguf_model.py reads. A folder that is made of another folder gets a copy of its config.json,
which says more than a ModelConfig keeps.
"""

from __future__ import annotations

from typing import Any

from tinyinfer.model.config import ModelConfig, RopeConfig

CLASSES = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "gemma3_text": "Gemma3ForCausalLM",
}  # fmt: skip


def config_fields(c: ModelConfig) -> dict[str, Any]:
    """The fields of config.json that describe a model, in the dialect of transformers 5."""
    kind = {"gemma3": "gemma3_text"}.get(c.architecture, c.architecture)
    if kind == "llama" and any(c.windows):
        kind = "mistral"
    fields: dict[str, Any] = {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.experts.expert_size if c.experts else c.intermediate_size,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_dim,
        "max_position_embeddings": c.max_position,
        "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tied_head,
        "eos_token_id": list(c.eos_token_ids),
        "rope_parameters": _rope_parameters(c),
    }
    return fields | _of_family(kind, c)


def _of_family(kind: str, c: ModelConfig) -> dict[str, Any]:
    """The fields that only the config.json of this family has."""
    window = next((window for window in c.windows if window), None)
    if kind == "llama":
        return {"attention_bias": c.qkv_bias, "mlp_bias": c.mlp_bias}
    if kind == "gemma3_text":
        layers = ["sliding_attention" if local else "full_attention" for local in c.windows]
        scalar = {"query_pre_attn_scalar": _whole(c.attention_scale**-2)}
        return scalar | {"hidden_activation": "gelu_pytorch_tanh", "layer_types": layers, "sliding_window": window or 1}
    if kind in ("qwen2", "qwen3"):
        return {"use_sliding_window": False} | ({"attention_bias": c.qkv_bias} if kind == "qwen3" else {})
    if c.experts is None:
        return {"sliding_window": window}
    each = {"num_local_experts": c.experts.num_experts, "num_experts_per_tok": c.experts.experts_per_token}
    return {"sliding_window": window} | each


def _whole(x: float) -> float:
    """The whole number nearest to x: the file stores 1/sqrt(n), so computing n again gives a value slightly off."""
    return round(x) if abs(x - round(x)) < 1e-4 * x else x


def _rope_parameters(c: ModelConfig) -> dict[str, Any]:
    """The settings of the rotation; Gemma has one table for its layers with a window and one for the others."""
    if c.architecture != "gemma3":
        return _rope(c.rope[0])
    local = next((rope for rope, window in zip(c.rope, c.windows, strict=True) if window), c.rope[0])
    whole = next((rope for rope, window in zip(c.rope, c.windows, strict=True) if not window), c.rope[0])
    return {"full_attention": _rope(whole), "sliding_attention": _rope(local)}


def _rope(rope: RopeConfig | None) -> dict[str, Any]:
    """One rotation. rope_type "divisors" is known to tinyinfer only: the divisors of the frequencies of a GGUF file."""
    assert rope is not None
    if rope.divisors is not None:
        return {"rope_type": "divisors", "rope_theta": rope.theta, "divisors": list(rope.divisors)}
    if rope.scaling == "linear":
        return {"rope_type": "linear", "rope_theta": rope.theta, "factor": rope.factor}
    return {"rope_type": "default", "rope_theta": rope.theta}
