"""How Hugging Face families differ: one record for each model_type, and the defaults of what config.json leaves out.

A field that config.json leaves out has the default of its family, which is that of the configuration class of
transformers. A whole config.json must say its sizes: a default in their place would only be refused later, with words
about tensors. A text part nested in another model's configuration need not: transformers 4 wrote only the fields of it
that differ from the default (SIZES).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyinfer.loading import hf_layers
from tinyinfer.loading.hf_layers import WindowRule
from tinyinfer.loading.json_fields import Fields
from tinyinfer.loading.mxfp4 import is_mxfp4
from tinyinfer.model.config import ModelConfig


@dataclass(frozen=True)
class Family:
    """One model_type: the defaults of fields that config.json leaves out, and how the family differs from Llama."""

    architecture: str  # ModelConfig's name for it
    classes: tuple[str, ...]  # what `architectures` may say: this model with a head over the vocabulary, or without one
    eos: int | None = None
    kv_heads: int | None = None  # None: as many as there are query heads
    head_dim: int | None = None  # None: hidden_size / query heads
    norm_eps: float = 1e-6
    eps_field: str = "rms_norm_eps"
    activation: tuple[str, str] = ("hidden_act", "silu")  # the field and its default
    tied: bool = False
    bias_field: str | None = "attention_bias"  # the field that gives q, k and v a bias, if there is one
    bias: bool = False  # whether they have a bias in a file that does not say it
    o_bias: bool = True  # whether the output has one, too, when they have
    mlp_bias: bool = False  # whether the field mlp_bias exists
    qk_norm: str = "none"
    # Rotations (hf_rope.py) and windows
    theta: float = 10000.0
    theta_field: str = "rope_theta"
    local_theta: tuple[str, float] | None = None  # field and base of layers with a window, which have their own table
    partial: tuple[str, float] | None = None  # the field that says which share of a head is rotated; None: all of it
    original: int | None = None  # original_max_position_embeddings as a field of the file
    rope: Mapping[str, Any] | None = None  # the rope_scaling of a file that says none
    rope_names: Mapping[str, str] = field(default_factory=dict)  # other names of kinds of rope
    rotated: Callable[[Fields, int], list[bool]] = hf_layers.all_rotated
    windows: WindowRule = hf_layers.no_window
    window: int | None = None
    # Experts
    expert_size: str | None = None  # the field that holds F of an expert; None: no experts
    experts: tuple[int, int, bool | None] = (0, 0, None)  # how many, per token, renormalize (None: a field says)
    dense: Callable[[Fields, int], tuple[int, ...]] = hf_layers.no_dense  # the layers without experts
    shared_size: str | None = None  # the field that holds F of the shared expert; None: there is none
    # What only this family has: fields with the only values of them that are supported, ModelConfig's other fields, and
    # whether a quantization_config is that of its published files
    fixed: dict[str, tuple[object, ...]] = field(default_factory=dict)
    own: Callable[[Fields, ModelConfig], dict[str, Any]] = lambda f, c: {}
    reads: Callable[[object], bool] = lambda quantization: False


def _gemma(f: Fields, c: ModelConfig, score_cap: float | None, logit_cap: float | None) -> dict[str, Any]:
    if f.get("hidden_activation") is not None:
        f.get("hidden_act")  # some Gemma files have it, too, with a wrong value
    return {
        "post_norms": True,
        "attention_scale": f.number("query_pre_attn_scalar", 256) ** -0.5,
        "embedding_scale": float(np.float32(c.hidden_size**0.5)),  # rounded as in transformers
        "score_cap": score_cap,
        "logit_cap": _cap(f, "final_logit_softcapping", logit_cap),
    }


def _gemma2(f: Fields, c: ModelConfig) -> dict[str, Any]:
    return _gemma(f, c, _cap(f, "attn_logit_softcapping", 50.0), 30.0)


def _gemma3(f: Fields, c: ModelConfig) -> dict[str, Any]:
    """transformers has the field of a cap on Gemma 3's scores and does not use it, so it is refused."""
    return _gemma(f, c, None, None)


def _cap(f: Fields, name: str, absent: float | None) -> float | None:
    return None if f.get(name, absent) is None else f.number(name, absent)


def _granite(f: Fields, c: ModelConfig) -> dict[str, Any]:
    """The four multipliers; the one of attention replaces 1/sqrt(E), and logits are divided by theirs."""
    return {
        "attention_scale": f.number("attention_multiplier", 1.0),
        "embedding_scale": f.number("embedding_multiplier", 1.0),
        "residual_scale": f.number("residual_multiplier", 1.0),
        "logit_scale": 1 / f.number("logits_scaling", 1.0),
    }


def _gpt_neox(f: Fields, c: ModelConfig) -> dict[str, Any]:
    if (c.num_kv_heads, c.num_heads * c.head_dim) != (c.num_heads, c.hidden_size):
        name = "head_dim" if c.num_kv_heads == c.num_heads else "num_key_value_heads"
        f.refuse(name, "says more than GPT-NeoX has: num_attention_heads heads, which share hidden_size; remove it")
    return {"norm": "layer", "gated": False, "mlp_bias": True, "parallel": f.flag("use_parallel_residual", True)}


def _gpt_oss(f: Fields, c: ModelConfig) -> dict[str, Any]:
    if c.activation != "silu":
        f.refuse("hidden_act", "is not silu, which is what gpt-oss clamps; correct it")
    name, rope = "initial_context_length", c.rope[0]  # a field of the authors' own loader
    length, original = f.optional_size(name), rope.original_max_position if rope and rope.scaling == "yarn" else None
    if None not in (length, original) and length != original:
        f.refuse(name, f"is {length}, but the rotation was stretched from {original}; correct one of them")
    return {"activation": "clamped", "mlp_bias": True, "sinks": True}


def _olmo2(f: Fields, c: ModelConfig) -> dict[str, Any]:
    return {"pre_norms": False, "post_norms": True}


_GPT_OSS_ROPE = {
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
}  # fmt: skip
FAMILIES = {
    "llama": Family("llama", ("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel"), eos=2, mlp_bias=True),
    "mistral": Family(
        "mistral", ("MistralForCausalLM", "MistralModel"), eos=2, kv_heads=8, bias_field=None,
        windows=hf_layers.same_window, window=4096,
    ),
    "qwen2": Family(
        "qwen2", ("Qwen2ForCausalLM", "Qwen2Model"), kv_heads=32, bias_field=None, bias=True, o_bias=False,
        windows=hf_layers.late_windows, window=4096,
    ),
    "qwen3": Family(
        "qwen3", ("Qwen3ForCausalLM", "Qwen3Model"), kv_heads=32, head_dim=128, qk_norm="head",
        windows=hf_layers.late_windows, window=4096,
    ),
    "smollm3": Family(
        "smollm3", ("SmolLM3ForCausalLM", "SmolLM3Model"), eos=128001, kv_heads=4, tied=True, mlp_bias=True, theta=2e6,
        rotated=hf_layers.some_rotated, windows=hf_layers.unrotated_windows,
    ),
    "gemma2": Family(
        "gemma2", ("Gemma2ForCausalLM", "Gemma2Model"), eos=1, kv_heads=4, head_dim=256, tied=True,
        activation=("hidden_activation", "gelu_pytorch_tanh"), windows=hf_layers.windows_but_every(2), window=4096,
        own=_gemma2,
    ),
    "gemma3_text": Family(
        "gemma3", ("Gemma3ForCausalLM", "Gemma3TextModel"), eos=1, kv_heads=4, head_dim=256, tied=True, qk_norm="head",
        activation=("hidden_activation", "gelu_pytorch_tanh"), theta=1e6, local_theta=("rope_local_base_freq", 10000.0),
        windows=hf_layers.gemma3_windows, window=4096, own=_gemma3,
    ),
    "phi3": Family(
        "phi3", ("Phi3ForCausalLM", "Phi3Model"), eos=32000, norm_eps=1e-5, bias_field=None,
        partial=("partial_rotary_factor", 1.0), original=4096, rope_names={"su": "longrope", "yarn": "longrope"},
        windows=hf_layers.same_window,
        fixed={"full_attn_mod": (1,), "interpolate_factor": (1,), "lm_head_bias": (False,)},  # of Phi-4-mini's own code
    ),
    "olmo2": Family(
        "olmo2", ("Olmo2ForCausalLM", "Olmo2Model"), eos=50279, norm_eps=1e-5, qk_norm="full", own=_olmo2,
    ),
    "olmo3": Family(
        "olmo3", ("Olmo3ForCausalLM", "Olmo3Model"), eos=50279, norm_eps=1e-5, qk_norm="full", own=_olmo2,
        theta=5e5, local_theta=("rope_theta", 5e5), windows=hf_layers.windows_but_every(4), window=4096,
    ),
    "granite": Family("granite", ("GraniteForCausalLM", "GraniteModel"), eos=2, mlp_bias=True, own=_granite),
    "gpt_neox": Family(
        "gpt_neox", ("GPTNeoXForCausalLM", "GPTNeoXModel"), eos=2, norm_eps=1e-5, eps_field="layer_norm_eps",
        activation=("hidden_act", "gelu"), bias=True, theta_field="rotary_emb_base", partial=("rotary_pct", 0.25),
        own=_gpt_neox,
    ),
    "gpt2": Family("gpt2", ("GPT2LMHeadModel", "GPT2Model"), eos=50256, norm_eps=1e-5, tied=True),
    "mixtral": Family(
        "mixtral", ("MixtralForCausalLM", "MixtralModel"), eos=2, kv_heads=8, norm_eps=1e-5, bias_field=None, theta=1e6,
        windows=hf_layers.same_window, expert_size="intermediate_size", experts=(8, 2, True),
    ),
    "qwen2_moe": Family(
        "qwen2_moe", ("Qwen2MoeForCausalLM", "Qwen2MoeModel"), kv_heads=16, bias_field="qkv_bias", bias=True,
        o_bias=False, windows=hf_layers.early_windows, window=4096, expert_size="moe_intermediate_size",
        experts=(60, 4, None), dense=hf_layers.some_dense, shared_size="shared_expert_intermediate_size",
    ),
    "qwen3_moe": Family(
        "qwen3_moe", ("Qwen3MoeForCausalLM", "Qwen3MoeModel"), kv_heads=4, qk_norm="head",
        windows=hf_layers.switched_window, window=4096, expert_size="moe_intermediate_size", experts=(128, 8, None),
        dense=hf_layers.some_dense,
    ),
    "olmoe": Family(
        "olmoe", ("OlmoeForCausalLM", "OlmoeModel"), eos=50279, norm_eps=1e-5, qk_norm="full",
        expert_size="intermediate_size", experts=(64, 8, None),
    ),
    "gpt_oss": Family(
        "gpt_oss", ("GptOssForCausalLM", "GptOssModel"), kv_heads=8, head_dim=64, norm_eps=1e-5, bias=True, theta=1.5e5,
        rope=_GPT_OSS_ROPE, windows=hf_layers.windows_but_every(2), window=128, expert_size="intermediate_size",
        experts=(128, 4, True), reads=is_mxfp4, fixed={"swiglu_alpha": (1.702,), "swiglu_limit": (7.0,)}, own=_gpt_oss,
    ),
}  # fmt: skip
_SIZE_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings", "moe_intermediate_size", "shared_expert_intermediate_size",
)  # fmt: skip
SIZES = {  # by model_type: the sizes of transformers' configuration class when nothing is said
    name: {key: size for key, size in zip(_SIZE_FIELDS, sizes, strict=False) if size}
    for name, sizes in {
        "llama": (32000, 4096, 11008, 32, 32, 2048),
        "mistral": (32000, 4096, 14336, 32, 32, 131072),
        "qwen2": (151936, 4096, 22016, 32, 32, 32768),
        "qwen3": (151936, 4096, 22016, 32, 32, 32768),
        "smollm3": (128256, 2048, 11008, 36, 16, 32768),
        "gemma2": (256000, 2304, 9216, 26, 8, 8192),
        "gemma3_text": (262208, 2304, 9216, 26, 8, 131072),
        "phi3": (32064, 3072, 8192, 32, 32, 4096),
        "olmo2": (50304, 4096, 11008, 32, 32, 2048),
        "olmo3": (50304, 4096, 11008, 32, 32, 2048),
        "granite": (32000, 4096, 11008, 32, 32, 2048),
        "gpt_neox": (50432, 6144, 24576, 44, 64, 2048),
        "gpt2": (50257, 768, None, 12, 12, 1024),
        "mixtral": (32000, 4096, 14336, 32, 32, 131072),
        "qwen2_moe": (151936, 2048, 5632, 24, 16, 32768, 1408, 5632),
        "qwen3_moe": (151936, 2048, 6144, 24, 32, 32768, 768),
        "olmoe": (50304, 2048, 2048, 16, 16, 4096),
        "gpt_oss": (201088, 2880, 2880, 36, 64, 131072),
    }.items()
}
