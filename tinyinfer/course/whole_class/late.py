"""Late days: what a submission loses by its time, `--late "10%/day,3" --due 2026-11-20T23:59+01:00`.

Each begun day after the due time takes a share of the assignment's points; after the last allowed day nothing is left.
The time of a submission is what `--times FILE.csv` says, with the columns `student`, `submitted` and, for a student
with an extension, `due`. Without that file it is the time of last change of the student's file. A student's own
computer sets that time, and git does not keep it, so it is honest only in a folder that a system of yours has written.

A time without an offset from UTC is a local time of this machine.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tinyinfer.course.errors import CourseError

DAY = 24 * 60 * 60  # seconds
EARLIEST, LATEST = 0.0, 250_000_000_000.0  # seconds since 1970, until the year 9892: Python's calendar ends at 9999
_RULE = re.compile(r"(?P<share>\d+(\.\d+)?)%/day,\s*(?P<days>\d+)")


@dataclass(frozen=True)
class Late:
    """A rule: which share of the assignment's points each begun day takes, and how many days are allowed."""

    share: float
    days: int

    @classmethod
    def parsed(cls, text: str) -> Late:
        """A rule as the command line has it.

        >>> Late.parsed("10%/day,3")
        Late(share=0.1, days=3)
        """
        found = _RULE.fullmatch(text.strip())
        if found is None or float(found["share"]) > 100:
            raise CourseError(f'--late {text!r} is no rule for late days; write it as "10%/day,3": 10% a day, 3 days')
        return cls(float(found["share"]) / 100, int(found["days"]))

    def penalty(self, score: float, points: float, late_days: int) -> float:
        """The points that a score loses: never more than the score; all of it after the last allowed day."""
        if late_days > self.days:
            return score
        return min(score, round(self.share * points * late_days, 2))


@dataclass(frozen=True)
class Times:
    """When a student submitted, and the student's own due time where there is an extension."""

    submitted: datetime
    due: datetime | None = None


def late_days(submitted: datetime, due: datetime) -> int:
    """Begun days after the due time; 0 for a submission in time."""
    return max(0, math.ceil((submitted - due).total_seconds() / DAY))


def moment(text: str, where: str) -> datetime:
    """A time in ISO 8601, with an offset from UTC or local. Raises CourseError, which says where it stands.

    >>> moment("2026-11-20T23:59:00+01:00", "--due").isoformat()
    '2026-11-20T23:59:00+01:00'
    """
    try:
        if ":" not in text:  # a day alone would mean its first moment
            raise ValueError(text)
        return datetime.fromisoformat(text.strip()).astimezone(datetime.fromisoformat(text.strip()).tzinfo)
    except (ValueError, OverflowError, OSError):
        raise CourseError(f"{where}: {text!r} is no time; write it as 2026-11-20T23:59:00+01:00") from None


def changed_at(path: Path) -> datetime:
    """The time of last change of a file, as a local time; of one that no calendar has, the nearest that it has."""
    return datetime.fromtimestamp(min(max(path.lstat().st_mtime, EARLIEST), LATEST)).astimezone()


def read_times(path: Path, students: Iterable[str]) -> dict[str, Times]:
    """The times of all these students out of a CSV file; lines of others are passed over.

    Raises CourseError for a student without a line, or with two, OSError.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise CourseError(f"{path}: is no CSV file in UTF-8 ({error})") from None
    if not rows or not {"student", "submitted"} <= set(rows[0]):
        raise CourseError(f"{path}: needs a first line with the columns student and submitted, and a line a student")
    asked = list(students)
    found = [(row, f"{path}, line {i}") for i, row in enumerate(rows, 2) if row["student"] in asked]
    names = Counter(str(row["student"]) for row, _ in found)
    twice = [name for name, number in names.items() if number > 1]
    if twice:
        raise CourseError(f"{path}: has several lines for {twice[0]}; leave the one that counts")
    missing = [name for name in asked if name not in names]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise CourseError(f"{path}: has no time for {', '.join(missing[:5])}{more}; add a line for each student")
    return {str(row["student"]): _times(row, where) for row, where in found}


def _times(row: dict[str, str | None], where: str) -> Times:
    due = row.get("due") or ""
    return Times(moment(row["submitted"] or "", where), moment(due, where) if due.strip() else None)
