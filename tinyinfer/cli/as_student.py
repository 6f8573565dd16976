"""The process of `generate --use` that runs students' code: the same command, and what it records of its run.

An error of the students' code is told by its sentence and by the lines of the students' files in the traceback; our own
lines say nothing to a student. An error that the engine raises over a wrong result names the file that gave it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from tinyinfer.cli.arguments import UsageError
from tinyinfer.cli.comparison import Generation
from tinyinfer.cli.console import fail, say, show
from tinyinfer.cli.signals import ENDING
from tinyinfer.course.errors import CourseError
from tinyinfer.errors import ModelError, NotFiniteError, Worded

OURS = (ModelError, UsageError, CourseError, Worded, OSError, MemoryError)  # told as in every command
REQUEST, RECORD, LINES = "request.json", "record.json", "lines.json"  # what to do; what was done; the lines of --json
LOADING = "tinyinfer._student_"  # the modules that load students' files
ENDED = [128 + number for number in ENDING]  # exit statuses after a signal, which may come while a student's code runs
SHOWN = 8  # lines of a student's traceback: a recursion has a thousand


def serve(folder: Path, opener: object, generate: Callable[..., Generation]) -> NoReturn:
    """Generates as the request in `folder` says, records there what it did, and ends the process.

    generate: generate.py's function. An error of the students' code, too, ends the process at once: what the engine
    would clean up at the end of the process, it would clean up with the same code.
    """
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    lines: list[dict[str, Any]] = []
    try:
        check_package(folder)
        done = generate(argparse.Namespace(**request["args"], opener=opener), request["prompts"], write=lines.append)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        told = in_words(first_of(error, request["students"]), request["students"])
        if told is None:
            raise
        keep(folder / LINES, lines)
        status = fail(told[0])
        for line in told[1:]:
            say(line)
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(status)
    finally:
        keep(folder / LINES, lines)
    keep(folder / RECORD, done.record())
    show("")  # what fails here is told as in every command
    os._exit(done.status)  # a thread that the students' code left behind may go on for ever


def keep(path: Path, value: Any) -> None:
    """Leaves a value for the process that compares; a student's count may be a number of NumPy."""
    path.write_text(json.dumps(value, default=lambda number: number.item()), encoding="utf-8")


def check_package(folder: Path) -> None:
    """Raises CourseError where this process runs another package than that in `folder`: no student's code is in it."""
    if not Path(__file__).resolve().is_relative_to(folder.resolve()):
        raise CourseError(
            f"Python does not import the package in {folder}, so that no student's code would run; set TMPDIR to a "
            f"folder without {os.pathsep!r} in its name"
        )


def first_of(error: BaseException, students: Mapping[str, str]) -> BaseException:
    """The first of the errors that led to this one: while the engine cleans up, a student's code may fail again."""
    earlier = error.__cause__ or error.__context__
    found = first_of(earlier, students) if earlier else None
    return found if found and frames_of(found, students) else error


def frames_of(error: BaseException, students: Mapping[str, str]) -> list[traceback.FrameSummary]:
    """The part of an error's traceback that lies in the students' files."""
    return [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in students]


def in_words(error: BaseException, students: Mapping[str, str]) -> list[str] | None:
    """What to tell of an error: a sentence, then lines of the students' files; None for an error as of any command.

    students: the files by their absolute paths, as the user names them.
    """
    frames, what = frames_of(error, students), described(error)
    if isinstance(error, SystemExit) and error.code in ENDED:
        return None
    if frames:
        place = f"{students[frames[-1].filename]}:{frames[-1].lineno}"
        if isinstance(error, NotImplementedError):
            return [f"{place}: not written yet: {str(error) or frames[-1].name}"]
        return [f"{place}: the code stopped with {what}", *shown(frames, students)]
    if isinstance(error, ImportError) and (error.name or "").startswith(LOADING):
        return [str(error)]
    if isinstance(error, NotFiniteError):  # whose sentence is about weights
        what = "NaN or infinity"
    elif isinstance(error, (*OURS, SystemExit)) or (isinstance(error, ValueError) and not of_a_run(error)):
        return None
    files = " and ".join(students.values())
    return [f"the engine cannot go on with what {files} gave ({what}); run the tests there: pytest"]


def described(error: BaseException) -> str:
    """The kind of an error and its message, without notes; of a SyntaxError without the line above it."""
    parts = traceback.format_exception_only(error)
    return parts[-1 if isinstance(error, SyntaxError) else 0].strip()


def of_a_run(error: BaseException) -> bool:
    """Whether an error came while the model ran, and not from what the user typed."""
    return any(frame.name == "run_sequences" for frame in traceback.extract_tb(error.__traceback__))


def shown(frames: list[traceback.FrameSummary], students: Mapping[str, str]) -> Iterator[str]:
    """The lines of a traceback that lie in the students' files, the last ones where there are many."""
    if len(frames) > SHOWN:
        yield f"  ... {len(frames) - SHOWN} calls more"
    for frame in frames[-SHOWN:]:
        yield f"  {students[frame.filename]}, line {frame.lineno}, in {frame.name}"
        yield f"    {(frame.line or '').strip()}"
