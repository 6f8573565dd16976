"""Plain `pytest` in an assignment's folder: the public tests against the student's file, and the score so far.

The tests run in pytest's own process, so that a debugger stops in the student's code (`pytest --pdb`); `--tb=long`
shows whole tracebacks. What a mark is given for, `course grade` finds out: with limits, in another process, with hidden
tests.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyinfer.course.assignment import Assignment, Test, check_needed, marked
from tinyinfer.course.errors import CourseError
from tinyinfer.course.grading.submission import version_note
from tinyinfer.course.hidden import public_seed
from tinyinfer.course.runner import PASSED, Outcome, Parts
from tinyinfer.course.student import LocalStudent

OUTCOMES: pytest.StashKey[dict[Path, dict[str, Outcome]]] = pytest.StashKey()  # folder -> test -> what became of it
PARTS: pytest.StashKey[Parts] = pytest.StashKey()  # of a test
ASSIGNMENTS: pytest.StashKey[dict[Path, Assignment]] = pytest.StashKey()  # of a session, by folder


@pytest.fixture
def student(request: pytest.FixtureRequest) -> LocalStudent:
    """The student's code, loaded anew for each test."""
    a = assignment_of(request.node)
    path = request.path.parent / a.file
    if not path.is_file():
        pytest.exit(f"{path} is missing; `course start {a.name}` writes a new one into another folder", returncode=2)
    return LocalStudent(a, path)


@pytest.fixture
def part(request: pytest.FixtureRequest) -> Parts:
    """The parts of this test; the manifest says how many there are."""
    request.node.stash[PARTS] = parts = Parts(declared(request.node).parts)
    return parts


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Where all inputs of a public test come from."""
    return np.random.default_rng(public_seed(request.node.name))


def assignment_of(item: Any) -> Assignment:
    """The assignment of the folder that a test lies in."""
    known, folder = item.session.stash.setdefault(ASSIGNMENTS, {}), item.path.parent
    try:
        if folder not in known:
            known[folder] = marked(folder)
            check_needed(known[folder])
        return known[folder]
    except CourseError as error:
        pytest.exit(str(error), returncode=2)


def declared(item: Any) -> Test:
    """What the manifest says of a test; fails for a test that it does not know."""
    found = {test.name: test for test in assignment_of(item).tests}.get(item.name)
    if found is None:
        pytest.fail(f"{item.name} is no test of this assignment: it earns no points", pytrace=False)
    return found


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: Any) -> Generator[None, object, object]:
    """Keeps what became of a test, and fails a test whose parts have failed."""
    if "student" not in pyfuncitem.fixturenames:
        return (yield)
    parts = pyfuncitem.stash.get(PARTS, None) or Parts(declared(pyfuncitem).parts)
    outcomes = pyfuncitem.session.stash.setdefault(OUTCOMES, {}).setdefault(pyfuncitem.path.parent, {})
    result = None
    try:
        result = yield
        outcome = parts.outcome(None)
    except Exception as error:
        outcome = parts.outcome(error)
        if outcome.of_grader or wants_traceback(pyfuncitem.config):
            outcomes[pyfuncitem.name] = outcome
            raise
    outcomes[pyfuncitem.name] = outcome
    if outcome.faults:  # not within `except`: pytest would show the error a second and a third time
        pytest.fail(in_words(outcome), pytrace=False)
    return result


def wants_traceback(config: pytest.Config) -> bool:
    """Whether pytest was asked for more than the sentence: by a debugger, or by a style of tracebacks."""
    return bool(config.getoption("usepdb")) or config.getoption("tbstyle") not in ("auto", "no", "line")


def in_words(outcome: Outcome) -> str:
    """Every fault of a test with its hint; above them how many parts passed, where there are several."""
    lines = [f"{outcome.passed} of {outcome.parts} parts passed"] if outcome.parts > 1 else []
    for fault in outcome.faults:
        lines.append(f"{fault.part}: {fault.sentence}" if fault.part else fault.sentence)
        lines += [f"  hint: {fault.hint}"] if fault.hint else []
    return "\n".join(lines)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The points so far, one line a test, for each assignment's folder."""
    stash = terminalreporter._session.stash
    for folder, a in stash.get(ASSIGNMENTS, {}).items():
        terminalreporter.write_sep("=", f"{a.title}: the score so far")
        for line in (score_table(a, stash.get(OUTCOMES, {}).get(folder, {})), *version_note(folder, a)):
            terminalreporter.write_line(line)


def score_table(a: Assignment, outcomes: dict[str, Outcome]) -> str:
    """One line for each public test, and their sum; hidden tests are shown to exist."""
    public, hidden = [t for t in a.tests if not t.hidden], [t for t in a.tests if t.hidden]
    width, rows, total = max(len(test.name) for test in a.tests), [], 0.0
    for test in public:
        outcome = outcomes.get(test.name)
        score = outcome.score(test.points) if outcome else 0.0
        total += score
        rows.append(f"{test.name:{width}}  {score:5.1f} / {test.points:g}  {outcome.status if outcome else 'not run'}")
    points, more = sum(test.points for test in public), sum(test.points for test in hidden)
    done = all(name.status == PASSED for name in outcomes.values()) and len(outcomes) == len(public)
    rows.append(f"{'public tests passed' if done else 'public tests':{width}}  {total:5.1f} / {points:g}")
    if hidden:
        rows.append(f"{len(hidden)} hidden tests are worth {more:g} points more; your teacher's grader runs them")
    return "\n".join(rows)
