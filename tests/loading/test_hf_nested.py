"""Models that also read images or sound: their text part loads, the other towers are passed over by name.

The right logits are the goldens': a text part is a golden whose configuration is nested and whose tensors are renamed
as in published files. That a whole model of transformers gives the logits of its text part where there is no image was
tried outside of this suite: 20 classes of transformers 5.23 (Gemma3ForConditionalGeneration, Mistral3..., Llava...,
SmolVLM..., InternVL..., Qwen2Audio..., ...) with random weights, tied and untied, saved by save_pretrained and read
here, differ by at most 9e-7 of the largest logit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import Golden, load_golden, write_hf_folder
from helpers import TOLERANCE
from safetensors.numpy import save_file

from tinyinfer import LLM, ModelError, ModelWarning
from tinyinfer.loading import load
from tinyinfer.loading.hf_config import read_config
from tinyinfer.loading.saving import save_model

Names = Callable[[str], str]
VISION = {"model_type": "siglip_vision_model", "hidden_size": 8, "num_hidden_layers": 1, "vision_use_head": False}
TOWERS = {
    "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight": np.ones((8, 8), np.float32),
    "vision_tower.vision_model.post_layernorm.bias": np.ones(8, np.float32),
    "multi_modal_projector.mm_input_projection_weight": np.ones((8, 4), np.float32),
}


def old(name: str) -> str:
    """As in files until transformers 4.51: the whole text model, its head included, below language_model."""
    return f"language_model.{name}"


def new(name: str) -> str:
    """As the modules are since transformers 4.52: the head beside the text model."""
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name


def idefics(name: str) -> str:
    return new(name).replace("language_model", "text_model")


def nested(
    golden: Golden,
    folder: Path,
    outer: str = "gemma3",
    names: Names = old,
    towers: dict[str, np.ndarray] = TOWERS,
    head: np.ndarray | None = None,
    text: dict[str, Any] | None = None,
    **fields: Any,
) -> Path:
    """A golden as the text part of another model. text, fields: changes inside and outside; None removes a field."""
    write_hf_folder(golden, folder)
    inner = {key: value for key, value in (golden.config | (text or {})).items() if value is not None}
    whole = {"model_type": outer, "architectures": [f"{outer.title()}ForConditionalGeneration"], "text_config": inner}
    (folder / "config.json").write_text(json.dumps(whole | {"vision_config": VISION} | fields))
    weights = golden.weights() | ({} if head is None else {"lm_head.weight": head})
    save_file({names(name): array for name, array in weights.items()} | towers, folder / "model.safetensors")
    return folder


def error(folder: Path, golden: Golden) -> float:
    """The largest difference from the golden's logits, as a share of the largest logit."""
    with pytest.warns(ModelWarning, match="multi_modal_projector, vision_tower are passed over"):
        llm = LLM(str(folder))
    return float(np.abs(llm.logits(golden.tokens.tolist()) - golden.logits).max() / np.abs(golden.logits).max())


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what loads ---


@pytest.mark.parametrize("names", [old, new, idefics])
@pytest.mark.parametrize(
    ("name", "outer"),
    [("gemma3", "gemma3"), ("mistral", "mistral3"), ("llama", "llava"), ("qwen2", "qwen2_audio"), ("qwen3", "acme_vl"),
     ("qwen3_moe", "acme_vl"), ("gemma2", "acme_vl"), ("granite", "granite_speech"), ("smollm3", "smolvlm"),
     ("phi3", "llava_next"), ("olmo3", "acme_vl"), ("qwen2_moe", "acme_vl"), ("gpt_oss", "acme_vl")],
)  # fmt: skip
def test_the_text_part_is_the_whole_models_answer(tmp_path: Path, name: str, outer: str, names: Names) -> None:
    """Catches a naming that is not known, a head looked for in one place only, a list of models instead of a kind."""
    golden = load_golden(name)
    assert error(nested(golden, tmp_path, outer, names), golden) < TOLERANCE


def test_a_tower_in_the_new_naming_is_passed_over_too(tmp_path: Path) -> None:
    golden = load_golden("gemma3")
    towers = {f"model.{name}": array for name, array in TOWERS.items()}
    assert error(nested(golden, tmp_path, names=new, towers=towers), golden) < TOLERANCE


def test_gemma_3_4b_as_on_the_hub(tmp_path: Path) -> None:
    """Most of the text part is left out there, and means the defaults of transformers' Gemma3TextConfig."""
    text = {
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
    }  # fmt: skip
    whole = {
        "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999, "eoi_token_index": 256000,
        "eos_token_id": [1, 106], "image_token_index": 262144, "initializer_range": 0.02, "mm_tokens_per_image": 256,
        "model_type": "gemma3", "text_config": text, "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
        "vision_config": VISION,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(whole))
    c = read_config(tmp_path)
    assert (c.architecture, c.vocab_size, c.hidden_size, c.intermediate_size) == ("gemma3", 262208, 2560, 10240)
    assert (c.num_layers, c.num_heads, c.num_kv_heads, c.head_dim, c.max_position) == (34, 8, 4, 256, 131072)
    assert (c.attention_scale, c.norm_eps, c.tied_head, c.eos_token_ids) == (1 / 16, 1e-6, True, (1, 106))
    assert c.windows[:6] == (1024,) * 5 + (None,)
    assert (c.rope[0].theta, c.rope[0].scaling) == (1e4, "none")
    assert (c.rope[5].theta, c.rope[5].scaling, c.rope[5].factor) == (1e6, "linear", 8.0)


def test_llava_1_5_as_on_the_hub(tmp_path: Path) -> None:
    """All sizes of the text part are Llama 7B's, and so are left out."""
    text = {
        "_name_or_path": "lmsys/vicuna-7b-v1.5", "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "torch_dtype": "float16", "vocab_size": 32064,
    }  # fmt: skip
    whole = {
        "architectures": ["LlavaForConditionalGeneration"], "ignore_index": -100, "image_token_index": 32000,
        "model_type": "llava", "pad_token_id": 32001, "projector_hidden_act": "gelu", "text_config": text,
        "tie_word_embeddings": False, "torch_dtype": "float16", "vision_config": VISION, "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default", "vocab_size": 32064,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(whole))
    c = read_config(tmp_path)
    assert (c.vocab_size, c.hidden_size, c.intermediate_size, c.num_layers) == (32064, 4096, 11008, 32)
    assert (c.num_heads, c.num_kv_heads, c.head_dim, c.max_position) == (32, 32, 128, 4096)
    assert (c.tied_head, c.eos_token_ids) == (False, (2,))


def test_smolvlm_as_on_the_hub(tmp_path: Path) -> None:
    """Its text part holds fields of training and of the other towers, and a class of its maker."""
    text = {
        "_flash_attn_2_enabled": True, "architectures": ["VLlama3ForCausalLM"], "head_dim": 64, "hidden_size": 576,
        "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "model_type": "llama",
        "neftune_noise_alpha": 0.0, "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
        "pad_token_id": 2, "perceiver_config": {"num_key_value_heads": 1}, "pixel_shuffle_factor": 4,
        "qk_layer_norms": False, "rms_norm_eps": 1e-5, "rope_interleaved": False, "rope_theta": 100000,
        "use_resampler": False, "vocab_size": 49280,
    }  # fmt: skip
    whole = {
        "architectures": ["Idefics3ForConditionalGeneration"], "bos_token_id": 1, "eos_token_id": 49279,
        "image_token_id": 49190, "model_type": "idefics3", "pad_token_id": 2, "scale_factor": 4, "text_config": text,
        "tie_word_embeddings": False, "use_cache": True, "use_reentrant_checkpointing": False, "vision_config": VISION,
        "vocab_size": 49280,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(whole))
    with pytest.warns(ModelWarning):
        c = read_config(tmp_path)
    assert (c.architecture, c.vocab_size, c.num_layers, c.num_heads, c.num_kv_heads) == ("llama", 49280, 30, 9, 3)
    assert (c.rope[0].theta, c.tied_head, c.qkv_bias, 49279 in c.eos_token_ids) == (1e5, False, False, True)


def test_a_text_part_without_a_model_type_is_the_outer_models_usual_one(tmp_path: Path) -> None:
    """transformers 5.23: Mistral3Config(text_config={"hidden_size": 64}).text_config is a MistralConfig."""
    usual = {"mistral3": "mistral", "llava": "llama", "internvl": "qwen2", "gemma3": "gemma3"}
    for outer, kind in (usual | {"granite_speech": "granite"}).items():
        whole = {"model_type": outer, "text_config": {"hidden_size": 64}}
        (tmp_path / "config.json").write_text(json.dumps(whole))
        assert read_config(tmp_path).architecture == kind


@pytest.mark.parametrize(
    ("outside", "inside", "stored", "tied"),
    [
        (True, True, None, True), (None, None, None, True), (False, True, None, True), (True, False, None, True),
        (True, True, "copy", True), (True, False, "other", False), (None, None, "other", False),
        (False, False, "other", False),
    ],
)  # fmt: skip
def test_whether_the_head_is_tied_is_seen_in_the_file(
    tmp_path: Path, outside: bool | None, inside: bool | None, stored: str | None, tied: bool
) -> None:
    """Two levels may say so and differ (LLaVA-OneVision: false outside, true inside; Mistral Small 3.1 says nothing).

    transformers 5.23 does not tie a head that is stored with other numbers, whatever its configuration says.
    """
    golden = load_golden("gemma3")
    table = golden.weights()["model.embed_tokens.weight"]
    head = {None: None, "copy": table, "other": table * 2}[stored]
    outer = {} if outside is None else {"tie_word_embeddings": outside}
    folder = nested(golden, tmp_path, head=head, text={"tie_word_embeddings": inside}, **outer)
    with pytest.warns(ModelWarning):
        llm = LLM(str(folder))
    assert llm.config.tied_head == tied
    np.testing.assert_allclose(
        llm.logits(golden.tokens.tolist()), golden.logits * (1 if tied else 2), atol=1e-4 * golden.logits.max() * 2
    )


def test_a_head_that_is_neither_tied_nor_stored_is_missing(tmp_path: Path) -> None:
    """Catches a model that both levels call untied, tied because its head was lost."""
    folder = nested(
        load_golden("gemma3"), tmp_path, text={"tie_word_embeddings": False}, tie_word_embeddings=False
    )
    with pytest.warns(ModelWarning):
        assert "the weight 'head' is missing; if the embedding is the head, too" in refusal(folder)


def test_end_tokens_are_those_of_both_levels(tmp_path: Path) -> None:
    """Gemma 3 4B says <end_of_turn> outside only, and its chat would never end."""
    folder = nested(load_golden("gemma3"), tmp_path, text={"eos_token_id": 3}, eos_token_id=[1, 5])
    (folder / "generation_config.json").unlink()
    assert set(read_config(folder).eos_token_ids) >= {1, 3, 5}


@pytest.mark.parametrize("name", ["gemma3", "mistral"])
def test_a_quantized_folder_is_the_text_model(tmp_path: Path, name: str) -> None:
    """Catches the copied config.json read as a whole model's; and Mistral's head, which no level calls untied, lost."""
    golden = load_golden(name)
    with pytest.warns(ModelWarning):
        source = load(nested(golden, tmp_path / "source", text={"tie_word_embeddings": None}))
    with pytest.warns(ModelWarning):
        llm = LLM(source.path, quantize="int8", quantize_head="int8")
    save_model(tmp_path / "small", llm.model, source, {"method": "rtn"})
    again = LLM(str(tmp_path / "small"))
    assert again.config == llm.config
    np.testing.assert_array_equal(again.logits(golden.prompt), llm.logits(golden.prompt))


# --- what is refused ---


def write(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("value", [0, False, "", [], {}])
@pytest.mark.parametrize("level", ["outer", "inner"])
def test_a_quantization_that_is_nothing_is_told(tmp_path: Path, value: object, level: str) -> None:
    """Catches a value that counts as false taken for none at one place, and for a quantized folder's at another."""
    given = {"quantization_config": value}
    folder = nested(load_golden("gemma3"), tmp_path, **({"text": given} if level == "inner" else given))
    assert "the field 'quantization_config' says that the weights are quantized by" in refusal(folder)


@pytest.mark.parametrize(
    ("outer", "inner"), [("qwen3_5", "qwen3_5_text"), ("gemma4", "gemma4_text"), ("llava", "persimmon")]
)
def test_a_text_part_of_another_family_is_named(tmp_path: Path, outer: str, inner: str) -> None:
    """Catches the outer type blamed, which is no more supported with a text part that is."""
    said = refusal(write(tmp_path, {"model_type": outer, "text_config": {"model_type": inner}}))
    assert f"'{outer}', whose text part '{inner}' is not supported; supported are llama" in said


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a field outside that changes the answer": ({"logit_scale": 2.0}, "'logit_scale'"),
    "another vocabulary outside": ({"vocab_size": 99}, "'vocab_size'"),
    "attention both ways inside": ({"text": {"use_bidirectional_attention": True}}, "'use_bidirectional_attention'"),
    "a cap that transformers 5 does not apply in a model of images": (
        {"text": {"final_logit_softcapping": 30.0}}, "text_config: the field 'final_logit_softcapping' is 30.0, which"
    ),
    "an unknown field inside": ({"text": {"logit_scale": 2.0}}, "text_config: the field 'logit_scale'"),
    "prompts that are read both ways": ({"model_type": "paligemma"}, "'model_type' is 'paligemma', whose prompts"),
    "no text part": ({"text_config": None}, "'text_config' is missing"),
    "a text part that is a word": ({"text_config": "llama"}, "'text_config'"),
    "a text part without a type": ({"model_type": "acme", "text_config": {}}, "'model_type' is missing"),
    "a class that writes no text": ({"architectures": ["Gemma3ForSequenceClassification"]}, "'architectures'"),
    "tied by a word": ({"tie_word_embeddings": "no"}, "'tie_word_embeddings' is 'no'"),
    "a quantization outside": ({"quantization_config": {"quant_method": "awq"}}, "'awq'"),
    "a quantization inside": ({"text": {"quantization_config": {"quant_method": "awq"}}}, "'awq'"),
    "a tensor of no tower": (
        {"towers": {"model.cross_attention.weight": np.ones(3, np.float32)}}, "'model.cross_attention.weight'"
    ),
    "a tensor of no text model": (
        {"towers": {"language_model.model.layers.0.gate": np.ones(3, np.float32)}}, "'language_model.model.layers.0."
    ),
    "one tensor in two namings": (
        {"towers": {"model.language_model.norm.weight": np.ones(48, np.float32)}}, "are the same weight"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_could_change_the_answer_is_refused_by_name(tmp_path: Path, case: str) -> None:
    """Catches a whole model passed over because it is no text part, with what it changes in the text part."""
    changes, named = REFUSED[case]
    assert named in refusal(nested(load_golden("gemma3"), tmp_path, **changes))


def test_fields_of_other_towers_are_no_question(tmp_path: Path) -> None:
    """The fields beside the text part in the configurations of transformers 5.23, and of older files."""
    fields = """audio_config audio_token_id boi_token_index downsample_ratio eoi_token_id image_grid_pinpoints
        image_seq_length image_token_index mm_tokens_per_image multimodal_projector_bias perceiver_config
        projector_hidden_act projector_layernorm_eps scale_factor spatial_merge_size video_token_id vision_aspect_ratio
        vision_feature_layer vision_feature_select_strategy vision_use_cls_token visual_indicator_token_ids vq_config"""
    folder = nested(load_golden("gemma3"), tmp_path, **dict.fromkeys(fields.split(), 7))
    assert read_config(folder) == read_config(nested(load_golden("gemma3"), tmp_path))


def test_a_flat_configuration_has_no_towers(golden_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Catches other towers' tensors passed over in a model that has none: they would be of another model."""
    golden = load_golden("llama")
    write_hf_folder(golden, tmp_path)
    save_file(golden.weights() | TOWERS, tmp_path / "model.safetensors")
    assert "has no place in a model of the family llama" in refusal(tmp_path)
