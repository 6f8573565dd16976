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


def run(folder: Path, *words: str) -> tuple[int, str]:
    """The exit status and the output of `pytest` in a folder."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
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


def test_a_project_around_the_folder_changes_nothing(tmp_path):
    """Catches addopts and conftest.py of another project: of a checkout of ours, too, where README starts `mine`."""
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '--no-such-flag'\n")
    (tmp_path / "conftest.py").write_text("1 / 0\n")
    start(assignment("sampling"), tmp_path / "mine")
    assert "0.0 / 64" in run(tmp_path / "mine")[1]
    assert "0.0 / 64" in run(tmp_path, "mine")[1]


def test_tests_of_another_version_are_told(tmp_path):
    """Catches a package that was renewed under a student's folder, whose tests are another version's."""
    start(assignment("sampling"), tmp_path)
    marker = tmp_path / "assignment.toml"
    marker.write_text(marker.read_text().replace('version = "1"', 'version = "99"'))
    assert "started from version 99 of the assignment, graded by version 1" in run(tmp_path)[1]


def test_two_folders_have_two_scores(tmp_path):
    """Catches one assignment's tests that are looked for in the other's manifest."""
    for name in ("kv_cache", "sampling"):
        start(assignment(name), tmp_path / name)
    (tmp_path / "sampling" / "sampling.py").write_text(solution(assignment("sampling")))
    _, text = run(tmp_path)
    assert re.search(r"KV cache: the score so far(.|\n)+public tests +0.0 / 64", text)
    assert re.search(r"Sampling: the score so far(.|\n)+public tests passed +64.0 / 64", text)
