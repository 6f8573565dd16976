"""The models of a lesson: shared weights, and the tiny model where the real one is not to be had."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tinyinfer import SamplingParams
from tinyinfer.errors import DownloadError, ModelError
from tinyinfer.lessons.models import Models
from tinyinfer.loading.hub import SHIPPED, find

WEIGHTS = 3447497052  # CRC-32 of all weights in the order of their names


@pytest.fixture(scope="module")
def models() -> Models:
    """One lesson's models."""
    return Models()


def test_engines_of_the_same_weights_share_them(models):
    """Catches a lesson that loads SmolLM2 for every setting; other weights are other weights."""
    first, second = (models.open(models.tiny_path(), None, kv_cache=kind) for kind in ("none", "paged"))
    quantized = models.open(models.tiny_path(), None, quantize="int8")
    assert first.model is second.model
    assert quantized.model is not first.model


def test_a_fresh_engine_each_time(models):
    """Catches a cell that finds another result when it runs twice: prefixes cached by its first run."""
    for _ in range(2):
        llm = models.open(models.tiny_path(), None, kv_cache="paged", prefix_cache=True)
        [out] = llm.generate([[5] * 40], SamplingParams(max_tokens=1))
        assert out.metrics.cached_tokens == 0


def test_a_simulated_machine_takes_the_same_time_everywhere(models):
    """Catches a lesson about mechanism whose figures vary from run to run."""
    times = []
    for _ in range(2):
        llm = models.open(models.tiny_path(), "37GB/s,200GFLOP/s", kv_cache="paged")
        times.append(llm.generate("abc", SamplingParams(max_tokens=4, ignore_eos=True))[0].metrics.tpot_s)
    assert times[0] == times[1] > 0


def test_the_tiny_model_is_the_same_everywhere(models):
    """Catches weights that depend on the machine or on NumPy's newer generators."""
    weights = load_file(Path(models.tiny_path()) / "model.safetensors")
    assert zlib.crc32(b"".join(weights[name].tobytes() for name in sorted(weights))) == WEIGHTS
    assert not np.array_equal(*(weights[f"model.layers.{layer}.mlp.up_proj.weight"] for layer in (0, 1)))


def test_the_tiny_model_reads_and_writes_any_text(models):
    """One token a byte."""
    tokenizer = models.open(models.tiny_path(), None).tokenizer
    assert len(tokenizer.encode("héllo")) == 6
    assert tokenizer.decode(tokenizer.encode("héllo\n 世界")) == "héllo\n 世界"


def test_without_weights_and_network_a_lesson_goes_on_and_says_so(monkeypatch, capsys, tmp_path):
    """Catches a lesson that ends with a traceback in a train."""
    monkeypatch.setenv("TINYINFER_LESSON_MODEL", "no-such-model")
    models = Models()
    llm = models.open(models.real_path(), None)
    assert not models.real
    assert llm.config.num_layers == 2
    assert "This lesson runs on a tiny model with random weights: 'no-such-model'" in capsys.readouterr().out


def test_without_a_network_a_lesson_goes_on_with_the_story_teller(monkeypatch, capsys, tmp_path):
    """Catches texts of random letters in a train, and a lesson that cannot quantize what comes in codes."""
    monkeypatch.setattr("tinyinfer.lessons.models.find", find_without_network)
    monkeypatch.delenv("TINYINFER_LESSON_MODEL", raising=False)
    models = Models()
    llm = models.open(models.real_path(), None, quantize="int8")
    assert not models.real
    assert "This lesson runs on story-teller, a small model that comes along: no network" in capsys.readouterr().out
    greedy = SamplingParams(temperature=0, max_tokens=40)
    answer = llm.chat([{"role": "user", "content": "Once upon a time, there was a"}], greedy)
    assert len(answer.text.split()) > 20
    assert answer.text.isascii()


@pytest.mark.parametrize("installed", [True, False])
def test_a_teacher_can_ask_for_the_story_teller(installed, monkeypatch, capsys):
    """Catches the codes of the folder itself, which no lesson can quantize, and an installation without it."""
    if not installed:
        monkeypatch.setattr("tinyinfer.lessons.models.write_story_teller", missing)
    monkeypatch.setenv("TINYINFER_LESSON_MODEL", "story-teller")
    models = Models()
    assert models.open(models.real_path(), None, quantize="int4").config.num_layers == (4 if installed else 2)
    assert not models.real
    told = capsys.readouterr().out
    assert "TINYINFER_LESSON_MODEL asks for it" in told
    assert ("runs on story-teller" in told, "runs on a tiny model" in told) == (installed, not installed)


def missing(folder: Path) -> None:
    """What the writer does in an installation without weights."""
    raise ModelError("'story-teller': comes with tinyinfer, and is not in /weights")


def find_without_network(name: str) -> str:
    """As hub.find, where nothing can be downloaded."""
    if name in SHIPPED:
        return find(name)
    raise DownloadError("no network")


def test_a_teacher_can_ask_for_the_tiny_model(monkeypatch, capsys):
    """And is told once, not at each cell."""
    monkeypatch.setenv("TINYINFER_LESSON_MODEL", "tiny")
    models = Models()
    for _ in range(2):
        models.open(models.real_path(), None)
    assert capsys.readouterr().out.count("TINYINFER_LESSON_MODEL asks for it") == 1


def test_a_broken_model_is_told_and_the_lesson_goes_on(monkeypatch, capsys, tmp_path):
    """Catches a lesson that ends with a traceback because a folder holds no model."""
    (tmp_path / "config.json").write_text("no JSON")
    monkeypatch.setenv("TINYINFER_LESSON_MODEL", str(tmp_path))
    models = Models()
    assert models.open(models.real_path(), None, quantize="int8").config.num_layers == 2
    assert not models.real
    assert "not valid JSON" in capsys.readouterr().out


def test_an_empty_choice_is_no_choice(monkeypatch):
    """Catches `TINYINFER_LESSON_MODEL=` taken for the folder here."""
    monkeypatch.setenv("TINYINFER_LESSON_MODEL", "")
    monkeypatch.setattr("tinyinfer.lessons.models.find", lambda name: name)
    assert Models().real_path() == "smollm2-135m"


def test_an_interrupt_while_the_tiny_model_is_written_is_mended_by_the_next_cell(monkeypatch):
    """Catches an empty folder that is taken for the model from then on."""
    models = Models()
    with monkeypatch.context() as patched:
        patched.setattr("tinyinfer.lessons.models.write_tiny_model", interrupted)
        with pytest.raises(KeyboardInterrupt):
            models.tiny_path()
    assert models.open(models.tiny_path(), None).config.num_layers == 2


def interrupted(folder: Path) -> None:
    """What Ctrl-C does to the writer."""
    raise KeyboardInterrupt
