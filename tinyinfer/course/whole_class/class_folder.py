"""The folder of a class: one folder for each student, named after the student. What did each of them hand in?

    class/ada/    class/grace/    ...    in each of them the student's file, such as kv_cache.py

Gradescope's and Moodle's exports have this shape, too (docs/teaching.md). A digest stands for a submission: names,
kinds and sizes of all that is in the folder, and the content of the files that decide the grade. So a second run sees
which submissions have changed. Nothing here follows a link or opens a FIFO.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tinyinfer.course.errors import CourseError

MOST_ENTRIES = 10_000  # of a submission's folder; the rest decides no grade
MOST_BYTES = 4 << 20  # of a file whose content decides; a larger one is refused by the grader


@dataclass(frozen=True)
class Submission:
    """A student of the class, and the folder that the student handed in."""

    student: str
    folder: Path


def submissions(folder: Path) -> list[Submission]:
    """The submissions of a class in the order of their names. Raises CourseError where there are none, OSError."""
    if not folder.is_dir():
        raise CourseError(f"{folder}: is no folder; give the folder that holds one folder for each student")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    found = [Submission(name, folder / name) for name in names if not name.startswith((".", "__MACOSX"))]
    if not found:
        raise CourseError(f"{folder}: holds no folder; it must hold one folder for each student")
    return found


def links(folder: Path) -> list[str]:
    """The names of links to folders, which are no submissions: they lead anywhere. Raises OSError."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_symlink() and entry.is_dir())


def entries(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """(path inside the folder, what it is) of all that a folder holds, in order, but caches; no link is followed."""
    left = MOST_ENTRIES
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")  # made by who runs tests there
        for name in sorted([*folders, *files])[:left]:
            path = os.path.join(where, name)
            left -= 1
            with suppress(OSError):  # a path that is too long, or in a folder that may not be entered
                yield os.path.relpath(path, folder), os.lstat(path)
        if left <= 0:
            return


def digest(folder: Path, deciding: Collection[str] = ()) -> str:
    """A short name for what is in a folder. deciding: names of the files whose content counts; none: all of them."""
    whole = hashlib.sha256()
    first = [(name, os.lstat(folder / name)) for name in deciding if os.path.lexists(folder / name)]
    for path, status in [*first, *entries(folder)]:  # `first`, however many other files there are
        size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size  # a folder's is its disk's affair
        whole.update(repr((path, stat.S_IFMT(status.st_mode), size)).encode())
        counts = not deciding or os.path.basename(path) in deciding
        if counts and stat.S_ISREG(status.st_mode) and status.st_size <= MOST_BYTES:
            with suppress(OSError):  # one that may not be read: the grader will say so
                whole.update((folder / path).read_bytes())
    return whole.hexdigest()[:16]
