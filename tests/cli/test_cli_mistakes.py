"""Every mistake of a user is one line on stderr and exit status 2; a traceback is a bug of ours."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from cli_helpers import ROOT, base_model, feed, short

from tinyinfer import ModelError
from tinyinfer.cli import main
from tinyinfer.loading.hub import STORY_TELLER

__all__ = ["base_model", "short"]  # fixtures


def mistake(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that the command line answers with."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"tinyinfer: error: [^\n]+\n", err), err
    return err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("genrate", "no command 'genrate' (did you mean 'generate'?); the commands are generate, chat, download"),
        ("--verison", "did you mean '--version'"),
        ("generate --tmep 1", "no flag '--tmep' (did you mean '--temp'?)"),
        ("generate --max 1", "did you mean '--max-tokens'"),
        ("chat --system=x", "did you mean '--system-prompt'"),
        ("generate what is rain", "unexpected argument 'is': put text of several words in quotes"),
        ("generate -n", "-n/--max-tokens: expected one argument"),
        ("generate -n many", "-n/--max-tokens: invalid int value: 'many'"),
        ("generate -n 0", "--max-tokens=0 must be a whole number of at least 1"),
        ("generate --temp nan", "--temp=nan must be"),
        ("generate --temp=-inf", "--temp=-inf must be"),
        ("generate --temp -1", "--temp=-1.0 must be"),
        ("chat --temp nan", "--temp=nan must be"),
        ("generate --top-p 0", "--top-p=0.0 must be"),
        ("generate --top-p 1.5", "--top-p=1.5 must be"),
        ("generate --top-k -2", "--top-k=-2 must be"),
        ("generate --min-p 2", "--min-p=2.0 must be"),
        ("generate --repeat-penalty 0", "--repeat-penalty=0.0 must be"),
        ("generate --presence-penalty inf", "--presence-penalty=inf must be"),
        ("generate --seed 9223372036854775808", "--seed=9223372036854775808 must be"),
        ("generate --stop=", "--stop holds an empty string"),
        ("generate --logprobs 1", "--json"),
        ("chat --logprobs 1", "--json"),
        ("generate --json --logprobs 9999", "--logprobs=9999 must be"),
        ("generate --kv-cache foo", "--kv-cache: invalid choice: 'foo' (choose from "),
        ("generate --dtype int3", "--dtype: invalid choice: 'int3' (choose from "),
        ("generate --backend gpu", "--backend: invalid choice: 'gpu' (choose from "),
        ("generate -c 0", "--max-model-len=0 must be"),
        ("generate -t 0", "--threads=0 must be"),
        ("generate -c 99999 -p x", "--max-model-len=99999 is more than the 128 positions"),
        ("generate --stop-token-ids 999 -p x", "--stop-token-ids=999 is outside the vocabulary of 277"),
        ("generate -p x -p=", "a prompt is empty"),
        ("generate - -p -", "only once"),
        ("generate --raw -sys x", "--system-prompt needs the chat template"),
        ("generate -f no/such/file", "no/such/file: No such file or directory"),
        ("generate -f tests", "tests: Is a directory"),
        ("download no-such-model", "'no-such-model'"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_flag(
    words: str, message: str, short: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    command = words.split()
    if command[0] in ("generate", "chat"):
        command[1:1] = ["-m", short]
    assert message in mistake(capsys, *command)


def test_a_prompt_longer_than_the_context_is_refused_before_any_work(
    short: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = mistake(capsys, "generate", "-m", short, "fits", "-p", "x" * 200)
    assert "the prompt has 2" in error
    assert "the context holds 128" in error


def test_the_flag_to_raise_is_named_when_a_short_context_is_too_short(
    short: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "raise --max-model-len" in mistake(capsys, "generate", "-m", short, "-c", "9", "a longer prompt")


def test_a_bad_flag_is_told_before_a_model_is_looked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a download of minutes that ends in "--threads=0"."""
    for words in (["-t", "0"], ["--temp", "nan"], ["-p="]):
        assert "nowhere" not in mistake(capsys, "generate", "-m", "nowhere", *words)


def test_text_that_is_no_utf8_is_refused_by_name(
    short: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "latin1").write_bytes(b"caf\xe9")
    assert f"{tmp_path}/latin1: not UTF-8 text (byte 3)" in mistake(
        capsys, "generate", "-m", short, "-f", f"{tmp_path}/latin1"
    )
    feed(monkeypatch, b"\xff")
    assert "stdin: not UTF-8 text (byte 0)" in mistake(capsys, "generate", "-m", short, "-")
    assert "UTF-8" in mistake(capsys, "generate", "-m", short, "caf\udce9")  # how Python hands over such an argument


def test_a_closed_stdin_is_one_line(
    short: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert "stdin is closed" in mistake(capsys, "generate", "-m", short, "-")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing", None, "no such folder"),
        ("folder/", None, "config.json"),
        ("a.gguf", b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f", "a.gguf"),
        ("a.txt", b"hello", "neither"),
    ],
)
def test_a_model_that_is_none_is_one_line_that_names_it(
    name: str, content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if name.endswith("/"):
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    error = mistake(capsys, "generate", "-m", str(path))
    assert str(path) in error
    assert message in error


TEMPLATES = {
    "raises": "{{ raise_exception('no\nsystem prompts') }}",
    "is no template": "{% for %}",
    "breaks out": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "divides by zero": "{{ 1 / 0 }}",
}


def test_broken_files_of_a_model_are_one_line_that_names_the_file(
    short: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a loader's or a template's exception that main does not know."""
    for file in Path(short).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())

    def error_with(name: str, content: bytes) -> str:
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content)
        error = mistake(capsys, "generate", "-m", str(tmp_path), "-n", "2", "hello")
        (tmp_path / name).write_bytes(whole)
        return error

    weights = (tmp_path / "model.safetensors").read_bytes()
    for name, content in [
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "mamba"}'),
        ("tokenizer.json", b"{}"),
        ("model.safetensors", weights[:1000]),
        ("model.safetensors", weights[:-1]),
        ("model.safetensors", b"\xff" * 8 + weights[8:]),
    ]:
        assert f"{tmp_path}/{name}" in error_with(name, content)
    tokenizer = json.loads((tmp_path / "tokenizer_config.json").read_bytes())
    for template in TEMPLATES.values():
        changed = json.dumps(tokenizer | {"chat_template": template}).encode()
        error = error_with("tokenizer_config.json", changed)
        assert f"{tmp_path}/tokenizer_config.json" in error
        assert "--raw" in error


def test_a_system_prompt_without_a_template_is_refused(base_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = mistake(capsys, "generate", "-m", base_model, "-sys", "Be brief.", "hello")
    assert "no chat template" in error


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for weights, and pip without an index; what else a network can do is tested in test_hub.py."""
    pytest.importorskip("pip")
    monkeypatch.setenv("TINYINFER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "home"


@pytest.mark.parametrize("words", [["generate", "-m", "smollm2-135m"], ["generate", "--model=smollm2-135m"], ["chat"]])
def test_no_network_is_one_line(words: list[str], no_network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an explicit -m that another model answers."""
    assert "check the network" in mistake(capsys, *words, *["hello"] * (words[0] == "generate"))
    assert not list(no_network.glob("*.gguf*"))


@pytest.mark.parametrize("words", [["--quantize", "int4"], ["--speculative", "draft"], ["-c", "4096"]])
def test_what_the_story_teller_cannot_have_is_the_old_error(
    words: list[str], no_network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches an answer that is promised and does not come, with the error of a model that was not asked for."""
    assert "check the network" in mistake(capsys, "generate", "hello", *words)


def test_without_a_network_the_story_teller_continues_the_text(
    no_network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a first try that ends with an error in a train; and an answer that does not say who gives it."""
    assert main(["generate", "Once upon a time, there was a", "-q", "--temp", "0", "-n", "40", "--json"]) == 0
    out, err = capsys.readouterr()
    line = json.loads(out)
    assert line["engine"]["model"] == STORY_TELLER
    assert len(line["text"].split()) > 20
    assert err.count("\n") == 1
    assert "check the network" in err
    assert f"so {STORY_TELLER} continues your text" in err
    assert main(["generate", "--temp", "0", "-n", "8"]) == 0, "no prompt: then there is one that suits it"
    assert '"Once upon a time"' in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "Unable to allocate 9 TiB"])
def test_too_little_memory_is_one_line_with_what_to_try(
    text: str, short: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raising(*args: object, **switches: object) -> None:
        raise MemoryError(text)

    monkeypatch.setattr("tinyinfer.llm.load", raising)
    error = mistake(capsys, "generate", "-m", short)
    assert "not enough memory" in error
    assert text in error
    assert "--quantize int8" in error, "the cache says its own cures (test_long_context.py); this is of weights"


def test_a_bug_is_not_called_a_mistake(short: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a `main` that hides our own faults behind exit status 2."""
    monkeypatch.setattr("tinyinfer.engine.engine.choose_tokens", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["generate", "-m", short, "-q"])


def test_the_errors_of_the_model_loader_are_shown_as_they_are(
    short: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file may be called like a flag; and whatever a message holds, it is one line."""

    def raising(*args: object) -> None:
        raise ModelError("max_model_len/config.json: broken\nbadly")

    monkeypatch.setattr("tinyinfer.llm.load", raising)
    assert mistake(capsys, "generate", "-m", short).endswith("error: max_model_len/config.json: broken badly\n")
