"""`course package NAME`: a zip file that a system grades with, `autograder.zip`.

    setup.sh  run_autograder       Gradescope's two programs (or autograder.py, for Classroom 50)
    tinyinfer-VERSION.whl          the engine with its grader
    requirements.txt               what the grading imports besides, in the versions of this machine
    hidden/hidden_NAME.py secret   the hidden tests, and what their seeds are made of

Beside a zip with a new secret stands the same folder, autograder.hidden: `course grade --hidden autograder.hidden` then
gives the same marks as the system. A package for Classroom 50 has no hidden tests: every student can download it there.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from tinyinfer.course.assignment import Assignment, engine_version
from tinyinfer.course.errors import CourseError
from tinyinfer.course.hidden import BYTES, SECRET, open_hidden
from tinyinfer.course.wheel import wheel, zipped
from tinyinfer.loading.whole import whole

SCRIPTS = Path(__file__).parent / "autograders"
FORMATS = {"gradescope": ("setup.sh", "run_autograder"), "classroom50": ("classroom50.py",)}
UID = 54321  # of the user whom setup.sh makes
LIST_IMPORTS = """
import importlib, runpy, sys
before = set(sys.modules)
for name in sys.argv[1:]:
    runpy.run_path(name) if name.endswith(".py") else importlib.import_module(name)
print(*{name.partition(".")[0] for name in set(sys.modules) - before})
"""


def package(a: Assignment, output: Path, form: str = "gradescope", hidden: Path | None = None) -> Path | None:
    """Writes the zip file; the folder with its new secret, or None where the secret is `hidden`'s or there is none.

    Raises CourseError for a folder `hidden` that lacks a file, or where an older secret would be lost; OSError.
    """
    requirements = pinned(imported(a))
    name, engine = wheel(engine_version(), requirements)
    files = {script: filled(script, a) for script in FORMATS[form]}
    if form == "classroom50":
        files = {"autograder.py": files["classroom50.py"]}
    files |= {"requirements.txt": "".join(f"{one}\n" for one in requirements).encode(), name: engine}
    beside = None
    if form == "gradescope":
        beside = None if hidden else output.with_suffix(".hidden")
        files |= {f"hidden/{path}": data for path, data in hidden_files(a, hidden, beside).items()}
    with whole(output) as part:
        part.touch(mode=0o600)
        part.write_bytes(zipped(files, FORMATS[form]))
    return beside


def filled(script: str, a: Assignment) -> bytes:
    """A script with the assignment's name and the user's number in their places."""
    text = (SCRIPTS / script).read_text(encoding="utf-8")
    return text.replace("@NAME@", a.name).replace("@UID@", str(UID)).encode()


def hidden_files(a: Assignment, given: Path | None, beside: Path | None) -> dict[str, bytes]:
    """The hidden tests and their secret: of the given folder, or new ones, which are written beside the zip file."""
    tests = f"hidden_{a.name}.py"
    if given is not None:
        opened = open_hidden(given, a.name)
        return {tests: opened.tests.read_bytes(), SECRET: (opened.secret.hex() + "\n").encode()}
    assert beside is not None
    if beside.exists():
        raise CourseError(f"{beside}: holds the secret of an earlier package; use it by --hidden {beside}, or move it")
    if not (a.folder / tests).is_file():
        raise CourseError(f"{a.name} comes without hidden tests here; give a folder that has {tests} by --hidden DIR")
    made = {tests: (a.folder / tests).read_bytes(), SECRET: (secrets.token_bytes(BYTES).hex() + "\n").encode()}
    with whole(beside) as part:
        part.mkdir(mode=0o700)
        for name, data in made.items():
            (part / name).touch(mode=0o600)
            (part / name).write_bytes(data)
    return made


def imported(a: Assignment) -> list[str]:
    """The top names of all that a process imports which grades this assignment, its tests and modules included."""
    modules = ["tinyinfer.course.autograder", *(cut.module for cut in a.cut), *a.allowed]
    tests = [str(path) for path in sorted(a.folder.glob("*.py"))]
    command = [sys.executable, "-P", "-c", LIST_IMPORTS, *modules, *tests]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CourseError(f"the grader cannot be imported here: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return done.stdout.split()


def pinned(names: Sequence[str]) -> list[str]:
    """The distributions that these top names come from, in their installed versions, but this package itself."""
    known = metadata.packages_distributions()
    found = {dist for name in names for dist in known.get(name, ()) if name not in sys.stdlib_module_names}
    return sorted(f"{dist}=={metadata.version(dist)}" for dist in found - {"tinyinfer", "setuptools"})
