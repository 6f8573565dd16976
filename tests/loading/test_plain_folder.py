"""loading/plain_folder.py: a smaller model as a folder like any other, the same to the last bit, or refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_writer import write_gguf
from golden import write_hf_folder
from helpers import ROUNDING, distance
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import load_file

from tinyinfer import LLM
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.errors import ModelError
from tinyinfer.kv_cache.base import CacheSpec, NoCache
from tinyinfer.ledger import Ledger
from tinyinfer.loading import load, saving
from tinyinfer.loading.build import build_model
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.loading.checksums import faults, known_checksums
from tinyinfer.loading.plain_folder import save_plain
from tinyinfer.model.transformer import Model, transformer
from tinyinfer.pruning.layers import keep_layers
from tinyinfer.pruning.width import keep_heads, keep_hidden, keep_neurons
from tinyinfer.quantization.calibration import rows_of

Folder = Callable[[str], Path]
WHOLE = [
    "llama", "smollm2", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2", "gpt2_inner", "phi3", "olmo2", "granite",
    "smollm3", "mistral",
]  # fmt: skip
# What each family keeps: layers, key/value heads and numbers of the width; None: all of them.
PRUNED: dict[str, tuple[list[int], int | None, int | None]] = {
    "llama": ([0, 2], 1, 48),
    "smollm2": ([0, 1, 3], 2, 54),
    "qwen3": ([1, 2], 1, 44),
    "qwen2_window": ([0, 2], None, 48),
    "gemma2": ([0, 1, 3], 1, 42),
    "gemma3": ([2, 3], None, 40),
    "gemma3_linear": ([0, 1, 2], 2, 48),
    "phi3": ([0, 2], 2, 48),
    "gpt2": ([0, 2], 6, 48),
    "gpt2_inner": ([1, 2], None, None),
    "smollm3": ([0, 2, 4], 1, 48),
    "olmo3": ([0, 1, 3], None, 48),
    "granite": ([0, 2], 1, 48),
    "mistral": ([2], 1, 48),
}
TEXT = np.random.default_rng(0).integers(0, 271, (2, 30))


def ops_of(dtype: Any = np.float32) -> NumpyOps:
    return NumpyOps(Ledger(), dtype)


def built(source: Checkpoint, dtype: Any = np.float32) -> Model:
    return build_model(source, ops_of(dtype))


def logits(model: Model, ops: Any) -> np.ndarray:
    """The logits of all rows of the text."""
    batch = replace(rows_of(TEXT, model.config.rotation_sets), logit_rows=np.arange(TEXT.size))
    return transformer(model, batch, NoCache(CacheSpec(model.config.memory, TEXT.shape[1]), ops), ops)


def spread(kept: int, total: int) -> np.ndarray:
    """So many places among all of them, some from everywhere."""
    return np.sort(np.random.default_rng(kept).permutation(total)[:kept])


def smaller(name: str, model: Model, ops: Any) -> Model:
    """The model with a half of its neurons, and what PRUNED says."""
    layers, heads, width = PRUNED[name]
    model, c = keep_layers(model, layers), model.config
    model = keep_neurons(model, [spread(c.intermediate_size // 2, c.intermediate_size)] * len(layers), ops)
    if heads:
        model = keep_heads(model, [spread(heads, c.num_kv_heads)] * len(layers), ops)
    return keep_hidden(model, spread(width, c.hidden_size), ops) if width else model


def saved(model: Model, source: Checkpoint, target: Path) -> Checkpoint:
    """The folder of a model, read as any other."""
    save_plain(target, model, source)
    return load(target)


# What is written is what was in memory.


@pytest.mark.parametrize("name", WHOLE)
def test_an_unchanged_model_has_the_tensors_of_its_source(name: str, golden_folder: Folder, tmp_path: Path) -> None:
    """By name and bit, those that transformers wrote. Catches a name, an order, a transposition, Gemma's 1 + w."""
    source = load(golden_folder(name))
    saved(built(source), source, tmp_path / "out")
    expected = load_file(golden_folder(name) / "model.safetensors")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        lost = 1.3e-7 if name.startswith("gemma") and key.endswith("norm.weight") else 0  # as 1 + w was a float32, too
        assert_allclose(found[key], array, rtol=0, atol=lost, err_msg=key)


@pytest.mark.parametrize("dialect", [4, 5])
@pytest.mark.parametrize("name", PRUNED)
def test_a_smaller_model_comes_back_as_it_was(name: str, dialect: int, tmp_path: Path) -> None:
    """Configuration and logits. Catches a size that config.json keeps, and layers whose windows are counted anew."""
    source, ops = load(write_hf_folder(name, tmp_path / "source", dialect=dialect)), ops_of()
    model = smaller(name, built(source), ops)
    again = saved(model, source, tmp_path / "out")
    assert again.config == model.config
    expected, found = logits(model, ops), logits(built(again), ops)
    if name.startswith("gemma"):  # the final norm's weight, which makes up for another scale, is stored minus 1
        assert distance(found, expected) < ROUNDING
    else:
        assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "phi3"])
def test_a_model_of_a_gguf_file_gets_a_config_of_its_own(name: str, tmp_path: Path) -> None:
    """Catches a folder that only a GGUF file's own folder could describe."""
    source, ops = load(write_gguf(name, tmp_path / "x.gguf")), ops_of()
    model = smaller(name, built(source), ops)
    found = saved(model, source, tmp_path / "out")
    assert replace(found.config, attention_scale=0) == replace(
        model.config, attention_scale=0, architecture=found.config.architecture
    )
    assert distance(logits(built(found), ops), logits(model, ops)) < ROUNDING


def test_the_text_part_of_a_model_of_images_becomes_a_text_model(golden_folder: Folder, tmp_path: Path) -> None:
    """Catches the outer config.json beside tensors that lie no longer below it."""
    source, ops = load(golden_folder("gemma3_nested")), ops_of()
    model = keep_layers(built(source), [0, 2, 5, 6])
    found = saved(model, source, tmp_path / "out")
    assert found.config == model.config
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "gemma3_text"
    assert_array_equal(logits(built(found), ops), logits(model, ops))


def test_the_type_is_that_of_the_matrices(tmp_path: Path) -> None:
    """Under both names, and the bits are kept. Catches float32's name in front of bfloat16."""
    source, ops = load(write_hf_folder("llama", tmp_path / "source", dtype="float16")), ops_of("bfloat16")
    model = smaller("llama", built(source, "bfloat16"), ops)
    saved(model, source, tmp_path / "out")
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (fields["dtype"], fields["torch_dtype"]) == ("bfloat16", "bfloat16")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert stored["model.layers.0.mlp.down_proj.weight"].dtype.name == "bfloat16"
    assert_array_equal(logits(built(load(tmp_path / "out"), "bfloat16"), ops), logits(model, ops))


def test_shards_are_the_same_model(golden_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches sizes that are counted before parts are joined."""
    source, ops = load(golden_folder("phi3")), ops_of()
    monkeypatch.setattr(saving, "SHARD_BYTES", 40_000)
    found = saved(built(source), source, tmp_path / "out")
    files = list((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 3
    assert max(len(load_file(file)) for file in files) > 1
    assert_array_equal(logits(built(found), ops), logits(built(source), ops))


def test_the_folder_is_whole(golden_folder: Folder, tmp_path: Path) -> None:
    """Tokenizer, generation settings and checksums; the fields that nothing changed stay, and progress is told."""
    source, done = load(golden_folder("llama")), []
    size = save_plain(tmp_path / "out", smaller("llama", built(source), ops_of()), source, lambda *n: done.append(n))
    out = tmp_path / "out"
    assert size == sum(file.stat().st_size for file in out.iterdir())
    origin = json.loads((golden_folder("llama") / "generation_config.json").read_text())
    assert json.loads((out / "generation_config.json").read_text()) == origin
    checksums = known_checksums(out)
    assert out / "model.safetensors" in checksums
    assert not faults(checksums)
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (golden_folder("llama"), out))
    changed = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"}
    assert {key for key in new if new[key] != old.get(key)} - {"torch_dtype"} == changed
    count = len(load_file(out / "model.safetensors"))
    assert done == [(i, count) for i in range(1, count + 1)]
    assert LLM(str(out)).generate("the rain")[0].token_ids


def test_gpt2s_other_names_of_sizes_do_not_stay(tmp_path: Path) -> None:
    """n_embd may be called hidden_size, too. Catches two sizes that disagree."""
    folder = write_hf_folder("gpt2", tmp_path / "source", changes={"hidden_size": 56, "num_hidden_layers": 3})
    source = load(folder)
    assert saved(smaller("gpt2", built(source), ops_of()), source, tmp_path / "out").config.num_layers == 2


# What is refused leaves nothing behind.


def refusal(model: Model, source: Checkpoint, target: Path) -> str:
    """The sentence of a ModelError, after the source's path; nothing may be left."""
    before = set(target.parent.iterdir())
    with pytest.raises(ModelError) as caught:
        save_plain(target, model, source)
    assert set(target.parent.iterdir()) == before
    assert str(caught.value).startswith(f"{source.path}: ")
    return str(caught.value).removeprefix(f"{source.path}: ")


@pytest.mark.parametrize(
    ("name", "switches", "sentence"),
    [
        ("llama", {"quantize": "int8"}, "the weight 'layers.0.q' is quantized, and a plain folder holds floats; load"),
        ("llama", {"prune": "magnitude"}, "the weight 'layers.0.q' is sparse, and a plain folder holds floats; load"),
        ("mixtral", {}, "is a mixture of experts, which is not written as a plain folder; choose a dense model"),
        ("gpt_neox_serial", {}, "its queries and keys lie in another order than in files, so that no plain folder is"),
        ("phi3_long", {}, "its queries and keys lie in another order than in files, so that no plain folder is"),
    ],
)
def test_what_is_not_written_is_refused(
    name: str, switches: Any, sentence: str, golden_folder: Folder, tmp_path: Path
) -> None:
    """Catches rows in an order that transformers does not know, which would load and answer nonsense."""
    llm = LLM(str(golden_folder(name)), **switches)
    assert refusal(llm.model, load(golden_folder(name)), tmp_path / "out").startswith(sentence)


@pytest.mark.parametrize(
    ("name", "heads", "width", "sentence"),
    [
        ("gpt2", 6, None, "6 heads of 8 do not share the width 56, as GPT-2's must; leave heads and width as they are"),
        ("gpt2", None, 48, "7 heads of 8 do not share the width 48, as GPT-2's must"),
        ("llama", None, 50, "the width 50 is no multiple of the 6 query heads, without which transformers refuses"),
        ("gemma3", None, 42, "the width 42 is no multiple of the 4 query heads"),
    ],
)
def test_heads_that_do_not_fit_the_width_are_refused(
    name: str, heads: int | None, width: int | None, sentence: str, golden_folder: Folder, tmp_path: Path
) -> None:
    """Catches a folder that tinyinfer reads and transformers refuses, or both."""
    source, ops = load(golden_folder(name)), ops_of()
    model, c = built(source), source.config
    model = keep_heads(model, [spread(heads, c.num_kv_heads)] * c.num_layers, ops) if heads else model
    model = keep_hidden(model, spread(width, c.hidden_size), ops) if width else model
    assert refusal(model, source, tmp_path / "out").startswith(sentence)


def test_a_model_without_any_rotation_is_refused(golden_folder: Folder, tmp_path: Path) -> None:
    """SmolLM3 with only its layers that are not rotated. Catches a rotation looked for in an empty list."""
    source = load(golden_folder("smollm3"))
    model = keep_layers(built(source), [1, 2])
    assert refusal(model, source, tmp_path / "out").startswith("no layer with rotary positions is left, which a config")


def test_what_a_config_cannot_say_is_refused_by_name(golden_folder: Folder, tmp_path: Path) -> None:
    """The folder is read back. Catches a setting that is lost in silence, so that another model would be loaded."""
    source = load(golden_folder("llama"))
    model = built(source)
    model = replace(model, config=replace(model.config, residual_scale=0.5, logit_cap=3.0))
    sentence = "a setting of this model has no place in a config.json (residual_scale, logit_cap); start"
    sentence += " from the folder that it was made from"
    assert refusal(model, source, tmp_path / "out") == sentence


def test_a_folder_that_is_there_is_refused(golden_folder: Folder, tmp_path: Path) -> None:
    """Before any work. Catches weights of another model overwritten."""
    source = load(golden_folder("llama"))
    (tmp_path / "note").write_text("mine")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}: is there already and not empty")):
        save_plain(tmp_path, built(source), source)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interruption_leaves_nothing(error: Any, golden_folder: Folder, tmp_path: Path) -> None:
    """In the middle of the weights. Catches half a model under its final name, and hidden folders."""
    source = load(golden_folder("llama"))

    def stop(done: int, of: int) -> None:
        if done == of // 2:
            raise error

    with pytest.raises((KeyboardInterrupt, ModelError)):
        save_plain(tmp_path / "out", built(source), source, stop)
    assert list(tmp_path.iterdir()) == []
