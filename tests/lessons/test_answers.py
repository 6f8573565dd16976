"""Each exercise of the lessons: its own solution is right, and what is no answer gets a sentence and a hint."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from tinyinfer.lessons import kernel_judge
from tinyinfer.lessons.exercise import Exercise
from tinyinfer.views.page import View


def nothing(*given: object) -> None:
    """A function of any arguments, which gives nothing."""


def a_text(*given: object) -> str:
    """A function of any arguments, which gives a text."""
    return "x"


def a_number() -> int:
    """A function without arguments."""
    return 1


NO_ANSWERS: list[Any] = [None, "3", math.nan, -1, True, [], {}, (1, 2), 1 + 2j, object(), np.zeros(3), object, len,
                         nothing, a_text, a_number]  # fmt: skip
MORE: dict[str, list[Any]] = {  # lesson -> what is no answer to its exercises in particular
    "batching": [[[]], [[0], None]],
    "cost": [],
    "cpu_kernels": [[[]]],
    "distillation": [],
    "parallelism": [],
    "prefill_and_decode": [(1, "2")],
    "prefix_caching": [],
    "pruning": [],
    "quantization": [[[]], [4, 32]],
    "tour": [],
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
    assert exercise.why


@pytest.mark.parametrize(("lesson", "name", "answer"), WRONG, ids=written)
def test_what_is_no_answer_gets_a_sentence(lesson: str, name: str, answer: object) -> None:
    """Catches a traceback, or an answer of another type that counts as right."""
    exercise = EXERCISES[lesson][name]
    wrong = exercise.judged(answer)
    assert wrong is not None
    assert wrong.sentence.strip()[-1] in ".?"
    assert wrong.hint
    called = callable(answer) or name == "order"  # whose judge calls the answer to see whether it is one
    assert called or "stopped" not in wrong.sentence
    assert exercise.drawn(answer) is None or isinstance(exercise.drawn(answer), View)
