"""`tinyinfer course package NAME`: a zip file with which Gradescope or Classroom 50 grades an assignment."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tinyinfer.cli.console import say
from tinyinfer.units import amount

FORMATS = ("gradescope", "classroom50")


def register(subcommands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tinyinfer course package` and its flags to the subcommands."""
    about = "write a zip file with which Gradescope or Classroom 50 grades an assignment"
    parser = subcommands.add_parser("package", help=about, description=about)
    parser.add_argument("name", metavar="NAME", help="an assignment, such as kv_cache; `course list` has them all")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, default=Path("autograder.zip"),
                        help="the zip file (default: autograder.zip)")  # fmt: skip
    parser.add_argument("--hidden", metavar="DIR", type=Path, help="the hidden tests and their secret (default: ours, "
                        "with a new secret, which is also written beside the zip file)")  # fmt: skip
    parser.add_argument("--format", choices=FORMATS, default="gradescope", help="who grades (default: gradescope)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the package, and says what is secret of it. Raises CourseError, OSError."""
    from tinyinfer.course.assignment import assignment
    from tinyinfer.course.packaging.package import package
    from tinyinfer.loading.whole import try_place

    try_place(args.output)
    beside = package(assignment(args.name), args.output, args.format, args.hidden)
    size = amount(args.output.stat().st_size, "B")
    say(f"wrote {args.output} ({size})")
    if beside is not None:
        say(f"wrote {beside}, the hidden tests and their secret: keep it, and give it to course grade as --hidden")
    elif args.format == "classroom50":
        say("it has no hidden tests: each student can download it; give their marks by course grade --all --hidden DIR")
    return 0
