"""`distill`: a folder in the end, also after three kills; mistakes in one line each, before any work."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from cli_helpers import posix, short, start, unopened
from distilling import write_config
from safetensors import SafetensorError, safe_open

from tinyinfer.cli import main
from tinyinfer.distillation.training import Training
from tinyinfer.loading import load

__all__ = ["short"]  # fixture

TEXT = "The rain in the spring is a thing of the hills, and the hills are green and far away. " * 20
SMALL = ["--window", "16", "--batch-tokens", "32", "--tokens", "256", "--warm-up", "2", "--rate", "0.01"]


@pytest.fixture
def words(short: str, tmp_path: Path) -> list[str]:
    """The command of a short run that becomes `out`."""
    (tmp_path / "text.txt").write_text(TEXT)
    student = write_config(tmp_path / "small.json")
    return ["distill", "--teacher", short, "--student", student, "--text", str(tmp_path / "text.txt"),
            "-o", str(tmp_path / "out"), *SMALL]  # fmt: skip


def left(folder: Path) -> list[str]:
    """What stands beside text and configuration."""
    return sorted({path.name for path in folder.iterdir()} - {"text.txt", "small.json"})


def test_distill_then_generate(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder answers, and one line says what it has become."""
    assert main(words) == 0
    told = capsys.readouterr()
    assert told.out == ""
    line = rf"{tmp_path}/out: [\d.]+ kB, 256 tokens read, perplexity [\d.]+ -> [\d.]+, [\d.]+ s\n"
    assert re.fullmatch(line, told.err)
    assert left(tmp_path) == ["out"]
    assert main(["generate", "-q", "--raw", "-m", str(tmp_path / "out"), "-p", "The rain", "-n", "4"]) == 0


def test_quiet_says_nothing(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "-q", "--loss", "reverse-kl", "--recompute", "on", "--accumulate", "2"]) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")


def test_ctrl_c_says_how_to_go_on(words: list[str], tmp_path: Path, capsys, monkeypatch) -> None:
    """The checkpoint stays, and so does the log so far. Catches a run whose hours look lost."""
    step, log = Training.step, tmp_path / "log.jsonl"

    def interrupted(self: Training) -> float:
        if len(self.place.losses) == 3:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Training, "step", interrupted)
    assert main([*words, "--save-every", "2", "--log", str(log)]) == 130
    assert f"{tmp_path}/out.checkpoint: the same command goes on from there" in capsys.readouterr().err
    assert len([line for line in log.read_text().splitlines() if "loss" in line]) == 2
    monkeypatch.undo()
    assert main([*words, "--log", str(log)]) == 0


def test_a_log_and_a_plot(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each step and each test. Catches a perplexity that is not the loss's exponential."""
    (tmp_path / "test.txt").write_text(TEXT[100:600])
    log, plot = tmp_path / "log.jsonl", tmp_path / "loss.png"
    more = ["--log", str(log), "--plot", str(plot), "--test", str(tmp_path / "test.txt")]
    assert main([*words, *more]) == 0
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    steps, tests = ([row for row in rows if key in row] for key in ("loss", "test"))
    assert [row["tokens"] for row in steps] == list(range(0, 256, 32))
    assert (tests[0]["tokens"], tests[-1]["tokens"]) == (0, 256)
    assert all(row["perplexity"] == pytest.approx(math.exp(row["test"])) for row in tests)
    assert plot.read_bytes().startswith(b"\x89PNG")
    summary = capsys.readouterr().err
    assert f"perplexity {tests[0]['perplexity']:.4g} -> {tests[-1]['perplexity']:.4g}" in summary


def test_a_loss_beyond_a_floats_exponential(words: list[str], tmp_path: Path, capsys) -> None:
    """Of a student that a high rate has spoiled, but not to infinity. Catches an OverflowError at the very end."""
    more = ["--rate", "300", "--warm-up", "1", "--clip", "1e9", "--log", str(tmp_path / "log.jsonl")]
    assert main([*words, *more, "--plot", str(tmp_path / "loss.svg")]) == 0
    assert "-> inf" in capsys.readouterr().err


# Interruptions


def steps_done(checkpoint: Path) -> int:
    """How many steps a checkpoint has behind it; 0 where there is none."""
    with suppress(OSError, SafetensorError), safe_open(checkpoint, "np") as file:
        return json.loads(file.metadata()["tinyinfer"])["steps"]
    return 0


def sha(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@posix
def test_a_run_killed_three_times_ends_with_the_same_bits(words: list[str], tmp_path: Path) -> None:
    """By kill -9, each time at a later step. Catches an order, a rate or an optimizer that begins anew.

    While that run is killed, another one of the same words goes on undisturbed.
    """
    (tmp_path / "whole").mkdir()
    flags = [*words, "-q", "-t", "1", "--tokens", "2560", "--save-every", "2"]
    whole = start(*(str(tmp_path / "whole" / "out") if word == str(tmp_path / "out") else word for word in flags))
    checkpoint, killed = tmp_path / "out.checkpoint", []
    for _ in range(3):
        run = start(*flags)
        begun = steps_done(checkpoint)
        limit = time.monotonic() + 60
        while steps_done(checkpoint) < begun + 4:
            assert run.poll() is None, run.communicate()
            assert time.monotonic() < limit
            time.sleep(0.005)
        run.kill()
        run.communicate()
        killed.append(steps_done(checkpoint))
    assert killed == sorted(set(killed))
    assert killed[-1] < 80
    for run in (start(*flags), whole):
        assert run.communicate(timeout=60) == (b"", b"")
        assert run.returncode == 0
    assert sha(tmp_path / "out") == sha(tmp_path / "whole" / "out")
    assert left(tmp_path) == ["out", "whole"]


def test_ctrl_c_and_on(words: list[str], tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What was done is kept, and the run that goes on says from where."""

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tinyinfer.distillation.distill.Run.write", interrupted)
        assert main(words) == 130
    assert left(tmp_path) == ["out.checkpoint"]
    capsys.readouterr()
    assert main(words) == 0
    assert f"{tmp_path / 'out'}.checkpoint: goes on after 256 tokens\n" in capsys.readouterr().err
    assert left(tmp_path) == ["out"]


# Mistakes


def refused(words: list[str], capsys: pytest.CaptureFixture[str], opener=unopened) -> str:
    """The one line that a mistake is told in."""
    assert main(words, opener) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    return told.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--top-k 8 --loss reverse-kl", "--loss=reverse-kl needs the teacher itself, and --top-k=8 keeps only some"),
        ("--top-k 8 --hidden 1", "--hidden=1.0 needs the teacher itself"),
        ("--text-share 0.5 --loss cross-entropy", "--text-share=0.5 needs a teacher"),
        ("--text-share 0.5 --on-policy 0.5", "--text-share=0.5 takes the text for right"),
        ("--window 7", "--window=7 is too short to learn from; choose 8 or more"),
        ("--backend auto", "--backend=auto has no gradients; choose one of numpy, reference, cupy"),
        ("--log TEXTS", "is a folder; give the log the name of a file of its own"),
        ("--top-k 8 --loss cross-entropy", "--top-k=8 needs a teacher, and --loss=cross-entropy asks none"),
        ("--on-policy 0.5 --loss cross-entropy", "--on-policy=0.5 needs a teacher"),
        ("--top-k 300", "has 277 tokens, fewer than top_k=300"),
        ("--rate 0", "--rate=0.0 must be above 0"),
        ("--rate nan", "--rate=nan must be above 0"),
        ("--clip -1", "--clip=-1.0 must be above 0"),
        ("--temperature 0", "--temp=0.0 must be above 0"),
        ("--text-share 2", "--text-share=2.0 is no share; choose from 0 to 1"),
        ("--decay -0.1", "--decay=-0.1 is below 0; choose 0 or more"),
        ("--tokens 0", "--tokens=0 must be a whole number of at least 1"),
        ("--loss jsd", "invalid choice: 'jsd'"),
        ("--window 65", "has 64 positions, and window=65 wants more; choose a smaller window"),
        ("--hidden 1", "its hidden states are 16 wide, and its teacher's 60"),
        ("--plot loss.xyz", "loss.xyz"),
        ("--plot /nowhere/loss.png", "/nowhere"),
        ("--log /nowhere/log.jsonl", "/nowhere/log.jsonl: cannot be written"),
        ("--test NONE", "cannot read the text"),
        ("--text NONE", "none.txt (No such file or directory); give the path of a text file"),
        ("--text BAD", 'bad.jsonl, line 2: is no object with a "text"; give one document a line'),
        ("--text TINY", "tokens, but a window has 16; give a longer text"),
        ("--test TINY", "tokens, but a window has 16; give a longer text"),
        ("--student MIXTURE", "is a mixture of experts, which has no gradients here; choose a dense model"),
        ("--student QUANTIZED", "is quantized; train the model that it was made of, and quantize that"),
        ("--student NONE", "none.txt"),
        ("--student LARGE", "vocab_size is 278, more than the 277"),
        ("--teacher NONE", "none.txt"),
        ("-o TEXTS", "is there already and not empty; give the name of a new folder"),
        ("-o /nowhere/at/all", "there is no folder"),
        ("--backend numba", "numpy"),
    ],
)
def test_mistakes(
    more: str, message: str, words: list[str], short: str, golden_folder: Callable[[str], Path], tmp_path: Path, capsys
) -> None:
    """One line each, before a step is made, and with nothing left."""
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "bad.jsonl").write_text(json.dumps({"text": TEXT}) + "\n{'text': 3}\n")
    (texts / "tiny.txt").write_text("The rain.")
    places = {"NONE": texts / "none.txt", "BAD": texts / "bad.jsonl", "TINY": texts / "tiny.txt", "TEXTS": texts}
    if "MIXTURE" in more:
        places["MIXTURE"] = golden_folder("mixtral")
    if "LARGE" in more:
        places["LARGE"] = Path(write_config(texts / "large.json", vocab_size=278))
    if "QUANTIZED" in more:
        places["QUANTIZED"] = texts / "quantized"
        assert main(["quantize", "-q", "-m", short, "-o", str(places["QUANTIZED"]), "--quantize", "int8"]) == 0
        capsys.readouterr()
    asked = [str(places.get(word, word)) for word in more.split()]
    assert message in refused([*words, *asked], capsys)
    assert left(tmp_path) == ["texts"]


def test_a_student_of_another_vocabulary(words: list[str], short: str, tmp_path: Path, capsys) -> None:
    """Refused for a divergence; of the text alone it learns, by its own tokens."""
    own = tmp_path / "own"
    own.mkdir()
    vocabulary = json.loads((Path(short) / "tokenizer.json").read_text())
    tokens = vocabulary["model"]["vocab"]
    tokens["a"], tokens["b"] = tokens["b"], tokens["a"]
    (own / "tokenizer.json").write_text(json.dumps(vocabulary))
    (own / "tokenizer_config.json").write_text((Path(short) / "tokenizer_config.json").read_text())
    write_config(own / "config.json")
    asked = [*words, "--student", str(own)]
    assert "has another vocabulary than" in refused(asked, capsys)
    assert main([*asked, "--loss", "cross-entropy"]) == 0
    assert load(tmp_path / "out").tokenizer.encode("ab") != load(short).tokenizer.encode("ab")


def test_a_loss_that_is_no_number(words: list[str], tmp_path: Path, capsys) -> None:
    """One line that names step and cure, without NumPy's warnings. The next run stops there, too."""
    for _ in range(2):
        told = refused([*words, "--rate", "1e38", "--warm-up", "1", "--save-every", "1"], capsys)
        assert re.search(r"step \d+: .*; none was written; a lower rate or clip may help", told)
    assert left(tmp_path) == []


def test_the_checkpoint_of_other_flags(words: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    """What differs is named as the flag's value."""
    with monkeypatch.context() as patch:
        patch.setattr("tinyinfer.distillation.distill.Run.write", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(words)
    capsys.readouterr()
    told = refused([*words, "--rate", "0.5"], capsys)
    assert "out.checkpoint: the checkpoint is of another run (rate 0.01, now 0.5); give the same flags" in told
    (tmp_path / "out.checkpoint").write_bytes(b"torn")
    assert "out.checkpoint: is no checkpoint of this student" in refused(words, capsys)
    (tmp_path / "out.checkpoint").unlink()
    assert main([*words, "--rate", "0.5"]) == 0
