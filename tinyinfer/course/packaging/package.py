"""`course package NAME`: a zip file that a system grades with, `autograder.zip`.

    setup.sh  run_autograder       Gradescope's two programs (or autograder.py, for Classroom 50)
    tinyinfer-VERSION.whl          the engine with its grader
    requirements.txt               what the grading imports besides, in the versions of this machine
    hidden/                        the hidden tests, and the secret that their seeds are made of

Beside a zip with a new secret stands the same folder, autograder.hidden: `course grade --hidden autograder.hidden` then
gives the same marks as the system. A package for Classroom 50 has no hidden tests: every student can download it there.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tinyinfer.course.assignment import Assignment, check_needed, engine_version
from tinyinfer.course.errors import CourseError
from tinyinfer.course.hidden import BYTES, SECRET, open_hidden
from tinyinfer.course.packaging.wheel import wheel, zipped
from tinyinfer.loading.whole import whole

ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
SCRIPTS = Path(__file__).parent / "autograders"
PROGRAMS = {  # of a package: the name there, and of the file here
    "gradescope": {"setup.sh": "setup.sh", "run_autograder": "run_autograder"},
    "classroom50": {"autograder.py": "classroom50.py"},
}


@dataclass(frozen=True)
class Engine:
    """What grades: the wheel of this package, its file's name, and what it imports besides in these versions."""

    name: str
    wheel: bytes
    requirements: tuple[str, ...]


def engine(a: Assignment, hidden: Path) -> Engine:
    """The engine of this machine, for the grading of an assignment with a file of hidden tests. Raises CourseError."""
    requirements = tuple(pinned(imported(a, hidden)))
    return Engine(*wheel(engine_version(), requirements), requirements)


def package(
    a: Assignment,
    output: Path,
    form: str = "gradescope",
    hidden: Path | None = None,
    built: Callable[[Assignment, Path], Engine] = engine,
) -> Path | None:
    """Writes the zip file; the folder with its new secret, or None where the secret is `hidden`'s or there is none.

    Raises CourseError for a folder `hidden` that lacks a file, a name that a folder has, or where an older secret would
    be lost; OSError.
    """
    check_needed(a)
    if output.is_dir():
        raise CourseError(f"{output}: is a folder; give the name of the zip file in it, {output / 'autograder.zip'}")
    beside = output.with_suffix(".hidden") if hidden is None and form == "gradescope" else None
    if beside == output:
        raise CourseError(f"{output}: is the name of the folder with the secret; give another, such as autograder.zip")
    secret = new_hidden(a, beside) if beside else copied(a, hidden) if hidden and form == "gradescope" else {}
    grader = built(a, (hidden or a.folder) / f"hidden_{a.name}.py")
    files = {name: filled(script, a) for name, script in PROGRAMS[form].items()}
    files["requirements.txt"] = "".join(f"{one}\n" for one in grader.requirements).encode()
    files |= {grader.name: grader.wheel, **{f"hidden/{name}": data for name, data in secret.items()}}
    if beside:
        write_folder(beside, secret)
    with whole(output) as part:
        part.touch(mode=0o600)
        part.write_bytes(zipped(files, tuple(PROGRAMS[form])))
    return beside


def filled(script: str, a: Assignment) -> bytes:
    """A script with the assignment's name in its place."""
    return (SCRIPTS / script).read_text(encoding="utf-8").replace("@NAME@", a.name).encode()


def copied(a: Assignment, folder: Path) -> dict[str, bytes]:
    """The hidden tests and the secret of a folder. Raises CourseError where one is missing."""
    opened = open_hidden(folder, a.name)
    return {f"hidden_{a.name}.py": opened.tests.read_bytes(), SECRET: (opened.secret.hex() + "\n").encode()}


def new_hidden(a: Assignment, beside: Path) -> dict[str, bytes]:
    """Our hidden tests and a new secret, which will be written to `beside`. Raises CourseError where one is there."""
    tests = a.folder / f"hidden_{a.name}.py"
    if beside.exists():
        raise CourseError(f"{beside}: holds the secret of an earlier package; use it by --hidden {beside}, or move it")
    if not tests.is_file():
        raise CourseError(f"{a.name} comes without hidden tests here; give a folder that has {tests.name} by --hidden")
    return {tests.name: tests.read_bytes(), SECRET: (secrets.token_bytes(BYTES).hex() + "\n").encode()}


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes a new folder, whole, that only its owner can read. Raises OSError."""
    with whole(folder) as part:
        part.mkdir(mode=0o700)
        for name, data in files.items():
            (part / name).touch(mode=0o600)
            (part / name).write_bytes(data)


def imported(a: Assignment, hidden: Path) -> list[str]:
    """The top names of all that a process imports which grades this assignment, as a rehearsal shows.

    hidden: the file of the hidden tests, if there is one. Raises CourseError where our own solution loses points here.
    """
    command = [sys.executable, "-P", "-m", "tinyinfer.course.packaging.rehearsal", str(a.folder)]
    command += [str(hidden)] if hidden.is_file() else []
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | ONE_THREAD)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it did not end"])[-1]
        raise CourseError(f"our own solution of {a.name} does not have full marks on this machine: {why}")
    return done.stdout.split()


def pinned(names: Sequence[str]) -> list[str]:
    """The distributions that these top names come from, in their installed versions, but this package itself."""
    known = metadata.packages_distributions()
    found = {dist for name in names for dist in known.get(name, ()) if name not in sys.stdlib_module_names}
    return sorted(f"{dist}=={metadata.version(dist)}" for dist in found - {"tinyinfer", "setuptools"})
