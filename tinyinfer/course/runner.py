"""One test of an assignment: which of its parts passed, and what became of the others, in words for the student.

A test is a plain function. A test gets what it names: `student` (the student's code), `part` (each
`with part("8 bits"):` is a part that passes or fails by itself) and `rng` (the only source of its inputs). The manifest
says how many parts a test has: a part that never ran counts as failed, so that an early end earns no more than what was
reached.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyinfer.course.compare import Failure
from tinyinfer.course.student import Student, StudentDied, StudentError, StudentTimeout

PASSED, PARTIAL, FAILED = "passed", "partial", "failed"
NOT_IMPLEMENTED, ERROR, TIMEOUT = "not implemented", "error", "timeout"
ENDS = (StudentDied, StudentTimeout)  # after these the student's process is gone, and no further part can run
STUDENTS = (AssertionError, StudentError)  # what counts against the student; anything else is a fault of the test


@dataclass(frozen=True)
class Fault:
    """Why a part did not pass. kind: a status. part: its name, "" for the test as a whole."""

    part: str
    kind: str
    sentence: str
    hint: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a test. faults: in the order in which they came. of_grader: the test itself broke."""

    passed: int
    parts: int
    faults: tuple[Fault, ...] = ()
    of_grader: bool = False

    @property
    def status(self) -> str:
        """One word for it: of several faults the gravest, "not implemented" where nothing else went wrong."""
        if self.passed == self.parts and not self.faults:
            return PASSED
        if self.passed:
            return PARTIAL
        kinds = {fault.kind for fault in self.faults}
        return next((kind for kind in (TIMEOUT, ERROR, FAILED) if kind in kinds), NOT_IMPLEMENTED)

    def score(self, points: float) -> float:
        """The test's points by its parts that passed; a test that broke earns none."""
        return points * self.passed / self.parts


class Parts:
    """The parts of one run of a test: `with part("name"):` catches what counts against the student, and goes on."""

    def __init__(self, declared: int) -> None:
        self.declared, self.passed, self.used = declared, 0, 0
        self.errors: list[tuple[str, Exception]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """A part of the test. An error that ends the student's process ends the test, too."""
        self.used += 1
        try:
            yield
        except STUDENTS as error:
            self.errors.append((name, error))
            if isinstance(error, ENDS):
                raise Ended from error
        else:
            self.passed += 1

    def outcome(self, error: Exception | None) -> Outcome:
        """What became of the test that raised `error`, or nothing."""
        faults = [fault_of(name, one) for name, one in self.errors]
        if isinstance(error, STUDENTS):
            faults.append(fault_of("", error))
        elif error is not None and not isinstance(error, Ended):
            return Outcome(0, self.declared, (broken(error),), of_grader=True)
        if self.used > self.declared or (self.used and self.used < self.declared and not faults):
            sentence = f"the test ran {self.used} parts, and its manifest says {self.declared}"
            return Outcome(0, self.declared, (Fault("", ERROR, sentence),), of_grader=True)
        passed = self.passed if self.used else int(not faults) * self.declared
        if faults and passed == self.declared:  # an error behind the last part
            passed = self.declared - 1
        return Outcome(passed, self.declared, tuple(faults))


class Ended(Exception):
    """A part ended the student's process, and with it the test."""


def run_test(
    function: Callable[..., None], student: Student, declared: int, rng: np.random.Generator
) -> Outcome:
    """What becomes of a test with a student's code; an error of the test itself, too, is an outcome.

    declared: the test's parts by its manifest.
    """
    parts = Parts(declared)
    try:
        function(**arguments(function, student=student, part=parts, rng=rng))
    except Exception as error:
        return parts.outcome(error)
    return parts.outcome(None)


def arguments(function: Callable[..., None], **offered: Any) -> dict[str, Any]:
    """Those of the offered arguments that the function names."""
    return {name: offered[name] for name in inspect.signature(function).parameters}


def fault_of(part: str, error: Exception) -> Fault:
    """An error that counts against the student, in words."""
    if isinstance(error, Failure):
        return Fault(part, FAILED, error.sentence, error.hint)
    if isinstance(error, StudentError):
        kind = TIMEOUT if isinstance(error, StudentTimeout) else NOT_IMPLEMENTED if error.not_implemented else ERROR
        return Fault(part, kind, error.sentence, error.hint)
    return Fault(part, FAILED, str(error).partition("\n")[0] or f"the assertion failed: {source_line(error)}")


def broken(error: Exception) -> Fault:
    """An error of the test itself: no fault of the student's."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    said = f"{type(error).__name__}: {error}"
    sentence = f"the grader itself failed in {last.name}, line {last.lineno}: {said}"
    return Fault("", ERROR, sentence, "this is no fault of your code: tell your teacher")


def source_line(error: Exception) -> str:
    """The line of the test that raised the error."""
    return traceback.extract_tb(error.__traceback__)[-1].line or ""
