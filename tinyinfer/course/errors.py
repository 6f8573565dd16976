"""CourseError: a mistake in starting, grading or packaging an assignment, in one sentence with the cure."""

from __future__ import annotations

from tinyinfer.errors import one_line


class CourseError(Exception):
    """A folder, a manifest or a flag that cannot be used; the message says what is wrong, where, and what to do."""

    def __init__(self, sentence: str) -> None:
        super().__init__(one_line(sentence))
