"""`course grade --all`: from a folder of students to a table, its mistakes, and Ctrl-C. The grader is a double here."""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace

import pytest
from class_doubles import Grader, a_class, an_assignment
from cli_helpers import screen, terminal

from tinyinfer.cli import course_all, course_grade, main, parse
from tinyinfer.cli.arguments import UsageError
from tinyinfer.course import assignment as manifests
from tinyinfer.course.assignment import Test
from tinyinfer.course.errors import CourseError
from tinyinfer.course.whole_class.workers import Answer


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a class of three in `class`; the only assignment is `tiny`."""
    monkeypatch.chdir(tmp_path)
    a_class(tmp_path / "class", ada="60 40", bob="60 20", eve="0 0")
    tiny = an_assignment(tmp_path / "assignments" / "tiny")
    tiny = replace(tiny, tests=(*tiny.tests, Test("test_secret", 1, hidden=True)))
    monkeypatch.setattr(manifests, "assignment", lambda name: tiny)
    return tmp_path


def parsed(*words: str) -> argparse.Namespace:
    """The flags of `course grade` for the assignment `tiny`."""
    return parse(["course", "grade", "--assignment", "tiny", *words])


def run(*words: str, grader: Grader | None = None) -> int:
    return course_all.run(parsed(*words), grader or Grader())


def rows(path: str = "grades.csv") -> dict[str, dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


def test_a_class_becomes_a_table_and_statistics(folder, capsys):
    assert run("--all", "class", "-o", "marks.csv") == 0
    out, err = capsys.readouterr()
    assert [row["final"] for row in rows("marks.csv").values()] == ["100", "80", "0"]
    assert out.startswith("3 students: 3 graded\nscore: mean 60.0")
    assert "wrote marks.csv" in err
    assert sorted(path.name for path in (folder / "marks").glob("*.json")) == ["ada.json", "bob.json", "eve.json"]


def test_the_reports_beside_the_submissions_are_no_student(folder, monkeypatch):
    """Catches a second run in the folder of the class, which grades its own reports."""
    monkeypatch.chdir(folder / "class")
    assert run("--all", ".") == run("--all", ".") == 0
    assert list(rows()) == ["ada", "bob", "eve"]


def test_a_link_is_named_that_is_not_graded(folder, capsys):
    """Catches a student without a row, of whom nothing tells."""
    (folder / "class" / "zoe").symlink_to(folder / "class" / "ada")
    run("--all", "class", "-q")
    assert capsys.readouterr().err == "tinyinfer: note: not graded, as links are not followed: zoe\n"
    assert list(rows()) == ["ada", "bob", "eve"]


def test_late_days_by_a_file_of_times(folder):
    (folder / "times.csv").write_text("student,submitted,due\nada,2026-11-21T12:00:00Z,\nbob,2026-11-21T12:00:00Z,"
                                      "2026-11-25T00:00:00Z\neve,2026-11-19T12:00:00Z,\n")  # fmt: skip
    run("--all", "class", "--late", "10%/day,3", "--due", "2026-11-20T00:00:00Z", "--times", "times.csv")
    assert [(row["late_days"], row["final"]) for row in rows().values()] == [("2", "80"), ("0", "80"), ("0", "0")]


def test_one_test_again_shows_old_and_new_scores(folder, capsys):
    run("--all", "class")
    capsys.readouterr()
    grader = Grader()
    answer = grader.answer
    grader.answer = lambda job, source: answer(job, "60 30")
    assert run("--all", "class", "--test", "test_b", grader=grader) == 0
    assert capsys.readouterr().out.splitlines()[:4] == [
        "ada: test_b 40 -> 30, score 100 -> 90",
        "bob: test_b 20 -> 30, score 80 -> 90",
        "eve: test_b 0 -> 30, score 0 -> 30",
        "test_b was graded again for 3 students; 3 scores changed",
    ]
    assert rows()["bob"]["score"] == "90"


def test_a_fault_of_the_grader_is_the_exit_status(folder):
    """Catches a script that publishes marks of which one is missing."""
    (folder / "class" / "bob" / "tiny.py").write_text("bug")
    assert run("--all", "class") == 1
    assert rows()["bob"]["final"] == ""


def test_a_test_that_could_not_be_graded_again_is_the_exit_status(folder):
    """Catches a mended test that breaks for a student, and of which nothing tells."""
    run("--all", "class")
    grader = Grader()
    grader.answer = lambda job, source: Answer(fault="NameError: x")
    assert run("--all", "class", "--test", "test_b", grader=grader) == 1
    assert rows()["ada"]["first_hint"] == "test_b was not graded again: NameError: x"


def test_ctrl_c_keeps_the_reports_and_says_so(folder, capsys):
    """And the table of an earlier run stays as it was."""
    (folder / "grades.csv").write_text("of yesterday")

    def interrupted(jobs):
        yield from list(Grader()(jobs[:2]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        course_all.run(parsed("--all", "class"), interrupted)
    assert "2 of 3 reports are in grades" in capsys.readouterr().err
    assert (folder / "grades.csv").read_text() == "of yesterday"
    grader = Grader()
    assert run("--all", "class", grader=grader) == 0
    assert grader.students == ["eve"]


def test_a_bar_shows_who_was_graded(folder, monkeypatch):
    with terminal(monkeypatch, "stderr") as seen:
        run("--all", "class")
    assert "3/3, eve" in seen()
    assert [line for line in screen(seen()) if line] == ["wrote grades.csv, and each student's report into grades"]


def test_quiet_says_nothing_but_the_statistics(folder, capsys):
    run("--all", "class", "-q")
    out, err = capsys.readouterr()
    assert "3 students" in out
    assert err == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--late", "10%/day,3"], "--late and --due need each other"),
        (["--due", "2026-11-20T00:00:00Z"], "--late and --due need each other"),
        (["--late", "10", "--due", "2026-11-20T00:00:00Z"], "is no rule for late days"),
        (["--late", "10%/day,3", "--due", "soon"], "--due: 'soon' is no time"),
        (["--jobs", "0"], "at least one student"),
        (["--test", "test_x"], "its tests are test_a, test_b"),
        (["--test", "test_secret"], "this test is hidden; add --hidden DIR"),
        (["--hidden", "nowhere"], "there is no file"),
        (["--student", "ada"], "--student is for one submission"),
        (["--only", "test_a"], "--test NAME grades one test again"),
        (["--format", "json"], "the reports are JSON"),
        (["--times", "class/ada/tiny.py"], "columns student and submitted"),
        (["-o", "class.csv"], "would go into class, where submissions are"),
        (["-o", "class/ada.csv"], "would go into class/ada, where submissions are"),
        (["-o", "class"], "-o class: is a folder"),
        (["-o", "."], "-o .: is a folder"),
    ],
)
def test_a_mistake_is_told_before_any_grading(folder, words, sentence):
    """Catches a mistake that shows after half an hour of grading."""
    with pytest.raises((UsageError, CourseError), match=sentence):
        course_all.run(parsed("--all", "class", *words), lambda jobs: pytest.fail("graded"))


def test_a_table_that_cannot_be_written_is_told_before_any_grading(folder):
    with pytest.raises(OSError, match="nowhere"):
        course_all.run(parsed("--all", "class", "-o", "nowhere/grades.csv"), lambda jobs: pytest.fail("graded"))


@pytest.mark.parametrize(
    "words", [["--late", "10%/day,3"], ["--due", "x"], ["--times", "x"], ["--jobs", "2"], ["--test", "x"]]
)
def test_flags_of_a_class_need_a_class(folder, words):
    """Catches late days that are silently not taken."""
    with pytest.raises(UsageError, match=f"{words[0]} is for a whole class; add --all FOLDER"):
        course_grade.run(parsed("class/ada", *words))


def test_one_submission_or_a_class_must_be_given(capsys):
    assert main(["course", "grade"]) == 2
    assert "give the folder of a submission, or --all" in capsys.readouterr().err


def test_a_class_and_a_submission_cannot_both_be_graded(folder, capsys):
    """Catches a folder on the command line that is silently not graded."""
    assert main(["course", "grade", "class/ada", "--all", "class"]) == 2
    assert "class/ada" in capsys.readouterr().err
