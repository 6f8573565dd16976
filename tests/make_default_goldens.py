"""Writes tests/golden/defaults.json: config.json files that leave fields out, and how transformers understands them.

Each case is a file as published (`given`) and the same as the configuration class of transformers 5 writes it, every
field said (`full`): what the class computes from the others (layer_types, no_rope_layers) and the older spellings that
it translates included. `rotation` is what it computes from them, where that is not the plain one.
Needs transformers 5.23 and torch. Run: python tests/make_default_goldens.py
"""

from __future__ import annotations

import json
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

FILE = Path(__file__).with_name("golden").joinpath("defaults.json")
SIZES = {
    "vocab_size": 130000, "hidden_size": 512, "intermediate_size": 96, "num_hidden_layers": 8,
    "num_attention_heads": 32,
}  # fmt: skip
MIXTURE = {"moe_intermediate_size": 24}
SHARED = MIXTURE | {"shared_expert_intermediate_size": 40}
OWN_SIZES: dict[str, dict[str, int]] = {"qwen2_moe": SHARED, "qwen3_moe": MIXTURE}  # GPT-2's F is 4 D
FAMILIES = [
    "llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma2", "gemma3_text", "phi3", "olmo2", "olmo3", "granite",
    "gpt_neox", "gpt2", "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss",
]  # fmt: skip
YARN = {"factor": 4.0, "original_max_position_embeddings": 1024}
SHORT, LONG = [1.0 + 0.5 * i for i in range(8)], [4.0 + 0.25 * i for i in range(8)]
LONGROPE = {"short_factor": SHORT, "long_factor": LONG}
KINDS = ["sliding_attention", "full_attention"]
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "smollm3, other layers": ("smollm3", {"no_rope_layers": [0, 1] * 4, "rope_theta": 5e6, "rope_scaling": None}),
    "smollm3, every third": ("smollm3", {"no_rope_layer_interval": 3, "sliding_window": 9}),
    "smollm3, windows": ("smollm3", {"use_sliding_window": True, "sliding_window": 9}),
    "smollm3, yarn": ("smollm3", {"rope_scaling": {"type": "yarn", **YARN}}),
    "gemma2, layers listed": ("gemma2", {"layer_types": KINDS[::-1] * 4, "sliding_window": 9, "rope_theta": 2e4}),
    "gemma2, no caps": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma2, other caps": ("gemma2", {"attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 144}),
    "gemma3, scaled": ("gemma3_text", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "sliding_window": 9}),
    "gemma3, bases": ("gemma3_text", {"rope_theta": 2e6, "rope_local_base_freq": 2e4, "sliding_window_pattern": 3}),
    "phi3, short": ("phi3", {"sliding_window": 2047, "rope_scaling": None, "original_max_position_embeddings": 4096}),
    "phi3, su": (
        "phi3",
        {"rope_scaling": {"type": "su", "original_max_position_embeddings": 4096, **LONGROPE},
         "max_position_embeddings": 131072, "rope_theta": 2e4},
    ),
    "phi3, called yarn": ("phi3", {"rope_scaling": {"type": "yarn", **LONGROPE}, "max_position_embeddings": 131072}),
    "phi3, longrope with another original": (
        "phi3",
        {"rope_scaling": {"rope_type": "longrope", **LONGROPE}, "original_max_position_embeddings": 100,
         "max_position_embeddings": 800},
    ),
    "phi3, longrope of no longer texts": (
        "phi3", {"rope_scaling": {"type": "longrope", **LONGROPE}, "max_position_embeddings": 2048}
    ),
    "phi3, partial": ("phi3", {"partial_rotary_factor": 0.75}),
    "phi3, partial longrope": (
        "phi3",
        {"partial_rotary_factor": 0.5, "max_position_embeddings": 131072,
         "rope_scaling": {"type": "longrope", "short_factor": SHORT[:4], "long_factor": LONG[:4]}},
    ),
    "phi3, amplitude given": (
        "phi3", {"rope_scaling": {"type": "longrope", "attention_factor": 1.5, **LONGROPE}, "rope_theta": 2e4}
    ),
    "phi3, factor given": (
        "phi3",
        {"rope_scaling": {"type": "longrope", "factor": 16.0, **LONGROPE}, "max_position_embeddings": 8192},
    ),
    "llama, longrope": (
        "llama",
        {"rope_scaling": {"rope_type": "longrope", "original_max_position_embeddings": 100, **LONGROPE},
         "max_position_embeddings": 800},
    ),
    "olmo2, yarn": ("olmo2", {"rope_scaling": {"rope_type": "yarn", **YARN}, "rope_theta": 5e5}),
    "olmo3, yarn": (
        "olmo3", {"rope_scaling": {"rope_type": "yarn", "attention_factor": 1.25, **YARN}, "rope_theta": 5e5}
    ),
    "olmo3, layers listed": ("olmo3", {"layer_types": KINDS * 4, "sliding_window": 9}),
    "olmo3, a yarn for each kind": (
        "olmo3",
        {"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 3e4, **YARN},
                             "sliding_attention": {"rope_type": "linear", "rope_theta": 2e4, "factor": 2.0}}},
    ),
    "granite, multipliers": (
        "granite",
        {"attention_multiplier": 0.015625, "embedding_multiplier": 12, "residual_multiplier": 0.22,
         "logits_scaling": 8.0, "rope_theta": 2e4},
    ),
    "gpt_neox, all": ("gpt_neox", {"rotary_pct": 1.0, "rotary_emb_base": 25000, "hidden_act": "gelu_fast"}),
    "gpt_neox, serial": ("gpt_neox", {"use_parallel_residual": False, "tie_word_embeddings": True}),
    "gpt_neox, no bias": ("gpt_neox", {"attention_bias": False, "rotary_pct": 0.5, "layer_norm_eps": 1e-6}),
    "gpt_neox, both names": (
        "gpt_neox",
        {"rotary_pct": 0.5, "partial_rotary_factor": 0.5, "rotary_emb_base": 25000, "rope_theta": 25000},
    ),
    "gpt_neox, yarn": ("gpt_neox", {"rope_scaling": {"type": "yarn", **YARN}, "rotary_emb_base": 25000}),
    "qwen2_moe, windows": ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 5}),
    "qwen2_moe, window off": ("qwen2_moe", {"sliding_window": 9, "max_window_layers": 5, "qkv_bias": False}),
    "qwen2_moe, dense layers": ("qwen2_moe", {"decoder_sparse_step": 2, "mlp_only_layers": [3], "num_experts": 8}),
    "qwen3_moe, dense layers": ("qwen3_moe", {"decoder_sparse_step": 3, "mlp_only_layers": [5, 0], "num_experts": 8}),
    "qwen3_moe, no experts": ("qwen3_moe", {"num_experts": 0}),
    "gpt_oss, null": ("gpt_oss", {"rope_scaling": None, "rope_theta": 2e5}),
    "gpt_oss, no yarn": ("gpt_oss", {"rope_parameters": {"rope_type": "default", "rope_theta": 2e5}}),
    "gpt_oss, a base alone": ("gpt_oss", {"rope_parameters": {"rope_theta": 2e5}}),
    "gpt_oss, layers listed": ("gpt_oss", {"layer_types": KINDS[::-1] * 4, "sliding_window": 9}),
    "yarn, null factor": (
        "llama",
        {"rope_scaling": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 1024},
         "max_position_embeddings": 6144},
    ),
    "yarn, no original": ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
    "yarn, betas of nothing": ("llama", {"rope_scaling": {"type": "yarn", "beta_fast": 0, "beta_slow": None, **YARN}}),
    "yarn, betas": ("llama", {"rope_scaling": {"type": "yarn", "beta_fast": 16, "beta_slow": 2, **YARN}}),
    "yarn, mscales": ("llama", {"rope_scaling": {"type": "yarn", "mscale": 0.7, "mscale_all_dim": 1.4, **YARN}}),
    "yarn, one mscale": ("llama", {"rope_scaling": {"type": "yarn", "mscale": 0.7, **YARN}}),
    "yarn, an mscale of 0": ("llama", {"rope_scaling": {"type": "yarn", "mscale": 0.7, "mscale_all_dim": 0, **YARN}}),
    "yarn, amplitude over mscales": (
        "llama",
        {"rope_scaling": {"type": "yarn", "attention_factor": 1.5, "mscale": 2.0, "mscale_all_dim": 1.0, **YARN}},
    ),
    "yarn, fractions kept": ("llama", {"rope_scaling": {"type": "yarn", "truncate": False, **YARN}}),
    "yarn, original beside": (
        "llama",
        {"rope_scaling": {"type": "yarn", "factor": 4.0}, "original_max_position_embeddings": 512, "rope_theta": 2e4},
    ),
    "yarn of factor 1": ("qwen2", {"rope_scaling": {"type": "yarn", **YARN, "factor": 1.0}}),
    "yarn in Qwen 3": ("qwen3", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, **YARN}}),
    "yarn in Mixtral": ("mixtral", {"rope_scaling": {"type": "yarn", **YARN}, "head_dim": 16}),
    "yarn in Gemma 3": ("gemma3_text", {"rope_scaling": {"rope_type": "yarn", **YARN}}),
}  # fmt: skip


def understood(given: dict[str, Any]) -> PreTrainedConfig:
    """The configuration that transformers makes of a file."""
    return CONFIG_MAPPING[given["model_type"]].from_dict(deepcopy(given))


def full(given: dict[str, Any]) -> dict[str, Any]:
    """Every field of the file that transformers 5 would write, without those that every configuration has."""
    kind, everywhere, said = given["model_type"], PreTrainedConfig().to_dict(), understood(given).to_dict()
    kept = {key: value for key, value in said.items() if key not in everywhere or value != everywhere[key]}
    return kept | {"model_type": kind, "eos_token_id": said.get("eos_token_id")}


def rotation(given: dict[str, Any]) -> dict[str, Any]:
    """The frequencies of a layer that sees all, those of longer sequences, and what cosine and sine are multiplied by.

    Empty for a rotation that is not stretched.
    """
    config = understood(given)
    layer = "full_attention" if "full_attention" in config.rope_parameters else None
    table = config.rope_parameters[layer] if layer else config.rope_parameters
    if table["rope_type"] == "default":
        return {}
    compute = partial(ROPE_INIT_FUNCTIONS[table["rope_type"]], config, "cpu", layer_type=layer)
    (short, amplitude), (long, _) = compute(), compute(seq_len=2**30)
    return {"frequencies": short.tolist(), "long_frequencies": long.tolist(), "amplitude": float(amplitude)}


def main() -> None:
    """Writes a line for each case: each family with its sizes alone, each with nothing at all, and the variants."""
    cases = {kind: {"model_type": kind, **SIZES, **OWN_SIZES.get(kind, {})} for kind in FAMILIES}
    del cases["gpt2"]["intermediate_size"]
    cases |= {f"{kind}, nested": {"model_type": kind} for kind in FAMILIES}
    cases |= {name: {**cases[kind], **fields} for name, (kind, fields) in VARIANTS.items()}
    lines = []
    for name, given in cases.items():
        entry = {"given": given, "full": full(given)}
        if given["model_type"] != "gpt2" and (turned := rotation(given)):
            entry["rotation"] = turned
        lines.append(f"{json.dumps(name)}: {json.dumps(entry)}")
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
