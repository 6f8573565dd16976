"""`tinyinfer course`: the assignments, listed and started; grading and packaging stand in files of their own."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from shlex import quote
from typing import Any

from tinyinfer.cli.console import say, show

PARTS = ("course_grade", "course_package")  # further files of this folder, each with `register(subcommands)`


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tinyinfer course` and its subcommands to the commands."""
    about = "assignments: write a part of the engine yourself, and have it graded"
    parser = commands.add_parser("course", help=about, description=about)
    parser.set_defaults(run=lambda args: short_help(parser))
    subcommands = parser.add_subparsers(title="subcommands", dest="subcommand", metavar="SUBCOMMAND")
    about = "the assignments, one a line"
    listing = subcommands.add_parser("list", help=about, description=about)
    listing.set_defaults(run=run_list)
    about = "write an assignment's files into a folder: the file to edit, its tests, a README"
    starting = subcommands.add_parser("start", help=about, description=about)
    starting.add_argument("name", metavar="NAME", help="an assignment, such as kv_cache; `course list` has them all")
    about = "the folder; it is made, and no file is overwritten"
    starting.add_argument("folder", metavar="DIR", type=folder_path, help=about)
    starting.set_defaults(run=run_start)
    for part in PARTS:
        import_module(f"tinyinfer.cli.{part}").register(subcommands)


def folder_path(text: str) -> Path:
    """A folder of the command line. Raises argparse.ArgumentTypeError for none: "" would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the folder's name is empty; give some name, or . for this folder")
    return Path(text)


def short_help(parser: argparse.ArgumentParser) -> int:
    """Shows a command's help on stderr, because its subcommand is missing; the exit status of a mistake."""
    say(parser.format_help().rstrip())
    return 2


def run_list(args: argparse.Namespace) -> int:
    """Lists the assignments, one a line, the name first. Raises CourseError for a broken manifest."""
    from tinyinfer.course.assignment import assignments

    known = list(assignments().values())
    width = max((len(a.name) for a in known), default=0)
    for a in known:
        show(f"{a.name:{width}}  {a.minutes:3} minutes  {sum(t.points for t in a.tests)} points  {a.about}\n")
    return 0


def run_start(args: argparse.Namespace) -> int:
    """Starts an assignment in a folder. Raises CourseError."""
    from tinyinfer.course.assignment import assignment, needed
    from tinyinfer.course.start import start

    a = assignment(args.name)
    start(a, args.folder)
    edit, read = args.folder / a.file, args.folder / "README.md"
    show(f"{a.title}: edit {edit}; the task is in {read}\n")
    if lacking := needed(a):
        say(f"tinyinfer: note: {lacking}")
    show(f"The score so far:  cd {quote(str(args.folder))} && pytest\n")
    return 0
