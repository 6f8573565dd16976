"""docs/teaching.md is true: its commands run in their order, its files make an assignment, its minutes are not made up.

The commands run in a copy of the package, as in a checkout, because the page adds an assignment to it.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tinyinfer
from tinyinfer.course.assignment import assignments

ROOT = Path(tinyinfer.__file__).parents[1]
PAGE = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
FILE = re.compile(r"[`,]((?:tinyinfer|tests)/[\w/.]*softmax[\w/.]*|times\.csv)`")
posix = pytest.mark.skipif(os.name == "nt", reason="the page's commands are for a POSIX shell")


def blocks() -> Iterator[tuple[str, str, str]]:
    """(language, text, the file that the paragraph before names last) of each block of the page."""
    end = 0
    for found in re.finditer(r"^(`{3,4})(\w+)\n(.*?)^\1$", PAGE, re.DOTALL | re.MULTILINE):
        named = FILE.findall(PAGE[end : found.start()])
        end = found.end()
        yield found[2], found[3], named[-1] if named else ""


def test_each_block_is_run_or_says_what_it_needs():
    """Catches a command in a block that no test looks at."""
    kinds = [(language, bool(file)) for language, _, file in blocks()]
    assert {language for language, _ in kinds} == {"sh", "text", "csv", "toml", "markdown", "python"}
    assert all(file for language, file in kinds if language not in ("sh", "text"))
    assert all(text.startswith("needs GitHub:") for language, text, _ in blocks() if language == "text")


def test_the_minutes_of_the_syllabus_are_those_of_the_manifests():
    """Catches a plan of two weeks with an assignment that has become longer, or has another name."""
    rows = re.findall(r"starts: `(\w+)` \| (\d+) \|", PAGE)
    minutes = {name: int(minutes) for name, minutes in rows}
    assert minutes == {name: a.minutes for name, a in assignments().items()}
    assert re.findall(r"due: `(\w+)`", PAGE) == list(minutes)


def test_the_lessons_of_the_syllabus_exist():
    for name in re.findall(r"`(\d\d_\w+)`", PAGE):
        assert (ROOT / "notebooks" / f"{name}.ipynb").is_file(), name


@posix
@pytest.mark.course
def test_the_commands_of_the_page_run_in_their_order(tmp_path):
    """Catches a command with a flag that does not exist, and files that make no assignment."""
    for name in ("tinyinfer", "tests", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    for language, text, file in blocks():
        if language == "sh":
            for command in text.splitlines():
                run(command, tmp_path)
        elif file:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text(text)
    assert json.loads((tmp_path / "try" / "results" / "results.json").read_text())["score"] == 0
    assert rows(tmp_path / "grades.csv") == [("ada", "graded", "0"), ("grace", "graded", "0")]
    assert rows(tmp_path / "softmax.csv") == [("ada", "graded", "0")]


def run(command: str, folder: Path) -> None:
    """Runs a command in the copy of the checkout; 1 says that a single submission has no full marks."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(folder), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode in ((0, 1) if "course grade class/" in command else (0,)), f"{command}\n{done.stderr}"


def rows(table: Path) -> list[tuple[str, str, str]]:
    """(student, status, score) of each row of a table."""
    with table.open(encoding="utf-8", newline="") as file:
        return [(row["student"], row["status"], row["score"]) for row in csv.DictReader(file)]
