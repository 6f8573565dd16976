"""A student's code as a test sees it: only values come back, whatever the code does."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import numpy as np
import pytest
from small_assignment import RIGHT, small_assignment

from tinyinfer.course import cut
from tinyinfer.course.assignment import assignment
from tinyinfer.course.student import LocalStudent, Student, StudentDied, StudentError, answered
from tinyinfer.kv_cache.base import CacheSpec
from tinyinfer.ledger import Ledger
from tinyinfer.model.config import Rows

S = np.array([1.0, 3.0, 2.0])


@pytest.fixture
def with_source(tmp_path):
    """Makes the student of a source text."""

    def make(source: str, name: str = "small") -> Student:
        a = small_assignment(tmp_path) if name == "small" else assignment(name)
        path = tmp_path / a.file
        path.write_text(source, encoding="utf-8")
        return LocalStudent(a, path)

    return make


def test_a_function_gives_its_value_and_is_counted(with_source):
    """Catches counts that the student's code could reach, or that include the headers of frames."""
    student = with_source(RIGHT)
    assert student.softmax(S).sum() == pytest.approx(1)
    assert student.keep_top_k(S, 1).tolist() == [-np.inf, 3.0, -np.inf]
    assert student.traffic.calls == {"softmax": 1, "keep_top_k": 1}
    assert student.traffic.sent_bytes == {"softmax": 24, "keep_top_k": 24}
    assert student.traffic.received_bytes == {"softmax": 24, "keep_top_k": 24}


def test_an_object_of_the_students_is_an_argument(with_source):
    """Catches an object that crosses as a copy, or not at all: the student's function would meet another class."""
    source = """
class Pattern:
    def __init__(self, share):
        self.share = share
    def kept(self, scores):
        return scores > self.share

def wanda(w, hessian, pattern):
    return pattern.kept(w), type(pattern) is Pattern
"""
    student = with_source(source, "wanda")
    pattern = student.Pattern(1.5)
    kept, its_own = student.wanda(S, S, pattern)
    assert (kept.tolist(), its_own) == ([False, True, True], True)
    _, after = student.after("wanda", S, S, pattern)
    assert after[2] == pattern._handle


def test_arguments_that_are_changed_in_place_are_seen_and_the_tests_own_stay(with_source):
    """Catches an input of a test that the student's code can change."""
    student = with_source("def softmax(s):\n    s[0] = 9.0\n    return s")
    mine = S.copy()
    result, [after] = student.after("softmax", mine)
    assert after[0] == result[0] == 9.0
    assert mine[0] == 1.0


def test_a_result_that_is_kept_and_changed_later_changes_nothing(with_source):
    """Catches an array that test and student share."""
    source = "kept = []\ndef softmax(s):\n    kept.append(s)\n    kept[0][:] = len(kept)\n    return kept[0]"
    student = with_source(source)
    first = student.softmax(S)
    student.softmax(S)
    assert first.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ("return 1 / 0", "ZeroDivisionError", "small.py, line 2, in softmax: return 1 / 0"),
        ("raise NotImplementedError('task 1')", "NotImplementedError", "not written yet: task 1"),
        ("return softmax(s)", "RecursionError", "RecursionError"),
        ("return object()", "WireError", "the result of softmax is an object; give numbers"),
        ("return lambda: 1", "WireError", "function"),
        ("return s.astype('>f8')", "WireError", "byte order"),
        ("exit()", "SystemExit", "SystemExit"),
        ("return np.zeros(10 ** 14)", "MemoryError", "MemoryError"),
        ("raise ValueError(chr(27) + '[2J')", "ValueError", "\\x1b[2J"),
    ],
)
def test_what_the_code_raises_becomes_a_sentence(body, kind, said, with_source):
    """Catches an error of the student's code that breaks the test, or whose text a terminal obeys."""
    source = f"def softmax(s):\n    {body}\nimport numpy as np\n"
    with pytest.raises(StudentError) as caught:
        with_source(source).softmax(S)
    assert caught.value.kind == kind
    assert said in caught.value.sentence


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def softmax(s:\n  pass", "small.py cannot be loaded: the code stopped with SyntaxError"),
        ("import a_package_that_is_missing", "ModuleNotFoundError"), ("raise SystemExit", "SystemExit"),
        ("x = 1", "AttributeError"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_loaded_is_told(source, said, with_source):
    """Catches a crash of the test where the file has no such function, or is no Python."""
    with pytest.raises(StudentError, match=said):
        with_source(source).softmax(S)


def test_only_the_names_of_the_assignment_are_there(with_source):
    """Catches a test that would ask the student's file for what the engine does not have."""
    with pytest.raises(AttributeError, match="no name 'hidden'"):
        _ = with_source(RIGHT).hidden


def test_an_object_stays_with_the_students_code(with_source):
    """Methods are called, properties are read, and an attribute of the object, too."""
    student = with_source(cut.solution(assignment("kv_cache")), "kv_cache")
    cache = student.ContiguousCache(CacheSpec((Rows(2, 4, 4),), 8), Device())
    assert (cache.held_bytes, cache.capacity, cache.position_bytes) == (0, 8, 64)
    assert student.traffic.calls["ContiguousCache.held_bytes"] == 1


class Device:
    """The parts of a device by which it is known."""

    xp, ledger, reserve, to_host = np, Ledger(), np.zeros, np.asarray


@pytest.mark.parametrize(
    "reply", [None, [], {}, {"value": 1}, {"value": 1, "after": 2}, {"error": {}}, {"error": {"kind": 1}}, {"x": 1}]
)
def test_what_is_no_reply_ends_the_student(reply):
    """Catches a forged reply that the test takes for a value, or that breaks the grader."""
    with pytest.raises(StudentDied):
        answered(reply, "small.py")


def test_two_students_are_two_modules(with_source, tmp_path):
    """Catches a module that stays loaded: a second run of a test would see what the first one left."""
    source = "n = []\ndef softmax(s):\n    n.append(1)\n    return len(n)"
    one = with_source(source)
    two = LocalStudent(replace(one.assignment), tmp_path / "small.py")
    assert [one.softmax(S), one.softmax(S), two.softmax(S)] == [1, 2, 1]


def test_a_file_that_is_changed_within_a_second_is_read_again(with_source, tmp_path, monkeypatch):
    """Catches bytecode of an older file of the same size and second, and a __pycache__ beside the student's file."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    student = with_source("def softmax(s):\n    return 1")
    stamp = (tmp_path / "small.py").stat()
    assert student.softmax(S) == 1
    again = with_source("def softmax(s):\n    return 2")
    os.utime(tmp_path / "small.py", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert again.softmax(S) == 2
    assert not (tmp_path / "__pycache__").exists()


def test_ctrl_c_ends_all_tests(with_source):
    """Catches a loop without an end that has to be interrupted once for each test."""
    with pytest.raises(KeyboardInterrupt):
        with_source("def softmax(s):\n    raise KeyboardInterrupt").softmax(S)


def test_a_file_beside_the_students_cannot_be_imported(with_source, tmp_path, monkeypatch):
    """Catches full marks by pytest for what the grader, which takes one file, cannot load."""
    monkeypatch.syspath_prepend(tmp_path)  # as pytest does
    (tmp_path / "a_file_beside.py").write_text("x = 1")
    with pytest.raises(StudentError, match="No module named 'a_file_beside'"):
        with_source("import a_file_beside\ndef softmax(s):\n    return s").softmax(S)
    assert str(tmp_path) in sys.path
