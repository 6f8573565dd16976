"""`tinyinfer course list` and `course start`: what a student sees first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinyinfer.cli import main
from tinyinfer.course.assignment import assignments


def test_the_list_has_one_line_for_each_assignment_its_name_first(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a line that a script could not read."""
    assert main(["course", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    known = assignments()
    assert [line.split()[0] for line in lines] == list(known)
    for line, a in zip(lines, known.values(), strict=True):
        assert f" {a.minutes} minutes  100 points  {a.about}" in line


def test_a_started_assignment_says_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a command that writes files and leaves the student alone with them."""
    folder = tmp_path / "two words"
    assert main(["course", "start", "quantization", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert f"edit {folder / 'quantization.py'}; the task is in {folder / 'README.md'}\n" in out
    assert f"cd '{folder}' && pytest\n" in out
    assert not err
    assert main(["course", "start", "quantization", str(folder)]) == 2
    assert capsys.readouterr().err.startswith(f"tinyinfer: error: {folder / 'quantization.py'} exists already")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["start", "kvcache", "x"], "there is no assignment 'kvcache' (did you mean 'kv_cache'?); the assignments are"),
        (["start", "kv_cache"], "the following arguments are required: DIR; see tinyinfer course start --help"),
        (["strat"], "invalid choice: 'strat'"),
        (["list", "--jsno"], "there is no flag '--jsno'"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback, or a mistake without its cure."""
    assert main(["course", *words]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert told in err
    assert err.startswith("tinyinfer: error: ")
    assert err.count("\n") == 1


def test_course_alone_shows_its_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a command that does nothing, silently."""
    assert main(["course"]) == 2
    err = capsys.readouterr().err
    assert "list " in err
    assert "start " in err


def test_a_folder_that_takes_no_files_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback of the operating system's error."""
    (tmp_path / "file").write_text("")
    assert main(["course", "start", "quantization", str(tmp_path / "file" / "folder")]) == 2
    assert str(tmp_path / "file" / "folder") in capsys.readouterr().err


def test_an_empty_name_is_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    """Catches `course start kv_cache "$DIR"` without a DIR, which filled the current folder."""
    monkeypatch.chdir(tmp_path)
    assert main(["course", "start", "kv_cache", ""]) == 2
    assert "the folder's name is empty" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
