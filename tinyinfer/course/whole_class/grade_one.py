"""`python -m tinyinfer.course.whole_class.grade_one` grades one student: a Job as a line of stdin, an Answer on stdout.

A process of `grade --all` (workers.py). An exception here is a bug of ours: it becomes the fault of this one student's
row, with its traceback in the record, and no end of the run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from dataclasses import asdict
from pathlib import Path

from tinyinfer.course.errors import CourseError
from tinyinfer.course.whole_class.workers import Answer, Job
from tinyinfer.errors import one_line

MEMORY = 2 << 30  # bytes of address space: NumPy and the engine take 0.3 GB of it, and 60 MB of memory


def main() -> int:
    """Grades the student that stdin names, and returns the exit status."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything prints is no answer
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # `finally` then ends the student's code
    job = Job(**json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=end_with_parent, args=(0,), daemon=True).start()
    limit_memory(MEMORY)
    answer = graded(job)
    answers.write(json.dumps(asdict(answer)).encode())
    answers.close()
    return 0


def end_with_parent(stdin: int) -> None:
    """Ends this process, and so the student's, when the other side of stdin (its number) has gone.

    Not through sys.stdin: its lock, held by a thread that waits, would abort Python's own end.
    """
    while os.read(stdin, 1):
        continue
    os.kill(os.getpid(), signal.SIGTERM)


def limit_memory(size: int) -> None:
    """Bounds the address space of this process where the system can; the student's own limits are not touched."""
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or hard > size:
        resource.setrlimit(resource.RLIMIT_AS, (size, hard))


def graded(job: Job) -> Answer:
    """The answer to a job. A CourseError that begins with the student's folder is about this student, else all."""
    try:
        from tinyinfer.course.grading.grade import grade
        from tinyinfer.course.grading.report import record

        hidden, only = Path(job.hidden) if job.hidden else None, (job.only,) if job.only else ()
        return Answer(record(grade(Path(job.folder), job.assignment, student=job.student, hidden=hidden, only=only)))
    except CourseError as error:
        own = str(error).startswith(one_line(f"{job.folder}:"))
        return Answer(fault=str(error)) if own else Answer(refused=str(error))
    except Exception as error:
        return Answer(fault=one_line(f"{type(error).__name__}: {error}"), details=traceback.format_exc())


if __name__ == "__main__":
    sys.exit(main())
