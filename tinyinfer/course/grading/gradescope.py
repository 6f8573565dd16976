"""results.json for Gradescope: what its students see, and what only the teacher sees.

    {"score", "output", "visibility", "stdout_visibility", "extra_data",
     "tests": [{"score", "max_score", "status", "name", "number", "output", "tags", "visibility"}]}

A public test is visible. A hidden test is "after_published": its points are shown when the marks are published, with
the kind of bug that it catches and nothing else. What a hidden test found stands in a test without points that is
"hidden", so that no student ever sees it. All text is "text": no HTML and no Markdown of a student's is rendered.

Documented by Gradescope: all keys above, and users in submission_metadata.json. Not in its specification, but in use:
the values of "status" and of the keys ending in "_format".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinyinfer.course.errors import CourseError
from tinyinfer.course.grading.report import NOT_RUN, PASSED, Report, TestResult, advice, bounded, head, shown, sums

METADATA = "submission_metadata.json"
LARGEST = 100_000_000  # bytes of that file, which holds all previous results


def results(report: Report) -> dict[str, Any]:
    """The content of results.json."""
    public = [test(result) for result in report.asked if not result.hidden]
    hidden = [test(result) for result in report.asked if result.hidden]
    fault = [f"Nothing could be graded: {report.fault}"] if report.fault else []
    unseen = sums(report)[-1:] if any(result.status == NOT_RUN for result in report.results) else []
    return {
        "score": report.score,
        "output": "\n".join([head(report), *fault, *unseen]),
        "output_format": "text", "test_output_format": "text", "test_name_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "extra_data": extra(report),
        "tests": public + hidden + for_the_teacher(report),
    }  # fmt: skip


def test(result: TestResult) -> dict[str, Any]:
    """One test as Gradescope shows it."""
    return {
        "score": result.score,
        "max_score": result.points,
        "status": "passed" if result.status == PASSED else "failed",
        "name": result.name,
        "number": result.number,
        "output": "" if result.status == PASSED else explained(result),
        "tags": [result.status, "hidden" if result.hidden else "public"],
        "visibility": "after_published" if result.hidden else "visible",
    }


def explained(result: TestResult) -> str:
    """Why a test did not pass; of a hidden test only the kind of bug."""
    if result.hidden:
        return f"{result.status}: {advice(result)}"
    printed = f"the code printed:\n{result.output}" if result.output else ""
    hint = f"hint: {result.hint}" if result.hint else ""
    return "\n".join(line for line in (f"{result.status}: {result.sentence}", hint, printed) if line)


def for_the_teacher(report: Report) -> list[dict[str, Any]]:
    """A test without points that no student sees: what the hidden tests found, their seeds and the code's output."""
    blocks = []
    for result in report.asked:
        if result.hidden:
            said = [result.sentence, f"hint: {result.hint}" * bool(result.hint), result.output]
            row = f"{result.number} {result.name}  {shown(result.score)} / {shown(result.points)}  {result.status}"
            blocks.append("\n".join([row, f"seed {result.seed}", *(line for line in said if line)]))
    shared = {"name": "for the teacher: hidden tests", "visibility": "hidden", "output": "\n\n".join(blocks)}
    return [shared] if blocks else []


def extra(report: Report) -> dict[str, Any]:
    """What Gradescope stores with the results: versions, limits and seeds."""
    return {
        "assignment": report.assignment,
        "assignment_version": report.assignment_version,
        "engine_version": report.engine_version,
        "student": report.student,
        "limits": list(report.limits),
        "missing_limits": list(report.missing_limits),
        "seeds": {result.name: result.seed for result in report.results if result.seed},
    }


def student_of(metadata: Path) -> str:
    """Who submitted: the e-mail addresses of Gradescope's submission_metadata.json, joined by "+" for a group.

    Raises CourseError for a file that does not say it.
    """
    try:
        if metadata.stat().st_size > LARGEST:
            raise ValueError("too large")
        users = json.loads(metadata.read_bytes())["users"]
        names = sorted(str(user.get("email") or user["id"]) for user in users)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = bounded(str(error), 80)
        raise CourseError(f"{metadata}: does not say who submitted ({why}); give --student ID") from None
    if not names:
        raise CourseError(f"{metadata}: names no user; give --student ID")
    return "+".join(names)
