"""Every family's config.json: with everything left out that may be, with fields of another family, with faults.

The oracle is transformers: golden/defaults.json holds files and the same files as its configuration classes write them
with every field said (make_default_goldens.py). A default that is another one here, a list of layers by another rule or
an older spelling that means something else makes the two differ.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from configurations import DEFAULTS, LLAMA, MINIMAL, Config, read, refusal, write

from tinyinfer.loading.hf_families import FAMILIES, SIZES

NESTED = ", nested"


@pytest.mark.parametrize("case", [name for name in DEFAULTS if not name.endswith(NESTED)])
def test_what_a_file_leaves_out_or_spells_the_old_way_means_what_transformers_takes_it_for(
    tmp_path: Path, case: str
) -> None:
    """Catches each default that is not the family's own, among them those that transformers computes from others."""
    assert read(tmp_path, DEFAULTS[case]["given"]) == read(tmp_path, DEFAULTS[case]["full"])


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_text_part_that_says_nothing_is_the_familys_first_model(tmp_path: Path, kind: str) -> None:
    """Files of transformers 4 hold only what differs from the default; catches a size that a text part must say."""
    whole = read(tmp_path, DEFAULTS[kind + NESTED]["full"])
    part = read(tmp_path, {"model_type": "acme_vl", "text_config": {"model_type": kind}})
    assert replace(part, tied_head=whole.tied_head) == whole  # the stored tensors decide whether the head is tied


def test_every_family_has_its_sizes_and_a_case() -> None:
    """Catches a family that is added without its defaults."""
    assert set(FAMILIES) == set(SIZES) == {name for name in DEFAULTS if name in FAMILIES}


# --- what only some families have ---

# Field -> a value that changes the result, and the families that have it; elsewhere it is refused by name.
OWNED: dict[str, tuple[object, str]] = {
    "attention_bias": (
        True, "llama qwen3 smollm3 gemma2 gemma3_text olmo2 olmo3 granite gpt_neox qwen3_moe olmoe gpt_oss"
    ),
    "attention_multiplier": (0.5, "granite"),
    "attn_logit_softcapping": (50.0, "gemma2"),
    "clip_qkv": (8.0, ""),
    "decoder_sparse_step": (2, "qwen2_moe qwen3_moe"),
    "embedding_multiplier": (2.0, "granite"),
    "final_logit_softcapping": (30.0, "gemma2 gemma3_text"),
    "full_attn_mod": (1, "phi3"),
    "interpolate_factor": (1, "phi3"),
    "kv_lora_rank": (8, ""),
    "layer_norm_eps": (1e-4, "gpt_neox"),
    "layer_types": (["full_attention"] * 2, "qwen2 qwen3 smollm3 gemma2 gemma3_text olmo3 qwen2_moe gpt_oss"),
    "lm_head_bias": (True, ""),
    "logit_scale": (2.0, ""),
    "logits_scaling": (2.0, "granite"),
    "mlp_bias": (True, "llama smollm3 granite"),
    "mlp_only_layers": ([0], "qwen2_moe qwen3_moe"),
    "no_rope_layers": ([0, 1], "smollm3"),
    "norm_topk_prob": (True, "qwen2_moe qwen3_moe olmoe"),
    "num_local_experts": (16, "mixtral qwen2_moe qwen3_moe olmoe gpt_oss"),
    "partial_rotary_factor": (0.5, "phi3 gpt_neox"),
    "qkv_bias": (True, "qwen2_moe"),
    "query_pre_attn_scalar": (100, "gemma2 gemma3_text"),
    "residual_multiplier": (0.5, "granite"),
    "rotary_emb_base": (5000, "gpt_neox"),
    "rotary_pct": (0.5, "gpt_neox"),
    "shared_expert_intermediate_size": (40, "qwen2_moe"),
    "sliding_window": (
        7, "mistral qwen2 qwen3 smollm3 gemma2 gemma3_text phi3 olmo3 mixtral qwen2_moe qwen3_moe gpt_oss"
    ),
    "swiglu_limit": (7.0, "gpt_oss"),
    "use_bidirectional_attention": (True, ""),
    "use_parallel_residual": (False, "gpt_neox"),
    "use_sliding_window": (True, "qwen2 qwen3 smollm3 qwen2_moe qwen3_moe"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MINIMAL)
@pytest.mark.parametrize("field", OWNED)
def test_a_field_of_another_family_is_refused_by_name(tmp_path: Path, field: str, kind: str) -> None:
    """Catches a field that one family gave a meaning, passed over in the others, where it would have none."""
    value, owners = OWNED[field]
    config = MINIMAL[kind] | {field: value}
    if kind not in owners.split():
        assert f"'{field}'" in refusal(write(tmp_path, config))
    elif field != "layer_types" or kind != "gemma3_text":  # which has seven layers
        read(tmp_path, config)


BAD: dict[str, tuple[Config, str]] = {
    "heads of an odd size": ({"head_dim": 15}, "'head_dim'"),
    "heads that do not divide the width": ({"num_attention_heads": 5, "head_dim": None}, "'hidden_size'"),
    "key heads that do not divide the heads": ({"num_key_value_heads": 3}, "'num_key_value_heads'"),
    "no layers": ({"num_hidden_layers": 0}, "'num_hidden_layers'"),
    "a bias by a number": ({"attention_bias": 1, "qkv_bias": 1}, "_bias'"),
    "an activation of another name": ({"hidden_act": "relu2", "hidden_activation": "relu2"}, "'hidden_act"),
    "an epsilon of zero": ({"rms_norm_eps": 0, "layer_norm_eps": 0}, "_eps'"),
    "a head tied by a word": ({"tie_word_embeddings": "yes"}, "'tie_word_embeddings'"),
    "weights of another tool": ({"quantization_config": {"quant_method": "awq"}}, "'quantization_config'"),
    "another class": ({"architectures": ["BertForMaskedLM"]}, "'architectures'"),
    "an unknown part": ({"attention_sink": 4}, "'attention_sink'"),
}


@pytest.mark.parametrize("kind", MINIMAL)
@pytest.mark.parametrize("fault", BAD)
def test_a_fault_is_one_sentence_in_every_family(tmp_path: Path, fault: str, kind: str) -> None:
    """Catches a family that has a path of its own, past a check of the others."""
    changes, named = BAD[fault]
    assert named in refusal(write(tmp_path, MINIMAL[kind] | changes))


@pytest.mark.parametrize("kind", MINIMAL)
def test_every_size_must_be_said(tmp_path: Path, kind: str) -> None:
    """A size taken from the family's default would be refused later with words about tensors."""
    may_lack = ["max_position_embeddings"] + ["intermediate_size"] * ("moe_intermediate_size" in MINIMAL[kind])
    for name in SIZES[kind].keys() & MINIMAL[kind].keys() - set(may_lack):
        said = refusal(write(tmp_path, {key: value for key, value in MINIMAL[kind].items() if key != name}))
        assert f"'{name}' is missing" in said


WRONG: dict[str, tuple[str, Config, str]] = {
    "a limit of another clamp": ("gpt_oss", {"swiglu_limit": 5.0}, "'swiglu_limit'"),
    "an alpha of another clamp": ("gpt_oss", {"swiglu_alpha": 1.0}, "'swiglu_alpha'"),
    "an activation that is not clamped": ("gpt_oss", {"hidden_act": "gelu"}, "'hidden_act'"),
    "two original lengths": ("gpt_oss", {"initial_context_length": 100}, "'initial_context_length'"),
    "two numbers of experts a token": ("gpt_oss", {"experts_per_token": 4, "num_experts_per_tok": 2}, "'experts_per"),
    "experts a token by the name that transformers overlooks": (
        "gpt_oss", {"experts_per_token": 2}, "'experts_per_token' differs from num_experts_per_tok, which is 4"
    ),
    "two windows": ("gemma2", {"sliding_window": 9, "sliding_window_size": 8}, "'sliding_window_size'"),
    "a window by the name that transformers overlooks": (
        "gemma2", {"sliding_window_size": 8}, "'sliding_window_size' differs from sliding_window, which is 4096"
    ),
    "a cap of zero": ("gemma2", {"attn_logit_softcapping": 0.0}, "'attn_logit_softcapping'"),
    "a negative cap": ("gemma2", {"final_logit_softcapping": -30.0}, "'final_logit_softcapping'"),
    "logits divided by zero": ("granite", {"logits_scaling": 0}, "'logits_scaling'"),
    "a multiplier as a string": ("granite", {"residual_multiplier": "0.22"}, "'residual_multiplier'"),
    "fewer key heads": ("gpt_neox", {"num_key_value_heads": 2}, "'num_key_value_heads'"),
    "heads of another size": ("gpt_neox", {"head_dim": 8}, "'head_dim'"),
    "a residual in words": ("gpt_neox", {"use_parallel_residual": "yes"}, "'use_parallel_residual'"),
    "another mode of Phi-4's code": ("phi3", {"full_attn_mod": 2}, "'full_attn_mod'"),
    "a shared expert of no width": ("qwen2_moe", {"shared_expert_intermediate_size": 0}, "'shared_expert_"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_a_family_cannot_mean_is_refused_by_name(tmp_path: Path, case: str) -> None:
    kind, changes, named = WRONG[case]
    assert named in refusal(write(tmp_path, MINIMAL[kind] | changes))


def test_a_dense_layer_is_as_wide_as_the_file_says(tmp_path: Path) -> None:
    """Catches the width of an expert, which stands in for it only where no layer is dense."""
    mixture, dense = MINIMAL["qwen3_moe"], {"mlp_only_layers": [1]}
    unsaid = {key: value for key, value in mixture.items() if key != "intermediate_size"}
    assert read(tmp_path, mixture | dense).intermediate_size == 96
    assert read(tmp_path, unsaid).intermediate_size == 24
    assert "'intermediate_size' is missing" in refusal(write(tmp_path, unsaid | dense))


def test_a_cap_that_is_null_is_none(tmp_path: Path) -> None:
    """Catches the family's 50 and 30 where the file says that there are none."""
    caps: Config = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    c = read(tmp_path, MINIMAL["gemma2"] | caps)
    assert (c.score_cap, c.logit_cap) == (None, None)
    assert read(tmp_path, LLAMA).score_cap is None
