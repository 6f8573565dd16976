"""`--backend`: every command takes each one that is installed, and says the same with it as with NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import short
from helpers import COMPILED, INSTALLED
from rounds import MACHINE

from tinyinfer.cli import main

__all__ = ["short"]  # fixture
OTHERS = [name for name in INSTALLED if name != "numpy"] + COMPILED


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the tests the measurement."""
    monkeypatch.setattr("tinyinfer.measure.roofline.measure_machine", lambda threads: MACHINE)


def said(capsys: pytest.CaptureFixture[str], backend: str, words: str) -> str:
    """What a command writes with a backend."""
    assert main([*words.split(), "--backend", backend]) == 0
    return capsys.readouterr().out


def told(capsys: pytest.CaptureFixture[str], backend: str, words: str) -> dict[str, Any]:
    """What a command tells as JSON with a backend, which it names."""
    line = json.loads(said(capsys, backend, f"{words} --json"))
    assert line["engine"].pop("backend") == backend
    return line


@pytest.mark.parametrize("backend", OTHERS)
def test_generate(backend: str, short: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The text, greedy and drawn, and every count."""
    words = f"generate -m {short} -q -n 12 --seed 3 -p Rain"
    for more in ("--temp 0", "--temp 0.8", "--quantize int4 --speculative self"):
        assert said(capsys, backend, f"{words} {more}") == said(capsys, "numpy", f"{words} {more}") != "\n"
    found, wanted = (told(capsys, name, f"{words} --temp 0") for name in (backend, "numpy"))
    assert found["token_ids"] == wanted["token_ids"]
    assert found["ledger"] == wanted["ledger"]


@pytest.mark.parametrize("backend", OTHERS)
def test_bench_and_inspect_count_the_same(backend: str, short: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A round of two requests; and what is predicted without running the model."""
    words = f"bench -m {short} -p 9 -g 4 -n 1 -b 2"
    found, wanted = (told(capsys, name, words) for name in (backend, "numpy"))
    assert found["ledger"] == wanted["ledger"]
    assert found["predicted_generation_tps"] == wanted["predicted_generation_tps"]
    assert said(capsys, backend, f"inspect -m {short}") == said(capsys, "numpy", f"inspect -m {short}") != ""


@pytest.mark.parametrize("backend", OTHERS)
def test_eval(backend: str, short: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same perplexity but for rounding, and the same counts."""
    (tmp_path / "text.txt").write_text("The rain in the spring is a thing of the hills. " * 4)
    words = f"eval -m {short} --text {tmp_path / 'text.txt'} --window 16"
    found, wanted = (told(capsys, name, words) for name in (backend, "numpy"))
    assert found["perplexity"] == pytest.approx(wanted["perplexity"], rel=1e-5)
    assert found["ledger"] == wanted["ledger"]


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("switches", ["--quantize int4", "--quantize int3 --quantize-head int8"])
def test_quantize(backend: str, switches: str, short: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same files, to the byte: codes do not depend on who will multiply them."""
    for name in (backend, "numpy"):
        said(capsys, name, f"quantize -q -m {short} -o {tmp_path / name} {switches}")
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in (backend, "numpy")]
    assert files[0] == files[1]
    assert files[0]
