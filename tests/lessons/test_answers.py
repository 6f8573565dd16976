"""Each exercise of the lessons: its own solution is right, and what is no answer gets a sentence and a hint."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest

from tinyinfer.lessons import kernel_judge
from tinyinfer.lessons.exercise import Exercise


def nothing(*given: object) -> None:
    """A function of any arguments, which gives nothing."""


def a_text(*given: object) -> str:
    """A function of any arguments, which gives a text."""
    return "x"


def a_number() -> int:
    """A function without arguments."""
    return 1


NO_ANSWERS: list[Any] = [None, "3", math.nan, -1, [], {}, object, nothing]
MORE: dict[str, list[Any]] = {  # lesson -> what is no answer to its exercises in particular
    "batching": [[[]], [[0], None]],
    "cost": [a_text],
    "cpu_kernels": [[[]]],
    "distillation": [a_number],
    "parallelism": [a_text],
    "pruning": [a_text],
    "quantization": [[[]], [4, 32]],
}
EXERCISES: dict[str, dict[str, Exercise]] = {
    lesson: {one.name: one for one in import_module(f"tinyinfer.lessons.{lesson}").EXERCISES} for lesson in MORE
}
ALL = [(lesson, name) for lesson, exercises in EXERCISES.items() for name in exercises]
WRONG = [(lesson, name, answer) for lesson, name in ALL for answer in (*NO_ANSWERS, *MORE[lesson])]


def written(value: object) -> str | None:
    """How an answer is written in a test's name; None: pytest's own way."""
    return getattr(value, "__name__", repr(value)) if isinstance(value, Callable | list | dict) else None


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge of kernels as it is where numba is not installed."""
    monkeypatch.setattr(kernel_judge, "find_spec", lambda name: None)


@pytest.mark.parametrize(("lesson", "name"), ALL)
def test_our_own_answers_are_right(lesson: str, name: str) -> None:
    """Catches a judge that refuses the solution which `use` gives to the rest of the notebook."""
    exercise = EXERCISES[lesson][name]
    assert exercise.judged(exercise.solution) is None


@pytest.mark.parametrize(("lesson", "name", "answer"), WRONG, ids=written)
def test_what_is_no_answer_gets_a_sentence(lesson: str, name: str, answer: object) -> None:
    """Catches a traceback, or an answer of another type that counts as right."""
    exercise = EXERCISES[lesson][name]
    wrong = exercise.judged(answer)
    assert wrong is not None
    assert wrong.sentence
    assert wrong.hint
    exercise.drawn(answer)
