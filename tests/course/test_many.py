"""A whole class: who is graded, what is kept, and what a spreadsheet gets. The grader is a double here.

Tests marked `course` grade with real processes.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from class_doubles import Grader, a_class, a_report, an_assignment, result

from tinyinfer.course.assignment import assignment, assignments
from tinyinfer.course.cut import solution
from tinyinfer.course.errors import CourseError
from tinyinfer.course.grading import grade as grading
from tinyinfer.course.sandbox.piped import BUSY
from tinyinfer.course.sandbox.sandbox import Limits
from tinyinfer.course.whole_class import class_folder, grade_one, grades_csv, item_statistics, many, workers
from tinyinfer.course.whole_class.class_folder import digest, submissions
from tinyinfer.course.whole_class.gradebook import GRADED, GRADER_FAULT, NOT_GRADABLE, Gradebook, Record
from tinyinfer.course.whole_class.grades_csv import Deadline, cell
from tinyinfer.course.whole_class.late import Late, Times
from tinyinfer.course.whole_class.many import Plan, grade_all, same_assignment
from tinyinfer.course.whole_class.workers import Answer, Died, Job, Process, run
from tinyinfer.errors import one_line

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes in /proc")


class Class:
    """A class in a temporary folder, graded by a double."""

    def __init__(self, folder: Path, **sources: str) -> None:
        self.folder, self.grader = a_class(folder / "class", **sources), Grader()
        self.plan = Plan(an_assignment(folder / "assignments" / "tiny"))
        self.table, self.book = folder / "grades.csv", Gradebook(folder / "grades.csv")

    def grade(self, **changes: object) -> list[Record]:
        """Grades the class once more, with these changes of the plan; `grader.asked` is then what was done."""
        self.grader.asked.clear()
        return grade_all(submissions(self.folder), replace(self.plan, **changes), self.book, self.grader)

    def rows(self, records: list[Record], **options: object) -> list[dict[str, str]]:
        """The rows of the table."""
        grades_csv.write(self.table, records, options.get("times", {}), options.get("deadline"))
        return list(csv.DictReader(self.table.open(encoding="utf-8", newline="")))


@pytest.fixture
def three(tmp_path):
    """Three students: full marks, a part of them, none."""
    return Class(tmp_path, ada="60 40", bob="60 20", eve="0 0")


# Who is graded


def test_each_student_is_graded_once_and_then_only_who_changed(three):
    """Catches a second run that grades all again, and one that keeps the mark of a changed file."""
    assert [record.score for record in three.grade()] == [100, 80, 0]
    assert three.grader.students == ["ada", "bob", "eve"]
    three.grade()
    assert three.grader.students == []
    (three.folder / "eve" / "tiny.py").write_text("60 0")
    assert [record.score for record in three.grade()] == [100, 80, 60]
    assert three.grader.students == ["eve"]


def test_another_version_of_the_assignment_or_of_its_files_grades_all_again(three, tmp_path):
    """Catches marks of two versions in one table, also where the teacher forgot to change the version.

    A cache that Python wrote is no other version.
    """
    three.grade()
    three.grade(assignment=an_assignment(tmp_path / "assignments" / "tiny", version="2"))
    assert len(three.grader.students) == 3
    (three.plan.assignment.folder / "test_tiny.py").write_text("def test_a(): ...")
    three.grade()
    assert len(three.grader.students) == 3
    (three.plan.assignment.folder / "__pycache__").mkdir()
    (three.plan.assignment.folder / "__pycache__" / "test_tiny.pyc").write_text("")
    three.grade()
    assert three.grader.students == []


def test_other_hidden_tests_grade_all_again(three, tmp_path):
    """Catches a record of public tests only that stands for all, and marks under another secret."""
    three.grade()
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "secret").write_text("0" * 64)
    three.grade(hidden=hidden)
    assert len(three.grader.students) == 3
    assert three.grader.asked[0].hidden == str(hidden)
    (hidden / "secret").write_text("1" * 64)
    three.grade(hidden=hidden)
    assert len(three.grader.students) == 3


def test_a_run_that_is_killed_goes_on_where_it_was(three):
    """Catches reports that are kept in memory until the end."""

    def killed(jobs):
        yield from list(three.grader(jobs[:2]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grade_all(submissions(three.folder), three.plan, three.book, killed)
    assert sorted(path.name for path in three.book.folder.glob("*.json")) == ["ada.json", "bob.json"]
    assert [record.score for record in three.grade()] == [100, 80, 0]
    assert three.grader.students == ["eve"]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"student": "ada"}', '{"regrades": [1]}', "\0"])
def test_a_damaged_record_is_made_again(three, damage):
    """Catches a run that ends at a file which a full disk, or a hand, has cut."""
    three.grade()
    three.book.path("ada").write_text(damage)
    assert three.grade()[0].score == 100
    assert three.grader.students == ["ada"]


def test_a_record_is_only_its_own_students_and_has_a_whole_report(three):
    """Catches the mark of Ada for ada on a disk that does not tell their names apart, and a report cut by hand."""
    three.grade()
    whole = three.book.path("ada").read_text()
    three.book.path("bob").write_text(whole)
    cut = json.loads(whole)
    del cut["report"]["limits"]
    three.book.path("ada").write_text(json.dumps(cut))
    assert (three.book.read("ada"), three.book.read("bob")) == (None, None)
    assert three.book.read("eve") is not None


def test_the_reports_of_another_assignment_are_not_overwritten(three):
    """Catches the marks of one week that are lost in the next, where the table has the same name."""
    three.grade()
    with pytest.raises(CourseError, match="grades: holds reports of tiny; give another table"):
        three.grade(assignment=replace(three.plan.assignment, name="next"))
    assert three.grader.students == []
    assert three.book.read("ada").made_of["assignment"] == "tiny"


def test_a_fault_of_the_grader_is_one_row_and_is_tried_in_the_next_run(tmp_path):
    """Catches a class that gets no marks since one submission shows a bug of ours; and a 0 for our bug."""
    broken = Class(tmp_path, ada="60 40", bob="bug", eve="no file")
    ada, bob, eve = broken.grade()
    assert (ada.status, bob.status, eve.status) == (GRADED, GRADER_FAULT, NOT_GRADABLE)
    assert bob.score is None
    assert "Traceback" in json.loads(broken.book.path("bob").read_text())["details"]
    assert eve.score == 0
    rows = broken.rows([ada, bob, eve])
    assert (rows[1]["score"], rows[1]["final"]) == ("", "")
    assert "ZeroDivisionError" in rows[1]["first_hint"]
    broken.grade()
    assert broken.grader.students == ["bob"]


def test_a_students_own_report_has_nothing_secret(tmp_path):
    """Catches inputs of a hidden test, which a student would read in what the teacher hands back."""
    one = Class(tmp_path, ada="60 20")
    secret = result("test_b", 20, hidden=True, sentence="of 0.123", hint="shift 0.123", output="0.123", seed="beef")
    report = a_report("ada", 60, 20, results=[result("test_a", 60), secret])
    one.grader.answer = lambda job, source: Answer(report=report)
    one.grade()
    text = (one.book.folder / "ada.txt").read_text()
    assert "80 / 100" in text
    assert "0.123" not in text
    assert "beef" not in text
    one.grader.answer = lambda job, source: Answer(fault="KeyError")
    (one.folder / "ada" / "tiny.py").write_text("60 40")
    one.grade()
    assert not (one.book.folder / "ada.txt").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes of this kind")
def test_the_reports_are_for_the_teacher_only(three):
    """Catches seeds, and marks, that each user of the teacher's machine can read."""
    three.grade()
    assert stat.S_IMODE(three.book.folder.stat().st_mode) == 0o700


def test_a_test_that_the_grader_itself_fails_leaves_no_mark(tmp_path):
    """Catches 40 points that a student loses to our bug, and a row that looks like all others."""
    one = Class(tmp_path, ada="60 40")
    results = [result("test_a", 60), result("test_b", 0, of_grader=True, sentence="the grader failed: KeyError")]
    one.grader.answer = lambda job, source: Answer(report=a_report("ada", 60, 0, results=results))
    [record] = one.grade()
    assert (record.status, record.score) == (GRADER_FAULT, None)
    assert record.fault == "test_b: the grader failed: KeyError"


def test_what_is_wrong_for_all_ends_the_run_and_keeps_the_reports(tmp_path):
    """Catches 200 rows that all say that this machine has no second user."""
    one = Class(tmp_path, ada="60 40", bob="refused", eve="0 0")
    with pytest.raises(CourseError, match="the tests cannot be loaded"):
        one.grade()
    assert [path.name for path in one.book.folder.glob("*.json")] == ["ada.json"]


def test_the_assignment_is_the_one_that_the_markers_name(tmp_path, monkeypatch):
    """Catches a class of which half is graded by the tests of another assignment."""
    one = Class(tmp_path, ada="60 40", bob="60 40", eve="60 40")
    with pytest.raises(CourseError, match="none; say which one by --assignment"):
        same_assignment(submissions(one.folder))
    for student, named in {"ada": "ada", "bob": "bob"}.items():
        (one.folder / student / "assignment.toml").write_text(f'name = "{named}"')
    with pytest.raises(CourseError, match="ada, bob; say which one"):
        same_assignment(submissions(one.folder))
    monkeypatch.setattr(many, "assignment", lambda name: replace(one.plan.assignment, name=name))
    (one.folder / "ada" / "assignment.toml").write_text("= broken")
    assert same_assignment(submissions(one.folder)).name == "bob"


# One test again


def test_one_test_is_graded_again_and_the_old_score_is_told(three, tmp_path):
    """Catches a regrade that grades the other tests too, or adds the test's points a second time."""
    three.grade()
    harder = an_assignment(tmp_path / "assignments" / "tiny", version="2")
    three.grader.answer = lambda job, source: Answer(
        report=a_report(job.student, 60, 40, assignment_version="2", results=[result("test_b", 10)])
    )
    ada, bob, _ = three.grade(assignment=harder, only="test_b")
    assert {job.only for job in three.grader.asked} == {"test_b"}
    assert (ada.score, bob.score) == (70, 70)
    [note] = ada.regrades
    assert (note.old, note.new, note.old_score, note.new_score, note.assignment_version) == (40, 10, 100, 70, "2")
    three.grade(assignment=harder)
    assert three.grader.students == []


def test_a_public_test_again_leaves_the_marks_of_the_hidden_ones(three, tmp_path):
    """Catches a regrade without --hidden, after which the run with it grades all again."""
    (tmp_path / "hidden").mkdir()
    three.grade(hidden=tmp_path / "hidden")
    three.grade(only="test_b")
    three.grade(hidden=tmp_path / "hidden")
    assert three.grader.students == []


def test_a_test_again_runs_hidden_tests_that_never_ran(three, tmp_path):
    """Catches marks without the hidden tests that the next run takes for marks with them."""
    three.grade()
    (tmp_path / "hidden").mkdir()
    three.grade(hidden=tmp_path / "hidden", only="test_b")
    assert {job.only for job in three.grader.asked} == {None}


def test_who_handed_in_another_file_is_graded_whole_in_a_regrade(three):
    """Catches the results of an old file beside one result of the new one."""
    three.grade()
    (three.folder / "eve" / "tiny.py").write_text("60 40")
    records = three.grade(only="test_b")
    assert [job.only for job in three.grader.asked] == ["test_b", "test_b", None]
    assert records[2].score == 100


def test_a_regrade_that_fails_keeps_the_mark(three):
    """Catches a bug of a new test that takes the marks of the old ones away."""
    three.grade()
    three.grader.answer = lambda job, source: Answer(fault="NameError: x")
    records = three.grade(only="test_b")
    assert [record.score for record in records] == [100, 80, 0]
    assert records[0].fault == "test_b was not graded again: NameError: x"
    assert records[0].failed
    three.grader = Grader()
    assert not any(record.failed for record in three.grade())  # the same command without --test tries again
    assert len(three.grader.students) == 3


# The table


def test_a_row_for_each_student_with_each_test_and_the_first_hint(three):
    rows = three.rows(three.grade())
    assert list(rows[0]) == [
        "student", "status", "score", "points", "submitted", "late_days", "penalty", "final", "test_a", "test_b",
        "first_hint", "assignment_version", "engine_version",
    ]  # fmt: skip
    assert [row["test_b"] for row in rows] == ["40", "20", "0"]
    assert [row["first_hint"] for row in rows] == ["", "test_b: hint of test_b", "test_a: hint of test_a"]


def test_the_table_says_no_more_of_a_hidden_test_than_the_student_may_know(three):
    """Catches inputs of a hidden test in a table that goes to the learning platform."""
    secret = result("test_b", 0, hidden=True, sentence="of 0.123", hint="shift 0.123")
    record = replace(three.grade()[0], report=a_report("ada", 60, 0, results=[result("test_a", 60), secret]))
    assert three.rows([record])[0]["first_hint"] == "test_b: a hidden test fails: it catches a bug"


def test_hidden_tests_that_were_not_run_are_no_lost_points(three):
    """Catches a column of zeros, and a hint on a test that never ran."""
    hidden = result("test_b", 0, status="not run", hidden=True, hint="")
    [record] = [replace(three.grade()[0], report=a_report("ada", 60, 0, results=[result("test_a", 60), hidden]))]
    [row] = three.rows([record])
    assert row["first_hint"] == ""
    assert "test_b" not in row
    assert not [line for line in item_statistics.lines([record]) if "test_b" in line]


def test_late_days_take_points_and_an_extension_gives_them_back(three):
    """And another due time grades nothing again: it is no part of a record."""
    due, late = datetime.fromisoformat("2026-11-20T00:00:00Z"), datetime.fromisoformat("2026-11-21T12:00:00Z")
    times = {"ada": Times(late), "bob": Times(late, late), "eve": Times(late)}
    rows = three.rows(three.grade(), times=times, deadline=Deadline(Late(0.1, 3), due))
    assert [(row["late_days"], row["penalty"], row["final"]) for row in rows] == [
        ("2", "20", "80"), ("0", "0", "80"), ("2", "0", "0"),
    ]  # fmt: skip
    rows = three.rows(three.grade(), times=times, deadline=Deadline(Late(0.1, 1), due))
    assert three.grader.students == []
    assert rows[0]["final"] == "0"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "＝1+1"])
def test_a_cell_that_a_spreadsheet_would_run_is_text(text):
    """Catches formulas from a student's name or output (CSV injection)."""
    assert cell(text)[:1] == "'" or cell(text).startswith("\\t")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\nb", "a\\nb"), ("\x1b[2J", "\\x1b[2J"), ("a\rb", "a\\rb"), ("\u202egpj", "\\u202egpj"), ("ünï", "ünï")],
)
def test_a_cell_shows_what_a_terminal_would_obey(text, shown):
    """Catches rows that a name splits in two, a cleared screen, and text that is shown backwards."""
    assert cell(text) == shown


def test_numbers_stay_numbers():
    """Catches an apostrophe before a number, which no spreadsheet would add up."""
    assert [cell(value) for value in (12.5, 40, 100 / 3, 0.0, None)] == ["12.5", "40", "33.33", "0", ""]


# The folder


def test_links_files_and_hidden_folders_are_no_students(tmp_path):
    """Catches a link to another student's folder, or to the teacher's, that is graded."""
    folder = a_class(tmp_path / "class", ada="60 40")
    (folder / "notes.txt").write_text("")
    (folder / ".git").mkdir()
    (folder / "__MACOSX").mkdir()
    (folder / "bob").symlink_to(folder / "ada")
    assert [one.student for one in submissions(folder)] == ["ada"]


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_without_students_is_a_mistake(tmp_path, make):
    if make:
        (tmp_path / "class").mkdir()
    with pytest.raises(CourseError, match="class: "):
        submissions(tmp_path / "class")


def test_a_digest_neither_opens_a_fifo_nor_follows_a_link(tmp_path):
    """Catches a run that waits for ever for the other side of a FIFO."""
    folder = a_class(tmp_path, ada="60 40") / "ada"
    before = digest(folder, ("tiny.py",))
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder)
    after = digest(folder, ("tiny.py", "pipe"))
    assert after != before
    assert digest(folder, ("tiny.py", "pipe")) == after


@linux
def test_a_path_that_is_too_long_ends_no_run(tmp_path):
    """Catches one submission, unpacked from an archive, with which the grading of a class ends."""
    folder = a_class(tmp_path, ada="60 40") / "ada"
    before, here = digest(folder), os.open(folder, os.O_RDONLY)
    for _ in range(17):
        os.mkdir("x" * 240, dir_fd=here)
        below = os.open("x" * 240, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert digest(folder) != before
    shutil.rmtree(folder)


def test_the_students_file_counts_among_any_number_of_others(tmp_path, monkeypatch):
    """Catches a new file that keeps the old mark, since ten thousand others come before it."""
    monkeypatch.setattr(class_folder, "MOST_ENTRIES", 1)
    folder = a_class(tmp_path, ada="60 40") / "ada"
    (folder / "data").write_text("")
    before = digest(folder, ("tiny.py",))
    (folder / "tiny.py").write_text("60 20")
    assert digest(folder, ("tiny.py",)) != before


def test_the_size_of_a_folder_is_no_other_submission(tmp_path, monkeypatch):
    """Catches a class that is graded again since a copy of it lies on another disk."""
    digests = set()
    for size in (60, 4096):
        status = os.stat_result((0o40755, 0, 0, 0, 0, 0, size, 0, 0, 0))
        monkeypatch.setattr(class_folder, "entries", lambda folder, status=status: [("figures", status)])
        digests.add(digest(tmp_path))
    assert len(digests) == 1


@pytest.mark.parametrize(
    "name", ["Ada Lovelace_123_assignsubmission_file", "ümlaut", "a\nb", ".hidden", "x" * 250, "\udcff"]
)
def test_any_name_of_a_folder_has_a_record(tmp_path, name):
    """Catches names with ends of lines, of 255 bytes, or in no encoding, for which no report could be written."""
    book = Gradebook(tmp_path / "grades.csv")
    book.make()
    record = Record(name, GRADED, "", {"submission": "1"}, a_report("x", 60, 40))
    book.write(record)
    assert book.read(name) == record
    assert book.path(name).parent == book.folder
    assert book.path(name + "b") != book.path(name)


# Statistics


def test_the_statistics_show_each_test_and_the_first_hints(three):
    lines = item_statistics.lines(three.grade())
    assert lines[0] == "3 students: 3 graded"
    assert lines[1] == "score: mean 60.0, median 80.0, from 0.0 to 100.0"
    assert "test_a    2 of 3 pass ( 67%), mean 40.0 of 60" in lines
    assert "test_b    1 of 3 pass ( 33%), mean 20.0 of 40" in lines
    assert lines[-2:] == ["   1 x test_b: hint of test_b (bob)", "   1 x test_a: hint of test_a (eve)"]


# The processes


class Scripted:
    """A job that is done after some looks, or that dies so often."""

    def __init__(self, job: Job, log: list[str], deaths: dict[str, int]) -> None:
        self.job, self.log, self.deaths, self.looks = job, log, deaths, 0
        log.append(f"start {job.student}")

    def answer(self) -> Answer | None:
        self.looks += 1
        if self.looks < 2:
            return None
        if self.deaths.get(self.job.student, 0):
            self.deaths[self.job.student] -= 1
            raise Died("the grading process ended with signal 9", "last words")
        return Answer(report={"student": self.job.student})

    def stop(self) -> None:
        self.log.append(f"stop {self.job.student}")


def jobs(*students: str) -> list[Job]:
    return [Job(student, student, "tiny") for student in students]


def test_so_many_at_a_time_and_in_order():
    """Catches processes that all start at once: 200 of them have no memory."""
    log: list[str] = []
    found = run(jobs("a", "b", "c"), 2, lambda job: Scripted(job, log, {}))
    first = next(found)
    assert log == ["start a", "start b"]
    assert [first[0].student, *(job.student for job, _ in found)] == ["a", "b", "c"]


@pytest.mark.parametrize(("deaths", "report"), [(1, True), (2, False)])
def test_a_process_that_dies_gets_a_second_try_and_then_a_fault(deaths, report):
    """Catches a student without a row, and a run that tries for ever."""
    log, left = [], {"a": deaths}
    [(_, answer)] = run(jobs("a"), 2, lambda job: Scripted(job, log, left))
    assert bool(answer.report) == report
    assert log == ["start a", "start a"]
    assert report or (answer.fault == "the grading process ended with signal 9, 2 times" and answer.details)


def test_who_stops_early_stops_all_processes():
    """Catches processes that go on grading after Ctrl-C."""
    log: list[str] = []
    found = run(jobs("a", "b", "c"), 2, lambda job: Scripted(job, log, {"b": 0}))
    next(found)
    found.close()
    assert "stop b" in log


def script(tmp_path: Path, body: str) -> tuple[str, str]:
    """A command that plays a grading process."""
    path = tmp_path / "double.py"
    path.write_text("import json, os, sys, time\njob = json.loads(sys.stdin.readline())\n" + body)
    return sys.executable, str(path)


def finished(process: Process) -> Answer:
    for _ in range(1000):
        if (answer := process.answer()) is not None:
            return answer
        time.sleep(0.01)
    raise AssertionError("the process does not end")


def test_a_process_reads_a_job_and_writes_an_answer(tmp_path):
    command = script(tmp_path, "print(json.dumps({'report': {'student': job['student']}}))")
    assert finished(Process(Job("ada", "f", "tiny"), command)).report == {"student": "ada"}


@pytest.mark.parametrize(
    ("body", "how"),
    [("os.kill(os.getpid(), 9)", "signal 9"), ("sys.exit('oh')", "exit status 1"), ("print('{')", "exit status 0")],
)
def test_a_process_without_an_answer_has_died(tmp_path, body, how):
    """Catches half an answer that is taken for one, and a death that ends the run."""
    with pytest.raises(Died, match=how):
        finished(Process(Job("ada", "f", "tiny"), script(tmp_path, body)))


@pytest.mark.parametrize(
    ("sentence", "refused"),
    [("a\nb: there is no such folder", False), ("this machine has no second user for a\nb", True)],
)
def test_a_mistake_is_one_students_where_it_begins_with_the_folder(monkeypatch, sentence, refused):
    """Catches a folder called `a`, which every sentence has, and one with an end of line, which none has."""

    def refuses(*words, **options):
        raise CourseError(sentence)

    monkeypatch.setattr(grading, "grade", refuses)
    answer = grade_one.graded(Job("a\nb", "a\nb", "tiny"))
    assert (answer.refused, answer.fault) == ((one_line(sentence), "") if refused else ("", one_line(sentence)))


def test_a_submission_that_only_waits_has_its_report_in_time():
    """Catches code that sleeps, and by that becomes a fault of the grader: no mark, instead of a bad one."""
    bounds = Limits()
    for a in assignments().values():
        runs = sum(1 + test.hidden for test in a.tests)
        assert runs * (bounds.test_seconds + BUSY * bounds.request_seconds) < workers.SECONDS


def test_a_process_that_takes_too_long_is_ended(tmp_path):
    process = Process(Job("ada", "f", "tiny"), script(tmp_path, "time.sleep(60)"), seconds=0.1)
    assert "more than 0 s" in finished(process).fault
    assert process.process.returncode == -signal.SIGTERM


# The command, with real processes


def children(pid: int) -> list[int]:
    """The processes that a process has started and that have not ended."""
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


def alive(pid: int) -> bool:
    """Whether a process runs: one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what: Callable[[], object]) -> None:
    """Waits until something is so."""
    until = time.monotonic() + 120
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture
def real(tmp_path):
    """A class of three for kv_cache: our solution, one with a planted bug, one that prints a formula for ever."""
    a = assignment("kv_cache")
    right = solution(a)
    wrong = right.replace("first, stop = span.first, span.first", "first, stop = span.first + 1, span.first + 1")
    assert wrong != right
    for student, text in {"ada": right, "bob": wrong, "=eve": right + "\nwhile True:\n    print('=1+1')\n"}.items():
        (tmp_path / "class" / student).mkdir(parents=True)
        (tmp_path / "class" / student / a.file).write_text(text)
    return tmp_path


def start(folder: Path) -> subprocess.Popen[bytes]:
    """`course grade --all` in a process of its own."""
    words = ["course", "grade", "--all", "class", "--assignment", "kv_cache", "-o", "grades.csv", "--jobs", "2", "-q"]
    path = str(Path(many.__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-m", "tinyinfer", *words], cwd=folder, env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.DEVNULL, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


@linux
@pytest.mark.course
def test_a_class_survives_the_death_of_a_grader_and_of_the_run(real):
    """Catches a student lost with a process, a run that begins anew, and graders that outlive the run."""
    first = start(real)
    wait_for(lambda: len(children(first.pid)) == 2)
    os.kill(children(first.pid)[0], signal.SIGKILL)
    wait_for(lambda: list((real / "grades").glob("*.json")))
    workers = children(first.pid)
    first.kill()
    first.wait()
    wait_for(lambda: not [pid for pid in workers if alive(pid)])
    before = {path: path.stat().st_mtime_ns for path in (real / "grades").glob("*.json")}
    assert start(real).wait() == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
    with (real / "grades.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["'=eve", "ada", "bob"]
    assert [rows[student]["status"] for student in rows] == ["not gradable", "graded", "graded"]
    assert rows["ada"]["score"] == rows["ada"]["points"]
    assert 0 < float(rows["bob"]["score"]) < float(rows["bob"]["points"])


@linux
@pytest.mark.course
def test_ctrl_c_ends_all_processes(real):
    """Catches a student's endless loop that goes on after the teacher has gone home."""
    run = start(real)
    wait_for(lambda: len(children(run.pid)) == 2 and all(map(children, children(run.pid))))
    workers = children(run.pid)
    below = [child for worker in workers for child in children(worker)]
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
    wait_for(lambda: not [pid for pid in [*workers, *below] if alive(pid)])
    assert not list(real.glob(".*"))
