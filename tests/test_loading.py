"""One `load` for every kind of model file, and one sentence for whatever is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tinyinfer.errors import ModelError
from tinyinfer.loading import load

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


def test_a_safetensors_file_alone_is_no_model(golden_folder: GoldenFolder) -> None:
    folder = golden_folder("llama")
    assert f"give its folder, '{folder}'" in refusal(folder / "model.safetensors")


def test_any_other_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("model.txt", "empty"):
        assert "neither a model folder (config.json, model.safetensors) nor a GGUF file" in refusal(tmp_path / name)


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
