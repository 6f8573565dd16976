"""What `check` knows of an answer: whether it is written, whether it is right, and which usual mistake it is."""

from __future__ import annotations

import linecache
from collections.abc import Callable

import numpy as np
import pytest

from tinyinfer.lessons.exercise import Exercise, Wrong, form, judge_choice, judge_number, written

COUNTS_TWICE = Wrong("The last token is counted twice.", "which token is never fed back?")


def ours(x: int) -> int:
    """Twice x."""
    return 2 * x


def not_yet(x):
    """To be written."""
    ...


def returns_dots(x):
    return ...


def assigns_dots(x):
    doubled = ...
    return doubled


def indexes_with_dots(x):
    return x[..., None]


class HalfWritten:
    def append(self, k):
        self.k = k

    def read(self): ...


class Static:
    @staticmethod
    def read():
        return 1


class Mute(Exception):
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize("answer", [..., not_yet, returns_dots, assigns_dots, HalfWritten])
def test_dots_are_not_answered_yet(answer):
    """Catches a skeleton that is judged, and so called wrong, before a line of it was written."""
    assert not written(answer)


NOTEBOOK_CLASS = """
class Table:
    def __init__(self):
        self.blocks = []

    {rest}
"""


@pytest.mark.parametrize(("rest", "is_written"), [("...", False), ("def slot(self, p): return p", True)])
def test_a_class_of_a_notebook_is_not_answered_either_while_its_dots_are_there(rest, is_written):
    """Catches a half-written class that is judged: Python itself finds no source of a notebook's class."""
    cell, names = NOTEBOOK_CLASS.format(rest=rest), {"__name__": "__main__"}
    file = f"<ipython-input-{rest}>"
    linecache.cache[file] = len(cell), None, cell.splitlines(keepends=True), file
    exec(compile(cell, file, "exec"), names)
    assert written(names["Table"]) is is_written


@pytest.mark.parametrize("answer", [None, 0, "...", ours, indexes_with_dots, [1], len, int, type, Static])
def test_anything_else_is_an_answer(answer):
    """Catches `x[..., None]`, an index, taken for an open place; and None, what a function without return gives."""
    assert written(answer)


def test_a_class_without_a_source_is_written_once_it_has_methods():
    """Python finds no source of a class in a notebook; catches an open skeleton that is judged there."""
    names: dict[str, type] = {}
    exec("class Open:\n    'To be written.'\n    ...", names)
    exec("class Written:\n    def read(self):\n        return 1", names)
    exec("class Static:\n    @staticmethod\n    def read():\n        return 1", names)
    assert not written(names["Open"])
    assert written(names["Written"])
    assert written(names["Static"])


@pytest.mark.parametrize("answer", [95, 95.0, 95.4])
def test_a_number_is_right_within_its_tolerance(answer):
    """One in a hundred, unless the exercise says otherwise."""
    assert judge_number(95, "rows", {}, "count again")(answer) is None


def test_a_usual_wrong_number_gets_its_own_hint():
    """Catches a hint that is the same for every mistake."""
    judge = judge_number(95, "rows", {64: COUNTS_TWICE}, "count again")
    assert judge(64) is COUNTS_TWICE
    assert judge(500) == Wrong("500 rows is too high.", "count again")
    assert judge(1) == Wrong("1 rows is too low.", "count again")


def test_an_exact_count_has_no_tolerance():
    """Catches 96 taken for 95 where an exercise asks for a count."""
    assert judge_number(95, "rows", {96: COUNTS_TWICE}, "", tolerance=0)(96) is COUNTS_TWICE


@pytest.mark.parametrize("answer", ["95", None, True, float("nan"), float("inf"), [95]])
def test_what_is_no_number_is_said_to_be_none(answer):
    """Catches a TypeError shown to a student, and True counted as one."""
    wrong = judge_number(1, "rows", {}, "")(answer)
    assert wrong is not None
    assert "is not a number" in wrong.sentence


def test_a_choice_knows_its_choices():
    """Catches a misspelt choice that is called wrong without a word about the right ones."""
    judge = judge_choice("memory", {"memory": None, "arithmetic": COUNTS_TWICE})
    assert judge("memory") is None
    assert judge("arithmetic") is COUNTS_TWICE
    for answer in ("Memory", 3, None, []):
        wrong = judge(answer)
        assert wrong is not None
        assert "'memory', 'arithmetic'" in wrong.hint


def test_what_the_students_code_raises_is_a_sentence():
    """Catches a traceback of a library below a student's cell."""

    def broken(x):
        return x.shape

    def judge(answer):
        return None if answer(2) == 4 else COUNTS_TWICE

    wrong = Exercise("double", judge, ours).judged(broken)
    assert wrong == Wrong(
        "Your answer stopped with AttributeError: 'int' object has no attribute 'shape'.",
        "the answer that `check` expects is a function broken(x: int) -> int",
    )


CELL = """
def last(keys, n=1, scale=2.5):
    return keys[n]
"""


def test_an_error_in_the_students_cell_says_in_which_call():
    """Catches a sentence after which the student still looks for the call: which method, with which arguments?"""
    names: dict[str, Callable[[np.ndarray], object]] = {}
    exec(compile(CELL, "<ipython-input-call>", "exec"), names)
    wrong = Exercise("last", lambda answer: answer(np.zeros((1, 2, 8))), ours).judged(names["last"])
    assert wrong is not None
    assert "in line 3 of your cell, in the call `last(keys of shape (1, 2, 8), n=1, scale=2.5)`." in wrong.sentence


def test_ctrl_c_is_not_judged():
    """Catches an interrupted cell that says "not yet" and goes on."""

    def endless(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Exercise("double", lambda answer: answer(2), ours).judged(endless)


def test_a_solution_is_shown_as_source_or_as_a_value():
    """What a student unfolds is what the notebook would run."""
    assert Exercise("a", lambda answer: None, ours, "Why.").solution_text() == (
        'def ours(x: int) -> int:\n    """Twice x."""\n    return 2 * x\n\n# Why.'
    )
    assert Exercise("b", lambda answer: None, [1, 2]).solution_text() == "[1, 2]"


def test_a_solution_can_be_pasted_over_the_students():
    """Catches a name that the cell does not check, so that the old answer is judged again; and a `why` that is no
    Python."""
    cell = Exercise("a", lambda answer: None, ours, "It's enough.").solution_text(indexes_with_dots)
    names: dict[str, Callable[[int], int]] = {}
    exec(cell, names)
    assert names["indexes_with_dots"](4) == 8
    assert "def ours" in Exercise("a", lambda answer: None, ours).solution_text(lambda x: x)
    assert Exercise("b", lambda answer: None, [1, 2]).solution_text(ours) == "[1, 2]"


def test_the_form_of_a_solution_does_not_give_it_away():
    """Catches a hint about a type that holds the value."""
    assert form(95) == "a whole number"
    assert form([1, 2]) == "a list"
    assert form(HalfWritten) == "a class with append, read"


@pytest.mark.parametrize("leave", [SystemExit(3), Mute(), ValueError("y" * 10_000_000), ValueError("\x1b[2J")])
def test_whatever_an_answer_raises_is_one_sentence(leave):
    """Catches exit() in an answer, which ends the cell; an error that cannot say what it is; one of 10 MB."""

    def answer():
        raise leave

    wrong = Exercise("a", lambda answer: answer(), ours).judged(answer)
    assert wrong is not None
    assert wrong.sentence.startswith(f"Your answer stopped with {type(leave).__name__}")
    assert len(wrong.sentence) < 400
    assert wrong.sentence.isprintable()


def test_a_lambda_over_several_lines_is_an_answer():
    """Catches a SyntaxError of ours: its line, cut out of a list, is no program."""
    answer = [0,
              lambda number: 2 * number][1]  # fmt: skip
    assert written(answer)


@pytest.mark.parametrize("answer", [10**400, -(10**400), 1e300], ids=["high", "low", "float"])
def test_a_huge_number_is_too_high_or_too_low(answer):
    """Catches an OverflowError, and a message of 300 digits."""
    wrong = judge_number(95, "rows", {}, "")(answer)
    assert wrong is not None
    assert wrong.sentence.endswith("too high." if answer > 0 else "too low.")
    assert len(wrong.sentence) < 40


def test_a_number_that_python_does_not_write_is_said_to_have_many_digits():
    """Catches Python's advice to call sys.set_int_max_str_digits."""
    wrong = judge_choice("memory", {"memory": None})([10**5000])
    assert wrong is not None
    assert "a number of more than 4300 digits" in wrong.sentence
