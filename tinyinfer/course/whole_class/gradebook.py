"""The gradebook: two files for each student, written as soon as the student's report is there, whole or not at all.

    grades.csv    grades/ada.json  ada.txt    grades/grace.json  grace.txt    ...

The .txt is the student's report, without what is secret of hidden tests. A record, the .json, names what it was made
of: digests of the submission, the assignment and the hidden tests, and the versions. The next run grades only those
whose record was made of something else, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from tinyinfer.course.errors import CourseError
from tinyinfer.course.grading.report import NOT_RUN, as_text, from_record
from tinyinfer.loading.whole import whole

GRADED, NOT_GRADABLE, GRADER_FAULT = "graded", "not gradable", "grader fault"
DERIVED = ("full", "passed_public", "first_hint")  # what a report says of its results besides the score
LONGEST = 150  # bytes of a student's name in the name of a file


@dataclass(frozen=True)
class Regrade:
    """One test that was graded again: its score and the student's, before and after."""

    test: str
    old: float
    new: float
    old_score: float
    new_score: float
    assignment_version: str


@dataclass(frozen=True)
class Record:
    """What is known of one student.

    made_of: digests and versions (many.py). report: the fields of course/grading/report.py's Report, None without one.
    fault: why there is no grade, "" otherwise; status GRADER_FAULT means that the fault is ours and not the student's.
    """

    student: str
    status: str
    fault: str
    made_of: dict[str, str]
    report: dict[str, Any] | None
    regrades: tuple[Regrade, ...] = ()
    details: str = ""

    @property
    def score(self) -> float | None:
        """The points that the student has; None where the grader failed."""
        if self.status == GRADER_FAULT:
            return None
        return float(self.report["score"]) if self.report else 0.0

    @property
    def failed(self) -> bool:
        """Whether the grader failed: there is no grade, or one test was not graded again."""
        return self.status == GRADER_FAULT or (self.status == GRADED and bool(self.fault))

    @property
    def results(self) -> list[dict[str, Any]]:
        """The results of the tests that were run, in the order of the assignment."""
        results = self.report["results"] if self.report else []
        return [result for result in results if result["status"] != NOT_RUN]


class Gradebook:
    """The records in a folder beside the CSV file."""

    def __init__(self, csv: Path) -> None:
        self.folder = csv.with_suffix("") if csv.suffix else csv.with_name(csv.name + ".records")

    def make(self) -> None:
        """Makes the folder, for its owner only: it holds seeds. Raises CourseError for a file so named, OSError."""
        if self.folder.exists() and not self.folder.is_dir():
            raise CourseError(f"{self.folder}: is a file, and the reports must go into a folder of that name; move it")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, student: str) -> Path:
        """Where a student's record is. A name that suits no file is shortened, and a digest makes it unique."""
        if student.isprintable() and len(student.encode(errors="replace")) <= LONGEST and student[:1] != ".":
            return self.folder / f"{student}.json"
        name = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in student)[:40]
        return self.folder / f"{name}-{hashlib.sha256(student.encode(errors='surrogatepass')).hexdigest()[:12]}.json"

    def read(self, student: str) -> Record | None:
        """A student's record; None where there is none, or none that can be used."""
        try:
            found = json.loads(self.path(student).read_text(encoding="utf-8"))
            known = {one.name for one in fields(Record)}
            record = Record(**{name: value for name, value in found.items() if name in known})
            if record.student != student:  # a disk for which Ada and ada are one name
                return None
            if record.report is not None:
                from_record(record.report)
            return replace(record, regrades=tuple(Regrade(**one) for one in found["regrades"]))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def write(self, record: Record) -> None:
        """Writes a record and the student's own report, each whole; the record last. Raises OSError."""
        path = self.path(record.student)
        if record.report is None:
            path.with_suffix(".txt").unlink(missing_ok=True)
        else:
            with whole(path.with_suffix(".txt")) as part:
                part.write_text(as_text(from_record(record.report)), encoding="utf-8")
        with whole(path) as part:
            part.write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")


def regraded(old: Record, new: Record, test: str) -> Record:
    """The old record with one test's result out of the new one, and a note of what that changed; or why it was not."""
    assert old.report is not None
    if new.report is None or new.fault:
        return replace(old, fault=f"{test} was not graded again: {new.fault}", details=new.details)
    again = {result["name"]: result for result in new.results if result["name"] == test}
    results = [again.get(result["name"], result) for result in old.report["results"]]
    before, after = (next(r["score"] for r in of if r["name"] == test) for of in (old.results, results))
    score = round(sum(result["score"] for result in results), 2)
    versions = {name: new.report[name] for name in ("assignment_version", "engine_version")}
    note = Regrade(test, before, after, float(old.report["score"]), score, str(versions["assignment_version"]))
    kept = {name: value for name, value in old.report.items() if name not in DERIVED}
    report = kept | versions | {"results": results, "score": score}
    made_of = new.made_of | {"hidden": new.made_of["hidden"] or old.made_of["hidden"]}  # "": a public test, alone
    return replace(new, report=report, made_of=made_of, regrades=(*old.regrades, note))
