"""The start of an assignment: a folder with the file to edit, the public tests, a README, a marker, pytest's settings.

The folder may exist and hold other files. None of them is overwritten, and after an error or Ctrl-C no file of ours
stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tinyinfer.course.assignment import MANIFEST, Assignment, Test, engine_version
from tinyinfer.course.cut import asked, skeleton
from tinyinfer.course.errors import CourseError
from tinyinfer.loading.whole import whole

README = """\
# {title}

{minutes} minutes, about {lines} lines of code. 100 points: {public} by the public tests, {hidden} by hidden tests.

In short: {about}. You write {asked}.
{background}
Edit `{file}`, and no other file. Functions that are complete already are for your use; a change of them has no effect
outside of the file. Run `pytest` here before you begin: every test fails, and names the task that it waits for.

{task}

## Points

| test | points | the test catches |
|---|---|---|
{tests}

Where a test has parts, each part gives its share of the points.

## Commands

In this folder:

```sh
pytest                                                     # the public tests, and the score so far
pytest -x                                                  # the same, up to the first failure
python -m tinyinfer course grade .                         # as a teacher grades, in a process with limits
{serving}
## How it is graded

The tests compare values and count work. Neither time nor style gives points. `pytest` runs your file in its own
process, without limits, so that a debugger works. Marks are given on Linux; on macOS and Windows the same tests run
for your own information.
"""

SERVING = """\
python -m tinyinfer generate --use . "What is gravity?"    # a language model answers through your file{switches}
```

`generate --use` compares each token with the engine's own, and prints where the counted work differs.
"""

SETTINGS = """\
# pytest begins here: it reads no settings and no conftest.py of a project that this folder lies in.
[pytest]
"""

MARKER = """\
# The marker of this folder: its assignment, and the versions with which it was started. Leave it as it is.
name = "{name}"
version = "{version}"
engine = "{engine}"
"""


def start(a: Assignment, folder: Path) -> list[Path]:
    """Writes an assignment's files into a folder, which is made unless it exists; returns their paths.

    Raises CourseError where a file of that name is there already, and for a folder that takes no files.
    """
    contents = files_of(a)
    if folder.exists() and not folder.is_dir():
        raise CourseError(f"{folder} is a file; name a folder")
    for name in contents:
        if (path := folder / name).exists() or path.is_symlink():
            raise CourseError(f"{path} exists already and is not overwritten; choose another folder")
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            with whole(folder / name) as part:
                part.write_text(text, encoding="utf-8")
                written.append(folder / name)
    except BaseException as error:  # Ctrl-C, too
        for path in written:
            path.unlink(missing_ok=True)
        for one in made:
            with suppress(OSError):
                one.rmdir()
        if isinstance(error, OSError):  # of a hidden file, or without a name
            raise CourseError(f"{folder}: takes no files ({error.strerror or error})") from None
        raise
    return written


def files_of(a: Assignment) -> dict[str, str]:
    """The files of an assignment's folder, name -> text; the marker last. Raises CourseError for a missing text."""
    return {
        a.file: skeleton(a),
        f"test_{a.file}": read_text(a.folder / f"test_{a.file}"),
        "README.md": readme(a),
        ".pytest.ini": SETTINGS,
        MANIFEST: MARKER.format(name=a.name, version=a.version, engine=engine_version()),
    }


def readme(a: Assignment) -> str:
    """The README of an assignment's folder: the task, the points and the commands."""
    task = read_text(a.folder / "task.md").strip()
    if task.startswith("# "):  # the README has its own title
        task = task.partition("\n")[2].strip()
    before = f"\nRead before: {'; '.join(a.background)}.\n" if a.background else ""
    wanted = ", ".join(f"`{name}`" for name in asked(a))
    switches = ", with " + ", ".join(f"{key}={value}" for key, value in a.switches.items()) if a.switches else ""
    return README.format(
        title=a.title, about=a.about, minutes=a.minutes, lines=a.lines, public=a.points(hidden=False),
        hidden=a.points(hidden=True), background=before, asked=wanted, file=a.file, task=task,
        tests="\n".join(rows(a.tests)), serving=SERVING.format(switches=switches) if a.generates else "```\n",
    )  # fmt: skip


def rows(tests: Iterable[Test]) -> list[str]:
    """The lines of the table of tests: what public tests catch, and that there are hidden ones."""
    ordered = sorted(tests, key=lambda test: test.hidden)
    return [
        f"| {'a hidden test' if test.hidden else f'`{test.name}`'} | {test.points}"
        f"{f', in {test.parts} parts' if test.parts > 1 else ''} | {'' if test.hidden else cell(test.catches)} |"
        for test in ordered
    ]


def cell(text: str) -> str:
    """A text as a cell of a Markdown table."""
    return text.replace("|", "\\|")


def read_text(path: Path) -> str:
    """A text file of an assignment. Raises CourseError where it is missing or no UTF-8."""
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise CourseError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeError:
        raise CourseError(f"{path}: is no UTF-8 text") from None
