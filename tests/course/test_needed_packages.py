"""An assignment that needs more than NumPy: what is missing is said in one sentence, and what is there is reachable."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from sandboxed import a_source, an_assignment, attempt, run

from tinyinfer.cli import main
from tinyinfer.course import assignment as manifests
from tinyinfer.course.assignment import assignment, needed
from tinyinfer.course.pytest_plugin import assignment_of
from tinyinfer.course.sandbox import landlock, sandbox
from tinyinfer.course.sandbox.piped import PipedStudent
from tinyinfer.course.start import start

KERNEL = "int8_kernel"
SENTENCE = "int8_kernel needs numba, which is not installed here: pip install numba"
OTHERS = ("tqdm", "filelock")  # packages that are there; which ones is of no interest


@pytest.fixture
def no_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that has no numba, whether this one has it or not."""
    monkeypatch.setattr(manifests, "find_spec", lambda name: None if name == "numba" else object())


def test_what_is_installed_is_not_missed() -> None:
    """Catches a check that refuses everything, and one that asks for NumPy."""
    assert needed(replace(assignment(KERNEL), packages=("numpy", *OTHERS))) == ""
    assert needed(assignment("kv_cache")) == ""


def test_the_list_and_a_start_work_without_it(no_numba, tmp_path: Path, capsys) -> None:
    """Catches a task that cannot even be read, and an hour of work before it is said that something is missing."""
    assert main(["course", "list"]) == 0
    assert KERNEL in capsys.readouterr().out
    assert main(["course", "start", KERNEL, str(tmp_path / "ada")]) == 0
    assert SENTENCE in capsys.readouterr().err
    assert (tmp_path / "ada" / f"{KERNEL}.py").is_file()


COMMANDS = {
    "grade": ["course", "grade", "{}/ada"],
    "grade all": ["course", "grade", "--all", "{}", "-o", "{}/grades.csv"],
    "package": ["course", "package", KERNEL, "-o", "{}/autograder.zip"],
    "use": ["generate", "--use", "{}/ada", "hello"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_other_commands_say_what_to_install(name, no_numba, tmp_path: Path, capsys) -> None:
    """Catches a traceback of an import, marks of 0 for what the machine lacks, and files that are left behind."""
    start(assignment(KERNEL), tmp_path / "ada")
    assert main([word.format(tmp_path) for word in COMMANDS[name]]) == 2
    assert capsys.readouterr().err == f"tinyinfer: error: {SENTENCE}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["ada"]


def test_pytest_says_it_too(no_numba, tmp_path: Path) -> None:
    """Catches an import error for each of the tests."""
    start(assignment(KERNEL), tmp_path)
    item = SimpleNamespace(session=SimpleNamespace(stash=pytest.Stash()), path=tmp_path / f"test_{KERNEL}.py")
    with pytest.raises(pytest.exit.Exception, match=SENTENCE):
        assignment_of(item)


# In the limited process.


def test_a_needed_package_is_there_and_no_other() -> None:
    """Catches a child that finds or reads everything that is installed, and one that finds nothing."""
    other = Path(sys.modules["pytest"].__file__ or "")
    with PipedStudent(replace(an_assignment(), packages=OTHERS[:1]), a_source()) as student:
        assert run(student, "import tqdm\nout = list(tqdm.tqdm([1, 2], disable=True))") == [1, 2]
        assert attempt(student, "import pytest") == attempt(student, "import filelock") == "ModuleNotFoundError"
        assert any("Python, NumPy and tqdm take" in limit for limit in student.limits)
        assert attempt(student, "import numpy\nopen(numpy.__file__)") == "done"  # wherever the child has it
        if sys.platform == "linux" and landlock.abi():
            assert attempt(student, f"open({str(other)!r})") in ("PermissionError", "FileNotFoundError")


@pytest.mark.parametrize(
    ("reached", "for_others", "linked"), [(True, True, True), (False, True, False), (False, False, True)]
)
def test_a_package_that_another_user_cannot_reach_is_copied(reached, for_others, linked, tmp_path, monkeypatch) -> None:
    """Catches a link that the student's user cannot follow, and a copy of 200 MB for nothing."""
    monkeypatch.setattr(sandbox, "reachable", lambda path: reached)
    made = sandbox.link_package("filelock", tmp_path, for_others)
    assert made.is_symlink() == linked
    assert (made / "__init__.py").is_file()
