"""The report of one submission: points, what went wrong first, and what the mark can be trusted for.

A report has two readers. `as_text` is for the student: of a hidden test it says the status and the kind of bug, and no
input, message or output. `record`, as JSON, is for the teacher: everything, with the seeds of the hidden tests.
Whatever the student's code wrote is bounded, one line stays one line, and a letter that a terminal would obey is
spelled out.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from tinyinfer.course.runner import ERROR, NOT_IMPLEMENTED, PARTIAL, PASSED, TIMEOUT
from tinyinfer.errors import one_line

NOT_RUN = "not run"  # a hidden test, where the hidden tests are not at hand
LOCAL_ONLY = "local feedback only: marks are given on Linux"
LINES, LINE, SENTENCE = 20, 200, 600  # of output that is shown: lines, letters of a line; letters of a sentence
WIDTH = 100


@dataclass(frozen=True)
class TestResult:
    """What became of one test. sentence and hint: of the first part that did not pass. output: bounded and visible.

    seconds: of the test, where they were asked for. seed: of a hidden test, in hexadecimal. of_grader: the test itself
    broke, or never ran.
    """

    __test__: ClassVar[bool] = False  # pytest: this class is no test

    name: str
    number: str
    points: float
    score: float
    status: str
    parts_passed: int
    parts: int
    sentence: str = ""
    hint: str = ""
    output: str = ""
    hidden: bool = False
    catches: str = ""
    seconds: float | None = None
    seed: str = ""
    of_grader: bool = False


@dataclass(frozen=True)
class Report:
    """The marks of one submission. limits: in force while it ran. missing_limits: what this system could not limit.

    notes: what was ignored, or is strange. fault: why nothing could be graded, or "". local_only: no marks.
    """

    assignment: str
    assignment_version: str
    engine_version: str
    student: str = ""
    limits: tuple[str, ...] = ()
    missing_limits: tuple[str, ...] = ()
    results: tuple[TestResult, ...] = ()
    notes: tuple[str, ...] = ()
    fault: str = ""
    local_only: bool = False

    @property
    def asked(self) -> tuple[TestResult, ...]:
        """The tests that count here: all but the hidden ones that were not at hand."""
        return tuple(result for result in self.results if result.status != NOT_RUN)

    @property
    def score(self) -> float:
        return round(sum(result.score for result in self.results), 2)

    @property
    def points(self) -> float:
        return sum(result.points for result in self.asked)

    @property
    def full(self) -> bool:
        """Whether the submission has full marks of what was asked."""
        return not self.fault and bool(self.asked) and all(result.status == PASSED for result in self.asked)

    @property
    def passed_public(self) -> bool:
        """Whether all public tests passed. No report says this of all tests: hidden ones may exist."""
        public = [result for result in self.results if not result.hidden]
        return not self.fault and bool(public) and all(result.status == PASSED for result in public)

    @property
    def first_failing(self) -> TestResult | None:
        """The first test that did not pass, a public one if there is one."""
        failing = [result for result in self.asked if result.status != PASSED]
        return min(failing, key=lambda result: result.hidden, default=None)

    @property
    def first_hint(self) -> str:
        """What the student reads first: what is wrong with the first failing test, and the hint."""
        failing = self.first_failing
        if self.fault or failing is None:
            return self.fault
        return advice(failing)


def advice(result: TestResult) -> str:
    """What is wrong and the hint, in one line; of a hidden test only the kind of bug that it catches."""
    if result.hidden and not result.of_grader:
        return f"a hidden test fails: it catches {result.catches}"
    if result.hidden:
        return "a hidden test could not be run: the grader is at fault, tell your teacher"
    return f"{result.sentence} hint: {result.hint}" if result.hint else result.sentence


# Text of the student's code, made harmless.


def bounded(text: str, letters: int = SENTENCE) -> str:
    """The text in one line of letters that are seen, cut after so many."""
    line = one_line(text[: 4 * letters])
    return line if len(line) <= letters else line[: letters - 4] + " ..."


def visible(text: str) -> str:
    """At most 20 lines of what the student's code printed, each bounded and of letters that are seen."""
    lines = text.splitlines()
    shown = [indented(line) for line in lines[:LINES]]
    if len(lines) > LINES:
        shown.append(f"... {len(lines) - LINES:,} more lines")
    return "\n".join(shown)


def indented(line: str) -> str:
    """One line of output with the spaces before it, bounded and of letters that are seen."""
    text = line.lstrip(" ")
    spaces = min(len(line) - len(text), LINE // 2)
    return " " * spaces + bounded(text, LINE - spaces)


# The student's report.


def as_text(report: Report) -> str:
    """The report for the student and for a terminal."""
    blocks = [head(report)]
    if report.fault:
        blocks.append(paragraph(f"Nothing could be graded: {report.fault}"))
    blocks.append("\n".join(table(report)))
    failing = report.first_failing
    if failing is not None and not report.fault:
        blocks.append(to_mend(report, failing))
    blocks.append("\n".join(sums(report)))
    return "\n\n".join(block for block in blocks if block) + "\n"


def head(report: Report) -> str:
    """What was graded, by which versions, with which limits, and what is strange."""
    lines = [f"assignment  {report.assignment}, version {report.assignment_version}, graded by tinyinfer "
             f"{report.engine_version}"]  # fmt: skip
    if report.student:
        lines.append(f"student     {bounded(report.student, LINE)}")
    if report.local_only:
        lines.append(f"marks       none, {LOCAL_ONLY}")
    for title, sentences in (("limits", report.limits), ("no limit", report.missing_limits)):
        if sentences:
            lines.append(paragraph(f"{title:<10}  " + "; ".join(map(bounded, sentences)), " " * 12))
    for place, note in enumerate(report.notes):
        lines.append(paragraph(f"{'' if place else 'notes':<10}  {bounded(note)}", " " * 12))
    return "\n".join(lines)


def table(report: Report) -> list[str]:
    """One row for each test: number, name, points, status."""
    names = [result.name + " (hidden)" * result.hidden for result in report.results]
    width = max(map(len, names), default=0)
    return [f"{result.number:<4}  {name:<{width}}  {shown(result.score):>5} / {shown(result.points):<3}  "
            f"{result.status}{parts(result)}"
            for result, name in zip(report.results, names, strict=True)]  # fmt: skip


def parts(result: TestResult) -> str:
    """How many parts passed, of a test that passed in part."""
    return f" ({result.parts_passed} of {result.parts} parts passed)" if result.status == PARTIAL else ""


def to_mend(report: Report, result: TestResult) -> str:
    """The first failing test in full, and what to do."""
    lines = [f"First to mend: {result.number} {result.name}, {result.status}"]
    if result.hidden:
        return "\n".join([*lines, paragraph(f"  {advice(result)}.", "  ")])
    lines.append(paragraph(f"  {result.sentence}", "  "))
    if result.hint:
        lines.append(paragraph(f"  hint: {result.hint}", "  "))
    if result.catches:
        lines.append(paragraph(f"  this test catches: {result.catches}", "  "))
    if result.output:
        lines += ["  the code printed:", textwrap.indent(result.output, "  | ", lambda line: True)]
    return "\n".join([*lines, paragraph(f"  {what_to_do(report.assignment, result)}", "  ")])


def what_to_do(assignment: str, result: TestResult) -> str:
    """The next step after a failing public test."""
    if result.of_grader:
        return "The grader is at fault, not your code: tell your teacher."
    if result.status == NOT_IMPLEMENTED:
        return f"Write this task in {assignment}.py, and grade again."
    if result.status == TIMEOUT:
        return f"Look for a loop without an end in {assignment}.py; to see where: pytest -k {result.name}, then Ctrl-C."
    if result.status in (ERROR, PARTIAL):
        return f"To see it by itself: pytest -k {result.name}"
    return f"To stop there in a debugger: pytest -k {result.name} --pdb"


def sums(report: Report) -> list[str]:
    """The points of the public tests, of the hidden ones, and of both."""
    lines = []
    for title, hidden in (("public tests", False), ("hidden tests", True)):
        results = [result for result in report.asked if result.hidden == hidden]
        if results:
            score, points = sum(r.score for r in results), sum(r.points for r in results)
            title += " passed" * all_passed(results, report)
            lines.append(f"{title:<19}  {shown(score):>6} / {shown(points)}")
    unseen = [result for result in report.results if result.status == NOT_RUN]
    if unseen:
        more = shown(sum(result.points for result in unseen))
        tests = f"{len(unseen)} hidden tests are" if len(unseen) > 1 else "1 hidden test is"
        lines.append(f"{tests} worth {more} points more; your teacher's grader runs them")
    if len(lines) > 1 and not unseen:
        lines.append(f"{'score':<19}  {shown(report.score):>6} / {shown(report.points)}")
    return lines


def all_passed(results: list[TestResult], report: Report) -> bool:
    """Whether each of the results passed, in a report without a fault."""
    return not report.fault and all(result.status == PASSED for result in results)


def shown(points: float) -> str:
    """Points without zeros behind the comma."""
    return f"{points:.2f}".rstrip("0").rstrip(".")


def paragraph(text: str, indent: str = "") -> str:
    """The text in lines of at most WIDTH letters; lines after the first begin with the indent."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False, drop_whitespace=True)


# The teacher's report.


def record(report: Report) -> dict[str, Any]:
    """All of a report as JSON holds it, with its sums."""
    sums = {"score": report.score, "points": report.points, "full": report.full, "passed_public": report.passed_public,
            "first_hint": report.first_hint}  # fmt: skip
    return sums | asdict(report)


def as_json(report: Report) -> str:
    """The report for the teacher, as JSON."""
    return json.dumps(record(report), indent=2, allow_nan=False) + "\n"


def from_record(values: Mapping[str, Any]) -> Report:
    """The report of which `record` made these values. Raises KeyError, TypeError for other values."""
    plain = {one.name: values[one.name] for one in fields(Report)}
    results = tuple(TestResult(**result) for result in plain["results"])
    lists = {name: tuple(plain[name]) for name in ("limits", "missing_limits", "notes")}
    return Report(**plain | lists | {"results": results})
