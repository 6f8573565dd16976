"""The sandbox: a folder with what the student's code may read, and children started in it under limits.

    (NAME)         the student's file
    package/       the engine without what is to be written, and the child's own modules
    packages/      links to the packages that the assignment needs beside NumPy, and to nothing else that is installed
    python/        Python and NumPy once more, only where another user cannot reach the installed ones
    empty/         where the child works: an empty folder, in which it may not write

Everything in it is written once for a grading, belongs to the grader, and is shared by all children. The folder's lock
is held as long as its grader lives. A grader that is killed leaves the folder behind; the next one removes it.
"""

from __future__ import annotations

import json
import os
import py_compile
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from filelock import FileLock, Timeout

from tinyinfer.course.assignment import Assignment
from tinyinfer.course.cut import merged_package, student_module
from tinyinfer.course.errors import CourseError
from tinyinfer.course.sandbox.child import BOOT
from tinyinfer.course.sandbox.confine import Confinement
from tinyinfer.course.sandbox.processes import Owned, free_uid, threads_of

PREFIX = "tinyinfer-course-"
FRESH = 60.0  # seconds: a younger folder may not be locked yet
FLAGS = ("-s", "-P", "-S", "-B")  # no user's and no installed packages on the path, nothing written
ENVIRONMENT = {"LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1",
               "PYTHONHASHSEED": "0"}  # fmt: skip
NEEDED = ("SYSTEMROOT",)  # Windows starts no Python without it
UNUSED = shutil.ignore_patterns(
    *("site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3"),
    *("config-*", "*.opt-?.pyc"),
)


@dataclass(frozen=True)
class Limits:
    """What a child may use. Seconds are wall time, but for cpu_seconds, which all requests of one child share."""

    request_seconds: float = 10.0
    test_seconds: float = 60.0
    start_seconds: float = 60.0
    cpu_seconds: int = 20
    memory_bytes: int = 384 << 20  # beside what Python and NumPy take
    threads: int = 16
    open_files: int = 64
    printed_bytes: int = 64 << 10


class Sandbox:
    """A student's file and what it may import, ready to be run. Use it in a `with` statement: it removes its folder.

    source: the bytes of the student's file.
    """

    def __init__(self, a: Assignment, source: bytes) -> None:
        self.assignment, self._source = a, source
        self.as_root = hasattr(os, "geteuid") and os.geteuid() == 0

    def __enter__(self) -> Self:
        self.folder = new_folder(self.as_root)
        self._lock = FileLock(self.folder / "lock", mode=0o600)
        self._lock.acquire()
        self.file = self.folder / self.assignment.file
        try:
            self._fill()
        except BaseException as error:
            self.__exit__(None, None, None)
            if isinstance(error, OSError):
                raise CourseError(
                    f"the folder {self.folder} for the student's code cannot be filled: {error}"
                ) from None
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, limits: Limits) -> tuple[subprocess.Popen[bytes], Owned]:
        """A new child, which has not yet said that its limits are in force. Raises CourseError."""
        uid = free_uid() if self.as_root else None
        owned = Owned(uid, str(self.folder / "empty"))
        threads = limits.threads if uid is not None or os.name != "posix" else limits.threads + threads_of(os.getuid())
        readable = (*(str(path) for path in numpy_parts(self.numpy)), str(self.folder / "package"), str(self.file),
                    str(self.folder / "empty"), *(str(path.resolve()) for path in self.packages))  # fmt: skip
        confinement = Confinement(
            uid, limits.memory_bytes, limits.cpu_seconds, threads, limits.open_files, readable,
            self.assignment.packages, os.getpid(),
        )  # fmt: skip
        settings = {
            "package": str(self.folder / "package"), "numpy": str(self.numpy), "file": str(self.file),
            "packages": str(self.folder / "packages"),
            "module": f"tinyinfer.{student_module(self.assignment.name)}", "confinement": asdict(confinement),
        }  # fmt: skip
        try:
            return self._process([*FLAGS, "-c", BOOT, json.dumps(settings)], owned.home), owned
        except OSError as error:
            raise CourseError(f"no process can be started for the student's code: {error}") from None

    def _process(self, arguments: list[str], home: str) -> subprocess.Popen[bytes]:
        """A Python with three pipes and nothing else of the grader's."""
        return subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=home, env=self._environment(home), start_new_session=True,
        )  # fmt: skip

    def _environment(self, home: str) -> dict[str, str]:
        needed = {name: os.environ[name] for name in NEEDED if name in os.environ}
        if self._python is not None:
            needed["PYTHONHOME"] = str(self._python)
        return {**ENVIRONMENT, "HOME": home, **needed}

    def _fill(self) -> None:
        self.folder.chmod(0o711 if self.as_root else 0o700)
        self.file.write_bytes(self._source)
        (self.folder / "empty").mkdir()
        (self.folder / "packages").mkdir()
        package = merged_package(
            self.folder / "package", {self.assignment.name: self.file}, whole=False,
            also=["tinyinfer.course.sandbox.child"],
        )  # fmt: skip
        for path in package.rglob("*.py"):
            py_compile.compile(str(path), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH, doraise=True)
        self.numpy = Path(np.__file__).parents[1]
        place = self.folder / "packages"
        self.packages = [link_package(name, place, self.as_root) for name in self.assignment.packages]
        self._python: Path | None = None
        if self.as_root:
            self._open_to_others()

    def _open_to_others(self) -> None:
        """Makes all of the folder readable for another user, with Python and NumPy where they are out of reach."""
        standard, binary = Path(os.__file__).parent, Path(sysconfig.get_config_var("DESTSHARED") or os.__file__)
        if not all(map(reachable, (standard, binary))):
            self._python = home = self.folder / "python"
            version = f"{sys.platlibdir}/python{sys.version_info.major}.{sys.version_info.minor}"
            link_tree(standard, home / version)
            if not binary.is_relative_to(standard):
                link_tree(binary, home / version / "lib-dynload")
        if not reachable(self.numpy):
            for part in numpy_parts(self.numpy):
                link_tree(part, self.folder / "python" / "numpy" / part.name)
            self.numpy = self.folder / "python" / "numpy"
        own = self.file, self.folder / "empty", self.folder / "packages"  # not what is linked in it
        for path in [*own, *(self.folder / "package").rglob("*"), self.folder / "package"]:
            path.chmod(0o755 if path.is_dir() else 0o644)


def link_package(name: str, folder: Path, for_others: bool) -> Path:
    """A link in a folder to an installed package; its files once more where another user must reach it, and cannot."""
    found = find_spec(name)
    assert found is not None
    assert found.origin is not None  # the assignment was asked for with all that it needs
    source, target = Path(found.origin).parent, folder / name
    if not for_others or reachable(source):
        with suppress(OSError):  # Windows allows no link
            target.symlink_to(source, target_is_directory=True)
            return target
    link_tree(source, target)
    return target


def numpy_parts(folder: Path) -> list[Path]:
    """NumPy's own folders within the folder that holds it: the package, and the libraries that came with it."""
    return [path for path in (folder / "numpy", folder / "numpy.libs") if path.is_dir()]


def reachable(path: Path) -> bool:
    """Whether every user can read the path, as the permissions of it and of the folders above it say."""
    real = path.resolve()
    above = all(folder.stat().st_mode & stat.S_IXOTH for folder in real.parents)
    return above and bool(real.stat().st_mode & stat.S_IROTH)


def link_tree(source: Path, target: Path) -> None:
    """The files of a folder once more, as links where both lie on one disk; without tests and installed packages."""

    def link(old: str, new: str) -> None:
        try:
            os.link(old, new, follow_symlinks=True)
        except OSError:
            shutil.copyfile(old, new)

    shutil.copytree(source, target, ignore=UNUSED, copy_function=link)
    for folder in (target, *target.rglob("*")):
        if folder.is_dir():
            folder.chmod(0o755)


def new_folder(as_root: bool) -> Path:
    """An empty folder for temporary files that another user could reach. Removes what killed graders left there.

    Raises CourseError when there is none.
    """
    for place in places(as_root):
        with suppress(OSError):
            sweep(place)
            return Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    raise CourseError("there is no folder for temporary files that another user can reach; set TMPDIR to one")


def places(as_root: bool) -> Iterable[Path]:
    """Folders for temporary files; for root only those that another user can reach."""
    usual = Path(tempfile.gettempdir())
    if not as_root:
        return [usual]
    return [place for place in (usual, Path("/tmp"), Path("/var/tmp")) if place.is_dir() and reachable(place)]


def sweep(place: Path) -> None:
    """Removes the folders of graders that were killed: those whose lock is free, and that are not quite new."""
    own = os.getuid() if hasattr(os, "getuid") else 0  # as Windows says of every file
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError, Timeout):
            told = folder.lstat()
            if not stat.S_ISDIR(told.st_mode) or told.st_uid != own or time.time() - told.st_mtime < FRESH:
                continue
            with FileLock(folder / "lock", timeout=0, mode=0o600):
                shutil.rmtree(folder, ignore_errors=True)
