"""A class of students and doubles of the grader, for the tests of `grade --all`: no child process, no engine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tinyinfer.course.assignment import Assignment, read_assignment
from tinyinfer.course.grading.report import Report, TestResult, record
from tinyinfer.course.whole_class.workers import Answer, Job

MANIFEST = """
version = "VERSION"
title = "Tiny"
minutes = 5
lines = 1
about = "one function"
[[cut]]
module = "tinyinfer.sampling"
names = ["softmax"]
[[tests]]
name = "test_a"
points = 60
catches = "a sum that is not 1"
[[tests]]
name = "test_b"
points = 40
parts = 2
catches = "a sum that is infinite"
"""
POINTS = {"test_a": 60, "test_b": 40}


def an_assignment(folder: Path, version: str = "1") -> Assignment:
    """An assignment called `tiny` with two tests, its manifest in a folder of that name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "assignment.toml").write_text(MANIFEST.replace("VERSION", version))
    return read_assignment(folder)


def a_class(folder: Path, **sources: str) -> Path:
    """A folder of students, each with tiny.py of that content."""
    for student, source in sources.items():
        (folder / student).mkdir(parents=True)
        (folder / student / "tiny.py").write_text(source)
    return folder


def result(name: str, score: float, **changes: Any) -> dict[str, Any]:
    """A test's result as a report has it."""
    status = "passed" if score == POINTS[name] else "failed"
    hint = "" if status == "passed" else f"hint of {name}"
    return asdict(TestResult(name, "1.1", POINTS[name], score, status, 0, 1, hint=hint, catches="a bug")) | changes


def a_report(student: str, a: float, b: float, **changes: Any) -> dict[str, Any]:
    """A report with these scores of test_a and test_b."""
    report = json.loads(json.dumps(record(Report("tiny", "1", "0", student))))
    return report | {"score": a + b, "points": 100, "results": [result("test_a", a), result("test_b", b)]} | changes


class Grader:
    """A double of the workers: a student's source is what the tests give, "60 20"; `asked` is every job it was given.

    A source that is an exception's name answers as the grader does for one.
    """

    def __init__(self) -> None:
        self.asked: list[Job] = []

    def __call__(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Answer]]:
        for job in jobs:
            self.asked.append(job)
            yield job, self.answer(job, (Path(job.folder) / "tiny.py").read_text())

    def answer(self, job: Job, source: str) -> Answer:
        """What the grader answers to a student's file."""
        if source == "refused":
            return Answer(refused="the tests cannot be loaded")
        if source == "no file":
            return Answer(report=a_report(job.student, 0, 0, fault="tiny.py is missing"))
        if source == "bug":
            return Answer(fault="ZeroDivisionError: division by zero", details="Traceback ...")
        a, b = map(float, source.split())
        report = a_report(job.student, a, b)
        if job.only:
            report |= {"results": [one for one in report["results"] if one["name"] == job.only]}
        return Answer(report=report)

    @property
    def students(self) -> list[str]:
        """Who was graded, in order."""
        return [job.student for job in self.asked]
