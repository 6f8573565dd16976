"""Several students are graded at a time: each by a process of its own, which reads a job and writes an answer.

A process for each student costs half a second and bounds all that can go wrong: its memory has a limit, what it held
is free when it ends, and where it dies (a bug of ours, the system's out-of-memory killer) the student gets a new one,
once. One thread starts and watches the processes, so Ctrl-C reaches it at any time; it then ends them, and each ends
the student's processes. A process whose parent was killed sees the end of its stdin, and ends too (grade_one.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Protocol

COMMAND = (sys.executable, "-m", "tinyinfer.course.whole_class.grade_one")
SECONDS = 3600.0  # of a student in all: more than a submission can take whose every test waits until its limits
PAUSE = 0.02  # seconds between two looks at the processes
GRACE = 10.0  # seconds that a process has to end by itself
TRIES = 2


@dataclass(frozen=True)
class Job:
    """What to grade: a student's folder; hidden: the folder of the hidden tests; only: the one test to grade."""

    student: str
    folder: str
    assignment: str
    hidden: str | None = None
    only: str | None = None


@dataclass(frozen=True)
class Answer:
    """What came of a job: a report's fields; or what is wrong for the whole class; or why this one has no report."""

    report: dict[str, Any] | None = None
    refused: str = ""
    fault: str = ""
    details: str = ""


class Running(Protocol):
    """A job that is being done."""

    def answer(self) -> Answer | None:
        """The answer, or None while there is none. Raises Died."""

    def stop(self) -> None:
        """Ends the job, and waits until it has ended."""


class Died(Exception):
    """A process ended without an answer; the message says how, and what it wrote last."""


class Process:
    """A job in a process of its own."""

    def __init__(self, job: Job, command: Sequence[str] = COMMAND, seconds: float = SECONDS) -> None:
        self.until, self.seconds = time.monotonic() + seconds, seconds
        self.out, self.err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 (closed by _close)
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self.out, stderr=self.err, env=environment, start_new_session=True
        )
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has died already, and `answer` will say so
            self.process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
            self.process.stdin.flush()  # and stays open: its end tells the process that its parent has gone

    def answer(self) -> Answer | None:
        """The answer once the process has ended; a process that takes too long is ended. Raises Died."""
        status = self.process.poll()
        if status is None and time.monotonic() < self.until:
            return None
        if status is None:
            self.stop()
            return Answer(fault=f"grading took more than {self.seconds:.0f} s and was ended")
        try:
            return self._read(status)
        finally:
            self._close()

    def _read(self, status: int) -> Answer:
        with suppress(ValueError, TypeError):
            if status == 0:
                return Answer(**json.loads(contents(self.out)))
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        raise Died(f"the grading process ended with {how} and without a report", contents(self.err)[-2000:])

    def stop(self) -> None:
        """Asks the process to end, and after some seconds ends it."""
        self.process.terminate()
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._close()

    def _close(self) -> None:
        self.out.close()
        self.err.close()
        with suppress(OSError):  # what was not flushed to a dead process
            assert self.process.stdin is not None
            self.process.stdin.close()


def contents(file: Any) -> str:
    """All of a temporary file that another process has written."""
    file.seek(0)
    return str(file.read().decode(errors="replace"))


def run(jobs: Iterable[Job], processes: int, start: Callable[[Job], Running] = Process) -> Iterator[tuple[Job, Answer]]:
    """Each job with its answer, as soon as it is there; so many jobs are done at a time.

    A job whose process died is tried once more. When the caller stops early, by an exception too, all jobs are ended.
    """
    waiting, tries = list(jobs)[::-1], dict[Job, int]()
    running: dict[Job, Running] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                job = waiting.pop()
                tries[job] = tries.get(job, 0) + 1
                running[job] = start(job)
            found = {job: answer for job in list(running) if (answer := _looked(running[job], tries[job])) is not None}
            for job, answer in found.items():
                del running[job]
                if isinstance(answer, Died):
                    waiting.append(job)
                else:
                    yield job, answer
            if not found:
                time.sleep(PAUSE)
    finally:
        for one in running.values():
            one.stop()


def _looked(running: Running, tries: int) -> Answer | Died | None:
    """The answer of a job; Died where it can be tried again, and a fault where it was tried often enough."""
    try:
        return running.answer()
    except Died as death:
        return death if tries < TRIES else Answer(fault=f"{death.args[0]}, {TRIES} times", details=death.args[1])
