"""`tinyinfer course grade`: mistakes in one line, a report for everything else, the exit status by the marks.

Quick tests grade one test, or nothing, with the assignment kv_cache; those with many processes are marked `course`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cli_helpers import posix, start

from tinyinfer.cli import main
from tinyinfer.course.assignment import assignment
from tinyinfer.course.cut import skeleton, solution
from tinyinfer.course.hidden import write_secret

A = assignment("kv_cache")
RIGHT = solution(A)
ONE = A.tests[0].name
RUNNER = {"CLASSROOM": "cs", "ASSIGNMENT": "hw2", "SUBMISSION_TAG": "submit/1", "OWNER": "ada",
          "COMMIT_URL": "https://x/1", "RELEASE_URL": "https://x/2"}  # fmt: skip


@pytest.fixture
def submission(tmp_path: Path) -> Path:
    """A folder with our own solution."""
    folder = tmp_path / "submission"
    folder.mkdir()
    (folder / "kv_cache.py").write_text(RIGHT, encoding="utf-8")
    return folder


@pytest.fixture
def hidden(tmp_path: Path) -> Path:
    """The teacher's folder."""
    folder = tmp_path / "teacher"
    folder.mkdir()
    shutil.copy(A.folder / "hidden_kv_cache.py", folder)
    write_secret(folder / "secret")
    return folder


def grade(*words: object) -> int:
    return main(["course", "grade", *map(str, words)])


# Mistakes


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["DIR/nowhere"], "there is no such folder"),
        (["DIR"], "has no assignment.toml that names its assignment; give --assignment NAME"),
        (["DIR", "--assignment", "kv_cach"], "did you mean 'kv_cache'?"),
        (["DIR", "--assignment", "kv_cache", "--only", "test_rows"], "kv_cache has no such test"),
        (["DIR", "--assignment", "kv_cache", "--hidden", "DIR"], "--hidden needs --student ID"),
        (["DIR", "--assignment", "kv_cache", "--hidden", "DIR", "--student", "x"], "no file hidden_kv_cache.py"),
        (["DIR", "--format", "classroom50"], "needs the environment variable"),
        (["DIR", "--format", "xml"], "invalid choice: 'xml'"),
        (["DIR", "--assignment", "kv_cache", "--only", ONE, "-o", "DIR/no/where.json"], "No such file or directory"),
    ],
)
def test_a_mistake_is_one_line(submission, words, sentence, capsys, monkeypatch):
    """Catches a traceback, and a report with 0 points for a command that was mistyped."""
    monkeypatch.delenv("CLASSROOM", raising=False)
    assert grade(*(word.replace("DIR", str(submission)) for word in words)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"tinyinfer: error: [^\n]+\n", err)
    assert sentence in err


@pytest.mark.course
def test_root_without_a_second_user_refuses_to_give_marks(submission, capsys, monkeypatch):
    """Catches marks from a system where the student's process limit limits nothing."""
    from tinyinfer.course.sandbox import piped

    def refused(self: piped.PipedStudent) -> None:
        raise piped.CourseError("root cannot grade without a second user (setuid is refused); grade as another user")

    monkeypatch.setattr(piped.PipedStudent, "_greet", refused)
    output = submission.parent / "results.json"
    words = ["--assignment", "kv_cache", "--only", ONE, "--format", "json", "-o", output]
    assert grade(submission, *words) == 2
    assert "root cannot grade without a second user" in capsys.readouterr().err
    assert json.loads(output.read_text())["score"] == 0


# Reports


def test_one_test_of_our_own_solution(submission, capsys):
    """Catches an exit status of 1 for full marks of what was asked."""
    assert grade(submission, "--assignment", "kv_cache", "--only", ONE) == 0
    out, err = capsys.readouterr()
    points = A.tests[0].points
    assert re.search(rf"1\.1   {ONE} +{points} / {points} +passed\n", out)
    assert out.startswith(f"assignment  kv_cache, version {A.version}, graded by tinyinfer ")
    assert "limits      " in out
    assert "public tests passed" in out
    assert err == ""


def test_a_submission_without_the_file_has_a_full_report(submission, capsys):
    """Catches a traceback in the place of a report, and an exit status of 0."""
    (submission / "kv_cache.py").unlink()
    assert grade(submission, "--assignment", "kv_cache") == 1
    out = capsys.readouterr().out
    assert "Nothing could be graded: kv_cache.py is missing" in out
    assert all(test.name in out for test in A.tests)


def test_the_teacher_is_told_where_the_details_are(submission, hidden, capsys):
    """Catches a teacher who looks in vain for what a hidden test found: the text is the student's."""
    (submission / "kv_cache.py").unlink()
    words = [submission, "--assignment", "kv_cache", "--hidden", hidden, "--student", "ada"]
    assert grade(*words) == 1
    assert capsys.readouterr().err == "what the hidden tests found, and their seeds: --format json\n"
    assert grade(*words, "-q") == 1
    assert capsys.readouterr().err == ""


@pytest.mark.course
def test_the_report_goes_into_the_file(submission, capsys):
    """Catches half a file, and a report on stdout that a script takes for the file's."""
    output = submission.parent / "results.json"
    assert grade(submission, "--assignment", "kv_cache", "--only", ONE, "--format", "gradescope", "-o", output) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert f"kv_cache: {A.tests[0].points} of {A.tests[0].points} points, wrote {output}" in err
    assert json.loads(output.read_text())["tests"][0]["status"] == "passed"
    assert [path.name for path in output.parent.iterdir() if "tinyinfer" in path.name] == []


def test_gradescope_says_who_submitted(submission, hidden, capsys):
    """Catches hidden inputs that are the same for all students."""
    (submission / "kv_cache.py").unlink()
    (submission.parent / "submission_metadata.json").write_text('{"users": [{"email": "ada@x", "id": 7}]}')
    assert grade(submission, "--assignment", "kv_cache", "--format", "gradescope", "--hidden", hidden) == 1
    assert json.loads(capsys.readouterr().out)["extra_data"]["student"] == "ada@x"


def test_classroom50_says_who_submitted(submission, capsys, monkeypatch):
    """Catches a result that the collector of Classroom 50 drops."""
    for name, value in RUNNER.items():
        monkeypatch.setenv(name, value)
    (submission / "kv_cache.py").unlink()
    assert grade(submission, "--assignment", "kv_cache", "--format", "classroom50") == 1
    result = json.loads(capsys.readouterr().out)
    assert (result["owner"], result["assignment"], result["score"]) == ("ada", "hw2", 0)
    assert result["max-score"] == A.points(hidden=False)


# All tests, in limited processes


@pytest.mark.course
def test_our_own_solution_has_full_marks_and_a_skeleton_none(submission, hidden, capsys):
    """Catches a grader that cannot be satisfied, or satisfies itself."""
    words = ["--hidden", hidden, "--student", "ada", "--format", "json"]
    assert grade(submission, "--assignment", "kv_cache", *words) == 0
    right = json.loads(capsys.readouterr().out)
    assert (right["score"], right["points"], right["full"]) == (100, 100, True)
    (submission / "kv_cache.py").write_text(skeleton(A), encoding="utf-8")
    assert grade(submission, "--assignment", "kv_cache", *words) == 1
    begun = json.loads(capsys.readouterr().out)
    assert (begun["score"], {one["status"] for one in begun["results"]}) == (0, {"not implemented"})


@pytest.mark.course
@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_grader_that_is_ended_leaves_what_was_graded(submission, tmp_path, number):
    """Catches a global time limit after which Gradescope finds no results.json, and processes that stay."""
    slow = RIGHT + "\nimport time\nprint('MARK', flush=True)\ntime.sleep(1)\n"
    (submission / "kv_cache.py").write_text(slow)
    output = tmp_path / "results.json"
    words = ["--assignment", "kv_cache", "--format", "json", "-o", str(output)]
    grader = start("course", "grade", str(submission), *words)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (output.exists() and json.loads(output.read_text())["score"]):
        time.sleep(0.05)
    time.sleep(0.3)  # the next test has begun, and its process sleeps
    grader.send_signal(number)
    grader.wait(20)
    report = json.loads(output.read_text())
    statuses = [one["status"] for one in report["results"] if not one["hidden"]]
    assert statuses[0] == "passed"
    assert statuses[-1] == "error"
    assert report["points"] == A.points(hidden=False)
    assert grader.returncode in (128 + number, 130, -number)
    time.sleep(1.5)
    assert not subprocess.run(["pgrep", "-f", str(submission)], capture_output=True, check=False).stdout
    if number != signal.SIGKILL:
        assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


@pytest.mark.course
@pytest.mark.parametrize(
    ("line", "status", "sentence"),
    [
        ("import no_such_package", "error", "No module named"),
        ("raise SystemExit(0)", "error", "SystemExit"),
        ("import os; os._exit(0)", "error", "ended by itself"),
        ("def f(): f()\nf()", "error", "RecursionError"),
        ("x = bytearray(10_000_000_000)", "error", "MemoryError"),
        ("while True: pass", "error", "within"),
    ],
)
def test_a_file_that_ends_its_process_is_one_fault(submission, line, status, sentence, capsys):
    """Catches a lost report, and a time limit that is waited for once a test."""
    (submission / "kv_cache.py").write_text(RIGHT + line + "\n")
    begun = time.monotonic()
    assert grade(submission, "--assignment", "kv_cache", "--format", "json") == 1
    report = json.loads(capsys.readouterr().out)
    assert sentence in report["fault"]
    assert {one["status"] for one in report["results"] if not one["hidden"]} == {status}
    assert report["score"] == 0
    assert time.monotonic() - begun < 60


@pytest.mark.course
def test_a_flood_of_output_is_bounded(submission, capsys):
    """Catches 100,000 lines with terminal escapes in a report (attack 20)."""
    (submission / "kv_cache.py").write_text(RIGHT + "\nfor i in range(100_000): print('\\x1b[31mscore', i, '/ 100')\n")
    assert grade(submission, "--assignment", "kv_cache", "--only", ONE, "--format", "json") == 0
    [result] = json.loads(capsys.readouterr().out)["results"]
    lines = result["output"].split("\n")
    assert lines[0] == "\\x1b[31mscore 0 / 100"
    assert len(lines) == 21
