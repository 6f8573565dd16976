"""Planted bugs of the course: our solution of an assignment with one mistake in it, and what must come of that.

Each assignment's bugs stand in tests/course/planted/{NAME}.toml: the text that is changed (there exactly once) or a
whole function in the place of the one of that name, the tests that must lose points, and a piece of the hint that must
name the cause.
"""

from __future__ import annotations

import ast
import textwrap
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from tinyinfer.course.assignment import Assignment, assignment, assignments
from tinyinfer.course.cut import solution
from tinyinfer.course.hidden import public_seed, seed
from tinyinfer.course.runner import Outcome, run_test
from tinyinfer.course.student import LocalStudent

PLANTED = Path(__file__).parent / "course" / "planted"
# Assignments as parameters of a test that runs their code; a compiler takes seconds, and is no part of the test extra.
RUN = [pytest.param(a.name, marks=[pytest.mark.course] * bool(a.packages)) for a in assignments().values()]


@dataclass(frozen=True)
class Bug:
    """A wrong solution. fails: exactly the tests that lose points. hint: a piece of a hint that names the cause."""

    assignment: str
    name: str
    fails: tuple[str, ...]
    hint: str
    old: str = ""
    new: str = ""
    source: str = ""  # a whole function or method, in the place of `old` and `new`

    def __str__(self) -> str:
        return f"{self.assignment}: {self.name}"

    def wrong(self, text: str) -> str:
        """The student's file with the bug, made of our solution's text."""
        if self.source:
            return with_function(text, self.source)
        assert text.count(self.old) == 1, f"{self}: {self.old!r} must be in the solution exactly once"
        return text.replace(self.old, self.new)


def bugs(name: str) -> list[Bug]:
    """The planted bugs of an assignment."""
    tables = tomllib.loads((PLANTED / f"{name}.toml").read_text(encoding="utf-8"))["bugs"]
    return [Bug(name, **table | {"fails": tuple(table["fails"])}) for table in tables]


def with_function(text: str, source: str) -> str:
    """A text in which the one function or method of this name is replaced by another source."""
    [new] = ast.parse(textwrap.dedent(source)).body
    assert isinstance(new, ast.FunctionDef)
    [old] = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and n.name == new.name]
    lines, first = text.splitlines(), min([old.lineno, *(one.lineno for one in old.decorator_list)])
    indented = textwrap.indent(textwrap.dedent(source).strip("\n"), " " * old.col_offset)
    return "\n".join([*lines[: first - 1], indented, *lines[old.end_lineno :]]) + "\n"


@cache
def right_text(name: str) -> str:
    """Our solution of an assignment: the student's file with the engine's own bodies."""
    return solution(assignment(name))


def functions_of(a: Assignment) -> dict[str, Callable[..., None]]:
    """The functions of the manifest's tests, public and hidden, in the manifest's order."""
    folder = f"tinyinfer.course.assignments.{a.name}"
    public, hidden = (import_module(f"{folder}.{kind}_{a.name}") for kind in ("test", "hidden"))
    return {test.name: getattr(hidden if test.hidden else public, test.name) for test in a.tests}


def outcomes(a: Assignment, text: str, folder: Path, who: str = "ada") -> dict[str, Outcome]:
    """What becomes of each test with such a student's file, in this process. who: whose inputs hidden tests have."""
    path = folder / a.file
    path.write_text(text, encoding="utf-8")
    found, functions = {}, functions_of(a)
    compiled = LocalStudent(a, path) if a.packages else None  # one for all tests: a compiler takes seconds
    with np.errstate(all="ignore"):
        for test in a.tests:
            number = seed(bytes(32), a.name, who, test.name) if test.hidden else public_seed(test.name)
            rng = np.random.default_rng(number)
            found[test.name] = run_test(functions[test.name], compiled or LocalStudent(a, path), test.parts, rng)
    return found
