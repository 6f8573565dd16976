"""Lent arrays: they work as arrays do, and the test knows each number that was read or written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sandboxed import a_source, an_assignment

from tinyinfer.course.loans import MOST, Access, Loans
from tinyinfer.course.sandbox.frames import WireError
from tinyinfer.course.sandbox.lent import Lent
from tinyinfer.course.sandbox.piped import PipedStudent
from tinyinfer.course.sandbox.records import Kept
from tinyinfer.course.student import LocalStudent, Student, StudentDied, StudentError

CODE = '''

import numpy as np


def one_by_one(a, y):
    """Reads column by column, and writes backwards."""
    for k in range(a.shape[1]):
        for n in range(len(a)):
            y[len(y) - 1 - n] += a[n, k]


def row_by_row(a, y):
    """Arithmetic with whole rows, in place, too."""
    for n in range(a.shape[0]):
        y[n : n + 1] += (a[n] * 2).sum()
    y[:] = y * np.float32(0.5)


def product(a, b):
    """Codes of 8 bits, whose product has 16."""
    return a[0] * b[0], int(a.astype(np.float32).max()), a.ndim, a.size, str(a.dtype)


def beyond(a):
    return a[len(a)]


def forged(a, question):
    """Asks the grader for what is not lent."""
    return a._exchange(question)["numbers"]
'''


@pytest.fixture(scope="module")
def piped() -> Iterator[PipedStudent]:
    """One child for all questions that leave it alive."""
    with PipedStudent(an_assignment(), a_source(end=CODE)) as student:
        yield student


@pytest.fixture(params=["local", "piped"])
def student(request: pytest.FixtureRequest, tmp_path: Path) -> Student:
    """The code in this process, and in a child."""
    if request.param == "piped":
        piped: Student = request.getfixturevalue("piped")
        piped.loans = Loans()
        return piped
    path = tmp_path / an_assignment().file
    path.write_bytes(a_source(end=CODE))
    return LocalStudent(an_assignment(), path)


def accesses(student: Student) -> list[tuple[int, list[int], bool]]:
    return [(one.lent, one.places.tolist(), one.write) for one in student.loans.accesses]


def test_each_number_is_known_in_its_order(student):
    """Catches a count that the student's own process keeps, and an order that is lost."""
    a, y = student.lend(np.array([[1, 2], [3, 4]], np.int8)), student.lend(np.zeros(2, np.float32))
    student.interpreted("one_by_one", a, y)
    reads = [places for lent, places, write in accesses(student) if lent == 0 and not write]
    writes = [places for lent, places, write in accesses(student) if lent == 1 and write]
    assert reads == [[0], [2], [1], [3]]
    assert writes == [[1], [0], [1], [0]]
    assert student.loans.arrays[1].tolist() == [7, 3]


def test_a_row_is_read_at_once_and_when_it_is_used(student):
    """Catches arithmetic that does not cross, that crosses twice, or an index that reads before it is used."""
    a, y = student.lend(np.array([[1, 2], [3, 4]], np.int8)), student.lend(np.zeros(2, np.float32))
    student.interpreted("row_by_row", a, y)
    assert [one for one in accesses(student) if one[0] == 0] == [(0, [0, 1], False), (0, [2, 3], False)]
    assert student.loans.arrays[1].tolist() == [3, 7]


def test_codes_do_not_overflow(student):
    """Catches a product of 8 bits: numba computes whole numbers with 64, and Python's loops must give the same."""
    a = student.lend(np.array([127, -128], np.int8))
    assert student.interpreted("product", a, a) == (127 * 127, 127, 1, 2, "int8")


def test_an_index_beyond_the_end_is_the_code_s_own_mistake(student):
    """Catches a place outside of the array that the grader is asked for."""
    with pytest.raises(StudentError, match="IndexError") as caught:
        student.interpreted("beyond", student.lend(np.zeros(3)))
    assert not isinstance(caught.value, StudentDied)
    assert not student.loans.accesses


def test_what_is_lent_is_a_copy():
    """Catches a student's code that writes into the grader's own arrays."""
    loans, mine = Loans(), np.zeros(2)
    lent = loans.lend(mine)
    loans.answer({"lent": lent.number, "places": np.array([1]), "values": np.array([5])})
    assert (mine.tolist(), loans.arrays[0].tolist()) == ([0, 0], [0, 5])


PLACES = np.array([0])
QUESTIONS: dict[str, dict[str, Any]] = {
    "no such array": {"lent": 7, "places": PLACES, "values": None},
    "a negative number": {"lent": -1, "places": PLACES, "values": None},
    "no number": {"lent": True, "places": PLACES, "values": None},
    "a place beyond the end": {"lent": 0, "places": np.array([3]), "values": None},
    "a place before the beginning": {"lent": 0, "places": np.array([-1]), "values": None},
    "places in another type": {"lent": 0, "places": np.array([0.5]), "values": None},
    "places in two axes": {"lent": 0, "places": np.array([[0]]), "values": None},
    "no places": {"lent": 0, "places": None, "values": None},
    "fewer values": {"lent": 0, "places": np.array([0, 1]), "values": np.array([1.0])},
    "values that are none": {"lent": 0, "places": PLACES, "values": "x"},
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_that_is_none_is_refused(name):
    """Catches a grader that breaks, or reads other memory, at what a student's process asks for."""
    loans = Loans()
    loans.lend(np.zeros(3))
    with pytest.raises(WireError):
        loans.answer(QUESTIONS[name])
    assert not loans.accesses


def test_questions_come_to_an_end():
    """Catches a list of accesses that fills the grader's memory."""
    loans = Loans()
    loans.lend(np.zeros(3))
    loans.accesses += [Access(0, PLACES, write=False)] * MOST
    with pytest.raises(WireError, match="more than 100,000"):
        loans.answer({"lent": 0, "places": PLACES, "values": None})


@pytest.mark.course
def test_a_forged_question_ends_the_child():
    """Catches a fault of the grader in the place of one of the student's."""
    with PipedStudent(an_assignment(), a_source(end=CODE)) as student:
        args = student.lend(np.zeros(3)), QUESTIONS["no such array"]
        with pytest.raises(StudentDied, match="no array of this number is lent"):
            student.ask("call", None, "forged", "forged", args)


def test_a_side_without_a_grader_has_nothing_to_lend():
    """Catches an array that waits for ever for its numbers."""
    made = Kept().record("tinyinfer.course.sandbox.lent:Lent", {"number": 0, "shape": (2,), "dtype": np.dtype("int8")})
    assert isinstance(made, Lent)
    with pytest.raises(WireError, match="no array is lent here"):
        made[0]
