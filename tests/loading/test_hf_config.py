"""config.json of every family, in the spellings found on the hub, and every way in which one can be wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import FAMILIES, dialect4, load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyinfer.errors import ModelError, ModelWarning
from tinyinfer.loading.hf_config import read_config
from tinyinfer.model.config import ModelConfig, MoEConfig, RopeConfig, expected_tensors

Write = Callable[..., Path]
SIZES = {
    "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128,
}  # fmt: skip
LLAMA = SIZES | {"model_type": "llama"}
QWEN2 = SIZES | {"model_type": "qwen2", "num_key_value_heads": 2}
QWEN3_MOE = SIZES | {"model_type": "qwen3_moe", "moe_intermediate_size": 24}
MISTRAL = SIZES | {"model_type": "mistral", "num_key_value_heads": 2}
GEMMA = SIZES | {"model_type": "gemma3_text", "num_hidden_layers": 7}
GPT2 = {"vocab_size": 1000, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 32, "model_type": "gpt2"}
MINIMAL = {"llama": LLAMA, "mistral": MISTRAL, "qwen3_moe": QWEN3_MOE} | {
    name: SIZES | {"model_type": name, "num_key_value_heads": 2} for name in ("qwen3", "gemma3_text", "olmoe")
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes config.json, and generation_config.json if given, and returns the folder."""

    def function(config: object, generation: object = None) -> Path:
        text = config if isinstance(config, bytes) else json.dumps(config).encode()
        (tmp_path / "config.json").write_bytes(text)
        if generation is not None:
            (tmp_path / "generation_config.json").write_text(json.dumps(generation))
        return tmp_path

    return function


def refusal(folder: Path) -> str:
    """The message with which a folder is refused: one line that names the file."""
    with pytest.raises(ModelError) as caught:
        read_config(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert "config.json" in message
    return message


# --- what files mean ---


@pytest.mark.parametrize("rope_type_key", ["rope_type", "type"])
@pytest.mark.parametrize("name", FAMILIES)
def test_both_dialects_mean_the_same(write: Write, name: str, rope_type_key: str) -> None:
    """A field that only one transformers version writes (rope_theta, num_experts, layer_types) would be lost."""
    new = load_golden(name).config
    assert read_config(write(new)) == read_config(write(dialect4(new, rope_type_key)))


def test_smollm2_as_on_the_hub(write: Write) -> None:
    """Its file has fields of its own (rope_interleaved, transformers.js_config) and a base that is a whole number."""
    config = read_config(
        write({
            "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
            "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
            "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "mlp_bias": False,
            "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
            "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": False,
            "rope_scaling": None, "rope_theta": 100000, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
            "transformers.js_config": {"kv_cache_dtype": {"fp16": "float16"}}, "transformers_version": "4.42.3",
            "use_cache": True, "vocab_size": 49152,
        })
    )  # fmt: skip
    assert config == ModelConfig(
        "llama", 49152, 576, 1536, 30, 9, 3, 64, 8192, 1e-5, 64**-0.5, rope=(RopeConfig(100000.0),) * 30,
        windows=(None,) * 30, tied_head=True, eos_token_ids=(2,),
    )  # fmt: skip


def test_llama_3_as_on_the_hub(write: Write) -> None:
    """Llama 3.2: head_dim given, several end tokens, frequencies stretched."""
    scaling = LLAMA3 | {"factor": 32.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}
    config = read_config(
        write({
            "architectures": ["LlamaForCausalLM"], "attention_bias": False, "eos_token_id": [128001, 128008, 128009],
            "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192, "mlp_bias": False,
            "max_position_embeddings": 131072, "model_type": "llama", "num_attention_heads": 32,
            "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
            "rope_scaling": scaling, "rope_theta": 500000.0, "tie_word_embeddings": True, "vocab_size": 128256,
        })
    )  # fmt: skip
    assert config.rope[0] == RopeConfig(500000.0, "llama3", 32.0, 1.0, 4.0, 8192)
    assert config.eos_token_ids == (128001, 128008, 128009)
    assert (config.head_dim, config.num_kv_heads, config.qkv_bias, config.mlp_bias) == (64, 8, False, False)


def test_gemma_3_as_on_the_hub(write: Write) -> None:
    """Gemma 3 1B in transformers 4's spelling; its norms and its tied head follow from the family."""
    config = read_config(
        write({
            "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attn_logit_softcapping": None,
            "cache_implementation": "hybrid", "eos_token_id": [1, 106], "final_logit_softcapping": None,
            "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 6912,
            "max_position_embeddings": 32768, "model_type": "gemma3_text", "num_attention_heads": 4,
            "num_hidden_layers": 26, "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
            "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512,
            "sliding_window_pattern": 6, "vocab_size": 262144,
        })
    )  # fmt: skip
    assert config.windows == ((512,) * 5 + (None,)) * 4 + (512, 512)
    assert config.rope == ((RopeConfig(1e4),) * 5 + (RopeConfig(1e6),)) * 4 + (RopeConfig(1e4),) * 2
    assert (config.architecture, config.activation, config.qk_norm) == ("gemma3", "gelu_tanh", "head")
    assert config.post_norms
    assert config.tied_head
    assert config.attention_scale == 1 / 16
    assert config.embedding_scale == pytest.approx(1152**0.5, rel=1e-7)


def test_gemma_3_scales_only_the_layers_that_see_all(write: Write) -> None:
    """rope_scaling on the local layers too would shift every short-range position."""
    config = read_config(write(GEMMA | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}))
    assert config.rope[5] == RopeConfig(1e6, "linear", 8.0)
    assert config.rope[4] == config.rope[6] == RopeConfig(1e4)


def test_gemma_3_with_its_layers_listed(write: Write) -> None:
    """gemma-3-270m gives both layer_types and the private pattern; the list decides."""
    kinds = ["full_attention"] + ["sliding_attention"] * 6
    config = read_config(write(GEMMA | {"layer_types": kinds, "_sliding_window_pattern": 2, "sliding_window": 9}))
    assert config.windows == (None,) + (9,) * 6
    assert config.rope[0].theta == 1e6 != config.rope[1].theta


def test_gemma_3_embedding_scale_is_a_float32(write: Write) -> None:
    """transformers multiplies by sqrt(D) as a float32; a Python float would differ in the last bits."""
    scale = read_config(write(GEMMA | {"hidden_size": 1152})).embedding_scale
    assert scale == float(np.float32(1152**0.5))
    assert scale != 1152**0.5


def test_gpt2_as_on_the_hub(write: Write) -> None:
    """Names of its own, no intermediate size, everything biased, and tied without saying so."""
    config = read_config(
        write({
            "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
            "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12,
            "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": None,
            "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index",
            "summary_use_proj": True, "task_specific_params": {"text-generation": {"do_sample": True}},
            "vocab_size": 50257,
        })
    )  # fmt: skip
    assert config == ModelConfig(
        "gpt2", 50257, 768, 3072, 12, 12, 12, 64, 1024, 1e-5, 1 / 8, rope=(None,) * 12, windows=(None,) * 12,
        norm="layer", activation="gelu_tanh", gated=False, qkv_bias=True, o_bias=True, mlp_bias=True,
        learned_positions=True, tied_head=True, eos_token_ids=(50256,),
    )  # fmt: skip


def test_gpt2_with_the_usual_names_and_without_scaling(write: Write) -> None:
    usual = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 32}
    config = {"model_type": "gpt2", "vocab_size": 1000, **usual}
    assert read_config(write(config)) == read_config(write(GPT2))
    assert read_config(write(config | {"scale_attn_weights": False})).attention_scale == 1.0


def test_absent_fields_mean_each_familys_own_default(write: Write) -> None:
    """One default for all would give Mistral no window, Mixtral Llama's rotation, Qwen 3 heads of the wrong size."""

    def config(model_type: str, **more: int) -> ModelConfig:
        return read_config(write(SIZES | {"num_attention_heads": 32, "model_type": model_type, **more}))

    moe = {"moe_intermediate_size": 20}
    found = {
        name: (c.num_kv_heads, c.head_dim, c.norm_eps, c.rope[0].theta, c.windows[0], c.tied_head, c.eos_token_ids)
        for name in ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "mixtral", "qwen3_moe", "olmoe")
        for c in [config(name, **moe if name == "qwen3_moe" else {})]
    }
    assert found == {
        "llama": (32, 2, 1e-6, 1e4, None, False, (2,)),
        "mistral": (8, 2, 1e-6, 1e4, 4096, False, (2,)),
        "qwen2": (32, 2, 1e-6, 1e4, None, False, ()),
        "qwen3": (32, 128, 1e-6, 1e4, None, False, ()),
        "gemma3_text": (4, 256, 1e-6, 1e4, 4096, True, (1,)),
        "mixtral": (8, 2, 1e-5, 1e6, None, False, (2,)),
        "qwen3_moe": (4, 2, 1e-6, 1e4, None, False, ()),
        "olmoe": (32, 2, 1e-5, 1e4, None, False, ()),  # its end token, 50279, is beyond these 1000
    }
    assert config("mixtral").experts == MoEConfig(8, 2, 96, renormalize=True)
    assert config("qwen3_moe", **moe).experts == MoEConfig(128, 8, 20, renormalize=False)
    assert config("olmoe").experts == MoEConfig(64, 8, 96, renormalize=False)


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma3_text", "qwen3_moe", "olmoe"])
def test_attention_bias_is_on_the_output_too(write: Write, model_type: str) -> None:
    config = read_config(write(MINIMAL[model_type] | {"attention_bias": True}))
    assert (config.qkv_bias, config.o_bias, config.mlp_bias) == (True, True, False)


def test_qwen2_has_a_bias_on_q_k_v_and_never_on_o(write: Write) -> None:
    config = read_config(write(QWEN2))
    assert (config.qkv_bias, config.o_bias, config.mlp_bias) == (True, False, False)


def test_llama_mlp_bias(write: Write) -> None:
    config = read_config(write(LLAMA | {"mlp_bias": True}))
    assert (config.qkv_bias, config.o_bias, config.mlp_bias) == (False, False, True)


def test_qwen2_window_needs_its_switch(write: Write) -> None:
    """Hub files name a window that use_sliding_window turns off; obeying it would forget the prompt's start."""
    config = QWEN2 | {"sliding_window": 7, "max_window_layers": 1}
    assert read_config(write(config)).windows == (None, None)
    assert read_config(write(config | {"use_sliding_window": True})).windows == (None, 7)
    listed = {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]}
    assert read_config(write(config | listed)).windows == (7, None)


def test_qwen3_moe_windows_every_layer(write: Write) -> None:
    config = QWEN3_MOE | {"sliding_window": 7, "max_window_layers": 2}
    assert read_config(write(config)).windows == (None, None)
    assert read_config(write(config | {"use_sliding_window": True, "max_window_layers": 0})).windows == (7, 7)


def test_mistral_window_is_off_only_when_null(write: Write) -> None:
    """Mistral 7B v0.2 writes null, and a file without the field means 4096."""
    mistral = MINIMAL["mistral"]
    assert read_config(write(mistral | {"sliding_window": None})).windows == (None, None)
    assert read_config(write(mistral)).windows == (4096, 4096)


def test_divisors_that_a_gguf_gave(write: Write) -> None:
    """A dialect of ours, in folders made from GGUF files; without it Llama 3's stretched rotation would be lost."""
    rope = {"rope_type": "divisors", "rope_theta": 5e5, "divisors": [1, 1, 1.5, 2, 8, 8, 8, 8]}
    assert read_config(write(LLAMA | {"rope_parameters": rope})).rope[0] == RopeConfig(
        5e5, divisors=(1.0, 1.0, 1.5, 2.0, 8.0, 8.0, 8.0, 8.0)
    )


@pytest.mark.parametrize("inside", [True, False])
def test_llama3_rope_without_its_original_length_means_the_models_own(write: Write, inside: bool) -> None:
    scaling: dict[str, Any] = {"rope_type": "llama3", **LLAMA3}
    del scaling["original_max_position_embeddings"]
    fields = {"rope_parameters": scaling} if inside else {"rope_scaling": scaling}
    assert read_config(write(LLAMA | fields)).rope[0].original_max_position == 128


def test_end_tokens_of_both_configurations_are_joined(write: Write) -> None:
    """Llama 3's config.json lacks <|eot_id|>, a fine-tune's generation_config.json its own; a chat would never end."""
    llama = LLAMA | {"eos_token_id": 5}
    assert read_config(write(llama, {"eos_token_id": [9, 5, 9]})).eos_token_ids == (9, 5)
    assert read_config(write(llama, {"eos_token_id": 7})).eos_token_ids == (7, 5)
    assert read_config(write(LLAMA, {"eos_token_id": 7})).eos_token_ids == (7,)  # the family's own counts alone
    assert read_config(write(llama, {"bos_token_id": 1})).eos_token_ids == (5,)
    assert read_config(write(LLAMA | {"eos_token_id": None}, {})).eos_token_ids == ()


def test_end_tokens_beyond_the_vocabulary_are_dropped(write: Write) -> None:
    """They can never come, and an array of logits has no such index."""
    assert read_config(write(LLAMA | {"eos_token_id": [999, 1000]})).eos_token_ids == (999,)


NEUTRAL = ["torch_dtype", "attention_dropout", "use_cache", "id2label", "temperature", "pretraining_tp"]


@pytest.mark.parametrize("field", NEUTRAL)
def test_neutral_fields_change_nothing(write: Write, field: str) -> None:
    """Catches pretraining_tp 2 of Llama 2's first files refused: it says how a product was cut, not what it is."""
    assert read_config(write(LLAMA | {field: "anything"})) == read_config(write(LLAMA))


@pytest.mark.parametrize("given", [{}, {"max_position_embeddings": None}])
def test_a_context_that_is_not_said_is_the_familys(write: Write, given: dict[str, Any]) -> None:
    """The defaults of transformers 5.23's configuration classes; catches a file refused that transformers loads."""

    def longest(config: dict[str, Any]) -> int:
        named = ("max_position_embeddings", "n_positions")
        return read_config(write({k: v for k, v in config.items() if k not in named} | given)).max_position

    assert {config["model_type"]: longest(config) for config in (*MINIMAL.values(), QWEN2, GPT2)} == {
        "llama": 2048, "mistral": 131072, "qwen2": 32768, "qwen3": 32768, "gemma3_text": 131072, "gpt2": 1024,
        "qwen3_moe": 32768, "olmoe": 4096,
    }  # fmt: skip


# Of trainers and tools. transformers 5.23 loads the golden "llama" with each of them, with bitwise the same logits.
FOREIGN = """
    run_name axolotl_version _unsloth_fixed license datasets wandb_run_id base_model finetuned_from created_by date seed
    tokenizer_padding_side tokenizer_model_max_length learning_rate num_train_epochs lr_scheduler_type warmup_steps
    trl_version use_flash_attn per_device_train_batch_size gradient_accumulation_steps hidden_dropout embed_dropout
    chat_template system_prompt comment experiment.name merge_method bos_token pad_token max_seq_len aux_loss_coef
"""
# What could change a logit: fields of causal models in transformers 5.23, and others of the same words.
OF_MODELS = """
    attention_sink attn_output_gate alibi block_size conv_kernel d_state embedding_multiplier expert_bias
    gated_attention headDim index_topk kv_lora_rank layer_norm_type linear_num_heads logit_scale logits_scaling
    mamba_d_state mup_width n_shared_experts no_rope_layers norm_topk num_experts per_layer_input prefix_lm q_scale
    qk_layernorm residual_multiplier rotary_pct routed_scaling_factor sandwich_norm ssm_cfg swa_size time_step_rank
    use_cap use_qk_norm vocab_size_extra text_config vision_config
"""


@pytest.mark.parametrize("field", FOREIGN.split())
@pytest.mark.parametrize("value", ["sft-12", 7, None, True, {"a": [1]}])
def test_a_trainers_field_is_passed_over_with_its_name(write: Write, field: str, value: object) -> None:
    """Catches a fine-tune refused for the notes of the tool that made it, and a field passed over without a word."""
    with pytest.warns(ModelWarning, match=rf"config\.json: loading passes over '{re.escape(field)}'"):
        assert read_config(write(LLAMA | {field: value})) == read_config(write(LLAMA))


@pytest.mark.parametrize("field", OF_MODELS.split())
@pytest.mark.parametrize("value", [0.5, True, None, "x", {"a": 1}])
def test_an_unknown_field_that_names_a_part_of_a_model_is_refused(write: Write, field: str, value: object) -> None:
    """Catches another architecture that runs wrong without a word."""
    assert f"'{field}'" in refusal(write(LLAMA | {field: value}))


def test_many_foreign_fields_are_one_line(write: Write) -> None:
    with pytest.warns(ModelWarning) as caught:
        read_config(write(LLAMA | {f"{letter}_name": 1 for letter in "ghijkmr"}))
    [warning] = caught
    assert "over 'g_name', 'h_name', 'i_name', 'j_name', 'k_name' and 2 more: by its name" in str(warning.message)


@pytest.mark.parametrize("name", [name for name in FAMILIES if "rope_parameters" in load_golden(name).config])
def test_both_dialects_in_one_file_may_agree(write: Write, name: str) -> None:
    """transformers 5.23 gives the same logits; catches rope_theta, which only one of the two tables holds, compared."""
    new = load_golden(name).config
    old = dialect4(new)
    both = {key: old[key] for key in ("rope_theta", "rope_scaling", "rope_local_base_freq") if key in old}
    assert read_config(write(new | both)) == read_config(write(new))
    if old["rope_scaling"]:
        wrong = both | {"rope_scaling": old["rope_scaling"] | {"factor": 3.5}}
        assert "'rope_scaling'" in refusal(write(new | wrong))


# --- what is refused ---

UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": (LLAMA | {"model_type": "mamba"}, "supported are llama, mistral, qwen2"),
    "another head": (LLAMA | {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForCausalLM"),
    "quantized weights": (LLAMA | {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "'gptq'"),
    "an unknown field": (LLAMA | {"logit_scale": 2.0}, "'logit_scale'"),
    "an unknown field, null": (LLAMA | {"logit_scale": None}, "'logit_scale'"),
    "dynamic, old spelling": (LLAMA | {"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "default, linear, llama3"),
    "Phi-3's old name elsewhere": (LLAMA | {"rope_parameters": {"rope_type": "su", "rope_theta": 1e4}}, "'su'"),
    "an unknown part of rope": (LLAMA | {"rope_scaling": {"rope_type": "default", "beta_fast": 32}}, "'beta_fast'"),
    "heads turned in part": (LLAMA | {"partial_rotary_factor": 0.5}, "'partial_rotary_factor'"),
    "heads turned in part, inside": (
        LLAMA | {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "'partial_rotary_factor'"
    ),
    "a window in Llama": (LLAMA | {"sliding_window": 64}, "'sliding_window'"),
    "a bias in Mistral": (MISTRAL | {"attention_bias": True}, "'attention_bias'"),
    "an MLP bias in Qwen 2": (QWEN2 | {"mlp_bias": True}, "'mlp_bias'"),
    "mrope": (QWEN2 | {"use_mrope": True}, "'use_mrope'"),
    "layers in a list in Mistral": (MISTRAL | {"layer_types": ["full_attention"] * 2}, "'layer_types'"),
    "Gemma 3's capped scores": (GEMMA | {"attn_logit_softcapping": 50.0}, "'attn_logit_softcapping'"),
    "capped logits in Llama": (LLAMA | {"final_logit_softcapping": 30.0}, "'final_logit_softcapping'"),
    "attention both ways": (GEMMA | {"use_bidirectional_attention": True}, "'use_bidirectional_attention'"),
    "clipped queries": (SIZES | {"model_type": "olmoe", "clip_qkv": 8.0}, "'clip_qkv'"),
    "layers without experts in OLMoE": (SIZES | {"model_type": "olmoe", "mlp_only_layers": [0]}, "'mlp_only_layers'"),
    "scores divided by the layer": (GPT2 | {"scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx'"),
    "cross attention": (GPT2 | {"add_cross_attention": True}, "'add_cross_attention'"),
    "relu": (LLAMA | {"hidden_act": "relu"}, "'hidden_act'"),
    "Gemma's relu": (GEMMA | {"hidden_activation": "relu"}, "'hidden_activation'"),
    "a kind of layer": (GEMMA | {"layer_types": ["chunked_attention"] * 7}, "'layer_types'"),
}  # fmt: skip
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a negative size": (LLAMA | {"hidden_size": -64}, "'hidden_size'"),
    "a size of zero": (LLAMA | {"num_hidden_layers": 0}, "'num_hidden_layers'"),
    "a size as a string": (LLAMA | {"vocab_size": "1000"}, "'vocab_size'"),
    "a size as a float": (LLAMA | {"intermediate_size": 96.0}, "'intermediate_size'"),
    "a size as a truth value": (LLAMA | {"num_attention_heads": True}, "'num_attention_heads'"),
    "a size that is null": (LLAMA | {"hidden_size": None}, "'hidden_size'"),
    "a billion layers": (LLAMA | {"num_hidden_layers": 10**9}, "'num_hidden_layers'"),
    "heads that do not divide the width": (LLAMA | {"num_attention_heads": 5}, "'hidden_size'"),
    "key heads that do not divide the heads": (LLAMA | {"num_key_value_heads": 3}, "'num_key_value_heads'"),
    "an odd head": (LLAMA | {"head_dim": 15}, "'head_dim'"),
    "an odd head in GPT-2": (GPT2 | {"n_embd": 60}, "'n_head'"),
    "a width that GPT-2's heads do not divide": (GPT2 | {"n_head": 5}, "'n_embd'"),
    "an epsilon that is not a number": (LLAMA | {"rms_norm_eps": float("nan")}, "'rms_norm_eps'"),
    "an epsilon as a string": (LLAMA | {"rms_norm_eps": "1e-5"}, "'rms_norm_eps'"),
    "an infinite base": (LLAMA | {"rope_theta": float("inf")}, "'rope_theta'"),
    "a negative base": (LLAMA | {"rope_theta": -1e4}, "'rope_theta'"),
    "a base beyond float32": (LLAMA | {"rope_theta": 10**40}, "'rope_theta'"),
    "an epsilon that is a truth value": (LLAMA | {"rms_norm_eps": True}, "'rms_norm_eps'"),
    "a number as a truth value": (LLAMA | {"tie_word_embeddings": 1}, "'tie_word_embeddings'"),
    "an activation as a list": (LLAMA | {"hidden_act": ["silu"]}, "'hidden_act'"),
    "a window of zero": (MISTRAL | {"sliding_window": 0}, "'sliding_window'"),
    "rope_scaling as a string": (LLAMA | {"rope_scaling": "linear"}, "'rope_scaling'"),
    "divisors without any": (LLAMA | {"rope_scaling": {"rope_type": "divisors"}}, "'divisors' is None, but must be a"),
    "divisors of another head": (
        LLAMA | {"rope_scaling": {"rope_type": "divisors", "divisors": [1.0, 2.0]}}, "but turning 16 numbers needs 8"
    ),
    "a divisor of zero": (LLAMA | {"rope_scaling": {"rope_type": "divisors", "divisors": [1.0, 0]}}, "'1' is 0, but"),
    "linear without a factor": (LLAMA | {"rope_scaling": {"rope_type": "linear"}}, "'factor'"),
    "llama3 without a factor": (LLAMA | {"rope_scaling": {"type": "llama3", **LLAMA3, "factor": None}}, "'factor'"),
    "llama3 the wrong way round": (
        LLAMA | {"rope_scaling": {"rope_type": "llama3", **LLAMA3, "low_freq_factor": 4.0}}, "'low_freq_factor'"
    ),
    "two kinds of rope": (LLAMA | {"rope_scaling": {"rope_type": "linear", "type": "llama3", "factor": 2.0}}, "'type'"),
    "two bases": (LLAMA | {"rope_theta": 5e5, "rope_parameters": {"rope_theta": 1e4}}, "'rope_theta'"),
    "two ropes": (
        LLAMA | {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        "'rope_scaling'",
    ),
    "a flat rope for Gemma's two": (GEMMA | {"rope_parameters": {"rope_theta": 1e6}}, "'rope_theta'"),
    "a pattern that is never read": (GEMMA | {"_sliding_window_pattern": 2}, "'_sliding_window_pattern'"),
    "too few layers in the list": (QWEN2 | {"layer_types": ["full_attention"]}, "'layer_types'"),
    "a local layer without a window": (QWEN2 | {"layer_types": ["sliding_attention"] * 2}, "'layer_types'"),
    "a window that two versions read differently": (
        QWEN3_MOE | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}, "'max_window_layers'"
    ),
    "more experts chosen than there are": (
        QWEN3_MOE | {"num_experts": 4, "num_experts_per_tok": 5}, "'num_experts_per_tok'"
    ),
    "two numbers of experts": (QWEN3_MOE | {"num_experts": 8, "num_local_experts": 9}, "'num_experts'"),
    "two widths in GPT-2": (GPT2 | {"hidden_size": 65}, "'hidden_size'"),
    "an end token below zero": (LLAMA | {"eos_token_id": -1}, "'eos_token_id'"),
    "an end token as a string": (LLAMA | {"eos_token_id": ["</s>"]}, "'eos_token_id'"),
    "architectures as a string": (LLAMA | {"architectures": "LlamaForCausalLM"}, "'architectures'"),
    "a model type that is a number": (LLAMA | {"model_type": 7}, "'model_type'"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_would_change_the_result_is_refused_by_name(write: Write, case: str) -> None:
    """Ignoring any of these runs a different model without a word."""
    config, named = UNSUPPORTED[case]
    assert named in refusal(write(config))


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_refused_by_name(write: Write, case: str) -> None:
    """Each of these once ended in another module's traceback, or in wrong text."""
    config, named = WRONG[case]
    assert named in refusal(write(config))


@pytest.mark.parametrize(
    ("config", "field"),
    [(config, field) for config in (LLAMA, GPT2) for field in config if "position" not in field]
    + [(QWEN3_MOE, "moe_intermediate_size")],
)
def test_a_missing_field_is_named(write: Write, config: dict[str, Any], field: str) -> None:
    """A size taken from the family's default would be refused later with words about tensors."""
    message = refusal(write({key: value for key, value in config.items() if key != field}))
    assert f"'{field}' is missing" in message


def test_a_broken_generation_config_is_named(write: Write) -> None:
    assert "generation_config.json" in refusal(write(LLAMA, {"eos_token_id": "</s>"}))
    assert "generation_config.json" in refusal(write(LLAMA, [1, 2]))


def test_a_folder_without_config_is_told_so(tmp_path: Path) -> None:
    assert "config.json: the file is missing" in refusal(tmp_path)


# --- whatever a file holds ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["linear", "silu"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FUZZED = [load_golden(name).config for name in FAMILIES]
FUZZED += [dialect4(config) for config in FUZZED]
FUZZED += [{"model_type": "llava", "text_config": config, "vision_config": {}} for config in FUZZED[::5]]


@pytest.fixture(scope="module")
def fuzz_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder that every example writes into."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.filterwarnings("ignore::tinyinfer.ModelWarning")
@settings(max_examples=300)
@given(data=st.data())
def test_no_value_of_any_field_ends_in_another_error(fuzz_folder: Path, data: st.DataObject) -> None:
    """A KeyError, a ZeroDivisionError or a MemoryError out of a loader names no file and no cure."""
    config = dict(data.draw(st.sampled_from(FUZZED)))
    target = config
    for name in ("rope_parameters", "rope_scaling", "text_config"):
        if isinstance(config.get(name), dict) and data.draw(st.booleans()):
            target = config[name] = dict(config[name])
    field = data.draw(st.sampled_from(sorted(target)) | st.text(max_size=5))
    target[field] = data.draw(JSON | st.integers(0, 9) | st.sampled_from([0.5, 1e-5, 2**31, 2**63, 10**30]))
    (fuzz_folder / "config.json").write_text(json.dumps(config))
    message = ""
    try:
        expected_tensors(read_config(fuzz_folder))
    except ModelError as error:
        message = str(error)
    assert not message or (message.startswith(str(fuzz_folder)) and "\n" not in message)
