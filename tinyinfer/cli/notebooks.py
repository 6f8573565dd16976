"""`tinyinfer notebooks`: the lessons, listed, or executed and rendered as HTML pages, their key figures kept as images.

Who only wants to read a lesson, or to show it to a class, needs no Jupyter in the browser for it: a page is one file.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tinyinfer.cli.arguments import UsageError
from tinyinfer.cli.console import progress_bar, say, show

FOLDER = Path(__file__).parents[2] / "notebooks"
MINUTES = re.compile(r"^\*(\d+) minutes ·", re.MULTILINE)
TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Lesson:
    """A notebook of the folder, and what its first screen says."""

    path: Path
    title: str
    minutes: int

    @property
    def name(self) -> str:
        """What the command line calls it, such as 03_kv_cache."""
        return self.path.stem


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tinyinfer notebooks` and its flags to the commands."""
    about = "list the lessons, or execute them and write them as HTML pages"
    parser = commands.add_parser("notebooks", help=about, description=about)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a lesson, such as 03_kv_cache (default: all)")
    parser.add_argument("--html", metavar="DIR", help="execute the lessons and write each as a page into DIR")
    parser.add_argument("--figures", metavar="DIR", help="execute the lessons and keep the key figure of each in DIR")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=run, folder=FOLDER)


def run(args: argparse.Namespace) -> int:
    """Lists the lessons, or executes and writes them. Raises UsageError, OSError for a folder that takes no files."""
    known = lessons(args.folder)
    names = dict.fromkeys(found(name, known) for name in args.names) or known
    chosen = [known[name] for name in names]
    if args.html is None and args.figures is None:
        show(listing(chosen, args.folder))
        return 0
    check_extra()
    pages, figures = (None if at is None else Path(at) for at in (args.html, args.figures))
    for folder in (pages, figures):
        if folder is not None:
            prepare(folder)
    for lesson in chosen:
        make(lesson, pages, figures, args.quiet)
        if pages is not None:
            write_index(pages, known)
    return 0


def lessons(folder: Path) -> dict[str, Lesson]:
    """The lessons of a folder of notebooks by their names. Raises UsageError where there is none."""
    found = {path.stem: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    if not found:
        raise UsageError(
            f"there are no notebooks in {folder}: they come with the repository and not with the installed package; "
            "clone it, and install it by: pip install -e '.[notebooks]'"
        )
    return {name: described(path) for name, path in found.items()}


def described(path: Path) -> Lesson:
    """A notebook with the title and the minutes of its first screen. Raises UsageError for a damaged file."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: is no notebook; write it again: python notebooks/build.py") from None
    text = next((text for text in texts if TITLE.search(text)), "")
    title, minutes = TITLE.search(text), MINUTES.search(text)
    return Lesson(path, title[1] if title else path.stem, int(minutes[1]) if minutes else 0)


def found(name: str, known: dict[str, Lesson]) -> str:
    """The lesson of that name, or of that number. Raises UsageError, which lists the lessons."""
    wanted = Path(name).stem if name.endswith(".ipynb") else name
    for one in known:
        if wanted in (one, one[3:]) or wanted.zfill(2) == one[:2]:
            return one
    near = get_close_matches(wanted, known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise UsageError(f"there is no lesson {name!r}{hint}; the lessons are {', '.join(known)}")


def listing(chosen: list[Lesson], folder: Path) -> str:
    """The lessons with their minutes, and how to open them."""
    width = max(len(lesson.name) for lesson in chosen)
    rows = [f"{lesson.name:{width}}  {lesson.minutes:3} minutes  {lesson.title}\n" for lesson in chosen]
    how = f"\nOpen them:        jupyter lab {folder}\nOr as web pages:  python -m tinyinfer notebooks --html DIR\n"
    return "".join(rows) + how + "Both need:        pip install 'tinyinfer[notebooks]'\n"


def check_extra() -> None:
    """Raises UsageError where the packages that execute and render notebooks are missing."""
    try:
        import tinyinfer.cli.notebook_pages  # noqa: F401
    except ImportError as error:
        cure = "install the extra by: pip install 'tinyinfer[notebooks]'"
        raise UsageError(f"executing a notebook needs {error.name or error}; {cure}") from None


def prepare(folder: Path) -> None:
    """Makes a folder for the results, and finds out now whether it takes files. Raises OSError."""
    from tinyinfer.loading.whole import try_place

    folder.mkdir(parents=True, exist_ok=True)
    try_place(folder / "index.html")


def make(lesson: Lesson, pages: Path | None, figures: Path | None, quiet: bool) -> None:
    """Executes a lesson and writes its page and its figure, neither of them on an error. Raises UsageError, OSError."""
    from tinyinfer.cli.notebook_pages import CellError, execute, key_figure, lesson_page

    started = time.perf_counter()
    written = {}
    try:
        with progress_bar(lesson.name, shown=not quiet) as bar:
            notebook = execute(lesson.path, bar)
        if figures is not None:
            written[figures / f"{lesson.name}.png"] = key_figure(notebook)
    except CellError as error:
        raise UsageError(f"{lesson.name}: {error}") from None
    if pages is not None:
        page = lesson_page(notebook, lesson.title, repository(lesson.path.parents[1]))
        written[pages / f"{lesson.name}.html"] = page.encode()
    for path, content in written.items():
        write(path, content)
    if not quiet:
        say(f"{lesson.name}: {time.perf_counter() - started:.1f} s, wrote {', '.join(map(str, written))}")


def write_index(pages: Path, known: dict[str, Lesson]) -> None:
    """Writes the list of all lessons whose pages are there, also those of earlier commands."""
    from tinyinfer.cli.notebook_pages import index_page

    there = [one for one in known.values() if (pages / f"{one.name}.html").is_file()]
    titles = [(one.name, one.title.partition(" · ")[2] or one.title, one.minutes) for one in there]
    write(pages / "index.html", index_page(titles).encode())


def write(path: Path, content: bytes) -> None:
    """Writes the whole file or nothing. Raises OSError."""
    from tinyinfer.loading.whole import whole

    with whole(path) as part:
        part.write_bytes(content)


def repository(checkout: Path) -> str:
    """The address of the repository, which pyproject.toml names; "" where it does not."""
    with (checkout / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"].get("urls", {}).get("Repository", "")).rstrip("/")
