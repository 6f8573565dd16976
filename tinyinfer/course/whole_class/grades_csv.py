"""grades.csv: a row for each student, which a spreadsheet or a learning platform reads.

A student's name, or what the student's code wrote, may begin with `=`: a spreadsheet would run it as a formula. Such a
cell gets an apostrophe before it, as spreadsheets themselves write text. Ends of lines and what a terminal would obey
are written as Python writes them, `\\n` and `\\x1b`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tinyinfer.course.grading.report import TestResult, advice
from tinyinfer.course.whole_class.gradebook import Record
from tinyinfer.course.whole_class.late import Late, Times, late_days
from tinyinfer.errors import one_line
from tinyinfer.loading.whole import whole

FORMULA = tuple("=+-@＝＋－＠")  # the wide ones are what an East Asian keyboard gives, and some spreadsheets take them


@dataclass(frozen=True)
class Deadline:
    """When an assignment is due, and what late days cost."""

    late: Late
    due: datetime

    def days(self, times: Times) -> int:
        """Begun days after the student's own due time, or after that of all."""
        return late_days(times.submitted, times.due or self.due)


def cell(value: object) -> str:
    """A value as a cell that no spreadsheet runs and no terminal obeys.

    >>> cell("=1+1"), cell("two" + chr(10) + "lines"), cell(12.5), cell(8.0), cell(None)
    ("'=1+1", 'two\\\\nlines', '12.5', '8', '')
    """
    if value is None:
        return ""
    if isinstance(value, int | float):
        return f"{round(value, 2):g}" if abs(value) < 1e6 else str(value)
    text = one_line(str(value).replace("\n", "\\n"))
    return "'" + text if text.lstrip().startswith(FORMULA) else text


def write(path: Path, records: Sequence[Record], times: Mapping[str, Times], deadline: Deadline | None) -> None:
    """Writes the rows of these records, whole. times: when each student submitted. Raises OSError."""
    tests = test_names(records)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    heads = list(row(Record("", "", "", {}, None), None, None))
    table.writerow([*heads[:-3], *tests, *heads[-3:]])
    for record in records:
        fields = list(row(record, times.get(record.student), deadline).values())
        scores = {result["name"]: result["score"] for result in record.results}
        cells = [*fields[:-3], *(scores.get(name) for name in tests), *fields[-3:]]
        table.writerow([cell(one) for one in cells])
    with whole(path) as part:
        part.write_text(text.getvalue(), encoding="utf-8")


def row(record: Record, times: Times | None, deadline: Deadline | None) -> dict[str, Any]:
    """A record's cells, but those of its tests; the last three stand behind the tests."""
    report = record.report or {}
    points, score = report.get("points"), record.score
    days = deadline.days(times) if deadline and times else None
    lost = deadline.late.penalty(score, points or 0.0, days) if deadline and days and score is not None else 0.0
    return {
        "student": record.student,
        "status": record.status,
        "score": score,
        "points": points,
        "submitted": times.submitted.isoformat(timespec="seconds") if times else None,
        "late_days": days,
        "penalty": None if score is None else lost,
        "final": None if score is None else score - lost,
        "first_hint": first_hint(record),
        "assignment_version": report.get("assignment_version") or record.made_of.get("assignment_version"),
        "engine_version": report.get("engine_version") or record.made_of.get("engine_version"),
    }


def first_hint(record: Record) -> str:
    """Why the student's first test that lost points did so, as the student may know; or why there is no grade."""
    if record.fault:
        return record.fault
    for result in record.results:
        if result["score"] < result["points"]:
            seen = result["hint"] or result["sentence"] or result["status"]
            return f"{result['name']}: {advice(TestResult(**result)) if result['hidden'] else seen}"
    return ""


def test_names(records: Iterable[Record]) -> list[str]:
    """The names of the tests, in the order of the assignment."""
    return list(dict.fromkeys(result["name"] for record in records for result in record.results))
