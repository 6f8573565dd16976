"""One test of an assignment: parts, statuses, and whose fault an error is."""

from __future__ import annotations

import numpy as np
import pytest

from tinyinfer.course.compare import Failure
from tinyinfer.course.runner import run_test
from tinyinfer.course.student import StudentDied, StudentError, StudentTimeout

RNG = np.random.default_rng(0)
WRONG, SKELETON = Failure("1 in place of 2.", "off by one"), StudentError("NotImplementedError", "not written yet")


def outcome(*steps: Exception | None, declared: int | None = None):
    """The outcome of a test with one part for each step: an error that the part raises, or None."""

    def test(part, rng):
        for i, error in enumerate(steps):
            with part(f"part {i}"):
                if error is not None:
                    raise error

    return run_test(test, None, declared or len(steps), RNG)


@pytest.mark.parametrize(
    ("steps", "passed", "status"),
    [
        ((None, None), 2, "passed"), ((None, WRONG), 1, "partial"), ((WRONG, WRONG), 0, "failed"),
        ((SKELETON, SKELETON), 0, "not implemented"), ((SKELETON, WRONG), 0, "failed"),
        ((SKELETON, None), 1, "partial"), ((StudentError("ValueError", "stopped"),), 0, "error"),
        ((None, StudentTimeout("Timeout", "too slow"), None), 1, "partial"),
        ((StudentTimeout("Timeout", "too slow"), None), 0, "timeout"),
        ((StudentDied("Died", "ended"), None), 0, "error"),
    ],
)  # fmt: skip
def test_points_are_given_by_parts(steps, passed, status):
    """Catches parts after the end of the student's process that count, and a skeleton that counts as failed."""
    found = outcome(*steps)
    assert (found.passed, found.status, found.of_grader) == (passed, status, False)
    assert found.score(12) == 12 * passed / len(steps)


def test_a_test_without_parts_is_one_part():
    """Catches a test whose whole failure leaves some points."""
    assert run_test(lambda: None, None, 3, RNG).score(9) == 9

    def test():
        raise WRONG

    found = run_test(test, None, 3, RNG)
    assert (found.score(9), found.faults[0].hint) == (0, "off by one")


@pytest.mark.parametrize("declared", [1, 3])
def test_parts_that_the_manifest_does_not_know_are_a_fault_of_the_grader(declared):
    """Catches points given by how many parts happened to run."""
    found = outcome(None, None, declared=declared)
    assert found.of_grader
    assert found.score(6) == 0


def test_an_error_of_the_test_itself_is_the_graders():
    """Catches a bug of ours that is told as the student's."""
    found = outcome(KeyError("x"))
    assert found.of_grader
    assert "the grader itself failed in test, line" in found.faults[0].sentence


def test_an_error_behind_the_last_part_costs_one_part():
    """Catches full marks for a test that raised."""

    def test(part):
        with part("a"):
            pass
        with part("b"):
            pass
        raise WRONG

    assert run_test(test, None, 2, RNG).passed == 1


def test_a_plain_assertion_shows_its_line():
    """Catches an empty sentence where a test asserts without a message."""

    def test():
        assert 1 == 2

    assert "assert 1 == 2" in run_test(test, None, 1, RNG).faults[0].sentence
