"""Where a student's code runs: one sandbox for a submission, and in it one child process for each run of a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Protocol, Self

from tinyinfer.course.assignment import Assignment
from tinyinfer.course.sandbox.piped import PipedStudent
from tinyinfer.course.sandbox.sandbox import Limits, Sandbox
from tinyinfer.course.student import Student


class Children(Protocol):
    """What starts the student's code anew. limits, missing: sentences, known as soon as a child has started."""

    limits: tuple[str, ...]
    missing: tuple[str, ...]

    def open(self) -> AbstractContextManager[Student]:
        """A student whose file has been loaded in a fresh process.

        Raises StudentError where the file cannot be loaded, CourseError where this machine can give no marks.
        """

    def output(self, student: Student) -> str:
        """What the code of a student that was opened here has printed, its beginning."""


class PipedChildren:
    """Children under all the limits that this system offers. It is a context manager: it removes the sandbox.

    bounds: how much a child may use.
    """

    def __init__(self, a: Assignment, source: bytes, bounds: Limits | None = None) -> None:
        self.a, self.source, self.bounds = a, source, bounds
        self.limits: tuple[str, ...] = ()
        self.missing: tuple[str, ...] = ()
        self.sandbox = Sandbox(a, source)

    def __enter__(self) -> Self:
        self.sandbox.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.sandbox.__exit__(kind, error, at)

    @contextmanager
    def open(self) -> Iterator[Student]:
        """A student in a limited process."""
        with PipedStudent(self.a, self.source, self.bounds, self.sandbox) as student:
            self.limits, self.missing = student.limits, student.missing_limits
            student.load()
            yield student

    def output(self, student: Student) -> str:
        """The printed text, with the file's name in the place of its path; what was dropped is counted."""
        assert isinstance(student, PipedStudent)
        kept, dropped = student.printed
        text = kept.decode("utf-8", "replace").replace(str(self.sandbox.file), self.a.file)
        return text + (f"\n... {dropped:,} bytes more" if dropped else "")
