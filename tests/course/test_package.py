"""The package that a system grades with: what is in it, what is secret, and what it writes when something breaks.

Tests marked `course` unpack one into an empty folder and grade with it, as Gradescope does.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tinyinfer.cli import main
from tinyinfer.course.assignment import Assignment, assignment, read_assignment
from tinyinfer.course.cut import solution
from tinyinfer.course.errors import CourseError
from tinyinfer.course.grading.report import Report, TestResult
from tinyinfer.course.hidden import open_hidden, write_secret
from tinyinfer.course.packaging import autograder
from tinyinfer.course.packaging.package import SCRIPTS, engine, package, pinned
from tinyinfer.course.packaging.wheel import sources, wheel

REPORT = Report("tiny", "1", "0", "ada", results=(TestResult("test_a", "1.1", 60, 60, "passed", 1, 1),))
MANIFEST = """
version = "1"
title = "Tiny"
minutes = 5
lines = 1
about = "one function"
[[cut]]
module = "tinyinfer.sampling"
names = ["softmax"]
[[tests]]
name = "test_a"
points = 60
catches = "a sum that is not 1"
[[tests]]
name = "test_b"
points = 40
hidden = true
catches = "nothing"
"""
PUBLIC = """
import numpy as np
def test_a(student):
    assert abs(student.softmax(np.ones(2, np.float32)).sum() - 1) < 1e-6
"""
posix = pytest.mark.skipif(os.name == "nt", reason="Gradescope's programs are for a POSIX shell")


def with_tests(folder: Path) -> Assignment:
    """The assignment `tiny` with files of public and hidden tests, cut from a module that exists."""
    (folder / "tiny").mkdir(exist_ok=True)
    (folder / "tiny" / "assignment.toml").write_text(MANIFEST)
    (folder / "tiny" / "test_tiny.py").write_text(PUBLIC)
    (folder / "tiny" / "hidden_tiny.py").write_text("def test_b(student):\n    import ml_dtypes  # only when it runs\n")
    return read_assignment(folder / "tiny")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A function that gives the engine, which is built once for all tests."""
    a = with_tests(tmp_path_factory.mktemp("engine"))
    made = engine(a, a.folder / "hidden_tiny.py")
    return lambda *_: made


@pytest.fixture(scope="module")
def packed(tmp_path_factory, built):
    """A package for Gradescope with a new secret: (the zip file, the folder beside it)."""
    folder = tmp_path_factory.mktemp("packed")
    beside = package(with_tests(folder), folder / "autograder.zip", built=built)
    return folder / "autograder.zip", beside


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def content(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# What is in it


def test_a_package_has_the_two_programs_the_engine_and_the_hidden_tests(packed):
    """Catches a zip file with a folder around all of it, which Gradescope does not look into."""
    files = content(packed[0])
    assert [re.sub(r"-[\d.]+-py3-none-any", "-V", name) for name in files] == [
        "setup.sh", "run_autograder", "requirements.txt", "tinyinfer-V.whl", "hidden/hidden_tiny.py", "hidden/secret",
    ]  # fmt: skip
    assert b"@" not in files["run_autograder"] + files["setup.sh"].replace(b"$@", b"")
    assert b"gradescope tiny" in files["run_autograder"]


@posix
def test_the_programs_can_be_executed(packed):
    with zipfile.ZipFile(packed[0]) as archive:
        modes = {entry.filename: entry.external_attr >> 16 & 0o777 for entry in archive.infolist()}
    assert (modes["setup.sh"], modes["run_autograder"], modes["hidden/secret"]) == (0o755, 0o755, 0o644)
    for name in ("setup.sh", "run_autograder"):
        subprocess.run(["sh", "-n"], input=content(packed[0])[name], check=True)


def test_the_requirements_are_what_is_installed_here(packed):
    """Catches versions of another machine, requirements of the engine that no grading needs, and late imports."""
    from ml_dtypes import __version__ as of_the_hidden_test
    from numpy import __version__

    lines = content(packed[0])["requirements.txt"].decode().split()
    assert {f"numpy=={__version__}", f"ml_dtypes=={of_the_hidden_test}"} <= set(lines)
    assert all("==" in line for line in lines)
    assert not [line for line in lines if line.startswith(("tinyinfer", "setuptools", "pytest", "tokenizers"))]
    assert pinned(["json", "no_such_module"]) == []


@posix
def test_the_secret_is_new_and_lies_beside_the_package_for_its_owner_only(packed):
    """Catches a secret that is lost with the upload, and one that others on the teacher's machine can read."""
    archive, beside = packed
    files = content(archive)
    assert beside == archive.with_suffix(".hidden")
    assert open_hidden(beside, "tiny").secret.hex().encode() == files["hidden/secret"].strip()
    assert (mode(beside), mode(beside / "secret"), mode(archive)) == (0o700, 0o600, 0o600)


def test_an_older_secret_is_not_overwritten(packed):
    """Catches a regrade with other seeds than the grade."""
    archive, beside = packed
    before = (beside / "secret").read_text()
    with pytest.raises(CourseError, match="secret of an earlier package"):
        package(with_tests(archive.parent), archive)
    assert (beside / "secret").read_text() == before


def test_with_a_given_secret_the_same_bytes(packed, built, tmp_path):
    """Catches dates, orders and modes of one machine in a file that should be compared; and a second secret."""
    a, made = with_tests(tmp_path), [tmp_path / "1.zip", tmp_path / "2.zip"]
    assert [package(a, path, hidden=packed[1], built=built) for path in made] == [None, None]
    assert made[0].read_bytes() == made[1].read_bytes() == packed[0].read_bytes()
    assert not list(tmp_path.glob("*.hidden"))


def test_without_hidden_tests_there_is_no_package(tmp_path):
    a = with_tests(tmp_path)
    with pytest.raises(CourseError, match=r"no file hidden_tiny\.py"):
        package(a, tmp_path / "a.zip", hidden=tmp_path)
    (a.folder / "hidden_tiny.py").unlink()
    with pytest.raises(CourseError, match="comes without hidden tests"):
        package(a, tmp_path / "a.zip")
    assert not list(tmp_path.glob("a.*"))


def test_a_package_for_classroom_50_has_nothing_that_is_secret(built, tmp_path):
    """Catches hidden tests in a bundle that every student can download."""
    assert package(with_tests(tmp_path), tmp_path / "a.zip", "classroom50", built=built) is None
    files = content(tmp_path / "a.zip")
    assert sorted(files)[:2] == ["autograder.py", "requirements.txt"]
    assert len(files) == 3
    compile(files["autograder.py"], "autograder.py", "exec")
    assert b"@NAME@" not in files["autograder.py"]


def test_a_machine_on_which_our_own_solution_loses_points_packs_nothing(tmp_path):
    """Catches a package whose every submission would get a fault: a missing module, tests that are wrong."""
    a = with_tests(tmp_path)
    (a.folder / "hidden_tiny.py").write_text("def test_b(student):\n    import no_such_module\n")
    with pytest.raises(CourseError, match=r"full marks on this machine: test_b: .*no_such_module"):
        package(a, tmp_path / "a.zip")
    assert not list(tmp_path.glob("a.*"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["kv_cach"], "did you mean 'kv_cache'"),
        (["kv_cache", "-o", "nowhere/a.zip"], "nowhere"),
        (["kv_cache", "--hidden", "nowhere"], "--hidden nowhere: there is no file"),
        (["kv_cache", "--format", "moodle"], "moodle"),
        (["kv_cache", "-o", "old.zip"], "secret of an earlier package; use it by --hidden old.hidden"),
        (["kv_cache", "-o", "."], "is a folder; give the name of the zip file"),
        (["kv_cache", "-o", "new.hidden"], "is the name of the folder with the secret"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_file(tmp_path, monkeypatch, capsys, words, sentence):
    """Catches a traceback, and half a package."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.hidden").mkdir()
    assert main(["course", "package", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["old.hidden"]


# The wheel


@pytest.fixture(scope="module")
def files(packed):
    """The files of the package's wheel."""
    [data] = [data for name, data in content(packed[0]).items() if name.endswith(".whl")]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_lists_each_of_its_files_with_its_digest(files):
    """Catches a wheel that pip refuses."""
    [record] = [data.decode().splitlines() for name, data in files.items() if name.endswith("/RECORD")]
    listed = dict(line.split(",", 1) for line in record)
    assert set(listed) == set(files)
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        assert listed[name] in (f"sha256={digest},{len(data)}", ",")


def test_the_wheel_has_the_engine_with_its_data_and_no_hidden_tests(files):
    """Catches an autograder whose engine lacks the manifests; hidden tests that lie beside the student's code."""
    here = ("packaging/autograder.py", "packaging/autograders/setup.sh", "assignments/kv_cache/assignment.toml")
    assert {"tinyinfer/py.typed", *(f"tinyinfer/course/{name}" for name in here)} <= set(files)
    assert not [name for name in files if "hidden_" in name or "__pycache__" in name]
    [metadata] = [data.decode() for name, data in files.items() if name.endswith("/METADATA")]
    assert "Requires-Dist: numpy==" in metadata


def test_no_secret_travels_from_an_assignments_own_folder(tmp_path):
    """Catches the secret of a teacher who made it beside the hidden tests, in a package for every student."""
    folder = tmp_path / "some" / "course" / "assignments" / "tiny"
    folder.mkdir(parents=True)
    for name in ("hidden_tiny.py", "hidden_tiny.py~", ".hidden_tiny.py.swp", "secret", "secret.bak", "task.md"):
        (folder / name).write_text("")
    assert [path.name for path in sources(tmp_path / "some")] == ["task.md"]


def test_a_package_without_git_has_all_its_files(tmp_path):
    """Catches a list of files that asks git: an installed package has none."""
    (tmp_path / "some" / "__pycache__").mkdir(parents=True)
    (tmp_path / "some" / "__pycache__" / "a.pyc").write_bytes(b"")
    (tmp_path / "some" / "a.py").write_text("x = 1")
    name, data = wheel("1.0", [], tmp_path / "some")
    os.utime(tmp_path / "some" / "a.py", (1, 1))
    assert wheel("1.0", [], tmp_path / "some") == (name, data)
    assert name == "some-1.0-py3-none-any.whl"
    assert zipfile.ZipFile(io.BytesIO(data)).namelist()[0] == "some/a.py"
    assert sources(tmp_path / "some") == [tmp_path / "some" / "a.py"]


# What it writes


@posix
def test_results_are_there_before_anything_can_fail(packed, tmp_path):
    """Catches a submission that shows nothing, since the grader did not even start."""
    (tmp_path / "run_autograder").write_bytes(content(packed[0])["run_autograder"])
    done = subprocess.run(
        ["sh", tmp_path / "run_autograder"], env=os.environ | {"AUTOGRADER": str(tmp_path)}, capture_output=True
    )
    assert done.returncode != 0
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert results["score"] == 0
    assert "not your code's" in results["output"]


def root(folder: Path, users: object = ({"email": "ada@x.org", "id": 1},)) -> Path:
    """A folder as Gradescope lays it out, with the first results."""
    for name in ("submission", "results", "source/hidden"):
        (folder / name).mkdir(parents=True)
    (folder / "submission_metadata.json").write_text(json.dumps({"users": users}))
    (folder / "results" / "results.json").write_text('{"score": 0, "output": "first"}')
    return folder


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results" / "results.json").read_text())


def test_results_are_whole_after_each_test(tmp_path):
    """Catches results that a limit of time finds half written, or not at all."""
    place, scores = root(tmp_path), []

    def grading(folder, name, *, student, hidden, told):
        assert (folder, name, student, hidden) == (
            place / "submission", "tiny", "ada@x.org", place / "source" / "hidden",
        )  # fmt: skip
        for one in (replace(REPORT, results=()), REPORT):
            told(one)
            scores.append(results(place)["score"])
        return REPORT

    assert autograder.for_gradescope("tiny", place, grading) == 0
    assert scores == [0, 60]
    assert [path.name for path in (place / "results").iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    "error", [CourseError("no secret"), ZeroDivisionError("\x1b[2J"), MemoryError(), RecursionError()]
)
def test_a_grader_that_fails_says_that_it_was_the_grader(tmp_path, error, capsys):
    """Catches a 0 that looks like the student's own; the traceback is for the teacher."""

    def grading(*args, told, **options):
        told(REPORT)
        raise error

    assert autograder.for_gradescope("tiny", root(tmp_path), grading) == 0
    assert results(tmp_path)["score"] == 0
    assert type(error).__name__ in results(tmp_path)["output"]
    assert "\x1b" not in results(tmp_path)["output"]
    assert "Traceback" in capsys.readouterr().out


def test_without_the_name_of_a_student_no_hidden_test_is_graded(tmp_path):
    """Catches one seed for all students."""
    autograder.for_gradescope("tiny", root(tmp_path, users=()), lambda *_, **__: pytest.fail("graded"))
    assert "names no user" in results(tmp_path)["output"]


IDENTITY = {
    "CLASSROOM": "c",
    "ASSIGNMENT": "a",
    "SUBMISSION_TAG": "s",
    "COMMIT_URL": "u",
    "RELEASE_URL": "r",
    "OWNER": "ada",
}


def test_classroom_50_gets_its_result_and_no_hidden_test(tmp_path, monkeypatch):
    for name, value in IDENTITY.items():
        monkeypatch.setenv(name, value)
    asked = []
    autograder.for_classroom50("tiny", tmp_path, lambda *args, **options: asked.append((args, options)) or REPORT)
    assert asked == [((tmp_path, "tiny"), {"student": "ada"})]
    assert json.loads((tmp_path / "result.json").read_text())["score"] == 60


def test_classroom_50_without_its_variables_writes_no_result(tmp_path, monkeypatch):
    """The runner of Classroom 50 itself tells the student of a failure: it has found no result."""
    monkeypatch.delenv("CLASSROOM", raising=False)
    with pytest.raises(CourseError, match="CLASSROOM"):
        autograder.for_classroom50("tiny", tmp_path, lambda *_, **__: pytest.fail("graded"))
    assert not list(tmp_path.iterdir())


# Graded with it


def as_user(uid: int | None) -> dict[str, Any]:
    """Options of subprocess: this user, or another one who has nothing."""
    return {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}


USERS = [pytest.param(None, id="this user"),
         pytest.param(61234, id="a user without rights", marks=pytest.mark.skipif(
             getattr(os, "geteuid", lambda: 1)() != 0, reason="only root becomes another user"))]  # fmt: skip


@pytest.fixture
def reachable():
    """A new folder that any user can reach; pytest's own are for one user."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@posix
@pytest.mark.course
@pytest.mark.parametrize("uid", USERS)
def test_a_package_grades_in_an_empty_folder(reachable, uid):
    """The engine's own code has full marks, a broken file none and a sentence; in 768 MB."""
    a = assignment("kv_cache")
    write_secret(reachable / "secret")
    (reachable / f"hidden_{a.name}.py").write_bytes((a.folder / f"hidden_{a.name}.py").read_bytes())
    package(a, reachable / "autograder.zip", hidden=reachable)
    place = root(reachable / "place")
    with zipfile.ZipFile(reachable / "autograder.zip") as archive:
        archive.extractall(place / "source")
    if uid is not None:
        subprocess.run(["chown", "-R", f"{uid}:{uid}", reachable], check=True)
    run(place, "source/setup.sh", uid)
    for text, score in ((solution(a), 100), ("def", 0)):
        (place / "submission" / a.file).write_text(text)
        run(place, "source/run_autograder", uid)
        assert results(place)["score"] == score
    assert "syntax" in results(place)["output"].lower()


def run(place: Path, program: str, uid: int | None) -> None:
    """Runs one of the two programs with Python's folder first on the path, a clean environment and 768 MB."""
    import resource

    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"AUTOGRADER": str(place), "PATH": path, "HOME": str(place)}
    done = subprocess.run(
        ["sh", place / program], env=environment, capture_output=True, text=True, cwd=place, timeout=600,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (768 << 20, 768 << 20)), **as_user(uid),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_programs_name_no_other_place():
    """Catches a path outside of the folder that AUTOGRADER names."""
    for path in SCRIPTS.iterdir():
        if path.is_file():
            absolute = re.findall(r"(?<![\w$}\"/.>])/(?!autograder\b|bin/|dev/null|usr/bin)\w+", path.read_text())
            assert not absolute, path.name
