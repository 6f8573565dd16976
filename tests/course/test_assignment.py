"""A manifest is read whole or refused in one sentence; a folder's marker names its assignment."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tinyinfer.course.assignment import (
    FOLDER,
    TEACHING_ORDER,
    Cut,
    Test,
    assignment,
    assignments,
    engine_version,
    marked,
    read_assignment,
)
from tinyinfer.course.errors import CourseError

MANIFEST = """\
version = "1"
title = "Rounding"
minutes = 30
lines = 12
about = "round each weight to the nearest point of a grid"
background = ["a paper, section 2"]
switches = { quantize = ["int4", "int8"], temperature = 0.5 }
allowed = ["tinyinfer.units"]
[given_source]
Rounder = "def __init__(self): pass"
[[cut]]
module = "tinyinfer.quantization.rtn"
names = ["fit"]
given = ["to_half"]
[[tests]]
name = "test_scale"
points = 60
parts = 3
catches = "a scale of the wrong range"
[[tests]]
name = "test_ties"
points = 40
hidden = true
catches = "ties rounded up"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one assignment, `rounding`."""
    (tmp_path / "rounding").mkdir()
    (tmp_path / "rounding" / "assignment.toml").write_text(MANIFEST)
    return tmp_path


def test_a_manifest_becomes_an_assignment(folder: Path) -> None:
    """Catches a field that is read from a wrong place, or a default that is not applied."""
    a = assignment("rounding", folder)
    assert (a.name, a.folder, a.version, a.title) == ("rounding", folder / "rounding", "1", "Rounding")
    assert (a.minutes, a.lines, a.about) == (30, 12, "round each weight to the nearest point of a grid")
    assert a.background == ("a paper, section 2",)
    assert dict(a.switches) == {"quantize": "int4", "temperature": 0.5}
    assert dict(a.also_serves) == {"quantize": ("int4", "int8"), "temperature": (0.5,)}
    assert a.allowed == ("tinyinfer.units",)
    assert a.generates
    assert dict(a.given_source) == {"Rounder": "def __init__(self): pass"}
    assert a.cut == (Cut("tinyinfer.quantization.rtn", ("fit",), ("to_half",)),)
    assert a.tests == (
        Test("test_scale", 60, 3, False, "a scale of the wrong range"),
        Test("test_ties", 40, 1, True, "ties rounded up"),
    )
    assert (a.points(hidden=False), a.points(hidden=True), a.file) == (60, 40, "rounding.py")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('version = "1"', "version = 1", "version: must be a text, not 1"),
        ('version = "1"', "", "version: is missing"),
        ('title = "Rounding"', 'title = " "', "title: is empty"),
        ("minutes = 30", "minutes = 0", "minutes: must be at least 1, not 0"),
        ("minutes = 30", "minutes = true", "minutes: must be a whole number, not True"),
        ("minutes = 30", "minuts = 30", "minuts: there is no such field; did you mean 'minutes'?"),
        ('["a paper, section 2"]', '["a paper", 2]', "background: must be a list of texts"),
        ('["a paper, section 2"]', '"a paper"', "background: must be a list, not 'a paper'"),
        ('quantize = ["int4", "int8"]', 'quantise = "int4"', "switches: there is no switch 'quantise'"),
        ('quantize = ["int4", "int8"]', "quantize = []", "switches: quantize has no value"),
        ('"int8"', '"int5"', "switches: quantize='int5' is not known"),
        ("temperature = 0.5", "temperature = -1", "switches: temperature=-1 "),
        ('"def __init__(self): pass"', "7", "given_source: Rounder must be Python source, as text"),
        ('"def __init__(self): pass"', '"def __init__(self"', "given_source: Rounder is no Python source"),
        ("minutes = 30", 'minutes = 30\ngenerates = "no"', "generates: must be true or false, not 'no'"),
        ('names = ["fit"]', "names = []", "[[cut]] number 1: names: is empty"),
        ('names = ["fit"]', 'names = ["fit", "to_half"]', "'to_half' is named twice"),
        ('given = ["to_half"]', "gives = []", "[[cut]] number 1: gives: there is no such field; did you mean 'given'?"),
        ("[[cut]]\n", "[cut]\n", "cut: must be a list, not "),
        ('name = "test_ties"', 'name = "ties"', "[[tests]] number 2: name: 'ties' is no name of a test function"),
        ('name = "test_ties"', 'name = "test_scale"', "tests: 'test_scale' is declared twice"),
        ("points = 40", "points = 41", "tests: the points of all tests sum to 101; they must sum to 100"),
        ("points = 40", "points = 40.0", "[[tests]] number 2: points: must be a whole number, not 40.0"),
        ("parts = 3", "parts = 0", "[[tests]] number 1: parts: must be at least 1, not 0"),
        ("hidden = true", 'hidden = "yes"', "[[tests]] number 2: hidden: must be true or false, not 'yes'"),
        ('catches = "ties rounded up"', "", "[[tests]] number 2: catches: is missing"),
        ("version", "[", "is no TOML in UTF-8"),
    ],
)
def test_a_mistake_in_a_manifest_names_the_file_and_the_field(folder: Path, old: str, new: str, told: str) -> None:
    """Catches a mistake that becomes a traceback, or that is read as something else."""
    path = folder / "rounding" / "assignment.toml"
    path.write_text(MANIFEST.replace(old, new, 1))
    with pytest.raises(CourseError) as error:
        read_assignment(path.parent)
    assert str(error.value).startswith(f"{path}: ")
    assert told in str(error.value)


def test_switches_that_need_each_other_are_one_setting(folder: Path) -> None:
    """Catches a switch that is checked alone: prefix_cache needs the paged cache."""
    path = folder / "rounding" / "assignment.toml"
    path.write_text(MANIFEST.replace("temperature = 0.5", 'kv_cache = "paged", prefix_cache = true'))
    assert dict(assignment("rounding", folder).switches) == {
        "quantize": "int4", "kv_cache": "paged", "prefix_cache": True,
    }  # fmt: skip


def test_a_folder_whose_name_is_no_module_is_refused(folder: Path) -> None:
    """Catches an assignment whose file could not be imported."""
    (folder / "rounding").rename(folder / "two-words")
    with pytest.raises(CourseError, match=r"two-words.*identifier"):
        assignments(folder)


def test_bytes_that_are_no_text_are_no_manifest(folder: Path) -> None:
    """Catches a UnicodeDecodeError that reaches the user."""
    (folder / "rounding" / "assignment.toml").write_bytes(b'title = "\xff"')
    with pytest.raises(CourseError, match="is no TOML in UTF-8"):
        assignment("rounding", folder)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    """Catches a KeyError, and a list of all names where one is meant."""
    with pytest.raises(CourseError, match=r"no assignment 'kv_cach' \(did you mean 'kv_cache'\?\); the"):
        assignment("kv_cach")


def test_the_assignments_come_in_teaching_order(folder: Path) -> None:
    """Catches the order of the alphabet; an assignment that is not in our list comes last."""
    for name in ("sampling", "another", "kv_cache"):
        (folder / name).mkdir()
        (folder / name / "assignment.toml").write_text(MANIFEST)
    assert list(assignments(folder)) == ["kv_cache", "sampling", "another", "rounding"]


@pytest.mark.parametrize("name", sorted(path.parent.name for path in FOLDER.glob("*/assignment.toml")))
def test_our_own_manifests_agree_with_their_files(name: str) -> None:
    """Catches a test that no manifest declares, and one that is declared and does not exist."""
    a = assignment(name)
    for file, hidden in ((f"test_{name}.py", False), (f"hidden_{name}.py", True)):
        path = a.folder / file
        found = {node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)}
        tests = {test.name for test in a.tests if test.hidden == hidden}
        assert {one for one in found if one.startswith("test_")} == tests, file
    assert (a.folder / "task.md").read_text("utf-8").strip()
    assert name in TEACHING_ORDER


def marker(folder: Path, text: str) -> Path:
    folder.joinpath("assignment.toml").write_text(text)
    return folder


def test_a_marker_names_the_assignment_of_a_folder(tmp_path: Path) -> None:
    """Catches a marker that is taken for a manifest."""
    text = f'name = "kv_cache"\nversion = "1"\nengine = "{engine_version()}"\n'
    assert marked(marker(tmp_path, text)) == assignment("kv_cache")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "is missing, so the assignment of this folder is unknown; start an assignment by: "),
        ("", "name: is missing"),
        ("name = 3", "name: must be a text, not 3"),
        ('name = "kv_cach"', "there is no assignment 'kv_cach' (did you mean 'kv_cache'?)"),
        ("name = ", "is no TOML"),
        ("#" * 20_000, "is too large for a marker"),
    ],
)
def test_a_marker_that_says_nothing_useful_is_refused(tmp_path: Path, text: str | None, told: str) -> None:
    """Catches a folder that is graded as something else."""
    if text is not None:
        marker(tmp_path, text)
    with pytest.raises(CourseError) as error:
        marked(tmp_path)
    assert told in str(error.value)
    assert str(tmp_path / "assignment.toml") in str(error.value)


def test_a_folder_that_does_not_exist_has_no_marker(tmp_path: Path) -> None:
    """Catches a message about a file where the folder is missing."""
    with pytest.raises(CourseError, match="there is no such folder"):
        marked(tmp_path / "nowhere")


def test_a_package_without_files_is_told(tmp_path: Path) -> None:
    """Catches `course list` out of a zip file, which listed nothing and called that a success."""
    with pytest.raises(CourseError, match="install tinyinfer as files, not as a zip file"):
        assignments(tmp_path / "tinyinfer.zip" / "tinyinfer" / "assignments")
