"""`--verify` and `download`: a damaged model is found by each command, before it answers with garbage."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import posix, short, unopened

from tinyinfer.cli import main
from tinyinfer.loading import hub
from tinyinfer.loading.checksums import write_sums
from tinyinfer.loading.download import Pin
from tinyinfer.loading.hub import KNOWN, KnownModel

__all__ = ["short"]  # fixture


@pytest.fixture
def model(short: str, tmp_path: Path) -> Path:
    """A model folder with its checksums."""
    copied = Path(shutil.copytree(short, tmp_path / "model"))
    write_sums(copied)
    return copied


def damage(path: Path) -> None:
    """Flips one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "-q", "hello"], ["chat"], ["eval", "--text", __file__], ["bench"], ["inspect"],
        ["quantize", "-o", "{tmp}/out"], ["bench", "-m", "{short}", "--against=-m {model} --verify"],
        ["generate", "-m", "{model}", "--speculative", "draft", "--draft-model", "{damaged}", "hello"],
    ],
)  # fmt: skip
def test_each_command_that_opens_a_model_proves_it(
    command: list[str], model: Path, short: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is computed. Catches a flag that only some of them heed, or that forgets the draft model."""
    damaged = Path(shutil.copytree(model, tmp_path / "damaged"))
    damage(damaged / "model.safetensors")
    places = {"tmp": tmp_path, "short": short, "model": damaged, "damaged": damaged}
    words = [word.format(**places | {"model": model} if "draft" in command else places) for word in command]
    words += [] if "-m" in words else ["-m", str(damaged)]
    words += [] if any("--verify" in word for word in words) else ["--verify"]
    assert main(words, unopened) == 2
    own = "or if you changed it, write the checksums again: sha256sum * > SHA256SUMS"
    fault = f"is damaged (its SHA-256 is not the expected one); copy or make it again, {own}"
    assert capsys.readouterr() == ("", f"tinyinfer: error: {damaged / 'model.safetensors'}: {fault}\n")


def test_a_right_model_answers(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--verify", "-q", "-n", "2", "-m", str(model), "hello"]) == 0
    assert capsys.readouterr().err == ""


def test_what_has_no_checksum_is_refused(short: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a proof of nothing."""
    assert main(["generate", "--verify", "-m", short, "hello"], unopened) == 2
    assert "no checksum of it is known, so nothing can be proven; write those" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["download", "tiny"], ["inspect", "--verify", "-m", "tiny"]])
def test_a_known_model_is_proven_and_fetched_again(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches the path of a damaged file, printed as if all were well."""
    right = b"no GGUF, but the bytes that are pinned"
    pin, path, fetched = Pin(len(right), hashlib.sha256(right).hexdigest()), tmp_path / "tiny.gguf", []

    def download(model: KnownModel, final: str, *others: Any) -> None:
        fetched.append(others[-1])
        path.write_bytes(right)

    monkeypatch.setitem(KNOWN, "tiny", KnownModel("Tiny", "CC0-1.0", "tiny==1", pin, "tiny.gguf", pin))
    monkeypatch.setenv("TINYINFER_HOME", str(tmp_path))
    monkeypatch.setattr(hub, "_download", download)
    path.write_bytes(right[::-1])
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)  # closed, which is no reason to fail
        status = main(words)
    assert fetched == ["is damaged (its SHA-256 is not the expected one)"]
    assert path.read_bytes() == right
    assert main(words) == status == (0 if words[0] == "download" else 2)  # it is no GGUF
    assert len(fetched) == 1
    assert capsys.readouterr().out == (f"{path}\n" * 2 if words[0] == "download" else "")


@posix
def test_a_path_that_is_no_text_is_printed_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a shell that takes it: path=$(tinyinfer download NAME). Catches "?" in the place of its bytes."""
    path = os.fsencode(tmp_path) + b"/\xff\xe9.gguf"
    try:
        open(path, "wb").close()
    except OSError:
        pytest.skip("a file system that takes only text")
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="utf-8"))
    assert main(["download", os.fsdecode(path)]) == 0
    assert printed.getvalue() == path + b"\n"
