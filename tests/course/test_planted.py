"""The grader is graded: our solution earns all points, the skeleton none, and every planted bug loses its own.

Here the tests run in this process, which is quick; what the limits of a child change, tests/course/test_attacks.py and
the tests of `course grade` show.
"""

from __future__ import annotations

import pytest
from planted_bugs import PLANTED, RUN, Bug, bugs, functions_of, outcomes, right_text

from tinyinfer.course.assignment import assignments
from tinyinfer.course.cut import skeleton
from tinyinfer.course.runner import NOT_IMPLEMENTED, PASSED
from tinyinfer.course.source import Function, read_source

ASSIGNMENTS = assignments()
each = pytest.mark.parametrize("name", ASSIGNMENTS)
each_run = pytest.mark.parametrize("name", RUN)
PLANTED_BUGS = [bug for path in sorted(PLANTED.glob("*.toml")) for bug in bugs(path.stem)]


@each_run
def test_our_solution_earns_all_points(name, tmp_path):
    """Catches a test that the engine itself fails, with the public inputs or with a student's own."""
    found = outcomes(ASSIGNMENTS[name], right_text(name), tmp_path)
    assert {test: (o.status, o.faults) for test, o in found.items() if o.status != PASSED} == {}


@each_run
def test_the_skeleton_earns_nothing(name, tmp_path):
    """Catches a test that passes without the student's work, and one that does not say that the work is missing."""
    found = outcomes(ASSIGNMENTS[name], skeleton(ASSIGNMENTS[name]), tmp_path)
    assert {test: o.status for test, o in found.items() if o.status != NOT_IMPLEMENTED or o.score(1)} == {}


@each
def test_every_test_catches_a_planted_bug(name):
    """Catches a test that cannot fail: each one is in the list of at least one bug, and no bug names another test."""
    planted = [bug for bug in PLANTED_BUGS if bug.assignment == name]
    named = {test for bug in planted for test in bug.fails}
    assert len(planted) >= 6
    assert named == set(functions_of(ASSIGNMENTS[name]))
    assert len({bug.name for bug in planted}) == len(planted)


@pytest.mark.course
@pytest.mark.parametrize("bug", PLANTED_BUGS, ids=str)
def test_a_planted_bug_loses_exactly_its_points(bug: Bug, tmp_path):
    """Catches tests that let a usual mistake pass, that fail for another reason, or that leave it without a hint."""
    a = ASSIGNMENTS[bug.assignment]
    found = outcomes(a, bug.wrong(right_text(a.name)), tmp_path)
    assert not [(test, o.faults) for test, o in found.items() if o.of_grader]
    assert {test for test, o in found.items() if o.score(1) < 1} == set(bug.fails)
    hints = {fault.hint for o in found.values() for fault in o.faults}
    assert bug.hint
    assert [hint for hint in hints if bug.hint in hint], f"no hint has {bug.hint!r}; the hints are {hints}"


@each
def test_the_manifest_is_true(name):
    """Catches a number of lines that our solution does not have, and a share of hidden points that was not promised."""
    a = ASSIGNMENTS[name]
    sources = {cut.module: read_source(cut.module) for cut in a.cut}
    written = {
        node: source
        for cut in a.cut
        for source in [sources[cut.module]]
        for known, node in source.definitions.items()
        if isinstance(node, Function) and known not in cut.given
        and (known in cut.names or known.rpartition(".")[0] in cut.names)
    }  # fmt: skip
    assert sum(source.code_lines(node) for node, source in written.items()) == a.lines
    assert 30 <= a.points(hidden=True) <= 40
    assert 30 <= a.minutes <= 180
