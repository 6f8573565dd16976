"""One `load` for every kind of model file, and one sentence for whatever is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from golden import write_hf_folder
from safetensors.numpy import load_file, save_file

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.errors import ModelError
from tinyinfer.ledger import Ledger
from tinyinfer.loading import load
from tinyinfer.loading.build import build_model

GoldenFolder = Callable[[str], Path]


def refusal(path: str | Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_is_loaded(golden_folder: GoldenFolder) -> None:
    assert load(golden_folder("qwen3")).config.architecture == "qwen3"
    assert load(str(golden_folder("qwen3"))).config.architecture == "qwen3"


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    """A wrong path is the commonest mistake; it must not look like a broken file."""
    for path in (tmp_path / "nothing", tmp_path / "nothing.gguf", ""):
        assert "there is no such folder or file" in refusal(path)


def test_a_path_with_a_null_byte_is_just_not_there() -> None:
    assert "there is no such folder or file" in refusal("a\x00b")


def test_a_file_of_a_folder_alone_is_no_model(golden_folder: GoldenFolder) -> None:
    folder = golden_folder("llama")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert f"give its folder, '{folder}'" in refusal(folder / name)


def test_any_other_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("model.txt", "empty"):
        assert "neither a model folder (config.json, model.safetensors) nor a GGUF file" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "said"),
    [("pytorch_model.bin", "pickled weights"), ("m.onnx", "a model for ONNX"), ("adapter_config.json", "an adapter")],
)
def test_a_file_of_another_kind_is_told_for_what_it_is(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(b"{}")
    assert f"nor a GGUF file, but '{name}': {said}" in refusal(tmp_path / name)


def test_a_pointer_in_place_of_a_model_is_told(tmp_path: Path) -> None:
    """Catches a clone without Git LFS blamed on the kind of file."""
    oid = "ab" * 32
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 269060552\n"
    (tmp_path / "blob").write_text(text)
    assert "is a Git LFS pointer" in refusal(tmp_path / "blob")


@pytest.mark.parametrize(("name", "content"), [("x.gguf", b"hello"), ("X.GGUF", b""), ("blob", b"GGUF\x03\x00")])
def test_gguf_is_known_by_its_name_or_its_first_bytes(tmp_path: Path, name: str, content: bytes) -> None:
    """Files in a download cache have no ending; and a broken .gguf is a broken GGUF, not an unknown file."""
    (tmp_path / name).write_bytes(content)
    assert "neither" not in refusal(tmp_path / name)


def test_a_loader_is_imported_only_when_its_files_are_loaded() -> None:
    """The gguf package takes longer to import than all of ours."""
    code = "import sys, tinyinfer.loading; print({'gguf', 'tokenizers', 'tinyinfer.loading.gguf'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("files", [[], ["notes.txt"], ["model.gguf"]])
def test_a_folder_that_is_no_model_is_told_what_one_needs(tmp_path: Path, files: list[str]) -> None:
    """Catches "download it again" said of a folder that was not downloaded, and a GGUF file in it that is not named."""
    for name in files:
        (tmp_path / name).write_bytes(b"")
    said = refusal(tmp_path)
    assert "config.json, tokenizer.json and model.safetensors" in said
    assert "download it again" not in said
    assert ("model.gguf" in said) == ("model.gguf" in files)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.0.mlp.up_proj.weight"])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, name: str, value: float) -> None:
    """Catches a damaged folder that loads, and answers every prompt with the same token. (GGUF: test_gguf.py)"""
    folder = write_hf_folder("llama", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights[name].reshape(-1)[-1] = value
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match=rf"model\.safetensors: tensor '{name}' holds NaN or infinity"):
        build_model(load(folder), NumpyOps(Ledger()))


def test_the_expert_that_is_damaged_is_named(tmp_path: Path) -> None:
    """Catches the first expert blamed for the numbers of another: they are one tensor to us, not in the file."""
    folder = write_hf_folder("olmoe", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    name = [name for name in sorted(weights) if "experts.2." in name][-1]
    weights[name][0, 0] = np.nan
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match=rf"tensor '{name}' holds NaN"):
        build_model(load(folder), NumpyOps(Ledger()))


def test_a_weight_too_large_for_the_dtype_is_refused(tmp_path: Path) -> None:
    """Catches float16's silent infinity; 65519 is the last number that still rounds to its largest, 65504."""
    folder = write_hf_folder("llama", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    for value, dtype in ((65519.0, np.float16), (-1e5, np.float32), (-1e5, ml_dtypes.bfloat16)):
        weights[name][3, 2] = value
        save_file(weights, folder / "model.safetensors")
        build_model(load(folder), NumpyOps(Ledger(), dtype))
    with pytest.raises(ModelError, match=rf"tensor '{name}' .*-100000.*float16.*bfloat16"):
        build_model(load(folder), NumpyOps(Ledger(), np.float16))


def test_an_expert_too_large_for_the_dtype_is_refused(tmp_path: Path) -> None:
    """The same for experts, which are taken another way."""
    folder = write_hf_folder("olmoe", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    name = [name for name in sorted(weights) if "experts.2." in name][-1]
    weights[name][0, 0] = 1e5
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"100000.*float16.*bfloat16"):
        build_model(load(folder), NumpyOps(Ledger(), np.float16))
