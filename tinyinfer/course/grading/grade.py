"""A submission graded: each test against the student's code in a process of its own, the points from the manifest.

Test code comes from the package, and that of hidden tests from the teacher's folder; never from the submission. An
error of the grader's own gives no points, and says that the grader is at fault. What a test may earn is the manifest's,
before anything has run, so a test that was never reached counts with 0 of its points.

`grade` is a function of its arguments: it reads the folders that it is given, and writes no file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from tinyinfer.course.assignment import MANIFEST, Assignment, Test, assignment, check_needed, engine_version
from tinyinfer.course.errors import CourseError
from tinyinfer.course.grading.attempts import Bench, TestFunction, Unloadable
from tinyinfer.course.grading.children import Children, PipedChildren
from tinyinfer.course.grading.report import ERROR, NOT_RUN, Report, TestResult
from tinyinfer.course.grading.submission import marker, take
from tinyinfer.course.hidden import Hidden, open_hidden
from tinyinfer.course.sandbox.loading import load_source

PENDING = "not graded: the grader was ended before this test; grade again"
Numbered = list[tuple[str, Test]]  # tests with their numbers in the report
Runner = Callable[[Assignment, bytes], AbstractContextManager[Children]]


def grade(
    folder: Path, wanted: str | Assignment | None = None, *, student: str = "", hidden: Path | None = None,
    only: Collection[str] = (), timed: bool = False, runner: Runner = PipedChildren,
    told: Callable[[Report], None] = lambda report: None,
) -> Report:  # fmt: skip
    """The report of a submission.

    wanted: the assignment; without it the folder's marker says it. hidden: the folder of the hidden tests, which need
    the student's id. only: these tests. timed: whether to take each test's seconds. runner: where the student's code
    runs; else in limited processes. told: is called with the report before the first test, and after each.
    Raises CourseError for a mistake of who grades.
    """
    a = wanted if isinstance(wanted, Assignment) else chosen(folder, wanted)
    check_needed(a)
    tests, secret = numbered(a, only, hidden), opened(a, hidden, student)
    functions = test_functions(a, secret)
    submission = take(folder, a)
    results = tuple(pending(number, test, secret) for number, test in tests)
    report = Report(a.name, a.version, engine_version(), student, results=results, notes=submission.notes,
                    fault=submission.fault, local_only=not sys.platform.startswith("linux"))  # fmt: skip
    if not report.fault:
        told(report)
        with runner(a, submission.source) as children:
            report = graded(report, Bench(a, student, children, functions, secret), tests, timed, told)
    report = without_points(report) if report.fault else report
    told(report)
    return report


def graded(report: Report, bench: Bench, tests: Numbered, timed: bool, told: Callable[[Report], None]) -> Report:
    """The report with the result of each test in its place; with a fault where the student's file cannot be loaded."""
    for place, (number, test) in enumerate(tests):
        if report.results[place].status == NOT_RUN:
            continue
        try:
            result, note = bench.result(test, number, timed)
        except Unloadable as error:
            result, note = replace(report.results[place], sentence=str(error), of_grader=False), ""
            report = replace(report, fault=str(error) if place == 0 else "")
        results = (*report.results[:place], result, *report.results[place + 1 :])
        report = replace(
            report, results=results, notes=(*report.notes, note) if note else report.notes,
            limits=bench.children.limits, missing_limits=bench.children.missing,
        )  # fmt: skip
        if report.fault:
            break
        told(report)
    return report


# What is graded.


def chosen(folder: Path, name: str | None) -> Assignment:
    """The assignment of that name, or the one that the folder's marker names. Raises CourseError."""
    if not folder.is_dir():
        raise CourseError(f"{folder}: there is no such folder; give the folder that holds the submission")
    named = name or marker(folder)[0]
    if not named:
        raise CourseError(f"{folder}: has no {MANIFEST} that names its assignment; give --assignment NAME")
    return assignment(named)


def numbered(a: Assignment, only: Collection[str], hidden: Path | None) -> Numbered:
    """The tests to grade, with the numbers 1.1, 1.2 ... of public and 2.1 ... of hidden ones. Raises CourseError."""
    known = [test.name for test in a.tests]
    for name in only:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the tests are {', '.join(known)}"
            raise CourseError(f"--only {name}: {a.name} has no such test; {hint}")
        if hidden is None and a.tests[known.index(name)].hidden:
            raise CourseError(f"--only {name}: this test is hidden; add --hidden DIR, the folder of the hidden tests")
    public = [(f"1.{i}", test) for i, test in enumerate((t for t in a.tests if not t.hidden), 1)]
    secret = [(f"2.{i}", test) for i, test in enumerate((t for t in a.tests if t.hidden), 1)]
    return [(number, test) for number, test in public + secret if not only or test.name in only]


def opened(a: Assignment, hidden: Path | None, student: str) -> Hidden | None:
    """The hidden tests, if their folder is given. Raises CourseError."""
    if hidden is None:
        return None
    if not student:
        raise CourseError("--hidden needs --student ID: the inputs of hidden tests are each student's own")
    return open_hidden(hidden, a.name)


def test_functions(a: Assignment, hidden: Hidden | None) -> dict[str, TestFunction]:
    """All functions of the public tests' file and of the hidden tests' by name. Raises CourseError."""
    functions: dict[str, TestFunction] = {}
    for path, wanted in ((a.folder / f"test_{a.name}.py", False), (hidden.tests if hidden else None, True)):
        if path is not None:
            try:
                module = load_source(f"tinyinfer_tests_{path.stem}", path)
            except (Exception, SystemExit) as error:
                raise CourseError(f"{path}: the tests cannot be loaded ({type(error).__name__}: {error})") from error
            names = {test.name for test in a.tests if test.hidden == wanted}
            functions |= {name: function for name, function in vars(module).items() if name in names}
    return functions


# Results that no run gave.


def pending(number: str, test: Test, hidden: Hidden | None) -> TestResult:
    """A test before it has run: no points; a hidden one whose folder is not here is not asked for."""
    status = NOT_RUN if test.hidden and hidden is None else ERROR
    return TestResult(
        test.name, number, test.points, 0.0, status, 0, test.parts, PENDING if status == ERROR else "",
        hidden=test.hidden, catches=test.catches, of_grader=status == ERROR,
    )  # fmt: skip


def without_points(report: Report) -> Report:
    """The report of a submission that cannot be graded: the fault is each test's."""
    results = [replace(one, sentence=report.fault, of_grader=False) for one in report.results if one.status != NOT_RUN]
    unseen = [one for one in report.results if one.status == NOT_RUN]
    return replace(report, results=(*results, *unseen))
