"""`tinyinfer course grade`: a submission in, its report out; the file of the report is whole after each test."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyinfer.cli import course_all
from tinyinfer.cli.arguments import typed_text
from tinyinfer.cli.console import progress_bar, say, show

if TYPE_CHECKING:
    from tinyinfer.course.grading.report import Report

FORMATS = ("text", "json", "gradescope", "classroom50")


def register(subcommands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tinyinfer course grade` and its flags to the subcommands."""
    about = "grade a submission: the student's code runs in limited processes, and is compared with the engine"
    parser = subcommands.add_parser("grade", help=about, description=about)
    parser.add_argument("folder", nargs="?", metavar="DIR", type=Path, help="a submission, with the one file to edit")
    parser.add_argument("--assignment", metavar="NAME", help="its assignment (default: as DIR/assignment.toml says)")
    parser.add_argument(
        "--student", metavar="ID", type=typed_text, default="",
        help="whose submission it is: hidden tests have other inputs for each student (default: as Gradescope or "
        "Classroom 50 says)",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=FORMATS, default="text",
        help="text for the student, json with everything for the teacher, or a system's own (default: text)",
    )  # fmt: skip
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="write the report to FILE after each test")
    parser.add_argument("--hidden", metavar="DIR", type=Path, help="the folder of the hidden tests and the secret")
    parser.add_argument("--only", metavar="TEST", action="append", default=[], help="grade this test; may be repeated")
    parser.add_argument("--seconds", action="store_true", help="take the time of each test, for json")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    course_all.add_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Grades; the exit status is 0 for full marks of what was asked, else 1. Raises CourseError, OSError."""
    if args.all is not None:
        return course_all.run(args)
    course_all.refuse(args)
    from tinyinfer.course.grading.grade import grade

    written = writer(args.format)
    output = None if args.output is None else Output(args.output, written)
    with progress_bar("grading", shown=not args.quiet) as bar:
        report = grade(
            args.folder, args.assignment, student=args.student or submitter(args), hidden=args.hidden, only=args.only,
            timed=args.seconds, told=lambda report: told(report, bar, output),
        )  # fmt: skip
    if output is None:
        show(written(report))
        if args.hidden and args.format == "text" and not args.quiet:
            say("what the hidden tests found, and their seeds: --format json")
    elif not args.quiet:
        say(f"{report.assignment}: {report.score:g} of {report.points:g} points, wrote {args.output}")
    return 0 if report.full else 1


class Output:
    """The file of the report, which is whole at any time."""

    def __init__(self, path: Path, written: Callable[[Report], str]) -> None:
        self.path, self.written = path, written

    def write(self, report: Report) -> None:
        """Replaces the file. Raises OSError."""
        from tinyinfer.loading.whole import whole

        with whole(self.path) as place:
            place.write_text(self.written(report), encoding="utf-8")


def told(report: Report, bar: Callable[..., None], output: Output | None) -> None:
    """Shows and writes a report as far as it goes."""
    from tinyinfer.course.grading.grade import PENDING

    waiting = sum(result.sentence == PENDING for result in report.asked)
    bar(len(report.asked) - waiting, len(report.asked), f"{report.score:g} points")
    if output is not None:
        output.write(report)


def writer(form: str) -> Callable[[Report], str]:
    """The function that makes a format's text out of a report. Raises CourseError where the format cannot be made."""
    from tinyinfer.course.grading import classroom50, gradescope, report

    if form == "gradescope":
        return lambda one: json.dumps(gradescope.results(one), indent=2, allow_nan=False) + "\n"
    if form == "classroom50":
        classroom50.check(os.environ)
        return lambda one: json.dumps(classroom50.result(one, os.environ, datetime.now(UTC)), indent=2) + "\n"
    return report.as_json if form == "json" else report.as_text


def submitter(args: argparse.Namespace) -> str:
    """Whose submission the system says it is; "" where no system says it. Raises CourseError."""
    from tinyinfer.course.grading import classroom50, gradescope

    metadata = args.folder.absolute().parent / gradescope.METADATA
    if args.format == "gradescope" and metadata.is_file():
        return gradescope.student_of(metadata)
    return classroom50.student_of(os.environ) if args.format == "classroom50" else ""
