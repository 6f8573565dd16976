"""Where a student's code runs in the tests of the grader: in this process, loaded anew for each test, unlimited."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from small_assignment import small_assignment

from tinyinfer.course.assignment import Assignment
from tinyinfer.course.hidden import write_secret
from tinyinfer.course.student import LocalStudent, Student

MANIFEST = """
version = "3"
title = "Small"
minutes = 5
lines = 4
about = "two functions"
[[cut]]
module = "tinyinfer.sampling"
names = ["softmax", "keep_top_k"]
[[tests]]
name = "test_softmax"
points = 40
parts = 4
catches = "a sum that is not 1"
[[tests]]
name = "test_top_k"
points = 30
catches = "one token too many"
[[tests]]
name = "test_other_inputs"
points = 30
hidden = true
catches = "an answer learned by heart"
"""
PUBLIC = '''
import numpy as np

from tinyinfer.course.compare import same_array, same_value


def test_softmax(student, part, rng):
    """Catches a sum that is not 1."""
    for n in (2, 3, 5, 40):
        with part(f"{n} scores"):
            s = rng.standard_normal(n)
            same_array(student.softmax(s), np.exp(s) / np.exp(s).sum(), "probabilities", rtol=1e-12)


def test_top_k(student):
    """Catches one token too many."""
    kept = student.keep_top_k(np.array([3.0, 1.0, 2.0]), 2)
    same_array(kept, np.array([3.0, -np.inf, 2.0]), "scores", usual=[(np.array([3.0, 1.0, 2.0]), "k counts the kept")])
'''
HIDDEN = '''
import numpy as np

from tinyinfer.course.compare import same_value


def test_other_inputs(student, rng):
    """Catches an answer learned by heart."""
    s = rng.standard_normal(5)
    same_value(float(student.softmax(s).max()), float(np.exp(s).max() / np.exp(s).sum()), f"of {s[0]}", rtol=1e-9)
'''


class LoadedStudent(LocalStudent):
    """A LocalStudent whose file is loaded at once, as a child process does."""

    def __init__(self, a: Assignment, path: Path) -> None:
        super().__init__(a, path)
        self._server = self._load()
        self.printed = io.StringIO()


class LocalChildren:
    """The double of limited processes."""

    limits, missing = ("memory: 300 MB",), ("network: this system cannot close it",)

    def __init__(self, folder: Path) -> None:
        self.folder, self.opened = folder, 0

    @contextmanager
    def runner(self, a: Assignment, source: bytes) -> Iterator[LocalChildren]:
        """Takes a submission, in the place of PipedChildren."""
        self.a, self.source = a, source
        yield self

    @contextmanager
    def open(self) -> Iterator[Student]:
        self.opened += 1
        path = self.folder / f"child_{self.a.file}"
        path.write_bytes(self.source)
        with redirect_stdout(io.StringIO()) as printed:
            student = LoadedStudent(self.a, path)
            student.printed = printed
            yield student

    def output(self, student: Student) -> str:
        return student.printed.getvalue()


class Desk:
    """A small assignment with its tests, a folder of hidden tests, and a submission."""

    def __init__(self, folder: Path, source: str | bytes | None, public: str = PUBLIC, hidden: str = HIDDEN) -> None:
        self.a = small_assignment(folder, MANIFEST)
        (self.a.folder / "test_small.py").write_text(public, encoding="utf-8")
        self.hidden, self.folder = folder / "hidden", folder / "submission"
        self.hidden.mkdir()
        self.folder.mkdir()
        (self.hidden / "hidden_small.py").write_text(hidden, encoding="utf-8")
        write_secret(self.hidden / "secret")
        if source is not None:
            (self.folder / "small.py").write_bytes(source.encode() if isinstance(source, str) else source)
        self.children = LocalChildren(folder)
