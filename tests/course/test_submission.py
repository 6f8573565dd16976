"""One file is taken out of a folder full of traps: nothing is followed, nothing waits, nothing else is used."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from local_children import Desk

from tinyinfer.course.assignment import assignment, assignments
from tinyinfer.course.cut import solution
from tinyinfer.course.errors import CourseError
from tinyinfer.course.grading import submission
from tinyinfer.course.grading.submission import take

SOURCE = "import numpy as np\n\n\ndef softmax(s):\n    return s\n"
posix = pytest.mark.skipif(sys.platform == "win32", reason="links and FIFOs of POSIX")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, SOURCE)


def test_a_plain_folder_gives_the_source_and_nothing_to_say(desk):
    """Catches notes about files that all students have."""
    for name, text in (("README.md", "x"), ("notes.txt", "x"), ("assignment.toml", 'name = "small"\nversion = "3"\n')):
        (desk.folder / name).write_text(text)
    (desk.folder / "test_small.py").write_bytes((desk.a.folder / "test_small.py").read_bytes())
    (desk.folder / "__pycache__").mkdir()
    (desk.folder / "__pycache__" / "numpy.py").write_text("")
    assert take(desk.folder, desk.a) == submission.Submission(SOURCE.encode())


# What lies in the place of the file


@posix
@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "folder", "socket"])
def test_only_a_regular_file_is_read(desk, kind, tmp_path):
    """Catches a link to another's file or to /dev/zero, and a FIFO that makes the grader wait for ever."""
    path = desk.folder / "small.py"
    path.unlink()
    (tmp_path / "other.py").write_text("the solution of another student")
    if kind == "link":
        path.symlink_to(tmp_path / "other.py")
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mknod(path, 0o140600)
    taken = take(desk.folder, desk.a)
    said = {"link": "symbolic link", "dangling": "symbolic link", "fifo": "FIFO"}.get(kind, kind)
    assert taken.source == b""
    assert taken.fault == f"small.py is a {said}, and only a file is read"


@posix
def test_a_second_name_of_the_file_is_noted(desk, tmp_path):
    """Catches a hard link to another's file, which looks like a file of its own."""
    os.link(desk.folder / "small.py", tmp_path / "other.py")
    taken = take(desk.folder, desk.a)
    assert taken.fault == ""
    assert "hard link" in taken.notes[0]


def test_a_file_that_is_exchanged_while_it_is_read_is_refused(desk, tmp_path, monkeypatch):
    """Catches a check of one file and the reading of another."""
    (tmp_path / "other.py").write_text("x = 1")
    before = os.lstat(tmp_path / "other.py")
    monkeypatch.setattr(os, "lstat", lambda path: before)
    assert "became another file" in take(desk.folder, desk.a).fault


def test_a_file_without_permission_is_the_students_fault(desk, monkeypatch):
    """Catches a class of 200 that ends at the one file which may not be read."""

    def refused(*words: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    assert take(desk.folder, desk.a).fault == "small.py cannot be read (Permission denied)"


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        (b"x = 1\n" * 200_000, "small.py is larger than 1,000,000 bytes; an assignment needs a few thousand"),
        (b"x = 1\ny = '\xe9'\n", "small.py, line 2: the byte 0xe9 is no UTF-8; save the file as UTF-8"),
        (b"# coding: utf-7\nx = 1\n", "small.py, line 1: declares the encoding utf-7; save the file as UTF-8"),
        (b"", "small.py is empty"),
        (b" \n", "small.py is empty"),
        (b"x = 1\ndef f(:\n", "small.py, line 2: invalid syntax"),
        (b"x = 1\0\n", "small.py, line 1: source code string cannot contain null bytes"),
        (b"(" * 9_000, "small.py, line 1: too many nested parentheses"),
        (b"x = " + b"-" * 90_000 + b"1", "small.py: is nested too deeply for Python"),
        (b"x = a" + b".a" * 45_000, "small.py: is nested too deeply for Python"),
        (b"if 1:\n\tx = 1\n        y = 2\n", "small.py, line 3: inconsistent use of tabs and spaces in indentation"),
    ],
)  # fmt: skip
def test_a_source_that_python_cannot_read_is_a_fault_with_its_line(tmp_path, source, fault):
    """Catches a crash of the grader, or a mark without a reason."""
    desk = Desk(tmp_path, source)
    assert take(desk.folder, desk.a).fault == fault


def test_a_bom_and_an_odd_escape_are_no_fault(tmp_path):
    """Catches what editors on Windows write, and a warning on the grader's stderr."""
    desk = Desk(tmp_path, b"\xef\xbb\xbfx = '\\d'  # coding: utf-8\n")
    assert take(desk.folder, desk.a).fault == ""


def test_a_text_that_is_slow_to_parse_is_not_parsed_here(tmp_path):
    """Catches an f-string of 900 kB, which takes Python 50 s and 600 MB: the child's limits meet it instead."""
    desk = Desk(tmp_path, "x = f'" + "{x}" * 300_000 + "'")
    taken = take(desk.folder, desk.a)
    assert taken.fault == ""
    assert "larger than 100,000 bytes" in taken.notes[0]


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        ((), "small.py is missing; it must lie at the top of the submission, with this name"),
        (("sub/small.py",), "small.py is missing; one lies in the folder sub: put it at the top"),
        (("kv_cache.py",), "small.py is missing; kv_cache.py is there, which is the file of another assignment"),
    ],
)
def test_a_missing_file_says_what_is_there_instead(tmp_path, names, fault):
    """Catches a wrong name and a folder too much, the two usual mistakes of handing in."""
    desk = Desk(tmp_path, None)
    for name in names:
        (desk.folder / name).parent.mkdir(exist_ok=True)
        (desk.folder / name).write_text("x = 1")
    assert take(desk.folder, desk.a).fault == fault


def test_a_folder_that_is_not_there_is_the_graders_mistake(desk):
    """Catches a report with 0 points for a folder that was mistyped."""
    with pytest.raises(CourseError, match="there is no such folder"):
        take(desk.folder / "nowhere", desk.a)


# The marker


def test_a_marker_of_another_assignment_is_a_fault(desk):
    """Catches a marker that was changed to an easier assignment."""
    (desk.folder / "assignment.toml").write_text('name = "sampling"\nversion = "1"\n')
    assert "says that this folder is for sampling, but small is graded" in take(desk.folder, desk.a).fault


def test_an_older_version_is_noted(desk):
    """Catches a task that has changed since the student began."""
    (desk.folder / "assignment.toml").write_text('name = "small"\nversion = "2"\n')
    assert take(desk.folder, desk.a).notes == ("started from version 2 of the assignment, graded by version 3",)


@posix
@pytest.mark.parametrize("kind", ["fifo", "link", "noise", "list"])
def test_a_marker_that_cannot_be_read_is_none(desk, kind):
    """Catches a grader that waits at a FIFO, or ends at a file that is no TOML."""
    path = desk.folder / "assignment.toml"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(b"\xff\x00" if kind == "noise" else b"name = ['sampling']")
    assert take(desk.folder, desk.a).fault == ""


# Other files


@posix
def test_files_that_want_to_change_the_grading_are_ignored_and_named(desk):
    """Catches attacks 5, 19 and 23: each is named in the report."""
    for name in ("numpy.py", "conftest.py", "sitecustomize.py", "pytest.ini", "evil.pth", "json.py", "fast.so"):
        (desk.folder / name).write_text("x")
    (desk.folder / "numpy").mkdir()
    (desk.folder / "numpy" / "__init__.py").write_text("x")
    (desk.folder / "test_small.py").write_text("def test_softmax(): pass")
    (desk.folder / "pass\nwd\u202e.txt").write_text("x")
    os.mkfifo(desk.folder / "pipe")
    (desk.folder / "passwd").symlink_to("/etc/passwd")
    submission_notes = take(desk.folder, desk.a).notes
    notes = "\n".join(submission_notes)
    assert len(submission_notes) == submission.NOTES + 1
    assert "more such files" in submission_notes[-1]
    assert "\u202e" not in notes
    every = "\n".join(submission.strangeness(path, kind, desk.a, path.parent == desk.folder)
                      for path, kind in submission.entries(desk.folder))  # fmt: skip
    for why in ("it has the name of a module", "at the start", "Python would load it", "name of a package", "its name",
                "a package of the student's own", "it differs", "FIFO", "symbolic link"):  # fmt: skip
        assert why in every


def test_a_million_files_are_not_counted(desk, monkeypatch):
    """Catches a folder whose listing takes minutes; a small bound shows it as well."""
    monkeypatch.setattr(submission, "ENTRIES", 100)
    for i in range(300):
        (desk.folder / f"note{i}").write_text("")
    seen = list(submission.entries(desk.folder))
    assert len(seen) == 100
    assert "more than 100 files" in take(desk.folder, desk.a).notes[0]


@posix
def test_a_link_to_a_folder_is_not_entered(desk, tmp_path):
    """Catches a walk that leaves the submission, or never ends."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "conftest.py").write_text("")
    (desk.folder / "loop").symlink_to(desk.folder)
    (desk.folder / "out").symlink_to(tmp_path / "elsewhere")
    assert {path.name for path, _ in submission.entries(desk.folder)} == {"small.py", "loop", "out"}


# The source


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("import os", "imports os, which"),
        ("import os.path as p", "imports os, which"),
        ("from ctypes import CDLL", "imports ctypes, which"),
        ("from tinyinfer.sampling import softmax", "imports tinyinfer.sampling, which"),
        ("from . import x", "imports ., which"),
        ("def f():\n    import gc", "imports gc, which"),
        ("eval('1')", "uses eval, which"),
        ("x = __import__", "uses __import__, which"),
        ("().__class__.__bases__", "uses .__bases__, which"),
        ("np.load('x')", "uses .load, which"),
        ("from numpy import load as softmax", "imports load, which"),
        ("np.allclose = print", "changes np...allclose, which belongs to a module"),
        ("del np.random.seed", "changes np...seed, which belongs to a module"),
    ],
)
def test_what_the_task_does_not_need_is_noted_with_its_line(tmp_path, line, note):
    """Catches a report that does not name an attack; the note gives and takes no points."""
    desk = Desk(tmp_path, f"import numpy as np\n{line}\n")
    number = 2 + line.count("\n")
    notes = take(desk.folder, desk.a).notes
    assert any(one.startswith(f"small.py, line {number}: {note}") for one in notes), notes


def test_what_the_skeleton_imports_is_not_noted(tmp_path):
    """Catches a note about every honest student."""
    desk = Desk(tmp_path, "import math\nfrom collections import deque\nfrom typing import Any\n")
    assert take(desk.folder, desk.a).notes == ()
    (desk.folder / "small.py").write_text("class A:\n    def __init__(self):\n        self.x = 1\n")
    assert take(desk.folder, desk.a).notes == ()


@pytest.mark.parametrize("name", assignments())
def test_our_solution_is_not_noted(tmp_path, name):
    """Catches a note about every student of an assignment: the field `input` of a request is not Python's `input`."""
    a = assignment(name)
    (tmp_path / a.file).write_text(solution(a), encoding="utf-8")
    assert take(tmp_path, a).notes == ()


def test_what_the_manifest_allows_is_not_noted(tmp_path):
    """Catches a note about a module that the task itself names."""
    desk = Desk(tmp_path, "import tinyinfer.noise\n")
    assert "imports tinyinfer.noise" in take(desk.folder, desk.a).notes[0]
    assert take(desk.folder, replace(desk.a, allowed=("tinyinfer.noise",))).notes == ()


def test_the_notes_about_a_source_are_bounded(tmp_path):
    """Catches a report of 1,000 lines about 1,000 imports; the same finding is told once."""
    desk = Desk(tmp_path, "".join(f"import evil{i}\n" for i in range(500)) + "import evil0\n" * 50)
    notes = take(desk.folder, desk.a).notes
    assert len(notes) == 13
    assert notes[0] == "small.py, line 1: imports evil0, which the assignment does not need"
    assert notes[-1] == "small.py: 488 more such places"
