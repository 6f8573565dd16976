"""config.json of every family, in the spellings found on the hub, and every way in which one can be wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import configurations
import numpy as np
import pytest
from configurations import DEFAULTS, GEMMA3, GPT2, LLAMA, MINIMAL, QWEN2, QWEN3_MOE, SIZES, refusal
from golden import FAMILIES, dialect4, load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyinfer.errors import ModelError, ModelWarning
from tinyinfer.loading.hf_config import read_config
from tinyinfer.model.config import ModelConfig, MoEConfig, expected_tensors

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes config.json, and generation_config.json if given, and returns the folder."""
    return partial(configurations.write, tmp_path)


# --- what files mean ---


OVERLOOKED = ("gemma3_linear", "olmo3")  # whose `type` transformers 5 overlooks, so that it is refused


@pytest.mark.parametrize(
    ("name", "rope_type_key"),
    [(name, key) for name in FAMILIES for key in ("rope_type", "type") if key != "type" or name not in OVERLOOKED],
)
def test_both_dialects_mean_the_same(write: Write, name: str, rope_type_key: str) -> None:
    """A field that only one transformers version writes (rope_theta, num_experts, layer_types) would be lost."""
    new = load_golden(name).config
    assert read_config(write(new)) == read_config(write(dialect4(new, rope_type_key)))


def test_gemma_3_embedding_scale_is_a_float32(write: Write) -> None:
    """transformers multiplies by sqrt(D) as a float32; a Python float would differ in the last bits."""
    scale = read_config(write(GEMMA3 | {"hidden_size": 1152})).embedding_scale
    assert scale == float(np.float32(1152**0.5))
    assert scale != 1152**0.5


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


ATTENTION_BIAS = ["llama", "qwen3", "smollm3", "gemma2", "gemma3_text", "olmo2", "granite", "qwen3_moe", "olmoe"]


@pytest.mark.parametrize("model_type", ATTENTION_BIAS)
def test_attention_bias_is_on_the_output_too(write: Write, model_type: str) -> None:
    config = read_config(write(MINIMAL[model_type] | {"attention_bias": True}))
    assert (config.qkv_bias, config.o_bias, config.mlp_bias) == (True, True, False)


def test_qwen2_has_a_bias_on_q_k_v_and_never_on_o(write: Write) -> None:
    config = read_config(write(QWEN2))
    assert (config.qkv_bias, config.o_bias, config.mlp_bias) == (True, False, False)


def test_llama_mlp_bias(write: Write) -> None:
    config = read_config(write(LLAMA | {"mlp_bias": True}))
    assert (config.qkv_bias, config.o_bias, config.mlp_bias) == (False, False, True)


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

    assert {config["model_type"]: longest(config) for config in (*MINIMAL.values(), GPT2)} == {
        "llama": 2048, "mistral": 131072, "qwen2": 32768, "qwen3": 32768, "smollm3": 32768, "gemma2": 8192,
        "gemma3_text": 131072, "phi3": 4096, "olmo2": 2048, "olmo3": 2048, "granite": 2048, "gpt_neox": 2048,
        "mixtral": 131072, "qwen2_moe": 32768, "qwen3_moe": 32768, "olmoe": 4096, "gpt_oss": 131072, "gpt2": 1024,
    }  # fmt: skip


# Of trainers and tools. transformers 5.23 loads the golden "llama" with each of them, with bitwise the same logits.
FOREIGN = """
    run_name axolotl_version _unsloth_fixed license datasets wandb_run_id base_model finetuned_from created_by date seed
    tokenizer_padding_side tokenizer_model_max_length learning_rate num_train_epochs lr_scheduler_type warmup_steps
    trl_version use_flash_attn per_device_train_batch_size gradient_accumulation_steps mlp_dropout embed_dropout
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


# --- what is refused ---

UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": (LLAMA | {"model_type": "mamba"}, "supported are llama, mistral, qwen2"),
    "another head": (LLAMA | {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForCausalLM"),
    "quantized weights": (LLAMA | {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "'gptq'"),
    "an unknown field": (LLAMA | {"logit_scale": 2.0}, "'logit_scale'"),
    "an unknown field, null": (LLAMA | {"logit_scale": None}, "'logit_scale'"),
    "mrope": (QWEN2 | {"use_mrope": True}, "'use_mrope'"),
    "Gemma 3's capped scores": (GEMMA3 | {"attn_logit_softcapping": 50.0}, "'attn_logit_softcapping'"),
    "scores divided by the layer": (GPT2 | {"scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx'"),
    "cross attention": (GPT2 | {"add_cross_attention": True}, "'add_cross_attention'"),
    "relu": (LLAMA | {"hidden_act": "relu"}, "'hidden_act'"),
    "Gemma's relu": (GEMMA3 | {"hidden_activation": "relu"}, "'hidden_activation'"),
}  # fmt: skip
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a negative size": (LLAMA | {"hidden_size": -64}, "'hidden_size'"),
    "a size of zero": (LLAMA | {"num_hidden_layers": 0}, "'num_hidden_layers'"),
    "a size as a string": (LLAMA | {"vocab_size": "1000"}, "'vocab_size'"),
    "a size as a float": (LLAMA | {"intermediate_size": 96.0}, "'intermediate_size'"),
    "a size as a truth value": (LLAMA | {"num_attention_heads": True}, "'num_attention_heads'"),
    "a size that is null": (LLAMA | {"hidden_size": None}, "'hidden_size'"),
    "a billion layers": (LLAMA | {"num_hidden_layers": 10**9}, "'num_hidden_layers'"),
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
FUZZED += [case[form] for case in DEFAULTS.values() for form in ("given", "full")]
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
