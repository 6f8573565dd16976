"""The start of an assignment writes five files, overwrites none, and leaves nothing half-written."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from small_assignment import small_assignment

from tinyinfer.course.assignment import Assignment, assignment, assignments, marked
from tinyinfer.course.cut import skeleton
from tinyinfer.course.errors import CourseError
from tinyinfer.course.start import readme, start

MANIFEST = """
version = "1"
title = "Small functions"
minutes = 5
lines = 4
about = "two functions"
background = ["a paper, section 2", "a lesson"]
switches = { backend = "reference", quantize = "int4" }
[[cut]]
module = "tinyinfer.sampling"
names = ["softmax", "keep_top_k"]
[[tests]]
name = "test_secret"
points = 25
hidden = true
catches = "what must not be told"
[[tests]]
name = "test_softmax"
points = 35
parts = 2
catches = "a sum | that is not 1"
[[tests]]
name = "test_top_k"
points = 40
catches = "one token too many"
"""


@pytest.fixture
def small(tmp_path: Path) -> Assignment:
    """An assignment with all its files."""
    a = small_assignment(tmp_path, MANIFEST)
    (a.folder / "task.md").write_text("# Its own title\n\nWrite `softmax`: p = e/Σe.\n", encoding="utf-8")
    (a.folder / "test_small.py").write_text("the tests\n", encoding="utf-8")
    return a


def test_a_folder_gets_the_file_the_tests_a_readme_and_a_marker(small: Assignment, tmp_path: Path) -> None:
    """Catches a file that is missing, or in another folder, and hidden files that stay."""
    folder = tmp_path / "new" / "folder"
    written = start(small, folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        ".pytest.ini",
        "README.md",
        "assignment.toml",
        "small.py",
        "test_small.py",
    ]
    assert sorted(written) == sorted(folder.iterdir())
    assert (folder / "small.py").read_text("utf-8") == skeleton(small)
    assert (folder / "test_small.py").read_text("utf-8") == "the tests\n"
    assert 'name = "small"\nversion = "1"\n' in (folder / "assignment.toml").read_text("utf-8")


def test_the_readme_tells_the_task_the_points_and_the_commands(small: Assignment) -> None:
    """Catches a README without what a student needs, and one that tells what hidden tests look for."""
    text = readme(small)
    assert text.startswith(
        "# Small functions\n\n5 minutes, about 4 lines of code. 100 points: 75 by the public tests, 25 by"
    )
    assert "Read before: a paper, section 2; a lesson.\n" in text
    assert "\nWrite `softmax`: p = e/Σe.\n" in text
    assert "Its own title" not in text
    assert "| `test_softmax` | 35, in 2 parts | a sum \\| that is not 1 |\n" in text
    assert "| `test_top_k` | 40 | one token too many |\n| a hidden test | 25 |  |\n" in text
    assert "secret" not in text
    assert "must not" not in text
    for command in ("pytest", "python -m tinyinfer course grade .", "python -m tinyinfer generate --use ."):
        assert f"\n{command} " in text
    assert "with backend=reference, quantize=int4\n" in text
    assert "## How it is graded\n" in text
    assert "You write `softmax`, " in text


def test_a_readme_names_no_command_that_would_not_run_the_students_code(tmp_path: Path) -> None:
    """Catches `generate --use` for a backward pass, whose comparison would be equal whatever the student wrote."""
    manifest = MANIFEST.replace("minutes = 5", "minutes = 5\ngenerates = false")
    a = small_assignment(tmp_path, manifest)
    (a.folder / "task.md").write_text("Write `softmax`.\n", encoding="utf-8")
    text = readme(a)
    assert "generate" not in text
    assert "limits\n```\n\n## How it is graded\n" in text


def test_other_files_of_the_folder_stay(small: Assignment, tmp_path: Path) -> None:
    """Catches a folder that is replaced as a whole."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("notes")
    start(small, tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "notes"
    assert (tmp_path / "mine" / "small.py").is_file()


@pytest.mark.parametrize("name", ["small.py", "test_small.py", "README.md", ".pytest.ini", "assignment.toml"])
def test_no_file_is_overwritten(small: Assignment, tmp_path: Path, name: str) -> None:
    """Catches an evening's work that is lost; nothing else is written either."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("mine")
    with pytest.raises(CourseError, match=f"{name} exists already and is not overwritten; choose another folder"):
        start(small, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [name]
    assert (tmp_path / "mine" / name).read_text() == "mine"


def test_a_link_to_nowhere_is_not_overwritten(small: Assignment, tmp_path: Path) -> None:
    """Catches a file that is written where a link points."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "small.py").symlink_to(tmp_path / "elsewhere.py")
    with pytest.raises(CourseError, match=r"small\.py exists already"):
        start(small, tmp_path / "mine")
    assert not (tmp_path / "elsewhere.py").exists()


def test_a_file_is_no_folder(small: Assignment, tmp_path: Path) -> None:
    """Catches an OSError about a path that the user did not type."""
    (tmp_path / "mine").write_text("")
    with pytest.raises(CourseError, match="is a file; name a folder"):
        start(small, tmp_path / "mine")


@pytest.mark.parametrize("existed", [True, False])
def test_after_ctrl_c_nothing_stays(
    small: Assignment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existed: bool
) -> None:
    """Catches half of a folder, which a second start would refuse."""
    write, written = Path.write_text, []

    def interrupted(self: Path, *args: object, **options: object) -> object:
        written.append(self)
        if len(written) == 3:
            raise KeyboardInterrupt
        return write(self, *args, **options)  # type: ignore[arg-type]

    folder = tmp_path / "mine"
    if existed:
        folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", interrupted)
        with pytest.raises(KeyboardInterrupt):
            start(small, folder)
    assert folder.exists() == existed
    assert not existed or not list(folder.iterdir())
    assert len(start(small, folder)) == 5


@pytest.mark.parametrize("missing", ["task.md", "test_small.py"])
def test_an_assignment_without_a_text_is_refused(small: Assignment, tmp_path: Path, missing: str) -> None:
    """Catches a folder without the task."""
    (small.folder / missing).unlink()
    with pytest.raises(CourseError, match=f"{missing}: cannot be read"):
        start(small, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("name", list(assignments()))
def test_each_of_our_assignments_can_be_started(tmp_path: Path, name: str) -> None:
    """Catches a marker that the grader does not understand."""
    a = assignment(name)
    start(a, tmp_path)
    assert marked(tmp_path) == a
    compile((tmp_path / a.file).read_text("utf-8"), a.file, "exec")


def test_a_full_disk_is_told_with_the_folder_and_leaves_nothing(
    small: Assignment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches "stdin or stdout: No space left on device", and a parent folder that stays."""
    write, written = Path.write_text, []

    def full(self: Path, *args: object, **options: object) -> object:
        written.append(self)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, *args, **options)  # type: ignore[arg-type]

    folder = tmp_path / "new" / "mine"
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CourseError, match=rf"{folder}: takes no files \(No space left on device\)"):
        start(small, folder)
    assert not (tmp_path / "new").exists()
