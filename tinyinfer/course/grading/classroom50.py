"""result.json for a custom autograder of Classroom 50, the successor of GitHub Classroom.

    {"schema": "classroom50/result/v1", "classroom", "assignment", "assignment_type", "owner", "submission", "commit",
     "release", "review", "datetime", "graded_at", "score", "max-score",
     "tests": [{"test-name", "passed", "score", "max-score", ...}]}

Documented (its wiki, Advanced-Autograding, and its schema result-v1): these keys; that the runner gives the identity in
environment variables; that scores are whole numbers; that a test may have more keys, which are kept; that the file is
published with the student's repository; that an autograder exits with 0 whenever it ran to its end. Not tried: a run on
GitHub. Assumed: that no reader minds the further keys of a test.

Points are whole numbers there, so the fraction of a partial score is dropped, and "exact-score" keeps it. Limit: the
grading runs in the student's own repository, which can print what the autograder brings. So hidden tests are hidden
there from the honest only: give hidden tests' marks from a machine of your own (`course grade --all`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tinyinfer.course.errors import CourseError
from tinyinfer.course.grading.gradescope import explained
from tinyinfer.course.grading.report import PASSED, Report, TestResult

SCHEMA = "classroom50/result/v1"
GIVEN = {"classroom": "CLASSROOM", "assignment": "ASSIGNMENT", "submission": "SUBMISSION_TAG",
         "commit": "COMMIT_URL", "release": "RELEASE_URL"}  # fmt: skip


def check(environment: Mapping[str, str]) -> None:
    """Raises CourseError where the environment lacks what a result needs, before anything is graded."""
    for name in GIVEN.values():
        given(environment, name)
    student_of(environment)


def result(report: Report, environment: Mapping[str, str], now: datetime) -> dict[str, Any]:
    """The content of result.json. environment: as the runner sets it. Raises CourseError where it lacks a variable."""
    identity = {key: given(environment, name) for key, name in GIVEN.items()}
    tests = [test(one) for one in report.asked]
    instant = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "schema": SCHEMA,
        **identity,
        "assignment_type": environment.get("ASSIGNMENT_TYPE") or "individual",
        "owner": student_of(environment),
        "review": environment.get("REVIEW_URL") or identity["commit"],
        "datetime": instant,
        "graded_at": instant,
        "score": sum(one["score"] for one in tests),
        "max-score": sum(one["max-score"] for one in tests),
        "tests": tests,
    }


def test(one: TestResult) -> dict[str, Any]:
    """One test in whole points."""
    return {
        "test-name": f"{one.number} {one.name}",
        "passed": one.status == PASSED,
        "score": int(one.score),
        "max-score": int(one.points),
        "exact-score": one.score,
        "status": one.status,
        "output": "" if one.status == PASSED else explained(one),
    }


def student_of(environment: Mapping[str, str]) -> str:
    """The owner of the repository that is graded. Raises CourseError where the environment does not say it."""
    return environment.get("OWNER") or given(environment, "USERNAME")


def given(environment: Mapping[str, str], name: str) -> str:
    """A variable that the runner sets. Raises CourseError where it is missing."""
    if not environment.get(name):
        raise CourseError(
            f"--format classroom50 needs the environment variable {name}, which the runner of Classroom 50 sets; "
            "elsewhere use --format text or json"
        )
    return environment[name]
