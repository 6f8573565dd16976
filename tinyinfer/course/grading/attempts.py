"""One test of a submission: run once in a process of its own, a hidden test twice, and what the report says of it.

Both runs of a hidden test have the same inputs, and the worse one counts: code that passes at random, or only at its
first try, earns what it earns at its worst.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tinyinfer.course.assignment import Assignment, Test
from tinyinfer.course.errors import CourseError
from tinyinfer.course.grading.children import Children
from tinyinfer.course.grading.report import ERROR, TestResult, bounded, visible
from tinyinfer.course.hidden import Hidden, public_seed
from tinyinfer.course.runner import Fault, Outcome, broken, fault_of, run_test
from tinyinfer.course.student import StudentError

TestFunction = Callable[..., None]


class Unloadable(Exception):
    """The student's file cannot be imported: no test can run."""


@dataclass(frozen=True)
class Attempt:
    """One run of one test. output: what the student's code printed. loaded: whether it could be imported."""

    outcome: Outcome
    output: str = ""
    loaded: bool = True


@dataclass(frozen=True)
class Bench:
    """What running a test needs. student: the id. functions: test code by name. hidden: None without hidden tests."""

    a: Assignment
    student: str
    children: Children
    functions: Mapping[str, TestFunction]
    hidden: Hidden | None

    def attempt(self, test: Test) -> Attempt:
        """Runs a test once, against a fresh process. Raises CourseError where this machine can give no marks."""
        function, rng = self.functions.get(test.name), np.random.default_rng(self.seed(test))
        if function is None:
            sentence = f"the assignment has no function {test.name}, which its manifest names"
            return Attempt(Outcome(0, test.parts, (Fault("", ERROR, sentence, "tell your teacher"),), of_grader=True))
        try:
            with self.children.open() as student:
                outcome = run_test(function, student, test.parts, rng)
            return Attempt(outcome, self.children.output(student))
        except StudentError as error:
            return Attempt(Outcome(0, test.parts, (fault_of("", error),)), loaded=False)
        except Exception as error:
            if isinstance(error, CourseError) and not self.children.limits:  # no child has ever started
                raise
            return Attempt(Outcome(0, test.parts, (broken(error),), of_grader=True))

    def seed(self, test: Test) -> int:
        """The seed of a test's inputs."""
        if test.hidden and self.hidden:
            return self.hidden.seed(self.a.name, self.student, test.name)
        return public_seed(test.name)

    def result(self, test: Test, number: str, timed: bool) -> tuple[TestResult, str]:
        """What the report says of a test, and a note about it or "". Raises Unloadable."""
        start = time.perf_counter()
        attempts = [self.attempt(test) for _ in range(1 + test.hidden)]
        if not any(attempt.loaded for attempt in attempts):
            raise Unloadable(bounded(attempts[0].outcome.faults[0].sentence))
        worse = min(attempts, key=lambda attempt: (not attempt.outcome.of_grader, attempt.outcome.passed))
        seconds = round(time.perf_counter() - start, 3) if timed else None
        seed = f"{self.seed(test):064x}" if test.hidden else ""
        result = as_result(test, number, worse, seconds, seed)
        return result, difference(number, test, attempts)


def as_result(test: Test, number: str, attempt: Attempt, seconds: float | None, seed: str) -> TestResult:
    """The line of the report: the first part that did not pass, in its words."""
    outcome, sentence, hint = attempt.outcome, "", ""
    if outcome.faults:
        first, *others = outcome.faults
        more = f" ({len(others)} more {'parts' if len(others) > 1 else 'part'} did not pass)" if others else ""
        sentence = bounded(f"{first.part}: {first.sentence}" if first.part else first.sentence) + more
        hint = bounded(first.hint)
    return TestResult(
        test.name, number, test.points, round(outcome.score(test.points), 2), outcome.status, outcome.passed,
        outcome.parts, sentence, hint, visible(attempt.output), test.hidden, test.catches, seconds, seed,
        outcome.of_grader,
    )  # fmt: skip


def difference(number: str, test: Test, attempts: list[Attempt]) -> str:
    """Names a difference between two runs with the same inputs; "" where there is none."""
    found = list(dict.fromkeys((one.outcome.passed, one.outcome.status) for one in attempts))
    if len(found) < 2:
        return ""
    runs = " and ".join(f"{passed} of {test.parts} parts ({status})" for passed, status in found)
    return f"{number} {test.name}: two runs with the same inputs differ, {runs}; the worse one counts"
