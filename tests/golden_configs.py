"""The configurations of the goldens, and what is taken out of each to see that the golden notices (make_goldens.py).

Settings are unequal within each and odd where they can be; windows are shorter than the text; layers are of several
kinds; norms get epsilons large enough to matter, so that reading the wrong one shows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

VOCAB = 277
COMMON = {"vocab_size": VOCAB, "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 2}


def sizes(d: int, f: int, layers: int, heads: int, kv_heads: int, **more: Any) -> dict[str, Any]:
    """The fields that all families but GPT-2 share."""
    return COMMON | {
        "hidden_size": d, "intermediate_size": f, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, **more,
    }  # fmt: skip


def rope(theta: float, kind: str = "default", **more: Any) -> dict[str, Any]:
    """rope_parameters of one kind of layer."""
    return {"rope_type": kind, "rope_theta": theta, **more}


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
LOCAL, GLOBAL = "sliding_attention", "full_attention"
GPT2 = {"vocab_size": VOCAB, "n_positions": 96, "bos_token_id": 0, "eos_token_id": 2}
SIZES = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
         "max_position_embeddings"}  # fmt: skip
NEOX = COMMON | {"hidden_act": "gelu"}
PAD = {"pad_token_id": 0}  # where the default lies outside so small a vocabulary
ORIGINAL = "original_max_position_embeddings"
FACTORS = {"short_factor": [1.0, 1.1, 1.3, 1.7, 2.1, 2.9], "long_factor": [1.2, 2.5, 4.0, 6.0, 9.0, 14.0]}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", sizes(60, 112, 3, 6, 2, head_dim=14, attention_bias=True, mlp_bias=True, rms_norm_eps=0.02,
                             rope_parameters=rope(5000.0))),
    "llama2": ("llama", sizes(48, 88, 3, 4, 4, tie_word_embeddings=True, rms_norm_eps=1e-3)),
    "llama3": ("llama", sizes(64, 104, 3, 8, 2, head_dim=16, rms_norm_eps=1e-5,
                              rope_parameters=rope(10000.0, "llama3", **LLAMA3))),
    "llama_linear": ("llama", sizes(56, 100, 3, 7, 1, rms_norm_eps=4e-3,
                                    rope_parameters=rope(10000.0, "linear", factor=2.5))),
    "smollm2": ("llama", sizes(72, 120, 4, 9, 3, rms_norm_eps=1e-5, tie_word_embeddings=True,
                               rope_parameters=rope(100000.0))),
    "mistral": ("mistral", sizes(64, 90, 3, 4, 2, head_dim=18, rms_norm_eps=3e-3, sliding_window=11)),
    "qwen2": ("qwen2", sizes(56, 96, 3, 4, 2, rms_norm_eps=5e-3, tie_word_embeddings=True, rope_parameters=rope(1e6))),
    "qwen2_window": ("qwen2", sizes(60, 94, 4, 5, 1, rms_norm_eps=0.03, use_sliding_window=True, sliding_window=9,
                                    max_window_layers=2)),
    "qwen3": ("qwen3", sizes(52, 84, 3, 4, 2, head_dim=20, rms_norm_eps=6e-3, rope_parameters=rope(1e6))),
    "gemma3": ("gemma3_text", sizes(48, 76, 4, 4, 1, head_dim=20, query_pre_attn_scalar=17, rms_norm_eps=2e-3,
                                    sliding_window=7, layer_types=[LOCAL, LOCAL, GLOBAL, LOCAL],
                                    _sliding_window_pattern=3,
                                    rope_parameters={GLOBAL: rope(1e6), LOCAL: rope(10000.0)})),
    "gemma3_linear": ("gemma3_text", sizes(60, 86, 4, 6, 3, head_dim=12, query_pre_attn_scalar=9, sliding_window=10,
                                           layer_types=[LOCAL, GLOBAL] * 2, _sliding_window_pattern=2,
                                           rope_parameters={GLOBAL: rope(2e4, "linear", factor=4.0),
                                                            LOCAL: rope(500.0)})),
    "gpt2": ("gpt2", GPT2 | {"n_embd": 56, "n_layer": 3, "n_head": 7, "layer_norm_epsilon": 0.02}),
    "gpt2_inner": ("gpt2", GPT2 | {"n_embd": 44, "n_layer": 3, "n_head": 2, "n_inner": 100,
                                   "tie_word_embeddings": False}),
    "mixtral": ("mixtral", sizes(48, 40, 3, 6, 3, head_dim=10, rms_norm_eps=7e-3, num_local_experts=5,
                                 num_experts_per_tok=2)),
    "qwen3_moe": ("qwen3_moe", sizes(48, 99, 3, 4, 2, head_dim=16, rms_norm_eps=8e-3, num_experts=6,
                                     num_experts_per_tok=3, moe_intermediate_size=28, norm_topk_prob=True)),
    "qwen3_moe_raw": ("qwen3_moe", sizes(40, 98, 3, 4, 1, num_experts=7, num_experts_per_tok=2, norm_topk_prob=False,
                                         moe_intermediate_size=34, attention_bias=True, tie_word_embeddings=True)),
    "olmoe": ("olmoe", sizes(60, 36, 3, 6, 2, rms_norm_eps=9e-3, num_experts=8, num_experts_per_tok=3)),
    "smollm3": ("smollm3", sizes(60, 88, 5, 6, 2, rms_norm_eps=6e-3, no_rope_layers=[1, 0, 0, 1, 1], sliding_window=9,
                                 use_sliding_window=True, tie_word_embeddings=False, rope_parameters=rope(3e4)) | PAD),
    "gemma2": ("gemma2", sizes(54, 82, 5, 6, 2, head_dim=14, query_pre_attn_scalar=6, rms_norm_eps=4e-3,
                               sliding_window=8, attn_logit_softcapping=6.0, final_logit_softcapping=3.0,
                               rope_parameters=rope(3000.0))),
    "llama_yarn": ("llama", sizes(60, 92, 3, 5, 5, rms_norm_eps=3e-3,
                                  rope_parameters=rope(500.0, "yarn", factor=4.0, **{ORIGINAL: 32}))),
    "qwen2_yarn": ("qwen2", sizes(64, 78, 3, 4, 1, rms_norm_eps=7e-3, rope_parameters=rope(
        100.0, "yarn", factor=None, mscale=1.5, mscale_all_dim=0.5, truncate=False, beta_fast=3, beta_slow=0,
        **{ORIGINAL: 64}))),
    "phi3": ("phi3", sizes(60, 98, 3, 6, 3, rms_norm_eps=2e-2, sliding_window=9, rope_parameters=rope(4000.0)) | PAD),
    "phi3_long": ("phi3", sizes(96, 70, 3, 6, 2, rms_norm_eps=8e-3, tie_word_embeddings=True, **{ORIGINAL: 24},
                                rope_parameters=rope(2000.0, "longrope", partial_rotary_factor=0.75, **FACTORS)) | PAD),
    "olmo2": ("olmo2", sizes(60, 80, 3, 6, 2, rms_norm_eps=3e-2, rope_parameters=rope(7000.0))),
    "olmo3": ("olmo3", sizes(64, 72, 4, 4, 2, rms_norm_eps=2e-2, sliding_window=10, layer_types=[LOCAL, GLOBAL] * 2,
                             rope_parameters={GLOBAL: rope(5e5, "yarn", factor=4.0, attention_factor=1.3,
                                                           **{ORIGINAL: 32}), LOCAL: rope(5e5)})),
    "granite": ("granite", sizes(56, 94, 3, 4, 2, rms_norm_eps=9e-3, attention_multiplier=0.15, logits_scaling=3.5,
                                 embedding_multiplier=0.6, residual_multiplier=0.4, tie_word_embeddings=True)),
    "gpt_neox": ("gpt_neox", NEOX | {"hidden_size": 60, "num_hidden_layers": 4, "num_attention_heads": 3,
                                     "intermediate_size": 100, "layer_norm_eps": 0.02, "rope_parameters":
                                     rope(3000.0, partial_rotary_factor=0.3)}),
    "gpt_neox_serial": ("gpt_neox", NEOX | {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
                                            "intermediate_size": 110, "use_parallel_residual": False,
                                            "rope_parameters": rope(1e4, partial_rotary_factor=1.0)}),
    "qwen2_moe": ("qwen2_moe", sizes(48, 76, 4, 6, 2, rms_norm_eps=8e-3, num_experts=6, num_experts_per_tok=2,
                                     moe_intermediate_size=30, shared_expert_intermediate_size=44,
                                     mlp_only_layers=[2])),
    "qwen3_moe_mixed": ("qwen3_moe", sizes(44, 66, 4, 4, 2, head_dim=12, rms_norm_eps=1e-2, num_experts=5,
                                           num_experts_per_tok=2, moe_intermediate_size=38, norm_topk_prob=True,
                                           decoder_sparse_step=2)),
    "gpt_oss": ("gpt_oss", sizes(52, 30, 4, 6, 2, head_dim=12, rms_norm_eps=1e-2, sliding_window=8,
                                 layer_types=[GLOBAL, LOCAL, LOCAL, GLOBAL], num_local_experts=5,
                                 num_experts_per_tok=2, rope_parameters=rope(
        200.0, "yarn", factor=4.0, truncate=False, beta_fast=4.0, beta_slow=1.0, **{ORIGINAL: 64}))),
    "smollm3_bare": ("smollm3", sizes(64, 48, 5, 8, 4) | PAD),
    "gemma2_bare": ("gemma2", sizes(32, 40, 3, 8, 4)),
    "gemma3_nested": ("gemma3", sizes(32, 46, 7, 8, 4, sliding_window=9,
                                      rope_parameters={GLOBAL: rope(1e6, "linear", factor=8.0), LOCAL: rope(1e4)})),
    "phi3_bare": ("phi3", sizes(48, 52, 2, 4, 4) | PAD),
    "olmo2_bare": ("olmo2", sizes(48, 52, 2, 4, 4)),
    "olmo3_bare": ("olmo3", sizes(48, 52, 5, 4, 4, sliding_window=9)),
    "granite_bare": ("granite", sizes(48, 52, 2, 4, 4)),
    "gpt_neox_bare": ("gpt_neox", NEOX | {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                                          "intermediate_size": 72}),
    "qwen2_moe_bare": ("qwen2_moe", sizes(64, 50, 2, 16, 16, moe_intermediate_size=10,
                                          shared_expert_intermediate_size=14)),
    "qwen3_moe_bare": ("qwen3_moe", sizes(48, 50, 2, 8, 4, num_experts=9, moe_intermediate_size=10)),
    "gpt_oss_bare": ("gpt_oss", sizes(40, 12, 3, 16, 8)),
}  # fmt: skip
TOWER = {"model_type": "siglip_vision_model", "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 1,
         "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip


def amplitude(value: float) -> dict[str, Any]:
    """The change that sets the factor of cosine and sine."""
    return {"rope_parameters": {"attention_factor": value}}


# What is taken out of each model: fields of config.json, or the value that fills the weights whose names hold a text.
UNSCALED = {"rope_parameters": {"factor": 1.0, "attention_factor": 1.0}}
YARN = amplitude(1.0), amplitude(float(0.1 * np.log(4.0) + 1) ** 2), UNSCALED
ABLATIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "smollm3": ({"no_rope_layers": [0, 1, 1, 0, 0]}, {"no_rope_layers": [1] * 5}, {"use_sliding_window": False,
                "layer_types": None}, {"layer_types": [LOCAL] * 5}, {"rms_norm_eps": 1e-6}),
    "gemma2": ({"attn_logit_softcapping": None}, {"final_logit_softcapping": None}, {"query_pre_attn_scalar": 14},
               {"layer_types": [GLOBAL, LOCAL] * 2 + [GLOBAL]}, {"layer_types": [LOCAL] * 5},
               {"layer_types": [GLOBAL] * 5},
               {"rms_norm_eps": 1e-6}),
    "gemma3_nested": ({"layer_types": [GLOBAL] * 7}, {"layer_types": [LOCAL] * 7}, {"query_pre_attn_scalar": 128},
                      {"rope_parameters": {GLOBAL: {"factor": 1.0}}},
                      {"rope_parameters": {LOCAL: {"rope_theta": 1e6}}}),
    "llama_yarn": YARN,
    "qwen2_yarn": ({"rope_parameters": {"factor": 4.0}}, {"rope_parameters": {"truncate": True}},
                   {"rope_parameters": {"beta_fast": 32}}, {"rope_parameters": {"beta_slow": 2}},
                   {"rope_parameters": {"mscale": 1.0}}, {"rope_parameters": {"mscale_all_dim": 1.0}}, UNSCALED),
    "phi3": ({"sliding_window": None}, {"sliding_window": 10}, {"rms_norm_eps": 1e-5}),
    "phi3_long": (amplitude(1.0), amplitude(float(1 + np.log(4) / np.log(24))), {ORIGINAL: 48},
                  {"rope_parameters": {"partial_rotary_factor": 1.0, "long_factor": FACTORS["long_factor"] + [40.0] * 2,
                                       "short_factor": FACTORS["short_factor"] + [40.0] * 2}}),
    "olmo2": ({"rms_norm_eps": 1e-5}, {"rope_parameters": {"rope_theta": 1e4}}),
    "olmo3": ({"layer_types": [GLOBAL, LOCAL] * 2}, {"layer_types": [GLOBAL] * 4}, {"layer_types": [LOCAL] * 4},
              {"rope_parameters": {GLOBAL: {"attention_factor": 1.0}}}, {"rope_parameters": {GLOBAL: {"factor": 1.0}}},
              {"rope_parameters": {LOCAL: rope(5e5, "yarn", factor=4.0, attention_factor=1.3, **{ORIGINAL: 32})}},
              {"rms_norm_eps": 1e-5}),
    "granite": ({"attention_multiplier": 14**-0.5}, {"logits_scaling": 1.0}, {"embedding_multiplier": 1.0},
                {"residual_multiplier": 1.0}),
    "gpt_neox": ({"use_parallel_residual": False}, {"rope_parameters": {"partial_rotary_factor": 0.25}},
                 {"rope_parameters": {"rope_theta": 1e4}}, {"layer_norm_eps": 1e-5}, {"weights": {"bias": 0.0}}),
    "gpt_neox_serial": ({"use_parallel_residual": True}, {"rope_parameters": {"partial_rotary_factor": 0.25}}),
    "qwen2_moe": ({"norm_topk_prob": True}, {"weights": {"shared_expert.down_proj": 0.0}},
                  {"weights": {"shared_expert_gate": 0.0}}, {"num_experts_per_tok": 3}, {"rms_norm_eps": 1e-6}),
    "qwen3_moe_mixed": ({"norm_topk_prob": False}, {"num_experts_per_tok": 1}),
    "gpt_oss": ({"weights": {"sinks": -1e4}}, {"weights": {"sinks": 0.0}}, {"swiglu_limit": 1e9},
                {"swiglu_alpha": 1.0}, {"weights": {"router.bias": 0.0}}, {"weights": {"down_proj_bias": 0.0}},
                {"weights": {"gate_up_proj_bias": 0.0}}, {"weights": {"o_proj.bias": 0.0}},
                {"layer_types": [LOCAL, GLOBAL, GLOBAL, LOCAL]}, {"layer_types": [GLOBAL] * 4},
                {"layer_types": [LOCAL] * 4}, {"rope_parameters": {"truncate": True}}, *YARN),
}  # fmt: skip
# Exact GELU is within 5e-4 of its tanh form, so that nothing could be far more than the tolerance.
NEAR: dict[str, tuple[dict[str, Any], ...]] = {
    "gpt_neox": ({"hidden_act": "gelu_pytorch_tanh"},), "gpt_neox_serial": ({"hidden_act": "gelu_pytorch_tanh"},)
}  # fmt: skip
