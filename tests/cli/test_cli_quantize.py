"""`quantize`: a folder that answers as the model in memory would; mistakes first, and nothing left when it is cut."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import short, unopened
from gguf_writer import write_gguf
from golden import load_golden

from tinyinfer import LLM, SamplingParams
from tinyinfer.cli import console, main
from tinyinfer.cli import quantize as command
from tinyinfer.engine.config import EngineConfig
from tinyinfer.loading import load

__all__ = ["short"]  # fixture


def generated(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    """The JSON line of a short answer."""
    assert main(["generate", "-q", "--json", "--raw", "--ignore-eos", "-n", "8", "-p", "The rain", *flags]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("words", ["", "--quantize int8 --group-size 64", "--quantize-head int8"])
def test_quantize_then_generate(words: str, short: str, tmp_path: Path, capsys) -> None:
    """The same tokens as with the same switches at the start; without any, int4 is the default."""
    out, flags = tmp_path / "out", words.split()
    assert main(["quantize", "-m", short, "-o", str(out), *flags]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"{out}: ")
    found = generated(capsys, "-m", str(out))
    asked = flags if "--quantize" in flags else ["--quantize", "int4", *flags]
    assert found["token_ids"] == generated(capsys, "-m", short, *asked)["token_ids"]


def test_the_sizes_that_are_told_are_true(short: str, tmp_path: Path, capsys) -> None:
    """On disk without the padding to whole blocks of 64 outputs, in memory with it."""
    out = tmp_path / "out"
    assert main(["quantize", "-m", short, "-o", str(out)]) == 0
    err = capsys.readouterr().err
    size = sum(file.stat().st_size for file in out.iterdir())
    assert f"{size / 1e3:.4g} kB, {LLM(str(out)).model.nbytes / 1e3:.4g} kB in memory" in err


def test_quiet_says_nothing(short: str, tmp_path: Path, capsys) -> None:
    assert main(["quantize", "-q", "-m", short, "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_terminal_sees_each_layer(short: str, tmp_path: Path, monkeypatch, capsys) -> None:
    """Layers while they are rounded, tensors while they are written."""
    monkeypatch.setattr(console, "is_terminal", lambda stream: True)
    assert main(["quantize", "-m", short, "-o", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().err.split("\r")
    layers = load_golden("llama").config["num_hidden_layers"]
    for done in range(1, layers + 1):
        assert any(part.startswith("loading and quantizing ") and f" {done}/{layers}" in part for part in shown)
    tensors = len(load(short).tensors)
    assert any(part.startswith("writing") and f"{tensors}/{tensors}" in part for part in shown)


def test_the_config_tells_the_recipe(short: str, tmp_path: Path, capsys) -> None:
    """For people: which switches made this folder. The name of a text, not its place on a disk.

    Of the beginning token it tells what was done, and nothing where no text was read.
    """
    text = tmp_path / "text.txt"
    text.write_text("The rain in the spring is a thing of the hills. " * 60)
    flags = ["--quantize", "int3", "--quantize-method", "gptq", "--calibration", str(text), "-q"]
    assert main(["quantize", "-m", short, "-o", str(tmp_path / "out"), *flags]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["method"] == "gptq"
    assert config["recipe"] == {
        "quantize": "int3", "group_size": 32, "quantize_method": "gptq", "quantize_head": "off",
        "calibration": "text.txt", "calibration_bos": True,
    }  # fmt: skip
    for i, (more, done) in enumerate({"--calibration-bos off": False, "--quantize-method rtn": None}.items()):
        kept = flags if done is False else ["--quantize", "int3", "-q"]
        assert main(["quantize", "-m", short, "-o", str(tmp_path / f"{i}"), *kept, *more.split()]) == 0
        config = json.loads((tmp_path / f"{i}" / "config.json").read_text())["quantization_config"]
        assert config["recipe"].get("calibration_bos") is done


def test_a_gguf_becomes_a_folder(tmp_path: Path, capsys) -> None:
    """With its own bits, a tokenizer.json and a chat template."""
    source = str(write_gguf("llama3", tmp_path / "x.gguf", "Q8_0"))
    assert main(["quantize", "-m", source, "-o", str(tmp_path / "out"), "--quantize", "keep", "-q"]) == 0
    capsys.readouterr()
    found = generated(capsys, "-m", str(tmp_path / "out"))
    assert found["token_ids"] == generated(capsys, "-m", source, "--quantize", "keep")["token_ids"]
    assert main(["generate", "-m", str(tmp_path / "out"), "-n", "2", "-q", "Hello"]) == 0, "the template is there"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--quantize off", "--quantize off leaves nothing to do; choose int8, int4"),
        ("--quantize int5", "'int5'"),
        ("--group-size 33", "--group-size"),
        ("-o {tmp}/full", "full: is there already and not empty; give the name of a new folder"),
        ("-o {tmp}/full/text.txt", "text.txt: is a file"),
        ("-o {tmp}/no/folder", "there is no folder"),
        ("--calibration {tmp}/full/text.txt", "--calibration given, but"),
        ("--kv-bits 8", "there is no flag '--kv-bits'"),
        ("-m {tmp}/nothing", "nothing"),
        ("-o {tmp}/link", "link: is a symbolic link; give the name of a new folder, or the folder it leads to"),
        ("-o {tmp}/dangling", "dangling: is a symbolic link"),
        ("-o {tmp}/" + "x" * 250, "cannot be made in '{tmp}' (File name too long); choose another place"),
        ("--quantize-rules ,,,", "--quantize-rules=',,,' holds no rule"),
        ("--quantize-method gptq --calibration=", "--calibration='' names no file"),
        ("--quantize off --quantize-method gptq --quantize-rules=,", "--quantize-rules=',' holds no rule"),
        ("--quantize-method hqq --group-size tensor", "--group-size=tensor has one scale"),
    ],
)
def test_mistakes_are_told_before_weights_are_read(flags, message, short, tmp_path, capsys) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "text.txt").write_text("mine")
    (tmp_path / "full" / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "full" / "empty")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    words = ["-m", short, "-o", str(tmp_path / "out"), *flags.format(tmp=tmp_path).split()]
    assert main(["quantize", *words], unopened) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message.format(tmp=tmp_path) in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "full", "link"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc is Linux's")
def test_a_place_where_no_folder_can_be_made_is_told_before_weights_are_read(short, capsys) -> None:
    """Found out by trying: permissions say yes there, to root."""
    assert main(["quantize", "-m", short, "-o", "/proc/x"], unopened) == 2
    assert "/proc/x: cannot be made in '/proc' (" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_told_before_weights_are_read(short, tmp_path, capsys) -> None:
    tmp_path.chmod(0o555)
    assert main(["quantize", "-m", short, "-o", str(tmp_path / "out")], unopened) == 2
    assert f"cannot be made in '{tmp_path}' (Permission denied); choose another place" in capsys.readouterr().err


def test_the_folder_that_one_is_in_is_refused(short, tmp_path, monkeypatch, capsys) -> None:
    """Empty, it could be filled, but not be replaced by a finished one."""
    monkeypatch.chdir(tmp_path)
    assert main(["quantize", "-m", short, "-o", "."], unopened) == 2
    assert "'.': is the folder that you are in; give the name of a new folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--quantize-method gptq --calibration {tmp}/none", "cannot read the calibration text {tmp}/none (No"),
        ("--quantize w8a8 --calibration {tmp}/short", "{tmp}/short: the calibration text has 6 tokens, but"),
        ("--quantize off --quantize-rules 'head int8' --quantize-method gptq", "--quantize-rules leave every layer"),
        ("--quantize-method hqq --quantize-rules '*.o int4 gtensor'", "choose another group size, or --quantize"),
        ("--quantize-method gptq -m {moe}", "an expert sees too few rows; choose --quantize-method=rtn or hqq"),
        ("--quantize w8a8 -m {moe}", "an expert sees too few rows; choose --quantize=int8"),
    ],
)
def test_what_a_method_cannot_do_is_told_before_weights_are_read(
    flags, message, short, golden_folder, tmp_path, monkeypatch, capsys
) -> None:
    """Catches a minute of loading before it; each cure is one that is then taken."""
    (tmp_path / "short").write_text("x" * 6)
    read = "tinyinfer.loading.build.build_model"
    monkeypatch.setattr(read, lambda *args: pytest.fail("weights were read before that"))
    words = [word.format(tmp=tmp_path, moe=golden_folder("mixtral")) for word in shlex.split(flags)]
    assert main(["quantize", "-m", short, "-o", str(tmp_path / "out"), *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message.format(tmp=tmp_path) in err


def test_bits_to_keep_must_be_there(short: str, tmp_path: Path, capsys) -> None:
    """A folder of floats has none; writing it again as it is would be called quantized and be none."""
    assert main(["quantize", "-q", "-m", short, "-o", str(tmp_path / "out"), "--quantize", "keep"]) == 2
    assert "holds no matrix in a few bits" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_asked_for(short: str, capsys) -> None:
    assert main(["quantize", "-m", short]) == 2
    assert "-o/--output" in capsys.readouterr().err


def test_what_is_quantized_already_is_refused(short: str, tmp_path: Path, capsys) -> None:
    """Rounding twice would lose twice, in silence."""
    assert main(["quantize", "-q", "-m", short, "-o", str(tmp_path / "one")]) == 0
    assert main(["quantize", "-m", str(tmp_path / "one"), "-o", str(tmp_path / "two")], unopened) == 2
    assert "one: is quantized already" in capsys.readouterr().err
    assert main(["generate", "-m", str(tmp_path / "one"), "--quantize", "int8", "x"]) == 2
    assert "--quantize=int8 is given, but" in capsys.readouterr().err
    assert main(["generate", "-m", str(tmp_path / "one"), "--group-size", "64", "x"]) == 2
    assert "--group-size given, but --quantize=off quantizes nothing; leave it out, or" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["loading", "writing"])
def test_ctrl_c_leaves_nothing(where: str, short: str, tmp_path: Path, monkeypatch, capsys) -> None:
    """Exit status 130, no folder and no hidden one."""
    monkeypatch.setattr(console, "is_terminal", lambda stream: True)
    say = console.say

    def stop(text: str, end: str = "\n") -> None:
        if text.startswith(f"\r{where}") and "] 2/" in text:
            raise KeyboardInterrupt
        say(text, end)

    monkeypatch.setattr(console, "say", stop)
    assert main(["quantize", "-m", short, "-o", str(tmp_path / "out")]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.full
@pytest.mark.weights
def test_smollm2_fits_in_a_fifth_of_its_floats(smollm2: Path, tmp_path: Path, capsys) -> None:
    """The body in 4 bits, embedding and head in 8: at most 0.19 of float32, on disk and in memory, and it answers."""
    words = ["quantize", "-q", "-m", str(smollm2), "-o", str(tmp_path / "out"), "--quantize-head", "int8"]
    assert main(words) == 0
    floats = 4 * 134_515_008
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < 0.19 * floats
    llm = LLM(str(tmp_path / "out"), max_model_len=64)
    assert llm.model.nbytes < 0.19 * floats
    assert llm.generate("The capital of France is", SamplingParams(max_tokens=1))[0].text.startswith(" Paris")


def test_its_switches_are_those_that_change_the_weights() -> None:
    """A field that is no switch, or a switch that does nothing to what is written, would be a flag that lies."""
    named = [field for field in EngineConfig.__dataclass_fields__ if "quantize" in field or "calibration" in field]
    assert set(command.RECIPE) >= {name for name in named if not name.startswith("draft")}
    assert set(command.SWITCHES) <= EngineConfig.__dataclass_fields__.keys()
