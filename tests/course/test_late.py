"""Late days: what the rule takes, when a day has begun, and whose time counts."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from tinyinfer.course.errors import CourseError
from tinyinfer.course.whole_class.late import Late, Times, changed_at, late_days, moment, read_times

DUE = datetime.fromisoformat("2026-11-20T23:59:00+01:00")
RULE = Late.parsed("10%/day,3")


@pytest.mark.parametrize(
    ("submitted", "days"),
    [
        ("2026-11-20T23:58:59+01:00", 0),
        ("2026-11-20T23:59:00+01:00", 0),
        ("2026-11-20T23:59:01+01:00", 1),
        ("2026-11-21T23:59:00+01:00", 1),
        ("2026-11-21T23:59:01+01:00", 2),
        ("2026-11-20T22:59:30+00:00", 1),  # half a minute late, in another zone
    ],
)
def test_a_begun_day_counts(submitted, days):
    """Catches whole days only (a day of grace for all) and times of two zones compared as text."""
    assert late_days(datetime.fromisoformat(submitted), DUE) == days


@pytest.mark.parametrize(
    ("score", "days", "lost"),
    [(100, 0, 0), (85, 1, 10), (85, 3, 30), (25, 3, 25), (85, 4, 85), (0, 1, 0), (7.5, 1, 7.5)],
)
def test_each_day_takes_a_share_of_the_points_and_never_more_than_the_score(score, days, lost):
    """Catches a negative score, a share of the student's own score, and a fourth day that costs 40 instead of all."""
    assert RULE.penalty(score, 100, days) == lost


@pytest.mark.parametrize("text", ["10%", "10/day,3", "-10%/day,3", "10%/day,3.5", "101%/day,1", "", "10%/day"])
def test_a_rule_that_is_none_is_refused_with_an_example(text):
    with pytest.raises(CourseError, match="10%/day,3"):
        Late.parsed(text)


def test_a_rule_may_have_a_part_of_a_percent_and_no_allowed_day():
    assert Late.parsed("2.5%/day, 7") == Late(0.025, 7)
    assert Late.parsed("10%/day,0").penalty(80, 100, 1) == 80


def test_a_time_without_offset_is_local():
    """Catches a comparison of times with and without an offset, which Python refuses."""
    assert moment("2026-11-20T23:59:00", "--due") == datetime(2026, 11, 20, 23, 59).astimezone()
    assert moment("2026-11-20T23:59:00Z", "--due").utcoffset() is not None


@pytest.mark.parametrize("text", ["tomorrow", "20.11.2026", "", "2026-13-01T00:00:00", "2026-11-20"])
def test_a_time_that_is_none_says_where_and_how(text):
    """Catches a day without an hour, which would be due at its beginning and cost the class a late day."""
    with pytest.raises(CourseError, match=r"^--due: .*write it as 2026"):
        moment(text, "--due")


def times(folder: Path, text: str) -> Path:
    path = folder / "times.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_times_of_a_class_and_an_extension(tmp_path):
    """A spreadsheet's CSV: with its byte order mark, more columns, and lines of students who are not asked for."""
    path = times(tmp_path, "\ufeffemail,student,submitted,due\nx,ada,2026-11-21T01:00:00Z,2026-11-23T00:00:00Z\n"
                           "y,bob,2026-11-21T01:00:00Z,\nz,eve,2026-11-21T01:00:00Z,\n")  # fmt: skip
    found = read_times(path, ["ada", "bob"])
    assert found["ada"] == Times(moment("2026-11-21T01:00:00Z", ""), moment("2026-11-23T00:00:00Z", ""))
    assert found["bob"].due is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name,submitted\nada,2026-11-21T01:00:00Z\n", "columns student and submitted"),
        ("", "columns student and submitted"),
        ("student,submitted\neve,2026-11-21T01:00:00Z\n", "has no time for ada"),
        ("student,submitted\nada,yesterday\n", "line 2: 'yesterday' is no time"),
        ("student,submitted\nada\n", "line 2: '' is no time"),
        ("student,submitted\nada,2026-11-21T01:00:00Z\nada,2026-11-20T01:00:00Z\n", "has several lines for ada"),
    ],
)
def test_a_file_of_times_that_cannot_be_used_says_what_is_wrong(tmp_path, text, sentence):
    """Catches a student without a time who counts as punctual, and of two times the one that happens to be last."""
    with pytest.raises(CourseError, match=sentence):
        read_times(times(tmp_path, text), ["ada"])


def test_lines_of_students_who_handed_in_nothing_are_passed_over(tmp_path):
    """Catches a list of the whole course, in which an empty time stops the grading of all others."""
    path = times(tmp_path, "student,submitted\neve,\nada,2026-11-21T01:00:00Z\n")
    assert list(read_times(path, ["ada"])) == ["ada"]


@pytest.mark.parametrize(("seconds", "year"), [(2.0**40, 9892), (-(2.0**40), 1970)])
def test_a_time_of_no_calendar_is_the_nearest_that_is_one(seconds, year):
    """Catches one submission whose file is from the year 36812, and with which the grading of a class ends."""
    file = SimpleNamespace(lstat=lambda: SimpleNamespace(st_mtime=seconds))
    assert abs(changed_at(file).year - year) <= 1


def test_without_a_file_the_time_of_last_change_counts(tmp_path):
    path = times(tmp_path, "")
    os.utime(path, (1_800_000_000, 1_800_000_000))
    assert changed_at(path).timestamp() == 1_800_000_000
