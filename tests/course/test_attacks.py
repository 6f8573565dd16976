"""Attacks on the grader: each earns what it earns without the attack, is named in the report, and leaves nothing.

Each attack of tests/attacks is graded by a grader that is root, where this process is, and by one that is a user. What
an attack's header means stands in attacked.py.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from attacked import ATTACKS, HEAD, MARK, PAGE, Attack, Found, Grader, attacks, can_become

from tinyinfer.course.assignment import Assignment, assignments
from tinyinfer.course.grading.grade import test_functions as functions_of
from tinyinfer.course.hidden import Hidden, public_seed
from tinyinfer.course.runner import run_test
from tinyinfer.course.sandbox import landlock, seccomp
from tinyinfer.course.sandbox.records import Handle
from tinyinfer.course.student import Student, packed

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
UNABLE = pytest.mark.skipif(not can_become(), reason="this root cannot become a user who reads the installation")
WHO = [
    *([pytest.param("root", marks=pytest.mark.xdist_group("attacks, graded by root"))] if ROOT else []),
    pytest.param("user", marks=[pytest.mark.xdist_group("attacks, graded by a user"), UNABLE]),
]
LIMITED = pytest.mark.skipif(
    sys.platform != "linux" or not landlock.abi() or not seccomp.supported(), reason="needs Landlock and seccomp"
)
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # what a terminal does not show
LONGEST = 60.0  # seconds: of the slowest attack, on a machine that does other work, too
MOST = 600  # MB of the grader: results of 64 MB cross, and are copied


@pytest.fixture(scope="module", params=WHO)
def grader(request) -> Iterator[Grader]:
    """A grader, which is asked for one attack after the other."""
    grader = Grader(user=request.param == "user")
    yield grader
    assert grader.end() == []


@pytest.mark.course
@LIMITED
@pytest.mark.parametrize("name", attacks())
def test_an_attack_earns_nothing_and_is_named(grader, name):
    """Catches points, files or processes that come from an attack, and a report that does not say what was tried."""
    check(attacks()[name], grader.found(name))


def check(attack: Attack, found: Found) -> None:
    """Asserts what must hold of every attack."""
    assert found.scores == found.base | dict(attack.lost)
    assert "BROKEN" not in found.told
    assert re.search(attack.named, found.told), found.told
    assert found.left == []
    assert found.of_grader == []
    assert not OBEYED.search(found.told + found.shown)
    assert max(map(len, (found.told, found.shown))) < 100_000
    assert "EXFILTRATED" not in found.shown
    assert found.seconds < LONGEST
    assert found.megabytes < MOST


@pytest.mark.course
@pytest.mark.skipif(
    not ROOT or sys.platform != "linux" or platform.machine() != "x86_64", reason="only root filters its own calls"
)
def test_another_user_is_enough_to_keep_points_and_secrets():
    """Catches a grader that is safe only on a new kernel: containers often lack Landlock, seccomp and namespaces."""
    names = ("02_writes_results", "06_finds_the_reference", "07_reads_hidden_tests", "12_memory_of_its_own", "14_kills")
    grader = Grader(False, names, old=True)
    try:
        found = {name: grader.found(name) for name in names}
    finally:
        grader.end()
        for place in (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")):
            for path in place.glob(f"{MARK}*"):  # empty files, which nothing refuses there
                path.unlink()
    for name, one in found.items():
        assert not any("Landlock" in limit or "seccomp" in limit for limit in one.limits)
        assert one.scores == one.base | dict(attacks()[name].lost)
        assert not [left for left in one.left if left.startswith(("process", "results"))]
    assert "BROKEN" not in found["07_reads_hidden_tests"].told
    assert "wrote ../../results.json" not in found["02_writes_results"].told


def test_the_list_is_whole():
    """Catches an attack of the list that no file tries, a file without a header, and tests that do not exist."""
    known = assignments()
    assert {attack.number for attack in attacks().values()} >= set(range(1, 29))
    assert {path.stem for path in ATTACKS.glob("*.py")} == set(attacks())
    for attack in attacks().values():
        names = {test.name for test in known[attack.assignment].tests}
        assert names.issuperset(attack.tests)
        assert set(dict(attack.lost)) <= set(attack.tests)
        assert bool(attack.lost) == bool(attack.why)
        assert attack.base in ("solution", "skeleton")


def test_the_page_has_every_attack():
    """Catches a page that was not written again: python tests/course/attacked.py --page."""
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in attacks() if f"| {name} |" not in text] == []
    assert text.startswith(HEAD.partition("{root}")[0])


# Values that no solution gives.

VALUES: dict[str, object] = {
    "None": None, "a bool": True, "a number": 3, "a negative one": -1, "a huge one": 2**255, "a float": 0.5,
    "NaN": float("nan"), "a text": "x", "an empty list": [], "a list": [1, None, "x"], "a ragged list": [[1], [2, 3]],
    "no pair": (), "a pair": (1, 2), "a pair of arrays": (np.zeros(3), np.zeros((0, 2))), "a dict": {"value": 1},
    "0 axes": np.array(1.0), "no numbers": np.empty(0), "bools": np.ones(8, bool), "bytes": np.ones(8, np.uint8),
    "half precision": np.ones(8, np.float16), "NaNs": np.full((2, 3), np.nan, np.float32), "a dtype": np.dtype("int8"),
    "three axes": np.zeros((3, 4, 5)), "infinities": np.full(8, np.inf), "a module": np, "a handle": Handle(7),
    "huge whole numbers": np.full(8, 2**63 - 1), "64 MB": np.zeros(64 << 20, np.int8),
    "two arrays of 32 MB": (np.zeros((2, 1 << 22), np.float32),) * 2,
}  # fmt: skip


class Answering(Student):
    """The double of a student whose code gives one value for everything."""

    def __init__(self, a: Assignment, value: object, after: Callable[[int], list[object]]) -> None:
        super().__init__(a)
        self._value, self._after = value, after

    def _ask(self, request):
        packed(request)
        if request["operation"] == "make":
            return {"value": Handle(0), "after": []}
        return {"value": self._value, "after": self._after(len(request["args"])) if request["after"] else []}


@pytest.mark.course
@pytest.mark.parametrize("name", assignments())
def test_no_value_breaks_a_test(name):
    """Catches a result at which test code itself stops: the report would call the grader at fault."""
    a = assignments()[name]
    functions = functions_of(a, Hidden(a.folder / f"hidden_{name}.py", bytes(32)))
    broken = []
    for shown, value in VALUES.items():
        for test in a.tests:
            with np.errstate(all="ignore"):
                student = Answering(a, value, lambda count, value=value: [value] * count)
                rng = np.random.default_rng(public_seed(test.name))
                outcome = run_test(functions[test.name], student, test.parts, rng)
            if outcome.of_grader or outcome.passed == outcome.parts:
                broken.append((test.name, shown, outcome))
    assert broken == []
