"""A whole class is graded: `course grade --all FOLDER -o grades.csv`. Who has to be graded again, and with what result?

    class_folder ──submissions──▶ stale? ──jobs──▶ workers ──answers──▶ gradebook (grades/STUDENT.json) ──▶ grades.csv

A student is graded when the submission, the assignment, the hidden tests or the engine differ from what the record in
the gradebook was made of, or when the grader failed the last time. Late days are computed when the table is written, so
another due time grades nothing again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyinfer.course.assignment import MANIFEST, Assignment, assignment, check_needed, engine_version
from tinyinfer.course.errors import CourseError
from tinyinfer.course.grading.submission import marker
from tinyinfer.course.whole_class.class_folder import Submission, digest
from tinyinfer.course.whole_class.gradebook import GRADED, GRADER_FAULT, NOT_GRADABLE, Gradebook, Record, regraded
from tinyinfer.course.whole_class.workers import Answer, Job

Workers = Callable[[list[Job]], Iterable[tuple[Job, Answer]]]  # workers.run, or a test's own
OWN_VERSION = "submission"  # of `made_of`: the one part that is the student's


@dataclass(frozen=True)
class Plan:
    """How a class is graded: with which assignment and hidden tests, and which one test, if not all of them."""

    assignment: Assignment
    hidden: Path | None = None
    only: str | None = None

    def made_of(self) -> dict[str, str]:
        """What a record is made of, but the submission."""
        hidden = digest(self.hidden) if self.hidden else ""
        return {
            "assignment": self.assignment.name,
            "assignment_version": self.assignment.version,
            "assignment_files": digest(self.assignment.folder),
            "hidden": hidden,
            "engine_version": engine_version(),
        }


def same_assignment(submitted: Sequence[Submission]) -> Assignment:
    """The one assignment that the markers of all submissions name. Raises CourseError for none or several."""
    found = sorted({marker(one.folder)[0] for one in submitted} - {""})
    if len(found) != 1:
        names = ", ".join(found) or "none"
        raise CourseError(f"the submissions' markers name these assignments: {names}; say which one by --assignment")
    return assignment(found[0])


def grade_all(
    submitted: Sequence[Submission],
    plan: Plan,
    book: Gradebook,
    workers: Workers,
    tell: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> list[Record]:
    """Grades who must be graded; the records of all, in the order of the submissions.

    tell: is called with how many are done, how many there are, and whose report came last.
    Raises CourseError for what is wrong for all of them, OSError; the reports so far are kept.
    """
    check_needed(plan.assignment)
    book.make()
    common = plan.made_of()
    made_of = {one.student: common | {OWN_VERSION: _digest(one, plan.assignment)} for one in submitted}
    known = {one.student: book.read(one.student) for one in submitted}
    others = {record.made_of.get("assignment") for record in known.values() if record} - {plan.assignment.name, None}
    if others:
        raise CourseError(f"{book.folder}: holds reports of {others.pop()}; give another table by -o")
    jobs = [job for one in submitted if (job := job_of(one, plan, known[one.student], made_of[one.student]))]
    done = len(submitted) - len(jobs)
    tell(done, len(submitted), f"{done} unchanged")
    records = {name: record for name, record in known.items() if record is not None}
    for job, answer in workers(jobs):
        if answer.refused:
            raise CourseError(answer.refused)
        record = recorded(job, answer, made_of[job.student], known[job.student])
        book.write(record)
        records[job.student] = record
        done += 1
        tell(done, len(submitted), job.student)
    return [records[one.student] for one in submitted]


def _digest(submission: Submission, assignment: Assignment) -> str:
    return digest(submission.folder, (assignment.file, MANIFEST))


def job_of(submission: Submission, plan: Plan, known: Record | None, made_of: Mapping[str, str]) -> Job | None:
    """What has to be done for a student: all tests, the plan's only one, or nothing."""
    hidden = str(plan.hidden) if plan.hidden else None
    job = Job(submission.student, str(submission.folder), plan.assignment.name, hidden)
    if known is not None and plan.only and known.status == GRADED:
        same = all(known.made_of.get(part) == made_of[part] for part in (OWN_VERSION, "assignment"))
        same &= bool(known.made_of.get("hidden")) or not plan.hidden  # else the other hidden tests never ran
        if same and any(result["name"] == plan.only for result in known.results):
            return Job(job.student, job.folder, job.assignment, job.hidden, plan.only)
    return None if known is not None and not known.failed and known.made_of == made_of else job


def recorded(job: Job, answer: Answer, made_of: dict[str, str], known: Record | None) -> Record:
    """The record of an answer; of one test that was graded again, the known record with that test's new result."""
    report = answer.report or {"results": [], "fault": answer.fault}
    ours = [f"{one['name']}: {one['sentence']}" for one in report["results"] if one["of_grader"]]
    fault = report["fault"] or "; ".join(ours[:1])
    status = GRADER_FAULT if ours or answer.report is None else NOT_GRADABLE if fault else GRADED
    record = Record(job.student, status, fault, made_of, answer.report, details=answer.details)
    return regraded(known, record, job.only) if job.only and known is not None else record
