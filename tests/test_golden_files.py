"""The goldens themselves: that a failing model test means a broken model and not a broken golden.

Nothing of tinyinfer is used here. That the folders mean what they should was decided by transformers, which read
every one of them back when make_goldens.py made the files.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from golden import (
    BARE,
    CHAT_TEMPLATE,
    FAMILIES,
    GOLDEN_DIR,
    checksum,
    dialect4,
    golden_tokenizer,
    load_golden,
    write_hf_folder,
)
from safetensors.numpy import load_file
from tokenizers import Tokenizer


def test_every_file_has_a_family_and_every_family_a_file() -> None:
    """A golden that no test loads would look like coverage and be none."""
    assert sorted(path.stem for path in GOLDEN_DIR.glob("*.npz")) == sorted(FAMILIES + BARE)


@pytest.mark.parametrize("name", FAMILIES + BARE)
def test_weights_are_drawn_again_bit_for_bit(name: str) -> None:
    """Catches a changed golden_weight, or a NumPy whose legacy stream moved, before it looks like a broken model."""
    golden = load_golden(name)
    weights = golden.weights()
    assert checksum(weights) == golden.weights_crc
    assert all(w.dtype == np.float32 and w.shape == golden.tensors[k] and w.std() > 0.03 for k, w in weights.items())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_golden_can_tell_models_apart(name: str) -> None:
    """Catches degenerate goldens: constant logits, a repeating text, a prompt within the window."""
    golden = load_golden(name)
    t, v = len(golden.tokens), golden.config["vocab_size"]
    assert golden.logits.shape == (t, v)
    assert golden.logits.dtype == np.float32
    assert np.isfinite(golden.logits).all()
    assert golden.logits.std(axis=0).min() > 0.1 < golden.logits.std(axis=1).min()
    assert golden.prompt == golden.tokens[: len(golden.prompt)].tolist()
    assert golden.greedy[0] == golden.first_logits(len(golden.prompt))[-1].argmax()
    assert len(golden.greedy) >= 24
    assert len(set(golden.greedy)) >= 12
    assert max(golden.greedy + golden.tokens.tolist()) < v
    assert len(golden.prompt) > (golden.config.get("sliding_window") or 0)


def test_rounding_weights_changes_the_file_and_not_its_shape(tmp_path: Path) -> None:
    """Catches a folder "in bfloat16" whose tensors are float32 after all."""
    full = load_file(write_hf_folder("qwen3", tmp_path / "32") / "model.safetensors")
    half = load_file(write_hf_folder("qwen3", tmp_path / "16", dtype="float16") / "model.safetensors")
    assert full.keys() == half.keys()
    assert {a.dtype.name for a in half.values()} == {"float16"}
    assert all(np.allclose(full[k], half[k], rtol=1e-3, atol=1e-4) for k in full)
    sizes = [(tmp_path / d / "model.safetensors").stat().st_size for d in ("32", "16")]
    bf16 = write_hf_folder("qwen3", tmp_path / "b16", dtype="bfloat16") / "model.safetensors"
    assert abs(bf16.stat().st_size - sizes[1]) < 1000 < sizes[0] - sizes[1]


def test_shards_hold_every_tensor_once(tmp_path: Path) -> None:
    """Catches an index that names the wrong file: the loader's tests would then fail for the wrong reason."""
    folder = write_hf_folder("mixtral", tmp_path, shards=3)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    files = {path.name: load_file(path) for path in folder.glob("*.safetensors")}
    assert len(files) == 3
    assert index.keys() == load_golden("mixtral").tensors.keys()
    assert sum(len(tensors) for tensors in files.values()) == len(index)
    assert all(name in files[file] for name, file in index.items())


def test_gpt2_folders_of_both_kinds(tmp_path: Path) -> None:
    """Catches a prefix option that leaves the prefix, or buffers that real old files have and ours would lack."""
    new = load_file(write_hf_folder("gpt2", tmp_path / "new") / "model.safetensors")
    old = load_file(write_hf_folder("gpt2", tmp_path / "old", prefix=False, old_buffers=True) / "model.safetensors")
    assert all(name.startswith("transformer.") for name in new)
    assert old.keys() - {name.removeprefix("transformer.") for name in new} == {
        f"h.{i}.attn.{buffer}" for i in range(3) for buffer in ("bias", "masked_bias")
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_the_older_dialect_shares_no_new_spelling(name: str) -> None:
    """Catches a "dialect 4" that still spells something the new way, so that the old spelling would go untested."""
    config = dialect4(load_golden(name).config)
    kind = config["model_type"]
    assert not config.keys() & {"rope_parameters", "dtype", "_sliding_window_pattern", "swiglu_alpha"}
    assert ("layer_types" in config) == (kind in ("olmo3", "gpt_oss")), "the families that are younger than the list"
    assert ("num_experts" in config) == (kind in ("qwen2_moe", "qwen3_moe", "olmoe"))
    assert ("rope_theta" in config) == (kind != "gpt2")
    assert ("rotary_pct" in config) == ("rotary_emb_base" in config) == (kind == "gpt_neox")


def test_a_longer_text_is_another_one_where_it_must_be() -> None:
    """Catches a longrope golden whose two sets of factors are too alike, or whose greedy text crosses no boundary."""
    golden = load_golden("phi3_long")
    boundary = golden.config["original_max_position_embeddings"]
    assert np.array_equal(golden.first_logits(boundary), golden.short_logits)
    assert np.array_equal(golden.first_logits(boundary + 1), golden.logits[: boundary + 1])
    assert np.abs(golden.short_logits - golden.logits[:boundary]).max() > 0.1 * np.abs(golden.logits).max()
    assert len(golden.prompt) < boundary < len(golden.prompt + golden.greedy) - 10


def test_a_bare_folder_says_what_has_no_default(tmp_path: Path) -> None:
    """Catches a golden for the defaults that says them all the same."""
    for name in BARE:
        golden = load_golden(name)
        config = json.loads((write_hf_folder(name, tmp_path / name, bare=True) / "config.json").read_text())
        config = config.get("text_config", config)
        assert not config.keys() & set(golden.omissible)
        assert len(golden.omissible) >= 10
        assert not config.keys() & {"rms_norm_eps", "layer_norm_eps", "hidden_act", "layer_types"}


def test_a_nested_text_model_stands_below_another(tmp_path: Path) -> None:
    """Catches a "nested" folder that is none: both prefixes, the tower's tensors, a text part without its defaults."""
    for dialect, inside in ((5, "model.language_model."), (4, "language_model.model.")):
        folder = write_hf_folder("gemma3_nested", tmp_path / str(dialect), dialect=dialect)
        config = json.loads((folder / "config.json").read_text())
        names = load_file(folder / "model.safetensors").keys()
        assert config["model_type"] == "gemma3"
        assert ("num_attention_heads" in config["text_config"]) == (dialect == 5)
        assert any(name.startswith(inside) for name in names)
        assert any("vision_tower." in name for name in names)


def test_tokenizer_round_trips_any_text_and_every_id(golden_folder: Callable[[str], Path]) -> None:
    """Catches a missing byte: streaming and command line tests decode whatever a random model says."""
    tokenizer = Tokenizer.from_file(str(golden_folder("llama") / "tokenizer.json"))
    text = "<|im_start|>user\n the  héllo 世界 \x00\U0001f600\u0301<|im_end|>"
    ids = tokenizer.encode(text).ids
    assert ids[:2] == [0, 1]
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<|bos|>" + text
    size = tokenizer.get_vocab_size()
    assert size == golden_tokenizer().get_vocab_size() == 271 < load_golden("llama").config["vocab_size"]
    assert all(tokenizer.decode([i], skip_special_tokens=False) for i in range(size))


def test_chat_template_lies_where_it_was_asked_for(tmp_path: Path) -> None:
    """Catches a folder with the template in both places: a loader that knows only one would pass."""
    for in_a_file in (False, True):
        folder = write_hf_folder("llama", tmp_path / str(in_a_file), template_file=in_a_file)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        file = folder / "chat_template.jinja"
        found = file.read_text() if in_a_file else config["chat_template"]
        assert found == CHAT_TEMPLATE
        assert ("chat_template" in config, file.exists()) == (not in_a_file, in_a_file)


def test_smollm2_oracle_files_are_whole() -> None:
    """Catches a truncated oracle: ten prompts of 32 tokens, each step's margin beside it, and both kinds of text."""
    runs = json.loads((GOLDEN_DIR / "smollm2.json").read_text(encoding="utf-8"))
    assert [len(run["greedy"]) for run in runs] == [len(run["margins"]) for run in runs] == [32] * 10
    assert min(min(run["margins"]) for run in runs) > 0.01
    page = json.loads((GOLDEN_DIR / "smollm2_tokenizer.json").read_text(encoding="utf-8"))
    assert len(page["texts"]) > 100 > len(page["chats"]) >= 10
    assert any("split_digits" in text for text in page["texts"])
