"""One file out of a folder that a stranger filled: read without being led elsewhere, kept waiting or filled up.

Only DIR/{NAME}.py is taken, and only a regular file: no link, FIFO or device is opened. Nothing else of the folder is
used, so no file of it can change a test, a marker or a module. What lies there and looks like an attempt is noted.

`scan_source` reads the text for imports and names that the assignment does not need. That is a note for the teacher and
no defence: Python has a hundred other ways to write `import os`. The defence is that the code runs in another process.
"""

from __future__ import annotations

import os
import stat
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tinyinfer.course.assignment import MANIFEST, Assignment, assignments
from tinyinfer.course.errors import CourseError
from tinyinfer.course.grading.report import bounded
from tinyinfer.course.grading.source_scan import parse_fault, scan_source

LARGEST = 1_000_000  # bytes of the student's file
ENTRIES = 10_000  # of the folder that are looked at
NOTES = 12  # about other files
SHADOWS = {"numpy", "pytest", "_pytest", "tinyinfer", "ml_dtypes", *sys.stdlib_module_names}
STARTUP = {"conftest", "sitecustomize", "usercustomize", "setup"}  # modules
SETTINGS = {"pytest.ini", "tox.ini", "setup.cfg", "pyproject.toml"}
LOADED = (".pth", ".so", ".pyd", ".dll", ".dylib", ".egg-link")
KINDS = {stat.S_IFDIR: "folder", stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket",
         stat.S_IFCHR: "device", stat.S_IFBLK: "device"}  # fmt: skip


@dataclass(frozen=True)
class Submission:
    """A student's source, what is strange about its folder, and why the source cannot be graded ("" if it can)."""

    source: bytes
    notes: tuple[str, ...] = ()
    fault: str = ""


def take(folder: Path, a: Assignment) -> Submission:
    """The student's file of an assignment out of a folder. Raises CourseError where there is no such folder."""
    if not folder.is_dir():
        raise CourseError(f"{folder}: there is no such folder; make it by: tinyinfer course start {a.name} {folder}")
    others = strange(folder, a)
    try:
        source, linked = read_regular(folder / a.file, LARGEST)
    except Unusable as error:
        return Submission(b"", tuple(others), missing(folder, a) or f"{a.file} {error}")
    except OSError as error:
        return Submission(b"", tuple(others), f"{a.file} cannot be read ({error.strerror or error})")
    notes = [f"{a.file} is a hard link: another name of the same file exists"] * linked + version_note(folder, a)
    fault = marker_fault(folder, a) or text_fault(source, a.file) or parse_fault(source, a.file)
    scanned = [] if fault else scan_source(source, a)
    return Submission(source, (*notes, *others, *scanned), fault)


# Reading a file that may be a trap.


class Unusable(Exception):
    """What lies at a path is no regular file of a bearable size; the message goes on after the file's name."""


def read_regular(path: Path, largest: int) -> tuple[bytes, bool]:
    """A regular file's content, and whether it has a second name. Raises Unusable, OSError; never waits."""
    try:
        before = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise Unusable("is missing") from None
    if not stat.S_ISREG(before.st_mode):
        raise Unusable(f"is a {KINDS.get(stat.S_IFMT(before.st_mode), 'special file')}, and only a file is read")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:
        now = os.fstat(file.fileno())
        if not stat.S_ISREG(now.st_mode) or (now.st_dev, now.st_ino) != (before.st_dev, before.st_ino):
            raise Unusable("became another file while it was read")
        content = file.read(largest + 1)
    if len(content) > largest:
        raise Unusable(f"is larger than {largest:,} bytes; an assignment needs a few thousand")
    return content, now.st_nlink > 1


def text_fault(source: bytes, name: str) -> str:
    """Why the bytes are no text that Python reads as UTF-8, with the line; "" if they are."""
    try:
        text = source.decode("utf-8")
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        return f"{name}, line {line}: the byte 0x{source[error.start]:02x} is no UTF-8; save the file as UTF-8"
    return f"{name} is empty" if not text.strip() else ""


def missing(folder: Path, a: Assignment) -> str:
    """What to say where DIR/{NAME}.py does not exist: what is there in its place; "" where something is there."""
    if os.path.lexists(folder / a.file):
        return ""
    others = [name for name in assignments() if (folder / f"{name}.py").is_file() and name != a.name]
    if others:
        return f"{a.file} is missing; {others[0]}.py is there, which is the file of another assignment"
    below = [path.parent.name for path, kind in entries(folder) if path.name == a.file and path.parent != folder]
    if below:
        return f"{a.file} is missing; one lies in the folder {bounded(below[0], 60)}: put it at the top"
    return f"{a.file} is missing; it must lie at the top of the submission, with this name"


# The marker.


def marker_fault(folder: Path, a: Assignment) -> str:
    """Why the marker in a folder does not belong to this assignment; "" where it does, or where there is none."""
    named = marker(folder)[0]
    if named in ("", a.name):
        return ""
    return (f"{MANIFEST} says that this folder is for {bounded(named, 60)}, but {a.name} is graded; "
            f"hand in the folder of {a.name}, with its {MANIFEST} as it was")  # fmt: skip


def version_note(folder: Path, a: Assignment) -> list[str]:
    """A note where the folder was started from another version of the assignment."""
    version = marker(folder)[1]
    if version in ("", a.version):
        return []
    return [f"started from version {bounded(version, 20)} of the assignment, graded by version {a.version}"]


def marker(folder: Path) -> tuple[str, str]:
    """The assignment and the version that a folder's marker names; "" for what no readable marker says."""
    try:
        values = tomllib.loads(read_regular(folder / MANIFEST, 10_000)[0].decode("utf-8"))
    except (Unusable, OSError, ValueError, RecursionError):
        return "", ""
    name, version = (value if isinstance(value, str) else "" for value in (values.get("name"), values.get("version")))
    return name, version


# What else lies there.


def strange(folder: Path, a: Assignment) -> list[str]:
    """Notes about files that look like an attempt to change the grading; all of them are ignored."""
    notes, seen = [], 0
    for path, kind in entries(folder):
        seen += 1
        why = strangeness(path, kind, a, top=path.parent == folder)
        if why:
            notes.append(f"ignored: {bounded(str(path.relative_to(folder)), 120)} ({why})")
    if len(notes) > NOTES:
        notes[NOTES:] = [f"ignored: {len(notes) - NOTES:,} more such files"]
    if seen >= ENTRIES:
        notes.append(f"more than {ENTRIES:,} files: only so many were looked at, and none but {a.file} is used")
    return notes


def entries(folder: Path) -> Iterator[tuple[Path, int]]:
    """The first entries below a folder with their kinds (stat.S_IFMT), nearest first; hidden folders are left out."""
    waiting, count = [folder], 0
    while waiting and count < ENTRIES:
        try:
            with os.scandir(waiting.pop(0)) as found:
                for entry in found:
                    count += 1
                    kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
                    yield Path(entry.path), kind
                    if kind == stat.S_IFDIR and not entry.name.startswith((".", "__pycache__")):
                        waiting.append(Path(entry.path))
                    if count >= ENTRIES:
                        return
        except OSError:
            continue  # a folder that may not be read, or a path that is too long


def strangeness(path: Path, kind: int, a: Assignment, top: bool) -> str:
    """Why an entry is strange; "" where it is not."""
    name = path.name
    if not name.isprintable() or not name.strip():
        return "letters that are not seen in its name"
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        return KINDS.get(kind, "special file") if name != a.file or not top else ""
    if kind == stat.S_IFDIR:
        return "a folder with the name of a package" if name in SHADOWS else ""
    if name == f"test_{a.name}.py" and top:
        return differs(path, a.folder / name)
    if name in SETTINGS or (name.endswith(".py") and path.stem in STARTUP):
        return "Python or pytest would run or read it at the start"
    if name.endswith(LOADED):
        return "Python would load it"
    if name == "__init__.py":
        return "a package of the student's own"
    return "it has the name of a module" if name.endswith(".py") and path.stem in SHADOWS else ""


def differs(path: Path, ours: Path) -> str:
    """Says so where a copy of the tests is not ours any more."""
    try:
        same = read_regular(path, LARGEST)[0] == ours.read_bytes()
    except (Unusable, OSError):
        same = False
    return "" if same else "it differs from the tests of the assignment, which are run in its place"
