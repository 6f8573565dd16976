"""The report: for the student what to mend first and no secret, for the teacher everything, and never a raw escape."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tinyinfer.course.grading.report import (
    LOCAL_ONLY,
    Report,
    TestResult,
    as_json,
    as_text,
    bounded,
    from_record,
    visible,
)

PASSED = TestResult("test_a", "1.1", 10, 10.0, "passed", 1, 1)
PARTIAL = TestResult("test_b", "1.2", 20, 5.0, "partial", 1, 4, "8 bits: the shape is (2,).", "a reshape", "hello",
                     False, "a lost axis")  # fmt: skip
HIDDEN = TestResult("test_c", "2.1", 70, 0.0, "failed", 0, 1, "of 0.123: 1 in place of 2", "secret hint",
                    "printed 0.123", True, "a lost row", seed="beef")  # fmt: skip
NOT_RUN = replace(HIDDEN, status="not run", sentence="", hint="", output="", seed="")
REPORT = Report("kv_cache", "2", "0.1.0", "ada", ("memory: 300 MB", "CPU: 20 s"), ("network: open",),
                (PASSED, PARTIAL, HIDDEN), ("n1", "n2"))  # fmt: skip


def test_the_student_sees_points_statuses_and_the_first_thing_to_mend():
    """Catches a report that says what is wrong, and not what to do."""
    assert as_text(REPORT) == """\
assignment  kv_cache, version 2, graded by tinyinfer 0.1.0
student     ada
limits      memory: 300 MB; CPU: 20 s
no limit    network: open
notes       n1
            n2

1.1   test_a              10 / 10   passed
1.2   test_b               5 / 20   partial (1 of 4 parts passed)
2.1   test_c (hidden)      0 / 70   failed

First to mend: 1.2 test_b, partial
  8 bits: the shape is (2,).
  hint: a reshape
  this test catches: a lost axis
  the code printed:
  | hello
  To see it by itself: pytest -k test_b

public tests             15 / 30
hidden tests              0 / 70
score                    15 / 100
"""


def test_hidden_tests_that_were_not_run_are_shown_to_exist():
    """Catches full marks that are none: 30 of 30 where 70 points are hidden."""
    report = replace(REPORT, results=(PASSED, replace(PASSED, name="test_b", number="1.2"), NOT_RUN))
    text = as_text(report)
    assert "2.1   test_c (hidden)      0 / 70   not run\n" in text
    assert "public tests passed      20 / 20\n1 hidden test is worth 70 points more" in text
    assert (report.score, report.points, report.full, report.passed_public) == (20, 20, True, True)


def test_no_report_says_that_all_tests_passed():
    """Catches "all tests passed", which a student reads as full marks."""
    full = replace(REPORT, results=(PASSED, replace(HIDDEN, status="passed", score=70.0)))
    assert full.full
    for report in (full, REPORT, replace(REPORT, results=(PASSED, NOT_RUN))):
        assert "all tests" not in as_text(report).lower()
    assert "public tests passed" in as_text(full)
    assert "public tests passed" not in as_text(REPORT)


def test_a_hidden_test_tells_the_student_only_what_it_catches():
    """Catches inputs of a hidden test that leak by a message, a hint or what the code prints."""
    report = replace(REPORT, results=(PASSED, HIDDEN))
    text = as_text(report)
    assert "it catches a lost row" in text
    for secret in ("0.123", "secret hint", "beef", "printed"):
        assert secret not in text
        assert secret not in report.first_hint
    for shown in ("0.123", "secret hint", "beef"):
        assert shown in as_json(report)


def test_a_fault_of_the_grader_is_not_the_students():
    """Catches a student who looks for the grader's bug in her own code."""
    broken = replace(PARTIAL, status="error", of_grader=True, sentence="the grader itself failed in test_b, line 3")
    assert "The grader is at fault, not your code: tell your teacher." in as_text(replace(REPORT, results=(broken,)))
    hidden = replace(HIDDEN, status="error", of_grader=True)
    assert "the grader is at fault" in as_text(replace(REPORT, results=(hidden,)))


def test_a_fault_leaves_a_full_report():
    """Catches a report without points, or with those of an earlier run."""
    nothing = replace(PASSED, score=0.0, status="error")
    report = replace(REPORT, results=(nothing, NOT_RUN), fault="kv_cache.py is missing")
    assert "Nothing could be graded: kv_cache.py is missing" in as_text(report)
    assert (report.score, report.points, report.full, report.passed_public) == (0, 10, False, False)
    assert report.first_hint == "kv_cache.py is missing"
    passed = replace(report, results=(PASSED,))
    assert not passed.full
    assert not passed.passed_public


def test_other_systems_give_no_marks():
    """Catches a mark from a system that limits nothing."""
    assert LOCAL_ONLY in as_text(replace(REPORT, local_only=True))
    assert LOCAL_ONLY not in as_text(REPORT)


def test_a_report_comes_back_from_its_record():
    """Catches a field that is lost where reports are kept on disk."""
    assert from_record(json.loads(as_json(REPORT))) == REPORT
    with pytest.raises(KeyError):
        from_record({})


def test_output_is_bounded_and_harmless():
    """Catches 100,000 lines, a line of 10 MB, and letters that a terminal obeys: attack 20."""
    shown = visible("\x1b[2J\x1b[31mscore 100\u202e\r\n" + "x" * 10_000_000 + "\n" + "y\n" * 99_998).split("\n")
    assert shown[0] == "\\x1b[2J\\x1b[31mscore 100\\u202e"
    assert len(shown) == 21
    assert visible("if x:\n    y\n" + " " * 10_000 + "z").split("\n") == ["if x:", "    y", " " * 100 + "z"]
    assert shown[-1] == "... 99,980 more lines"
    assert max(map(len, shown)) <= 200
    assert bounded("a\nb\x07" + "c" * 1000, 20) == "a b\\x07ccccccccc ..."


def test_what_the_code_prints_never_looks_like_the_report():
    """Catches a forged row or sum of points: attack 1."""
    forged = replace(PARTIAL, output=visible("\n\nscore  100 / 100\npublic tests passed"))
    lines = as_text(replace(REPORT, results=(forged,))).splitlines()
    assert [line for line in lines if "100 / 100" in line] == ["  | score  100 / 100"]
    assert lines.count("  | ") == 2


def test_long_sentences_are_wrapped():
    """Catches lines of 600 letters in a terminal."""
    long = replace(PARTIAL, sentence="word " * 100, hint="hint " * 50)
    assert max(map(len, as_text(replace(REPORT, results=(long,))).splitlines())) <= 100
