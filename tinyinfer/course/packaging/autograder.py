"""`python -m tinyinfer.course.packaging.autograder`: what a package of `course package` runs where a system grades.

    gradescope NAME FOLDER    FOLDER/submission to FOLDER/results/results.json, written anew after each test
    classroom50 NAME FOLDER   FOLDER is the student's checkout; FOLDER/result.json

On Gradescope every error becomes a results.json that says so, since a submission without one shows a student nothing;
the traceback goes to stdout, which only the teacher sees. This file imports NumPy and nothing else from outside.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tinyinfer.course.grading import classroom50, gradescope
from tinyinfer.course.grading.grade import grade
from tinyinfer.course.grading.report import Report
from tinyinfer.errors import one_line


def main(words: Sequence[str]) -> int:
    """Runs one of the two commands and returns its exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # `finally` then ends the student's code
    kind, name, folder = words
    return {"gradescope": for_gradescope, "classroom50": for_classroom50}[kind](name, Path(folder))


def for_gradescope(name: str, root: Path, grading: Callable[..., Report] = grade) -> int:
    """Grades what Gradescope's folder holds; 0, because results.json says all."""
    place = root / "results" / "results.json"
    try:
        student = gradescope.student_of(root / gradescope.METADATA)
        grading(
            root / "submission", name, student=student, hidden=root / "source" / "hidden",
            told=lambda report: replace(place, gradescope.results(report)),
        )  # fmt: skip
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        replace(place, failed(error))
    return 0


def failed(error: Exception) -> dict[str, Any]:
    """The results.json of a grader that failed: no points, and whose fault it is."""
    what = one_line(f"{type(error).__name__}: {error}")[:600]
    said = f"The grader failed, which is its fault and not your code's. Tell your teacher: {what}"
    shown = {"visibility": "visible", "stdout_visibility": "hidden", "output_format": "text"}
    return {"score": 0, "output": said, "tests": [], **shown}


def for_classroom50(name: str, checkout: Path, grading: Callable[..., Report] = grade) -> int:
    """Grades the checkout by its public tests. An error leaves no result.json: the runner then tells of the failure."""
    classroom50.check(os.environ)
    report = grading(checkout, name, student=classroom50.student_of(os.environ))
    replace(checkout / "result.json", classroom50.result(report, os.environ, datetime.now(UTC)))
    return 0


def replace(place: Path, values: dict[str, Any]) -> None:
    """Writes a JSON file in the place of the one that is there; at any time one of the two is there, whole."""
    part = place.with_name(f".{place.name}.{os.getpid()}")
    part.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(place)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
