"""The folder of a draft head: it comes back as it was saved, fits its own target only, and is refused where broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import small_config
from safetensors.numpy import load_file, save_file

from tinyinfer import LLM, SamplingParams
from tinyinfer.errors import ModelError, SwitchError
from tinyinfer.loading import hub, load
from tinyinfer.loading.draft_heads import is_head, load_head, open_head, save_head
from tinyinfer.loading.drafts import open_draft
from tinyinfer.loading.lent_vocabulary import LentVocabulary
from tinyinfer.model.config import ModelConfig
from tinyinfer.model.draft_head import DraftHead, HeadShape, Normed
from tinyinfer.model.mlp import GatedMLP
from tinyinfer.model.quantized_matrix import QuantScheme
from tinyinfer.model.weights import Dense, Linear, RMSNorm
from tinyinfer.quantization.rtn import round_to_nearest

Folder = Callable[[str], Path]
SCHEME = QuantScheme(4, 8, symmetric=True)
NAME = "the llama"


def save(llm: LLM, folder: Path) -> dict[str, np.ndarray]:
    """A head of random weights for a model, and its matrices as they were rounded."""
    rng, kept = np.random.default_rng(1), dict[str, np.ndarray]()
    shape = HeadShape.beside(llm.config, (0, 1), 24, 60)

    def linear(name: str) -> Linear:
        rounded = round_to_nearest(rng.normal(size=shape.matrices[name]).astype(np.float32), SCHEME)
        kept[name] = rounded.dequantize()
        return Linear(llm.ops.take(rounded))

    def norm(name: str) -> RMSNorm:
        kept[name] = rng.uniform(0.5, 1.5, shape.norms[name]).astype(np.float32)
        return RMSNorm(kept[name], shape.norm_eps)

    parts = (Normed(norm(f"{name}_norm"), linear(name)) for name in ("values", "state", "token"))
    mlp = GatedMLP(linear("gate_up"), linear("down"), "silu")
    none = Linear(Dense(np.empty((llm.config.hidden_size, 0), np.float32)))
    head = DraftHead(shape, *parts, norm("mlp_norm"), mlp, norm("final_norm"), none)  # type: ignore[arg-type]
    lent = LentVocabulary.lent(NAME, llm.tokenizer, llm.tokenizer.vocab_size)
    size = save_head(str(folder), head, SCHEME, lent)
    assert size == sum(file.stat().st_size for file in folder.iterdir())
    return kept


@pytest.fixture
def llama(golden_folder: Folder) -> LLM:
    return LLM(str(golden_folder("llama")))


@pytest.fixture
def folder(llama: LLM, tmp_path: Path) -> Path:
    save(llama, tmp_path / "head")
    return tmp_path / "head"


def change(folder: Path, **fields: object) -> None:
    """Its config.json says something else; None: the field is not there."""
    file = folder / "config.json"
    told = json.loads(file.read_text(encoding="utf-8")) | fields
    file.write_text(json.dumps({key: value for key, value in told.items() if value is not None}), encoding="utf-8")


def test_it_comes_back_as_it_was_saved(llama: LLM, tmp_path: Path) -> None:
    """Its matrices are those that were rounded, and its rows of the head the target's. Catches two matrices exchanged.
    """
    kept = save(llama, tmp_path / "head")
    assert is_head(tmp_path / "head")
    assert hub.find(tmp_path / "head", verify=True) == str(tmp_path / "head")
    head = load_head(open_head(str(tmp_path / "head")), llama.model, llama.ops)
    held: dict[str, Any] = {name: getattr(head, name).linear for name in ("values", "state", "token")}
    held |= {"gate_up": head.mlp.gate_up, "down": head.mlp.down}
    for name, linear in held.items():
        np.testing.assert_allclose(linear.weight.array.T, kept[name], rtol=1e-6)
    assert np.array_equal(head.values.norm.weight, kept["values_norm"])  # type: ignore[union-attr]
    whole = llama.model.head.weight.dequantize(slice(0, 60))  # (D, 60)
    assert np.array_equal(head.head.weight.dequantize(slice(0, 60)), whole)


@pytest.mark.parametrize("switches", [{}, {"quantize": "int8"}, {"backend": "reference"}], ids=str)
def test_the_text_is_that_of_no_drafts(switches: dict[str, Any], folder: Path, llama: LLM) -> None:
    greedy = SamplingParams(max_tokens=12, ignore_eos=True)
    plain = LLM(llama.path, **switches).generate([[5, 6, 7]], greedy)[0].token_ids
    drafting = LLM(llama.path, speculative="draft", draft_model=str(folder), **switches)
    assert drafting.generate([[5, 6, 7]], greedy)[0].token_ids == plain


def refused(folder: Path, target: Path, **fields: object) -> str:
    """What is said of a head that does not fit, before its weights are read."""
    change(folder, **fields)
    with pytest.raises(SwitchError) as found:
        open_draft(str(folder), load(target))
    return str(found.value)


def test_a_target_of_other_tokens_is_refused(folder: Path, llama: LLM) -> None:
    """Every draft would mean another token, and no error would say so."""
    file = folder / "vocabulary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sha256": "of other tokens"}), encoding="utf-8")
    said = refused(folder, Path(llama.path))
    assert "is a draft head, which fits one model only (its tokens are those of the llama); name a smaller" in said


@pytest.mark.parametrize(("fields", "said"), [
    ({"hidden_size": 8}, "made for 3 layers of width 8, here are 3 of 60"),
    ({"num_layers": 9}, "made for 9 layers of width"),
    ({"value_size": 4}, "it reads 4 values of a layer, and the model has another number"),
])  # fmt: skip
def test_a_target_of_another_shape_is_refused(
    fields: dict[str, int], said: str, llama: LLM, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models of one family have one tokenizer. Catches values that are read as others are."""
    monkeypatch.setattr("tinyinfer.loading.draft_heads.matrix_tensor", lambda *args: None)
    monkeypatch.setattr(HeadShape, "norms", {})
    monkeypatch.setattr("tinyinfer.loading.draft_heads.read_tensors", lambda folder: {})
    assert said in refused(folder, Path(llama.path), **fields)


def test_layers_that_remember_unlike_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a matrix that is too narrow for some layers."""
    config = small_config()
    alike = config.memory[0]
    monkeypatch.setattr(ModelConfig, "memory", (alike, replace(alike, heads=9)))
    with pytest.raises(ValueError, match="keep values of different sizes; read layers that are alike"):
        HeadShape.beside(config, (0, 1), 8, 8)


BROKEN: dict[str, tuple[dict[str, object], str]] = {
    "version": ({"version": 2}, "'version' is 2, and only 1 is known; update tinyinfer"),
    "no layers": ({"layers": []}, "'layers' is [], but must be a list of the target's layers"),
    "a layer that is not there": ({"layers": [3]}, "'layers' is [3]"),
    "layers in another order": ({"layers": [1, 0]}, "'layers' is [1, 0]"),
    "a layer twice": ({"layers": [1, 1]}, "in order"),
    "layers of words": ({"layers": ["0"]}, "but must be a list"),
    "a field that is missing": ({"tokens": None}, "tokens"),
    "a field of which nothing is known": ({"dropout": 0.1}, "dropout"),
    "too many bits": ({"bits": 9}, "bits"),
    "another width": ({"intermediate_size": 25}, "gate_up"),
    "other groups": ({"group": 7}, "download the model again"),
}


@pytest.mark.parametrize(("fields", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_config_is_refused(fields: dict[str, object], said: str, folder: Path) -> None:
    """Named with its file, not met as a crash further on."""
    change(folder, **fields)
    with pytest.raises(ModelError) as found:
        open_head(str(folder))
    assert str(folder) in str(found.value)
    assert said in str(found.value)


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda tensors: tensors.pop("final_norm"), "tensor 'final_norm' is missing; the file is broken"),
    (lambda tensors: tensors.update(final_norm=np.ones(3, np.float32)), "tensor 'final_norm' has shape (3,), and not"),
    (lambda tensors: tensors.update(more=np.ones(3, np.float32)), "tensor 'more' has no place in a draft head"),
    (lambda tensors: tensors.pop("down.d"), "down"),
])  # fmt: skip
def test_broken_tensors_are_refused(spoil: Callable[[dict[str, Any]], Any], said: str, folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    spoil(tensors)
    save_file(tensors, file)
    with pytest.raises(ModelError) as found:
        open_head(str(folder))
    assert str(folder) in str(found.value)
    assert said in str(found.value)


def test_a_head_is_no_model(folder: Path) -> None:
    """It has no tokenizer and no layers; catches a missing field of config.json that is told instead."""
    with pytest.raises(ModelError, match="is a draft head, which is no model by itself; name the model that it was"):
        load(folder)


def test_a_folder_that_is_there_stays(llama: LLM, folder: Path) -> None:
    before = (folder / "config.json").read_bytes()
    with pytest.raises(ModelError):
        save(llama, folder)
    assert (folder / "config.json").read_bytes() == before
