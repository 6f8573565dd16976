"""`synthesize`: a file of documents, the same after a kill; every mistake in one line before a model is opened."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from cli_helpers import interrupt_at, posix, short, start, terminal, unopened

from tinyinfer.cli import main

__all__ = ["short"]  # fixture

CLOSING = r"\S+/out: (\d+) documents, (\d+) tokens, [\d.]+ s, \d+ tokens per second\n"


@pytest.fixture
def words(short: str, tmp_path: Path) -> list[str]:
    """A command that takes less than a second."""
    return ["synthesize", "-m", short, "-n", "60", "--max-tokens", "8", "-o", str(tmp_path / "out"), *mine(tmp_path)]


def mine(folder: Path) -> list[str]:
    """Prompts that a context of 128 holds."""
    (folder / "prompts").mkdir(exist_ok=True)
    (folder / "prompts" / "mine.txt").write_text("".join(f"What is {i}?\n" for i in range(7)))
    return ["--prompts", str(folder / "prompts" / "mine.txt")]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "prompts")


def test_a_line_is_a_document(words: list[str], tmp_path: Path, capsys) -> None:
    """stdout stays empty; one closing line on stderr says what was written and where."""
    assert main(words) == 0
    out, err = capsys.readouterr()
    told = re.fullmatch(CLOSING, err)
    assert out == ""
    assert told
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert (len(lines), sum(line["tokens"] for line in lines)) == (int(told[1]), int(told[2]))
    assert [list(line) for line in lines] == [["prompt", "text", "tokens", "finished"]] * len(lines)
    assert "<|im_start|>user\nWhat is 0?<|im_end|>" in lines[0]["prompt"]
    assert files(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", ["questions", "stories"])
def test_the_built_in_prompts(kind: str, folder_of_long_texts: str, tmp_path: Path, capsys) -> None:
    words = ["-m", folder_of_long_texts, "-n", "2", "--max-tokens", "1", "--max-num-seqs", "2"]
    assert main(["synthesize", "-q", "-o", str(tmp_path / "out"), "--prompts", kind, *words]) == 0
    assert capsys.readouterr().err == ""
    first = json.loads((tmp_path / "out").read_text().splitlines()[0])["prompt"]
    assert ("Write a short story for a small child" in first) == (kind == "stories")


@pytest.fixture
def folder_of_long_texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose context holds any built-in prompt."""
    from golden import write_hf_folder

    return str(write_hf_folder("llama", tmp_path_factory.mktemp("long"), changes={"max_position_embeddings": 2000}))


def test_the_seed_and_the_temperature_decide(words: list[str], tmp_path: Path, capsys) -> None:
    """Catches a flag that nothing reads."""
    texts = []
    for i, more in enumerate([["--seed", "0"], ["--seed", "1"], ["--temperature", "0"], ["--temp", "0"], []]):
        target = tmp_path / f"out{i}"
        assert main([*words, "-q", "-o", str(target), *more]) == 0
        texts.append(target.read_text())
    assert texts[2] == texts[3]
    assert texts[4] == texts[0]
    assert len(set(texts)) == 3


def test_ctrl_c_keeps_the_documents_and_says_how_to_go_on(
    words: list[str], tmp_path: Path, monkeypatch, capsys
) -> None:
    """Then the same command does, to the bytes of a run without an interruption."""
    words += ["--max-num-seqs", "2"]
    assert main([*words, "-q", "-o", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 20)
        assert main(words) == 130
    said = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\S+/out\.part: \d+ documents, \d+ tokens; the same command goes on there", said[0])
    assert said[1:] == ["tinyinfer: interrupted"]
    assert main(words) == 0
    assert re.search(r"out: \d+ documents \(\d+ of them were there\), ", capsys.readouterr().err)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert files(tmp_path) == ["out", "whole"]


@posix
def test_a_kill_keeps_the_documents(words: list[str], tmp_path: Path, capsys) -> None:
    """Lines are with the operating system as soon as they are written. Catches lines that wait in a buffer."""
    words[words.index("60")] = "400"
    process, part = start(*words), tmp_path / "out.part"
    until = time.monotonic() + 60
    while not (part.exists() and part.read_bytes().count(b"\n") > 3) and time.monotonic() < until:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert part.read_bytes().count(b"\n") > 3
    assert main([*words, "-q"]) == 0
    assert main([*words, "-q", "-o", str(tmp_path / "whole")]) == 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_terminal_shows_progress(words: list[str], tmp_path: Path, monkeypatch) -> None:
    with terminal(monkeypatch, "stderr", 120) as seen:
        assert main(words) == 0
    assert re.search(r"writing out \[#*-+\] \d+/60, \d+ tokens per second", seen())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("-n 0", "-n 0: ask for at least one token"),
        ("-n -5", "-n -5: ask for at least one token"),
        ("-n many", "argument -n/--tokens: invalid int value: 'many'"),
        ("--max-tokens 0", "--max-tokens 0: an answer has at least one token"),
        ("--temperature -1", "--temp=-1.0 must be a number of at least 0"),
        ("--seed -1", "--seed -1: give 0 or more; the same seed makes the same file"),
        (
            "--prompts poems",
            "the prompts 'poems' cannot be read (No such file or directory); give questions, stories or",
        ),
        ("--prompts {tmp}/prompts", "cannot be read (Is a directory)"),
        ("--prompts {tmp}/prompts/empty", "empty: holds no prompt; write one prompt a line"),
        ("--prompts {tmp}/prompts/latin", "latin: not UTF-8 text (byte 3); convert it to UTF-8 first"),
        ("-o {tmp}/no/out", "there is no folder '{tmp}/no' to write it in; create that first"),
        ("-o {tmp}/prompts", "prompts: is a folder; give the name of a new file in it"),
        ("-o {tmp}/prompts/mine.txt", "mine.txt: is there already; remove it or give the name of a new file"),
        ("-o {tmp}/" + "x" * 250, "cannot be made in '{tmp}' (File name too long); choose another place"),
        ("--kv-cache none --prefix-cache on", "--prefix-cache"),
    ],
)
def test_mistakes(more: str, message: str, words: list[str], tmp_path: Path, capsys) -> None:
    """One line each, before a model is opened; nothing is left."""
    (tmp_path / "prompts" / "empty").write_text("\n \n")
    (tmp_path / "prompts" / "latin").write_bytes(b"caf\xe9")
    assert main([*words, *more.format(tmp=tmp_path).split()], unopened) == 2
    err = capsys.readouterr().err
    assert message.format(tmp=tmp_path) in err
    assert len(err.splitlines()) == 1
    assert files(tmp_path) == []


@pytest.mark.parametrize("flag", ["-n", "-o"])
def test_what_must_be_given(flag: str, words: list[str], capsys) -> None:
    at = words.index(flag)
    assert main(words[:at] + words[at + 2 :], unopened) == 2
    assert "the following arguments are required: " + flag in capsys.readouterr().err


def test_a_prompt_that_is_too_long_is_named(words: list[str], tmp_path: Path, capsys) -> None:
    (tmp_path / "prompts" / "mine.txt").write_text("What is this?\n" + "the thing " * 90)
    assert main(words) == 2
    assert re.search(
        r"error: document 1: the prompt has \d+ tokens, but the context holds 128", capsys.readouterr().err
    )


def test_other_settings_are_refused(words: list[str], monkeypatch, capsys) -> None:
    """The command says what differs, and what to do."""
    words += ["--max-num-seqs", "2"]
    with monkeypatch.context() as patch:
        interrupt_at(patch, 20)
        assert main(words) == 130
    capsys.readouterr()
    assert main([*words, "--seed", "1", "--top-k", "5"]) == 2
    err = capsys.readouterr().err
    assert "out.part: was begun with other settings (seed was 0 and is now 1, top_k was 0 and is now 5); " in err
    assert len(err.splitlines()) == 1
