"""A student's file for tests of the sandbox: the solution of an assignment, and functions that run any code."""

from __future__ import annotations

from typing import Any

from tinyinfer.course.assignment import Assignment, assignment
from tinyinfer.course.cut import solution
from tinyinfer.course.student import Student

RUN = '''

def run(code):
    """Executes code; the value of its variable `out`."""
    names = {}
    exec(code, names)
    return names.get("out")


def attempt(code):
    """Executes code; the name of the error that it raises, or "done"."""
    try:
        exec(code, {})
    except BaseException as error:
        return type(error).__name__
    return "done"
'''


def an_assignment() -> Assignment:
    """One of the course's assignments: which one is of no interest."""
    return assignment("kv_cache")


def a_source(begin: str = "", end: str = "") -> bytes:
    """The solution with `run` and `attempt`; begin, end: further code before and behind it."""
    text = solution(an_assignment())
    future = "from __future__ import annotations\n"
    return (text.replace(future, future + begin, 1) + RUN + end).encode()


def run(student: Student, code: str) -> Any:
    """The value of `out` after the code has run in the student's process."""
    return student.ask("call", None, "run", "run", (code,))["value"]


def attempt(student: Student, code: str) -> str:
    """The name of the error that the code raises in the student's process, or "done"."""
    return student.ask("call", None, "attempt", "attempt", (code,))["value"]
