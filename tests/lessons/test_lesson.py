"""A lesson under way: attempts, the student's part or ours, and what a cell shows."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from tinyinfer.backends import cpu
from tinyinfer.lessons.exercise import Exercise, Wrong
from tinyinfer.lessons.lesson import Lesson


def ours(x: int) -> int:
    """Twice x."""
    return 2 * x


def theirs(x):
    return x + x


def judge(answer):
    """Right is what doubles."""
    return None if answer(3) == 6 else Wrong("It does not double 3.", "what is 3 + 3?")


@pytest.fixture
def lesson(monkeypatch) -> Lesson:
    """A lesson of one exercise, and one that is drawn."""
    module = ModuleType("tinyinfer.lessons.doubling")
    module.__spec__ = ModuleSpec(module.__name__, None)
    drawn = Exercise("drawn", lambda n: None if n == 2 else Wrong("Not 2.", "more than 1"), 2, draw=lambda n: "#" * n)
    module.EXERCISES = (Exercise("double", judge, ours, "Adding is enough."), drawn)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return Lesson("99_doubling")


def test_a_right_answer_is_used_from_then_on(lesson, capsys):
    """Catches a notebook that goes on with our solution although the student's is right."""
    assert lesson.use("double") is ours
    lesson.check("double", theirs)
    assert lesson.use("double") is theirs
    assert capsys.readouterr().out == (
        "From here on the notebook uses our double, until yours is right.\n"
        "double: right. Adding is enough.\n"
        "From here on the notebook uses your double.\n"
    )


@pytest.mark.parametrize("later", [..., lambda x: x])
def test_an_answer_that_is_no_longer_right_is_not_used(lesson, later):
    """Catches a claim that is shown with an answer that the student has changed since."""
    lesson.check("double", theirs)
    lesson.check("double", later)
    assert lesson.use("double") is ours


def test_the_second_wrong_answer_offers_our_solution(lesson, capsys):
    """Catches a solution that is shown at once, or never."""
    lesson.check("double", lambda x: x)
    first = capsys.readouterr().out
    assert first == "double: not yet. It does not double 3.\nHint: what is 3 + 3?\n"
    lesson.check("double", lambda x: x)
    assert "return 2 * x" in capsys.readouterr().out


def test_dots_are_no_attempt(lesson, capsys):
    """Run All twice must not offer the solution."""
    for _ in range(3):
        lesson.check("double", ...)
    lesson.check("double", lambda x: x)
    assert "our solution" not in capsys.readouterr().out


def test_a_picture_is_drawn_at_each_attempt(lesson, capsys):
    """Right or wrong: a puzzle's student wants to see the answer; one that cannot be drawn is judged all the same."""
    lesson.check("drawn", 3)
    lesson.check("drawn", 2)
    assert capsys.readouterr().out.count("#") == 5
    lesson.check("drawn", None)
    assert "not yet" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["98_no_such", "doubling", "99", "", "03_kv cache"])
def test_a_lesson_that_does_not_exist_is_refused(name):
    """Catches a ModuleNotFoundError for a misspelt name."""
    with pytest.raises(ValueError, match="there is no lesson"):
        Lesson(name)


def test_an_exercise_that_does_not_exist_names_those_that_do(lesson):
    """Catches a KeyError where a student has changed the name."""
    with pytest.raises(ValueError, match="no exercise 'duoble'; it has 'double', 'drawn'"):
        lesson.check("duoble", 3)


def test_tables_and_sources_are_markdown(lesson, capsys):
    """What a notebook renders is readable as text, too."""
    lesson.table(["rows", "FLOPs"], [(1, "0.27 G"), (2, "0.54 G")])
    lesson.source(Wrong)
    out = capsys.readouterr().out
    assert out.startswith("| rows | FLOPs |\n| --- | ---: |\n| 1 | 0.27 G |\n")
    assert "`tinyinfer/lessons/exercise.py`\n```python\n" in out
    assert "class Wrong" in out


def test_the_source_of_a_wrapped_function_is_that_of_the_function(lesson, capsys):
    """Catches an error where a function was compiled, or is kept by a cache: neither has a source of its own."""
    lesson.source(cpu._malloc_functions)
    out = capsys.readouterr().out
    assert out.startswith("`tinyinfer/backends/cpu.py`\n```python\n@cache\ndef _malloc_functions")


def test_a_duration_is_the_median_of_the_rounds(lesson, monkeypatch):
    """Catches the mean, which one disturbed round moves."""
    ticks = iter([0, 1, 1, 10, 10, 12])
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    assert lesson.seconds(lambda: None, rounds=3) == 2
