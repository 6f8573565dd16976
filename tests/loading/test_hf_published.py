"""config.json as published: fields of other tools, older spellings and all, and what each must mean."""

from __future__ import annotations

from pathlib import Path

import pytest
from configurations import MINIMAL, Config, read, refusal, write

from tinyinfer.model.config import ModelConfig, MoEConfig, RopeConfig


def test_smollm2_as_on_the_hub(tmp_path: Path) -> None:
    """Its file has fields of its own (rope_interleaved, transformers.js_config) and a base that is a whole number."""
    config = read(
        tmp_path,
        {
            "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
            "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
            "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "mlp_bias": False,
            "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
            "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": False,
            "rope_scaling": None, "rope_theta": 100000, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
            "transformers.js_config": {"kv_cache_dtype": {"fp16": "float16"}}, "transformers_version": "4.42.3",
            "use_cache": True, "vocab_size": 49152,
        },
    )  # fmt: skip
    assert config == ModelConfig(
        "llama", 49152, 576, 1536, 30, 9, 3, 64, 8192, 1e-5, 64**-0.5, rope=(RopeConfig(100000.0),) * 30,
        windows=(None,) * 30, tied_head=True, eos_token_ids=(2,),
    )  # fmt: skip


def test_llama_3_as_on_the_hub(tmp_path: Path) -> None:
    """Llama 3.2: head_dim given, several end tokens, frequencies stretched."""
    scaling = {
        "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    }  # fmt: skip
    config = read(
        tmp_path,
        {
            "architectures": ["LlamaForCausalLM"], "attention_bias": False, "eos_token_id": [128001, 128008, 128009],
            "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192, "mlp_bias": False,
            "max_position_embeddings": 131072, "model_type": "llama", "num_attention_heads": 32,
            "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
            "rope_scaling": scaling, "rope_theta": 500000.0, "tie_word_embeddings": True, "vocab_size": 128256,
        },
    )  # fmt: skip
    assert config.rope[0] == RopeConfig(500000.0, "llama3", 32.0, 1.0, 4.0, 8192)
    assert config.eos_token_ids == (128001, 128008, 128009)
    assert (config.head_dim, config.num_kv_heads, config.qkv_bias, config.mlp_bias) == (64, 8, False, False)


def test_gemma_3_as_on_the_hub(tmp_path: Path) -> None:
    """Gemma 3 1B in transformers 4's spelling; its norms and its tied head follow from the family."""
    config = read(
        tmp_path,
        {
            "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attn_logit_softcapping": None,
            "cache_implementation": "hybrid", "eos_token_id": [1, 106], "final_logit_softcapping": None,
            "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 6912,
            "max_position_embeddings": 32768, "model_type": "gemma3_text", "num_attention_heads": 4,
            "num_hidden_layers": 26, "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
            "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512,
            "sliding_window_pattern": 6, "vocab_size": 262144,
        },
    )  # fmt: skip
    assert config.windows == ((512,) * 5 + (None,)) * 4 + (512, 512)
    assert config.rope == ((RopeConfig(1e4),) * 5 + (RopeConfig(1e6),)) * 4 + (RopeConfig(1e4),) * 2
    assert (config.architecture, config.activation, config.qk_norm) == ("gemma3", "gelu_tanh", "head")
    assert config.post_norms
    assert config.tied_head
    assert config.attention_scale == 1 / 16
    assert config.embedding_scale == pytest.approx(1152**0.5, rel=1e-7)


def test_gpt2_as_on_the_hub(tmp_path: Path) -> None:
    """Names of its own, no intermediate size, everything biased, and tied without saying so."""
    config = read(
        tmp_path,
        {
            "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
            "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12,
            "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": None,
            "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index",
            "summary_use_proj": True, "task_specific_params": {"text-generation": {"do_sample": True}},
            "vocab_size": 50257,
        },
    )  # fmt: skip
    assert config == ModelConfig(
        "gpt2", 50257, 768, 3072, 12, 12, 12, 64, 1024, 1e-5, 1 / 8, rope=(None,) * 12, windows=(None,) * 12,
        norm="layer", activation="gelu_tanh", gated=False, qkv_bias=True, o_bias=True, mlp_bias=True,
        learned_positions=True, tied_head=True, eos_token_ids=(50256,),
    )  # fmt: skip


def test_smollm3_as_on_the_hub(tmp_path: Path) -> None:
    """A 1 in no_rope_layers means that a rotation is there; catches the three of four layers turned that stay."""
    c = read(
        tmp_path,
        {
            "architectures": ["SmolLM3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
            "eos_token_id": 128012, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
            "intermediate_size": 11008, "layer_types": ["full_attention"] * 36, "max_position_embeddings": 65536,
            "max_window_layers": 28, "mlp_bias": False, "model_type": "smollm3", "no_rope_layer_interval": 4,
            "no_rope_layers": [1, 1, 1, 0] * 9, "num_attention_heads": 16, "num_hidden_layers": 36,
            "num_key_value_heads": 4, "pad_token_id": 128004, "pretraining_tp": 2, "rms_norm_eps": 1e-06,
            "rope_scaling": None, "rope_theta": 5000000.0, "sliding_window": None, "torch_dtype": "bfloat16",
            "transformers_version": "4.54.0.dev0", "use_cache": False, "use_sliding_window": False,
            "vocab_size": 128256,
        },
    )  # fmt: skip
    assert c == ModelConfig(
        "smollm3", 128256, 2048, 11008, 36, 16, 4, 128, 65536, 1e-6, 128**-0.5,
        rope=((RopeConfig(5e6),) * 3 + (None,)) * 9, windows=(None,) * 36, tied_head=True, eos_token_ids=(128012,),
    )  # fmt: skip


def test_gemma_2_as_on_the_hub(tmp_path: Path) -> None:
    """The window is in even layers; the scale is not that of the heads; both spellings of the activation."""
    c = read(
        tmp_path,
        {
            "architectures": ["Gemma2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
            "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": 1,
            "final_logit_softcapping": 30.0, "head_dim": 128, "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 4608, "initializer_range": 0.02,
            "intermediate_size": 36864, "max_position_embeddings": 8192, "model_type": "gemma2",
            "num_attention_heads": 32, "num_hidden_layers": 46, "num_key_value_heads": 16, "pad_token_id": 0,
            "query_pre_attn_scalar": 144, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096,
            "sliding_window_size": 4096, "torch_dtype": "float32", "use_cache": True, "vocab_size": 256000,
            "_attn_implementation": "eager",
        },
    )  # fmt: skip
    assert c.windows == (4096, None) * 23
    assert (c.attention_scale, c.score_cap, c.logit_cap) == (1 / 12, 50.0, 30.0)
    assert (c.architecture, c.activation, c.qk_norm, c.tied_head) == ("gemma2", "gelu_tanh", "none", True)
    assert (c.pre_norms, c.post_norms) == (True, True)
    assert c.embedding_scale == pytest.approx(4608**0.5, rel=1e-7)


def test_phi_3_5_mini_as_on_the_hub(tmp_path: Path) -> None:
    """A window, wider than the context, in every layer; the original length is a field of the file."""
    short, long = [1.0 + 0.1 * i for i in range(48)], [2.0 + i for i in range(48)]
    c = read(
        tmp_path,
        {
            "architectures": ["Phi3ForCausalLM"], "attention_dropout": 0.0, "attention_bias": False,
            "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "bos_token_id": 1, "embd_pdrop": 0.0,
            "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072, "initializer_range": 0.02,
            "intermediate_size": 8192, "max_position_embeddings": 131072, "model_type": "phi3",
            "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
            "original_max_position_embeddings": 4096, "pad_token_id": 32000, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
            "rope_scaling": {"long_factor": long, "short_factor": short, "type": "longrope"}, "rope_theta": 10000.0,
            "sliding_window": 262144, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True,
            "vocab_size": 32064,
        },
    )  # fmt: skip
    rope = RopeConfig(
        1e4, "longrope", original_max_position=4096, divisors=tuple(short), long_divisors=tuple(long),
        amplitude=1.1902380714238083,
    )  # fmt: skip
    assert c == ModelConfig(
        "phi3", 32064, 3072, 8192, 32, 32, 32, 96, 131072, 1e-5, 96**-0.5, rope=(rope,) * 32, windows=(262144,) * 32,
        eos_token_ids=(32000,),
    )  # fmt: skip
    assert c.rotation_sets.boundary == 4096


def test_phi_4_mini_as_on_the_hub(tmp_path: Path) -> None:
    """Three quarters of each head are turned, and the lists are as long; fields of its own code that say nothing."""
    lists = {"long_factor": [2.0] * 48, "short_factor": [1.0] * 48, "type": "longrope"}
    c = read(
        tmp_path,
        {
            "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "embd_pdrop": 0.0,
            "bos_token_id": 199999, "eos_token_id": 199999, "full_attn_mod": 1, "hidden_act": "silu",
            "hidden_size": 3072, "initializer_range": 0.02, "intermediate_size": 8192, "interpolate_factor": 1,
            "lm_head_bias": False, "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "phi3",
            "num_attention_heads": 24, "num_hidden_layers": 32, "num_key_value_heads": 8,
            "original_max_position_embeddings": 4096, "pad_token_id": 199999, "partial_rotary_factor": 0.75,
            "resid_pdrop": 0.0, "rms_norm_eps": 1e-05, "rope_scaling": lists, "rope_theta": 10000.0,
            "sliding_window": 262144, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "vocab_size": 200064,
        },
    )  # fmt: skip
    assert (c.num_heads, c.num_kv_heads, c.head_dim, c.tied_head) == (24, 8, 128, True)
    assert c.rope[0] is not None
    assert (c.rope[0].size, len(c.rope[0].divisors or ()), c.rope[0].scaling) == (96, 48, "longrope")


def test_olmo_2_as_on_the_hub(tmp_path: Path) -> None:
    """Norms after attention and MLP and none before; q and k are normed over all heads."""
    c = read(
        tmp_path,
        {
            "architectures": ["Olmo2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
            "eos_token_id": 100257, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
            "intermediate_size": 8192, "max_position_embeddings": 4096, "model_type": "olmo2",
            "num_attention_heads": 16, "num_hidden_layers": 16, "num_key_value_heads": 16, "pad_token_id": 100277,
            "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 500000, "tie_word_embeddings": False,
            "torch_dtype": "float32", "use_cache": False, "vocab_size": 100352,
        },
    )  # fmt: skip
    assert c == ModelConfig(
        "olmo2", 100352, 2048, 8192, 16, 16, 16, 128, 4096, 1e-6, 128**-0.5, rope=(RopeConfig(5e5),) * 16,
        windows=(None,) * 16, qk_norm="full", pre_norms=False, post_norms=True, eos_token_ids=(100257,),
    )  # fmt: skip


def test_olmo_3_as_on_the_hub(tmp_path: Path) -> None:
    """yarn in the layers that see all and only there; the others have a window and the plain rotation."""
    scaling = {
        "attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0, "factor": 8.0,
        "original_max_position_embeddings": 8192, "rope_type": "yarn",
    }  # fmt: skip
    c = read(
        tmp_path,
        {
            "architectures": ["Olmo3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
            "eos_token_id": 100257, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
            "intermediate_size": 11008, "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 8,
            "max_position_embeddings": 65536, "model_type": "olmo3", "num_attention_heads": 32,
            "num_hidden_layers": 32, "num_key_value_heads": 32, "pad_token_id": 100277, "rms_norm_eps": 1e-06,
            "rope_scaling": scaling, "rope_theta": 500000, "sliding_window": 4096, "tie_word_embeddings": False,
            "torch_dtype": "float32", "use_cache": False, "vocab_size": 100278,
        },
    )  # fmt: skip
    yarn = RopeConfig(5e5, "yarn", 8.0, original_max_position=8192, amplitude=1.2079441541679836)
    assert c.windows == ((4096,) * 3 + (None,)) * 8
    assert c.rope == ((RopeConfig(5e5),) * 3 + (yarn,)) * 8
    assert (c.architecture, c.qk_norm, c.pre_norms, c.post_norms) == ("olmo3", "full", False, True)


def test_granite_3_as_on_the_hub(tmp_path: Path) -> None:
    """Four multipliers: attention's in the place of 1/sqrt(E), and logits are divided by theirs."""
    c = read(
        tmp_path,
        {
            "architectures": ["GraniteForCausalLM"], "attention_bias": False, "attention_dropout": 0.1,
            "attention_multiplier": 0.015625, "bos_token_id": 0, "embedding_multiplier": 12.0, "eos_token_id": 0,
            "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,
            "logits_scaling": 8.0, "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "granite",
            "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8, "pad_token_id": 0,
            "residual_multiplier": 0.22, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 5000000.0,
            "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 49155,
        },
    )  # fmt: skip
    assert c == ModelConfig(
        "granite", 49155, 2048, 8192, 40, 32, 8, 64, 131072, 1e-5, 0.015625, rope=(RopeConfig(5e6),) * 40,
        windows=(None,) * 40, embedding_scale=12.0, residual_scale=0.22, logit_scale=0.125, tied_head=True,
        eos_token_ids=(0,),
    )  # fmt: skip


def test_pythia_as_on_the_hub(tmp_path: Path) -> None:
    """A quarter of each head is turned, the GELU is the exact one, everything has a bias, the head is no copy."""
    c = read(
        tmp_path,
        {
            "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu",
            "hidden_size": 512, "initializer_range": 0.02, "intermediate_size": 2048, "layer_norm_eps": 1e-05,
            "max_position_embeddings": 2048, "model_type": "gpt_neox", "num_attention_heads": 8,
            "num_hidden_layers": 6, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False,
            "torch_dtype": "float16", "transformers_version": "4.24.0", "use_cache": True,
            "use_parallel_residual": True, "vocab_size": 50304,
        },
    )  # fmt: skip
    assert c == ModelConfig(
        "gpt_neox", 50304, 512, 2048, 6, 8, 8, 64, 2048, 1e-5, 1 / 8, rope=(RopeConfig(1e4, size=16),) * 6,
        windows=(None,) * 6, norm="layer", activation="gelu", gated=False, qkv_bias=True, o_bias=True, mlp_bias=True,
        parallel=True, eos_token_ids=(0,),
    )  # fmt: skip


def test_qwen_1_5_moe_as_on_the_hub(tmp_path: Path) -> None:
    """A shared expert beside the sixty; the weights of the chosen do not sum to 1; q, k, v have biases, o has none."""
    c = read(
        tmp_path,
        {
            "architectures": ["Qwen2MoeForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
            "decoder_sparse_step": 1, "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 2048,
            "initializer_range": 0.02, "intermediate_size": 5632, "max_position_embeddings": 8192,
            "max_window_layers": 21, "model_type": "qwen2_moe", "moe_intermediate_size": 1408,
            "norm_topk_prob": False, "num_attention_heads": 16, "num_experts": 60, "num_experts_per_tok": 4,
            "num_hidden_layers": 24, "num_key_value_heads": 16, "output_router_logits": False, "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 5632,
            "sliding_window": 32768, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
            "use_sliding_window": False, "vocab_size": 151936,
        },
    )  # fmt: skip
    assert c.experts == MoEConfig(60, 4, 1408, renormalize=False, shared_size=5632)
    assert (c.qkv_bias, c.o_bias, c.windows[0], c.architecture) == (True, False, None, "qwen2_moe")


GPT_OSS_20B: Config = {
    "architectures": ["GptOssForCausalLM"], "attention_bias": True, "attention_dropout": 0.0, "eos_token_id": 200002,
    "experts_per_token": 4, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2880, "initial_context_length": 4096,
    "initializer_range": 0.02, "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12, "max_position_embeddings": 131072,
    "model_type": "gpt_oss", "num_attention_heads": 64, "num_experts_per_tok": 4, "num_hidden_layers": 24,
    "num_key_value_heads": 8, "num_local_experts": 32, "output_router_logits": False, "pad_token_id": 199999,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
                     "rope_type": "yarn", "truncate": False},
    "rope_theta": 150000, "router_aux_loss_coef": 0.9, "sliding_window": 128, "swiglu_limit": 7.0,
    "tie_word_embeddings": False, "transformers_version": "4.55.0.dev0", "use_cache": True, "vocab_size": 201088,
}  # fmt: skip


def test_gpt_oss_as_on_the_hub(tmp_path: Path) -> None:
    """Windows in even layers, sinks, yarn with ends of the blend that are no whole pairs, biases everywhere."""
    c = read(tmp_path, GPT_OSS_20B)
    rope = RopeConfig(1.5e5, "yarn", 32.0, original_max_position=4096, amplitude=1.3465735902799727, truncate=False)
    assert c == ModelConfig(
        "gpt_oss", 201088, 2880, 2880, 24, 64, 8, 64, 131072, 1e-5, 1 / 8, rope=(rope,) * 24, windows=(128, None) * 12,
        activation="clamped", qkv_bias=True, o_bias=True, mlp_bias=True, sinks=True,
        experts=MoEConfig(32, 4, 2880, renormalize=True), eos_token_ids=(200002,),
    )  # fmt: skip


def test_gpt_oss_is_published_with_packed_experts(tmp_path: Path) -> None:
    """Of four bits a number, which mxfp4.py reads; in another family they are another tool's, and refused."""
    packed = {"quantization_config": {"modules_to_not_convert": ["lm_head"], "quant_method": "mxfp4"}}
    assert read(tmp_path, GPT_OSS_20B | packed) == read(tmp_path, GPT_OSS_20B)
    assert "the weights are quantized by 'mxfp4'" in refusal(write(tmp_path, MINIMAL["mixtral"] | packed))
