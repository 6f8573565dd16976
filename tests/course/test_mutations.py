"""Every line of our solutions is held by a test: each small change is noticed, or listed as computing the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mutations import MEMORY, equivalents, grade, graded, key_of, mutants, row

from tinyinfer.course.assignment import assignment, assignments
from tinyinfer.course.cut import solution

TABLE = Path(__file__).parents[2] / "docs" / "course_mutants.md"
SAMPLE = '''
def f(x, n):
    """Some words."""
    if n < 3:  # ä, two bytes
        x = x.sum(axis=-1, keepdims=True) + n
    return x * 2


def other(x):
    return x - 1
'''


def test_each_kind_of_change_is_made():
    """Catches a kind that is never tried, a place counted in characters, a function that is not the student's."""
    found = {(m.kind, m.after) for m in mutants(SAMPLE, ["f"])}
    assert found == {
        ("deleted", "pass"),
        ("negated", "if (not (n < 3)):"),
        ("an operator", "if n <= 3:"),
        ("a number", "if n < 4:"),
        ("a number", "if n < 2:"),
        ("an axis", "x = x.sum(axis=-2, keepdims=True) + n"),
        ("an axis", "x = x.sum(axis=-0, keepdims=True) + n"),
        ("no keyword", "x = x.sum(keepdims=True) + n"),
        ("no keyword", "x = x.sum(axis=-1) + n"),
        ("an operator", "x = x.sum(axis=-1, keepdims=True) - n"),
        ("an operator", "return x / 2"),
        ("a number", "return x * 3"),
        ("a number", "return x * 1"),
    }
    assert len([m for m in mutants(SAMPLE, ["f"]) if m.kind == "deleted"]) == 3, "the if, what is inside, the return"


def test_methods_are_named_with_their_class():
    """Catches a cut of one method that changes the others, and a class that is passed over."""
    text = "class A:\n    def f(self):\n        return 1\n\n    def g(self):\n        return 2\n"
    assert {m.function for m in mutants(text, ["A.f"])} == {"A.f"}
    assert {m.function for m in mutants(text, ["A"])} == {"A.f", "A.g"}


@pytest.mark.course
@pytest.mark.parametrize("change", ["while True: pass", "bytearray({})", "import os; os._exit(0)"])
def test_a_mutant_that_never_ends_is_noticed(change, tmp_path, monkeypatch):
    """Catches a pass that waits for ever, and one that takes the machine's memory."""
    monkeypatch.setattr("mutations.SECONDS", 2.0)
    a = assignment("quantization")
    line = "    return -(-count * bits // 8)"
    source = solution(a).replace(line, f"    {change.format(2 * MEMORY)}\n{line}")
    failed, ended = grade(a, source, tmp_path)
    assert "test_packed_size" in failed
    assert ended == ("bytearray" not in change)


@pytest.mark.slow
@pytest.mark.parametrize("name", assignments())
def test_every_mutant_is_noticed_or_listed(name):
    """A mutant that passes all tests is a hole in the tests; one that is listed and noticed is a stale entry."""
    a, known = assignment(name), equivalents()
    found = graded(a)
    unnoticed = {key_of(a, one.mutant) for one in found if not one.noticed}
    assert not unnoticed - set(known), "no test notices these"
    assert not {key for key in known if key[0] == name} - unnoticed, "listed, but noticed or no longer there"
    changes = [row(name, one, known).rpartition(" | ")[0] for one in found]
    sections = re.split(r"^## ", TABLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    [committed] = [part for part in sections if part.startswith(f"{name}\n")]
    rows = [line.rpartition(" | ")[0] for line in committed.splitlines() if line.startswith("| ")]
    assert rows[-len(changes) :] == changes, "write the table again: python tests/course/mutations.py -o ..."


def test_the_table_names_all_assignments_and_every_survivor():
    """Catches a table that was written before an assignment was added, and a hole that was committed."""
    text, known = TABLE.read_text(encoding="utf-8"), equivalents()
    assert "A HOLE" not in text
    for name in assignments():
        assert f"\n## {name}\n" in text
    assert not [key for key, why in known.items() if f"none: {why}" not in text]
