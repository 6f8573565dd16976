"""What a student reads after plain `pytest` in an assignment's folder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tinyinfer.course.assignment import assignment
from tinyinfer.course.cut import solution
from tinyinfer.course.start import start

pytestmark = pytest.mark.course  # each test starts a pytest of its own


def run(folder: Path) -> tuple[int, str]:
    """The exit status and the output of `pytest` in a folder."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout


def test_the_first_run_names_each_task_once(tmp_path):
    """Catches a failure whose sentence comes again as "another exception occurred", and a red line without its task."""
    start(assignment("kv_cache"), tmp_path)
    status, text = run(tmp_path)
    assert status == 1
    failures, score = text.split("KV cache: the score so far")
    assert "not written yet: kv_cache, task 2: ContiguousCache.missing" in failures
    assert "exception" not in failures
    assert "0.0 / 64" in score


def test_a_mistake_is_told_once_with_its_place(tmp_path):
    """Catches an error without the student's line, and an error that is told several times."""
    a = assignment("kv_cache")
    start(a, tmp_path)
    (tmp_path / a.file).write_text(solution(a).replace("self._arrays[span.seq.id]", "self.missed[span.seq.id]"))
    _, text = run(tmp_path)
    [told] = [part for part in text.split("\n__") if " test_every_split_of_a_prompt " in part.partition("\n")[0]]
    assert told.count("has no attribute 'missed'") == 1
    assert "kv_cache.py, line" in told
    assert "exception" not in told


def test_our_solution_passes(tmp_path):
    """Catches a score that plain pytest does not give."""
    a = assignment("sampling")
    start(a, tmp_path)
    (tmp_path / a.file).write_text(solution(a))
    status, text = run(tmp_path)
    assert status == 0
    assert re.search(r"public tests passed +64.0 / 64", text)


def test_a_missing_file_is_named(tmp_path):
    """Catches a page of the package's own source for each test, where one sentence is enough."""
    a = assignment("sampling")
    start(a, tmp_path)
    (tmp_path / a.file).unlink()
    status, text = run(tmp_path)
    assert status == 2
    assert f"{a.file} is missing; `course start sampling`" in text
    assert "Error" not in text
