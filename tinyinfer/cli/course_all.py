"""`tinyinfer course grade --all FOLDER`: the flags of a whole class, its progress bar, and what is printed at the end.

The statistics go to stdout, everything else to stderr. Exit status: 0 when every student has a row that stands, 1 when
the grader itself failed for a student (the same command tries those again).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from tinyinfer.cli.arguments import UsageError
from tinyinfer.cli.console import progress_bar, say, show
from tinyinfer.course.errors import CourseError
from tinyinfer.errors import one_line

if TYPE_CHECKING:
    from tinyinfer.course.whole_class.class_folder import Submission
    from tinyinfer.course.whole_class.gradebook import Gradebook, Record
    from tinyinfer.course.whole_class.grades_csv import Deadline
    from tinyinfer.course.whole_class.late import Times
    from tinyinfer.course.whole_class.many import Plan, Workers

SINGLE = {
    "student": "a folder's name is the student's",
    "format": "the reports are JSON, and the table is CSV",
    "only": "--test NAME grades one test again",
    "seconds": "no times are taken",
}
FLAGS = ("late", "due", "times", "jobs", "test")  # which only --all understands


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of a whole class to those of `course grade`."""
    group = parser.add_argument_group("a whole class")
    group.add_argument("--all", metavar="FOLDER", help="grade each folder in FOLDER, one a student; -o: the table")
    group.add_argument("--late", metavar="RULE", help='"10%%/day,3": 10%% of the points a begun day, after 3 days all')
    group.add_argument("--due", metavar="TIME", help="when the assignment is due, such as 2026-11-20T23:59:00+01:00")
    group.add_argument("--times", metavar="CSV", help="columns student, submitted and due (an extension, may be empty)")
    group.add_argument("--jobs", type=int, metavar="N", help="students graded at a time (default: as many as cores)")
    group.add_argument("--test", metavar="NAME", help="grade only this test again, and show old and new scores")


def refuse(args: argparse.Namespace) -> None:
    """Raises UsageError for a flag of a whole class without --all, and where nothing to grade is given."""
    if args.folder is None:
        raise UsageError("give the folder of a submission, or --all and the folder of a whole class")
    for name in FLAGS:
        if getattr(args, name) is not None:
            raise UsageError(f"--{name} is for a whole class; add --all FOLDER")


def refuse_single(args: argparse.Namespace) -> None:
    """Raises UsageError for what only one submission has."""
    if args.folder is not None:
        raise UsageError(f"grade either {args.folder} or --all {args.all}")
    for name, instead in SINGLE.items():
        if getattr(args, name) not in (None, "", [], False, "text"):
            raise UsageError(f"--{name} is for one submission; with --all {instead}")


def run(args: argparse.Namespace, workers: Workers | None = None) -> int:
    """Grades the class, writes the table and prints the statistics. Raises UsageError, CourseError, OSError."""
    from tinyinfer.course.whole_class import grades_csv, item_statistics
    from tinyinfer.course.whole_class import workers as processes
    from tinyinfer.course.whole_class.gradebook import Gradebook
    from tinyinfer.loading.whole import try_place

    refuse_single(args)
    table = Path(args.output or "grades.csv")
    if table.is_dir():
        raise UsageError(f"-o {table}: is a folder; give the name of the table in it, {table / 'grades.csv'}")
    book = Gradebook(table)
    submitted = students(Path(args.all), [book.folder, *([Path(args.hidden)] if args.hidden else [])])
    plan = planned(args, submitted)
    refuse_among(book.folder, Path(args.all), plan.assignment.file)
    deadline, times = deadline_of(args), times_of(args, submitted, plan)
    try_place(table)
    start = workers or partial(processes.run, processes=args.jobs or usable_cores())
    before = [len(known.regrades) if (known := book.read(one.student)) else 0 for one in submitted]
    records = graded(submitted, plan, book, start, args.quiet)
    grades_csv.write(table, records, times, deadline)
    if plan.only:
        show("".join(f"{line}\n" for line in regrades(records, before, plan.only)) + "\n")
    show("".join(f"{line}\n" for line in item_statistics.lines(records)))
    if not args.quiet:
        say(f"wrote {table}, and each student's report into {book.folder}")
    return int(any(record.failed for record in records))


def refuse_among(reports: Path, folder: Path, file: str) -> None:
    """Raises UsageError where the reports would lie among the submissions, or in one of them."""
    if reports.resolve() == folder.resolve() or os.path.lexists(reports / file):
        raise UsageError(f"the reports would go into {reports}, where submissions are; give another table by -o")


def students(folder: Path, others: Sequence[Path]) -> list[Submission]:
    """The submissions of the folder, but the folders of ours that may be in it. Raises CourseError, OSError."""
    from tinyinfer.course.whole_class.class_folder import links, submissions

    ours = {other.resolve() for other in others}
    found = [one for one in submissions(folder) if one.folder.resolve() not in ours]
    if not found:
        raise CourseError(f"{folder}: holds no folder of a student; it must hold one for each")
    if linked := links(folder):
        say(one_line(f"tinyinfer: note: not graded, as links are not followed: {', '.join(linked)}"))
    return found


def planned(args: argparse.Namespace, submitted: Sequence[Submission]) -> Plan:
    """What the flags ask for. Raises UsageError, CourseError."""
    from tinyinfer.course.assignment import assignment
    from tinyinfer.course.hidden import open_hidden
    from tinyinfer.course.whole_class.many import Plan, same_assignment

    if args.jobs is not None and args.jobs < 1:
        raise UsageError(f"--jobs {args.jobs}: at least one student must be graded at a time")
    what = assignment(args.assignment) if args.assignment else same_assignment(submitted)
    if args.hidden:
        open_hidden(Path(args.hidden), what.name)
    tests = {test.name: test for test in what.tests}
    if args.test is not None and args.test not in tests:
        raise UsageError(f"--test {args.test}: {what.name} has no such test; its tests are {', '.join(tests)}")
    if args.test is not None and tests[args.test].hidden and not args.hidden:
        raise UsageError(f"--test {args.test}: this test is hidden; add --hidden DIR, the folder of the hidden tests")
    return Plan(what, Path(args.hidden) if args.hidden else None, args.test)


def deadline_of(args: argparse.Namespace) -> Deadline | None:
    """The rule for late days, None without one. Raises UsageError for half of one, CourseError."""
    from tinyinfer.course.whole_class.grades_csv import Deadline
    from tinyinfer.course.whole_class.late import Late, moment

    if (args.late is None) != (args.due is None):
        raise UsageError("--late and --due need each other: the rule, and the time after which it holds")
    return None if args.late is None else Deadline(Late.parsed(args.late), moment(args.due, "--due"))


def times_of(args: argparse.Namespace, submitted: Sequence[Submission], plan: Plan) -> dict[str, Times]:
    """When each student submitted: by --times, else by the file's own time. Raises CourseError, OSError."""
    from tinyinfer.course.whole_class.late import Times, changed_at, read_times

    if args.times is not None:
        return read_times(Path(args.times), [one.student for one in submitted])
    files = {one.student: one.folder / plan.assignment.file for one in submitted}
    return {student: Times(changed_at(path)) for student, path in files.items() if os.path.lexists(path)}


def graded(submitted: Sequence[Submission], plan: Plan, book: Gradebook, workers: Workers, quiet: bool) -> list[Record]:
    """The records of all students, with a progress bar. Raises KeyboardInterrupt, after a line on what is kept."""
    from tinyinfer.course.whole_class.many import grade_all

    done = 0
    try:
        with progress_bar(f"grading {plan.assignment.name}", shown=not quiet) as bar:

            def tell(count: int, total: int, note: str) -> None:
                nonlocal done
                done = count
                bar(count, total, note)

            return grade_all(submitted, plan, book, workers, tell)
    except KeyboardInterrupt:
        say(f"\n{done} of {len(submitted)} reports are in {book.folder}; the same command goes on from there")
        raise


def regrades(records: Sequence[Record], before: Sequence[int], test: str) -> list[str]:
    """A line for each student whose test was graded again: the old and the new score."""
    new = [(record.student, record.regrades[-1]) for record, count in zip(records, before, strict=True)
           if len(record.regrades) > count]  # fmt: skip
    changed = sum(one.old != one.new for _, one in new)
    lines = [
        one_line(f"{student}: {test} {one.old:g} -> {one.new:g}, score {one.old_score:g} -> {one.new_score:g}")
        for student, one in new
    ]
    return [*lines, f"{test} was graded again for {len(new)} students; {changed} scores changed"]


def usable_cores() -> int:
    """The cores that this process may use, at least one; a container's quota counts."""
    from tinyinfer.backends.limits import available_cores, cpu_quotas

    return max(1, min([available_cores(), *(ceil(quota) for quota in cpu_quotas())]))
