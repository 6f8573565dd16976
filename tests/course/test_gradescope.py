"""results.json is what Gradescope documents, result.json what Classroom 50 documents; neither shows a hidden input."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from gradescope_format import faults
from test_report import HIDDEN, NOT_RUN, PARTIAL, PASSED, REPORT

from tinyinfer.course.errors import CourseError
from tinyinfer.course.grading import classroom50, gradescope
from tinyinfer.course.grading.report import Report

NOTHING = replace(PASSED, score=0.0, status="error", sentence="no file")
FAULTY = replace(REPORT, fault="no file", results=(NOTHING, NOT_RUN))
EMPTY = Report("kv_cache", "2", "0.1.0")
THIRDS = replace(REPORT, results=(replace(PARTIAL, score=6.67), HIDDEN))
RUNNER = {"CLASSROOM": "cs", "ASSIGNMENT": "hw2", "SUBMISSION_TAG": "submit/2026-11-26T10-00-00Z-abc", "OWNER": "ada",
          "COMMIT_URL": "https://x/commit/1", "RELEASE_URL": "https://x/releases/1", "ASSIGNMENT_TYPE": ""}  # fmt: skip
NOW = datetime(2026, 11, 26, 10, 5, 7, tzinfo=UTC)


@pytest.mark.parametrize("report", [REPORT, FAULTY, EMPTY, replace(REPORT, results=(PASSED, NOT_RUN))])
def test_gradescope_accepts_every_report(report):
    """Catches a key or a value that Gradescope does not know: it would show an error in the place of marks."""
    assert faults(json.loads(json.dumps(gradescope.results(report), allow_nan=False))) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"score": float("nan"), "tests": []}, {"score": "3"}, {"tests": [{"name": "x"}]}, {"score": 1, "tests": {}},
        {"score": 1, "visibility": "teachers"}, {"score": 1, "Score": 1}, {"score": 1, "tests": [{"output": ["x"]}]},
        {"score": 1, "tests": [{"status": "partial"}]}, {"score": 1, "tests": [{"tags": [1]}]},
        {"score": 1, "output_format": "markdown"}, {"score": True}, [],
    ],
)  # fmt: skip
def test_the_checker_refuses_what_is_not_documented(wrong):
    """A checker that accepts everything checks nothing."""
    assert faults(wrong)


def test_points_and_numbers_are_the_reports():
    """Catches a sum that counts a test twice, and tests in another order."""
    results = gradescope.results(REPORT)
    assert results["score"] == 15.0
    tests = [test for test in results["tests"] if "score" in test]
    assert [(t["number"], t["score"], t["max_score"], t["status"], t["tags"]) for t in tests] == [
        ("1.1", 10.0, 10, "passed", ["passed", "public"]),
        ("1.2", 5.0, 20, "failed", ["partial", "public"]),
        ("2.1", 0.0, 70, "failed", ["failed", "hidden"]),
    ]


def test_a_student_sees_nothing_of_a_hidden_tests_inputs():
    """Catches a leak by output, message, hint or seed (attack 21); the teacher sees all of it."""
    results = gradescope.results(REPORT)
    teacher = [test for test in results["tests"] if test["visibility"] == "hidden"]
    students = json.dumps([test for test in results["tests"] if test["visibility"] != "hidden"]) + results["output"]
    for secret in ("0.123", "secret hint", "beef"):
        assert secret not in students
        assert secret in teacher[0]["output"]
    assert results["stdout_visibility"] == "hidden"
    assert [t["visibility"] for t in results["tests"]] == ["visible", "visible", "after_published", "hidden"]
    assert "it catches a lost row" in results["tests"][2]["output"]
    assert results["extra_data"]["seeds"] == {"test_c": "beef"}


def test_what_a_student_prints_stays_text():
    """Catches HTML and Markdown of a student's that the teacher's browser would render: attack 20."""
    results = gradescope.results(replace(REPORT, results=(replace(PARTIAL, output="<script>x</script>"),)))
    assert {results[key] for key in results if key.endswith("_format")} == {"text"}
    assert not any(key.endswith("_format") for test in results["tests"] for key in test)


def test_hidden_tests_that_were_not_run_are_named():
    """Catches 30 of 30 points that look like full marks."""
    results = gradescope.results(replace(REPORT, results=(PASSED, NOT_RUN)))
    assert "1 hidden test is worth 70 points more" in results["output"]


def test_the_submitter_is_who_gradescope_names(tmp_path):
    """Catches a group whose members' order changes the hidden inputs at a regrade."""
    file = tmp_path / "submission_metadata.json"
    file.write_text(json.dumps({"id": 1, "users": [{"email": "b@x", "id": 2}, {"email": "a@x", "id": 1}]}))
    assert gradescope.student_of(file) == "a@x+b@x"
    file.write_text(json.dumps({"users": [{"email": "", "id": 1234, "name": "Ada"}]}))
    assert gradescope.student_of(file) == "1234"
    for broken in ("{}", "[]", "", '{"users": []}', '{"users": [3]}', '{"users": [{}]}', "[" * 100_000):
        file.write_text(broken)
        with pytest.raises(CourseError, match="give --student ID"):
            gradescope.student_of(file)


# Classroom 50: the rules of its schema result-v1, as documented


def classroom_faults(result: dict) -> list[str]:
    """What the documented schema does not allow."""
    texts = ("classroom", "assignment", "owner", "commit", "release", "review", "datetime", "submission")
    found = [key for key in texts if not isinstance(result.get(key), str) or not result[key]]
    known = {*texts, "schema", "assignment_type", "score", "max-score", "tests", "graded_at", "submitted_by"}
    found += [key for key in result if key not in known]
    for one in [result, *result["tests"]]:
        pair = one.get("score"), one.get("max-score")
        if not all(type(x) is int and x >= 0 for x in pair) or pair[0] > pair[1]:
            found.append(f"score {pair}")
    found += [test for test in result["tests"] if type(test["passed"]) is not bool or not test["test-name"]]
    found += [] if result["schema"] == "classroom50/result/v1" else ["schema"]
    found += [] if result["assignment_type"] in ("individual", "group") else ["assignment_type"]
    return found + ([] if result["submission"].startswith("submit/") else ["submission"])


@pytest.mark.parametrize("report", [REPORT, FAULTY, EMPTY, THIRDS])
def test_classroom50_accepts_every_report(report):
    """Catches a fraction of a point, which its schema refuses together with the whole result."""
    result = json.loads(json.dumps(classroom50.result(report, RUNNER, NOW)))
    assert classroom_faults(result) == []
    assert result["score"] == sum(test["score"] for test in result["tests"])
    assert result["datetime"] == "2026-11-26T10:05:07Z"


def test_classroom50_keeps_the_exact_score_and_no_hidden_input():
    """Catches a published file that tells every student the inputs of the hidden tests."""
    tests = classroom50.result(THIRDS, RUNNER, NOW)["tests"]
    assert [(t["score"], t["exact-score"], t["passed"]) for t in tests] == [(6, 6.67, False), (0, 0.0, False)]
    text = json.dumps(tests)
    assert not any(secret in text for secret in ("0.123", "secret hint", "beef"))


@pytest.mark.parametrize("lacking", ["CLASSROOM", "SUBMISSION_TAG", "OWNER"])
def test_elsewhere_classroom50_names_the_variable_that_is_missing(lacking):
    """Catches a result without an owner, which the collector drops without a word."""
    environment = {name: value for name, value in RUNNER.items() if name != lacking}
    with pytest.raises(CourseError, match="USERNAME" if lacking == "OWNER" else lacking):
        classroom50.check(environment)
    classroom50.check(RUNNER)
