"""A submission graded: points from the manifest, a report after each test, and every accident a sentence in it.

The student's code runs in this process (local_children.py); the same with limited processes is marked `course`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from local_children import HIDDEN, PUBLIC, Desk
from small_assignment import RIGHT

from tinyinfer.course.cut import skeleton
from tinyinfer.course.errors import CourseError
from tinyinfer.course.grading import classroom50, gradescope
from tinyinfer.course.grading.grade import PENDING, grade
from tinyinfer.course.grading.report import SENTENCE, Report, as_json, as_text
from tinyinfer.course.student import Student

ADA = {"student": "ada"}


def graded(desk: Desk, all_tests: bool = False, **options) -> Report:
    if all_tests:
        options = {"hidden": desk.hidden, **ADA, **options}
    return grade(desk.folder, desk.a, runner=desk.children.runner, **options)


def marks(report: Report) -> dict[str, tuple[float, str]]:
    return {result.name: (result.score, result.status) for result in report.results}


# Points


def test_our_own_solution_earns_everything(tmp_path):
    """Catches a grader that cannot be satisfied."""
    report = graded(Desk(tmp_path, RIGHT), all_tests=True)
    assert (report.score, report.points, report.full) == (100, 100, True)
    assert [(r.number, r.points, r.status) for r in report.results] == [
        ("1.1", 40, "passed"), ("1.2", 30, "passed"), ("2.1", 30, "passed"),
    ]  # fmt: skip
    assert (report.assignment, report.assignment_version, report.student) == ("small", "3", "ada")
    assert report.limits == ("memory: 300 MB",)
    assert report.missing_limits == ("network: this system cannot close it",)
    assert report.local_only == (not sys.platform.startswith("linux"))


def test_a_skeleton_earns_nothing(tmp_path):
    """Catches points for code that was not written; the status tells it from wrong code."""
    desk = Desk(tmp_path, None)
    (desk.folder / "small.py").write_text(skeleton(desk.a))
    report = graded(desk, all_tests=True)
    assert set(marks(report).values()) == {(0.0, "not implemented")}
    assert "Write this task in small.py" in as_text(report)


def test_without_the_hidden_tests_only_the_public_ones_are_asked(tmp_path):
    """Catches an exit status of 0, and points of 70, that a student takes for all there is."""
    report = graded(Desk(tmp_path, RIGHT))
    assert (report.score, report.points, report.full) == (70, 70, True)
    assert marks(report)["test_other_inputs"] == (0.0, "not run")
    assert "1 hidden test is worth 30 points more" in as_text(report)


def test_parts_earn_their_share(tmp_path):
    """Catches all-or-nothing marks, and a share that is no sum of the rows."""
    wrong_for_many = RIGHT.replace("def softmax(s):", "def softmax(s):\n    if len(s) > 4: return s")
    report = graded(Desk(tmp_path, wrong_for_many))
    [softmax, top_k, _] = report.results
    assert (softmax.score, softmax.status, softmax.parts_passed, softmax.parts) == (20.0, "partial", 2, 4)
    assert softmax.sentence.startswith("5 scores: probabilities: first difference at axis 0, place 0: ")
    assert softmax.sentence.endswith("(1 more part did not pass)")
    assert (top_k.score, report.score) == (30.0, 50.0)


def test_the_hint_names_the_cause(tmp_path):
    """Catches a report that only says "failed"."""
    report = graded(Desk(tmp_path, RIGHT.replace("np.where(s < np.sort(s)[-k], -np.inf, s)", "s")))
    assert report.first_hint.endswith("hint: k counts the kept")


def test_only_one_test_is_graded_again(tmp_path):
    """Catches a regrade that runs, or counts, the other tests."""
    desk = Desk(tmp_path, RIGHT)
    report = graded(desk, all_tests=True, only=["test_top_k"])
    assert marks(report) == {"test_top_k": (30.0, "passed")}
    assert report.results[0].number == "1.2"
    assert desk.children.opened == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"only": ["test_top"]}, "did you mean 'test_top_k'"),
        ({"only": ["test_other_inputs"]}, "add --hidden DIR"),
        ({"hidden": "hidden"}, "--hidden needs --student ID"),
        ({"hidden": "nowhere", "student": "ada"}, "there is no file hidden_small.py"),
    ],
)
def test_a_mistake_of_who_grades_is_one_sentence(tmp_path, options, sentence):
    """Catches marks that come from another test, or from no hidden tests at all."""
    desk = Desk(tmp_path, RIGHT)
    options = {key: tmp_path / value if key == "hidden" else value for key, value in options.items()}
    with pytest.raises(CourseError, match=sentence):
        graded(desk, **options)


def test_the_marker_says_the_assignment_where_nobody_else_does(tmp_path):
    """Catches a folder that is graded as what it is not."""
    desk = Desk(tmp_path, RIGHT)
    with pytest.raises(CourseError, match="give --assignment NAME"):
        grade(desk.folder, runner=desk.children.runner)
    (desk.folder / "assignment.toml").write_text('name = "smal"')
    with pytest.raises(CourseError, match="there is no assignment 'smal'"):
        grade(desk.folder, runner=desk.children.runner)
    with pytest.raises(CourseError, match="there is no such folder"):
        grade(desk.folder / "nowhere", runner=desk.children.runner)


# Faults of the submission: a full report with 0 points


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        (None, "small.py is missing"),
        ("def f(:\n", "small.py, line 1: invalid syntax"),
        ("import no_such_package\n", "No module named 'no_such_package'"),
        ("raise SystemExit(0)\n", "SystemExit"),
        ("def f():\n    f()\nf()\n", "RecursionError"),
        ("raise ValueError('x' * 5000)", "ValueError: xxx"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_one_fault_and_a_full_report(tmp_path, source, fault):
    """Catches a lost report, a page of it, and the same sentence for each test after its own time limit."""
    desk = Desk(tmp_path, source)
    told: list[Report] = []
    report = graded(desk, all_tests=True, told=told.append)
    assert fault in report.fault
    assert len(report.fault) <= SENTENCE
    assert desk.children.opened <= 1
    assert set(marks(report).values()) == {(0.0, "error")}
    assert (report.score, report.points, report.full) == (0, 100, False)
    assert told[-1] == report
    assert "Nothing could be graded: " in as_text(report)


def test_a_missing_name_costs_its_own_tests_only(tmp_path):
    """Catches a wrong signature or a missing function that costs everything."""
    report = graded(Desk(tmp_path, RIGHT.replace("def keep_top_k(s, k)", "def keep_top_k(s)")))
    assert marks(report)["test_softmax"] == (40.0, "passed")
    assert marks(report)["test_top_k"] == (0.0, "error")
    assert "takes 1 positional argument but 2 were given" in report.results[1].sentence


# Each test has a process of its own; a hidden test has two


def test_each_test_begins_anew(tmp_path):
    """Catches answers that are kept from one test to the next: attacks 8 and 9."""
    counting = """
CALLS = []
def softmax(s, right=softmax):
    CALLS.append(1)
    print(len(CALLS))
    return right(s)
"""
    desk = Desk(tmp_path, RIGHT + counting)
    report = graded(desk, all_tests=True)
    assert desk.children.opened == 4
    assert [result.output for result in report.results] == ["1\n2\n3\n4", "", "1"]


def test_the_worse_of_two_hidden_runs_counts_and_the_difference_is_told(tmp_path):
    """Catches code that passes at its first try, or at random: attack 22."""
    once = RIGHT + f"""
import os
def softmax(s, right=softmax):
    if os.path.exists({str(tmp_path / "tried")!r}):
        return s
    open({str(tmp_path / "tried")!r}, "w").close()
    return right(s)
"""
    report = graded(Desk(tmp_path, once), all_tests=True, only=["test_other_inputs"])
    assert marks(report) == {"test_other_inputs": (0.0, "failed")}
    assert report.notes[-1] == (
        "2.1 test_other_inputs: two runs with the same inputs differ, 1 of 1 parts (passed) and 0 of 1 parts (failed); "
        "the worse one counts"
    )
    assert any("imports os" in note for note in report.notes)


def failing_to_load(tries: int, folder: Path) -> str:
    """Our solution in a file that cannot be loaded at its try of that number."""
    return f"""{RIGHT}
import pathlib
counter = pathlib.Path({str(folder / "tries")!r})
counter.write_text(counter.read_text() + "x" if counter.exists() else "x")
if len(counter.read_text()) == {tries}:
    raise ValueError("not now")
"""


def test_a_file_that_can_be_loaded_only_now_and_then_loses_those_tests(tmp_path):
    """Catches a fault of one process that costs all tests, and points for a hidden run that never began."""
    second = graded(Desk(tmp_path, failing_to_load(2, tmp_path)))
    assert second.fault == ""
    assert marks(second)["test_softmax"] == (40.0, "passed")
    assert marks(second)["test_top_k"] == (0.0, "error")
    assert "not now" in second.results[1].sentence


def test_a_hidden_run_that_cannot_be_loaded_is_the_worse_one(tmp_path):
    """Catches a file that can be loaded once for each test."""
    desk = Desk(tmp_path, failing_to_load(2, tmp_path))
    report = graded(desk, all_tests=True, only=["test_other_inputs"])
    assert marks(report) == {"test_other_inputs": (0.0, "error")}
    assert "1 of 1 parts (passed) and 0 of 1 parts (error)" in report.notes[-1]


def test_the_hidden_file_replaces_no_public_test(tmp_path):
    """Catches a helper of the hidden tests that has a public test's name."""
    desk = Desk(tmp_path, "def softmax(s): return s\ndef keep_top_k(s, k): return s\n",
                hidden=HIDDEN + "\n\ndef test_top_k(student): pass\n")  # fmt: skip
    assert marks(graded(desk, all_tests=True))["test_top_k"] == (0.0, "failed")


def test_hidden_inputs_are_each_students_and_the_same_when_graded_again(tmp_path):
    """Catches an answer handed from one student to another, and a regrade with other inputs."""
    desk = Desk(tmp_path, RIGHT + "\ndef softmax(s, right=softmax):\n    print(s[0])\n    return right(s)\n")

    def seen(**options) -> tuple[str, str]:
        [result] = graded(desk, all_tests=True, only=["test_other_inputs"], **options).results
        return result.output, result.seed

    first = seen()
    assert first == seen()
    assert len({first, seen(student="bob")}) == 2
    (desk.hidden / "secret").write_text("ab" * 32)
    assert seen() != first
    assert len(first[1]) == 64


def test_no_input_of_a_hidden_test_reaches_the_student(tmp_path):
    """Catches a leak by what the code prints or raises (attack 21); the teacher's report has it."""
    leaking = RIGHT + "\ndef softmax(s):\n    print('seen', *s)\n    raise ValueError(f'input {s[0]}')\n"
    report = graded(Desk(tmp_path, leaking), all_tests=True, only=["test_other_inputs"])
    [result] = report.results
    number = result.output.split()[1]
    assert number in result.sentence
    assert number in as_json(report)
    runner = {"CLASSROOM": "c", "ASSIGNMENT": "a", "SUBMISSION_TAG": "submit/1", "COMMIT_URL": "x", "RELEASE_URL": "x",
              "OWNER": "ada"}  # fmt: skip
    public = [as_text(report), report.first_hint, json.dumps(classroom50.result(report, runner, datetime.now(UTC)))]
    results = gradescope.results(report)
    public += [results["output"], json.dumps([t for t in results["tests"] if t["visibility"] != "hidden"])]
    for text in public:
        assert number not in text
        assert result.seed not in text


# Accidents of the grader


@pytest.mark.parametrize(
    ("public", "sentence"),
    [
        (PUBLIC.replace("def test_top_k(student):", "def test_top_k(student):\n    1 / 0"), "ZeroDivisionError"),
        (PUBLIC.replace("def test_top_k", "def test_renamed"), "has no function test_top_k"),
        (PUBLIC.replace("def test_top_k(student)", "def test_top_k(student, tmp_path)"), "tmp_path"),
    ],
)
def test_a_broken_test_gives_no_points_and_says_whose_fault_it_is(tmp_path, public, sentence):
    """Catches a crash in the middle of 200 submissions, and a student who is blamed for it."""
    report = graded(Desk(tmp_path, RIGHT, public))
    assert marks(report) == {"test_softmax": (40.0, "passed"), "test_top_k": (0.0, "error"),
                             "test_other_inputs": (0.0, "not run")}  # fmt: skip
    assert report.results[1].of_grader
    assert sentence in report.results[1].sentence
    assert "tell your teacher" in as_text(report)


def test_a_process_that_cannot_be_started_is_the_graders_fault(tmp_path):
    """Catches 0 points for a student because the machine has no memory left."""
    desk = Desk(tmp_path, RIGHT)
    desk.children.folder = tmp_path / "gone"
    report = graded(desk)
    assert all(result.of_grader for result in report.asked)
    assert not report.fault


def test_a_machine_that_can_give_no_marks_says_so(tmp_path, monkeypatch):
    """Catches marks given as root without a second user, where no process of the student's is limited."""
    desk = Desk(tmp_path, RIGHT)

    def refuse(self: object) -> None:
        raise CourseError("root cannot grade without a second user")

    monkeypatch.setattr(type(desk.children), "open", refuse)
    monkeypatch.setattr(type(desk.children), "limits", ())
    with pytest.raises(CourseError, match="without a second user"):
        graded(desk)


def test_a_process_that_stays_costs_its_test_and_not_the_report(tmp_path, monkeypatch):
    """Catches a student who leaves a process that cannot be ended, and so gets no report at all: attack 14."""
    desk = Desk(tmp_path, RIGHT)
    opened = desk.children.open

    @contextmanager
    def leave_one(self: object) -> Iterator[Student]:
        with opened() as student:
            yield student
        raise CourseError("a process of the student's is still there")

    monkeypatch.setattr(type(desk.children), "open", leave_one)
    report = graded(desk)
    assert {result.score for result in report.results} == {0.0}
    assert "is still there" in report.results[0].sentence


@pytest.mark.parametrize("content", ["def f(:", "import no_such_package", "raise SystemExit"])
def test_hidden_tests_that_cannot_be_loaded_are_the_teachers_mistake(tmp_path, content):
    """Catches a class of 200 that loses the points of the hidden tests."""
    with pytest.raises(CourseError, match=r"hidden_small.py: the tests cannot be loaded"):
        graded(Desk(tmp_path, RIGHT, hidden=content), all_tests=True)


def test_test_code_never_comes_from_the_submission(tmp_path):
    """Catches a student's own test_NAME.py, conftest.py or manifest: attacks 5 and 23."""
    desk = Desk(tmp_path, "def softmax(s): return s\ndef keep_top_k(s, k): return s\n")
    for name, text in (
        ("test_small.py", "def test_softmax(student, part): pass\ndef test_top_k(student): pass"),
        ("hidden_small.py", "def test_other_inputs(student): pass"),
        ("conftest.py", "raise SystemExit(0)"), ("numpy.py", "raise SystemExit(0)"),
        ("assignment.toml", 'name = "small"\nversion = "3"\npoints = 100\n'),
    ):  # fmt: skip
        (desk.folder / name).write_text(text)
    report = graded(desk, all_tests=True)
    assert report.score == 0
    for name in ("test_small.py", "conftest.py", "numpy.py"):
        assert any(note.startswith(f"ignored: {name}") for note in report.notes)


def test_a_report_is_there_before_the_first_test_and_after_each(tmp_path):
    """Catches a global time limit that leaves nothing: what never ran counts with 0 of its points."""
    told: list[Report] = []

    def stop(report: Report) -> None:
        told.append(report)
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        graded(Desk(tmp_path, RIGHT), all_tests=True, told=stop)
    first, second = told
    assert (first.score, first.points, first.full) == (0, 100, False)
    assert (second.score, second.points) == (40, 100)
    assert [result.sentence == PENDING for result in second.results] == [False, True, True]


def test_seconds_are_taken_where_they_are_asked_for(tmp_path):
    """Catches times in reports that are compared."""
    desk = Desk(tmp_path, RIGHT)
    assert all(result.seconds is None for result in graded(desk).results)
    assert all(result.seconds >= 0 for result in graded(desk, timed=True).asked)


def test_the_same_submission_gives_the_same_report(tmp_path):
    """Catches a mark that depends on when it is given."""
    desk = Desk(tmp_path, RIGHT.replace("e / e.sum()", "e"), hidden=HIDDEN)
    assert graded(desk, all_tests=True) == graded(desk, all_tests=True)


def test_a_folder_is_left_as_it_was(tmp_path):
    """Catches a file of the grader's in a student's submission."""
    desk = Desk(tmp_path, RIGHT)
    before = sorted(path.name for path in Path(desk.folder).iterdir())
    graded(desk, all_tests=True)
    assert sorted(path.name for path in Path(desk.folder).iterdir()) == before
