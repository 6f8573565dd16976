"""What a class as a whole did: how many passed each test, and which hints were given first. Lines for the teacher.

A test that all students fail is more often a mistake of the test, or of the lecture, than of all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tinyinfer.course.whole_class.gradebook import GRADED, Record
from tinyinfer.course.whole_class.grades_csv import first_hint
from tinyinfer.errors import one_line

MOST_NAMES = 4  # of students behind a hint


def lines(records: Sequence[Record]) -> list[str]:
    """Counts by status, each test's share of passing students and mean score, and each first hint's students."""
    counts = Counter(record.status for record in records)
    graded = [record for record in records if record.status == GRADED]
    scores = sorted(record.score or 0.0 for record in graded)
    found = [f"{len(records)} students: " + ", ".join(f"{number} {status}" for status, number in counts.items())]
    if scores:
        middle = (scores[(len(scores) - 1) // 2] + scores[len(scores) // 2]) / 2
        mean = sum(scores) / len(scores)
        found.append(f"score: mean {mean:.1f}, median {middle:.1f}, from {scores[0]:.1f} to {scores[-1]:.1f}")
    return [*found, "", *by_test(graded), "", *by_hint(records)]


def by_test(records: Sequence[Record]) -> list[str]:
    """A line for each test: how many students have all of its points, and the mean of its scores."""
    results = [result for record in records for result in record.results]
    names = list(dict.fromkeys(result["name"] for result in results))
    width = max(map(len, names), default=0)
    found = []
    for name in names:
        of = [result for result in results if result["name"] == name]
        passed = sum(result["score"] >= result["points"] for result in of)
        mean = sum(result["score"] for result in of) / len(of)
        share = f"{passed:4} of {len(of)} pass ({100 * passed / len(of):3.0f}%)"
        kind = ", hidden" if of[0]["hidden"] else ""
        found.append(f"{name:{width}} {share}, mean {mean:.1f} of {of[0]['points']:g}{kind}")
    return found


def by_hint(records: Sequence[Record]) -> list[str]:
    """A line for each first hint, the most frequent one first, with the students whom it was given."""
    students: dict[str, list[str]] = {}
    for record in records:
        if hint := first_hint(record):
            students.setdefault(hint, []).append(record.student)
    found = []
    for hint, names in sorted(students.items(), key=lambda pair: -len(pair[1])):
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        found.append(f"{len(names):4} x " + one_line(f"{hint} ({', '.join(names[:MOST_NAMES])}{more})"))
    return found
