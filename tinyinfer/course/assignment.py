"""An assignment is a manifest: which names of which modules are taken out, which tests give which points.

    assignments/{NAME}/assignment.toml    the manifest
    assignments/{NAME}/task.md            the task, the contract as a formula, an example
    assignments/{NAME}/test_{NAME}.py     the public tests
    assignments/{NAME}/hidden_{NAME}.py   the hidden tests

A student's folder holds a marker, which is called assignment.toml, too: the name of its assignment and the versions
with which it was started. Every mistake in a manifest or a marker is a CourseError that names the file and the field.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from tinyinfer.course.errors import CourseError
from tinyinfer.course.toml_table import Table, read_toml
from tinyinfer.engine.config import EngineConfig
from tinyinfer.sampling_params import SamplingParams

MANIFEST = "assignment.toml"
FOLDER = Path(__file__).parent / "assignments"
TEACHING_ORDER = (
    "transformer_operations", "kv_cache", "sampling", "quantization", "speculative_verification", "int8_kernel",
    "wanda", "rms_norm_backward", "tensor_parallel_mlp", "pipeline_schedule", "cost_accounting",
)  # fmt: skip
FULL_MARKS = 100
LARGEST_MARKER = 10_000  # bytes: a marker has three lines


@dataclass(frozen=True)
class Cut:
    """What is taken out of one module: the names to write, and the names that the student's file shows whole."""

    module: str
    names: tuple[str, ...]  # functions, "Class.method", or a class: all its methods
    given: tuple[str, ...] = ()


@dataclass(frozen=True)
class Test:
    """A test function: its points, in how many parts they are given, and the bug that the test catches."""

    __test__: ClassVar[bool] = False  # pytest: this class is no test

    name: str
    points: int
    parts: int = 1
    hidden: bool = False
    catches: str = ""


@dataclass(frozen=True)
class Assignment:
    """One assignment as its manifest describes it.

    minutes: of a student's work. lines: of code in our solution. background: what to read before. switches: those of
    engine and sampling under which the student's code serves; of several values the first. also_serves: the values of
    each switch under which the code serves. generates: whether the code runs where a model answers; that of a backward
    pass does not. allowed: further modules that the student's file may import.
    packages: what must be installed for the file beside NumPy, with all that is imported on the way.
    given_source: class -> text that the student's file shows in the place of the engine's class.
    """

    name: str
    folder: Path
    version: str
    title: str
    minutes: int
    lines: int
    about: str
    background: tuple[str, ...]
    switches: Mapping[str, Any]
    also_serves: Mapping[str, tuple[Any, ...]]
    generates: bool
    allowed: tuple[str, ...]
    packages: tuple[str, ...]
    given_source: Mapping[str, str]
    cut: tuple[Cut, ...]
    tests: tuple[Test, ...]

    @property
    def file(self) -> str:
        """The name of the one file that a student edits."""
        return f"{self.name}.py"

    def points(self, hidden: bool) -> int:
        """The sum of the points of the hidden tests, or of the public ones."""
        return sum(test.points for test in self.tests if test.hidden == hidden)


def assignments(folder: Path = FOLDER) -> dict[str, Assignment]:
    """All assignments by name, in teaching order. Raises CourseError for a manifest that cannot be used."""
    if not folder.is_dir():
        raise CourseError(f"{folder}: there is no such folder; install tinyinfer as files, not as a zip file")
    found = {path.parent.name for path in folder.glob(f"*/{MANIFEST}")}
    last = len(TEACHING_ORDER)
    ranks = {name: TEACHING_ORDER.index(name) if name in TEACHING_ORDER else last for name in found}
    return {name: read_assignment(folder / name) for name in sorted(found, key=lambda name: (ranks[name], name))}


def assignment(name: str, folder: Path = FOLDER) -> Assignment:
    """The assignment of that name. Raises CourseError, with the nearest name, where there is none."""
    known = assignments(folder)
    if name in known:
        return known[name]
    near = [one for one in known if name and one.startswith(name)] or get_close_matches(name, known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise CourseError(f"there is no assignment {name!r}{hint}; the assignments are {', '.join(known)}")


def marked(folder: Path) -> Assignment:
    """The assignment that a student's folder was started for, by its marker. Raises CourseError."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise CourseError(f"{folder}: there is no such folder; make it by: tinyinfer course start NAME {folder}")
    if not path.is_file():
        cure = f"start an assignment by: tinyinfer course start NAME {folder}"
        raise CourseError(f"{path}: is missing, so the assignment of this folder is unknown; {cure}")
    if path.stat().st_size > LARGEST_MARKER:
        raise CourseError(f"{path}: is too large for a marker; copy it again from a folder of course start")
    table = Table(path, read_toml(path))
    name = table.take("name", str)
    try:
        return assignment(name)
    except CourseError as error:
        raise CourseError(f"{path}: {error}") from None


def needed(a: Assignment) -> str:
    """A sentence that names a package which the assignment needs and this Python lacks, with the cure; "" for none."""
    lacking = [name for name in a.packages if find_spec(name) is None]
    return f"{a.name} needs {lacking[0]}, which is not installed here: pip install {lacking[0]}" if lacking else ""


def check_needed(a: Assignment) -> None:
    """Raises CourseError where this Python lacks a package that the assignment needs."""
    if sentence := needed(a):
        raise CourseError(sentence)


def engine_version() -> str:
    """The version of this package, by which a report says what graded."""
    return str(import_module(__name__.partition(".")[0]).__version__)


# Reading a manifest.


def read_assignment(folder: Path) -> Assignment:
    """Reads and checks the manifest of a folder. Raises CourseError, which names the file and the field."""
    table = Table(folder / MANIFEST, read_toml(folder / MANIFEST))
    table.check_known({one.name for one in fields(Assignment)} - {"name", "folder", "also_serves"})
    serves = read_switches(table)
    tests = tuple(read_test(part) for part in table.tables("tests"))
    made = Assignment(
        name=folder.name,
        folder=folder,
        version=table.take("version", str),
        title=table.take("title", str),
        minutes=table.count("minutes"),
        lines=table.count("lines"),
        about=table.take("about", str),
        background=table.texts("background", ()),
        switches=MappingProxyType({name: values[0] for name, values in serves.items()}),
        also_serves=serves,
        generates=table.take("generates", bool, True),
        allowed=table.texts("allowed", ()),
        packages=table.texts("packages", ()),
        given_source=read_given(table),
        cut=tuple(read_cut(part) for part in table.tables("cut")),
        tests=tests,
    )
    check_tests(table, tests)
    if not folder.name.isidentifier():
        raise table.error("name", f"the folder's name {folder.name!r} becomes a module's, so it must be an identifier")
    return made


def read_cut(table: Table) -> Cut:
    """One [[cut]] of a manifest. Raises CourseError."""
    table.check_known({"module", "names", "given"})
    cut = Cut(table.take("module", str), table.texts("names"), table.texts("given", ()))
    if not cut.names:
        raise table.error("names", "is empty; name what is taken out, or remove this [[cut]]")
    twice = [name for name in cut.names if name in cut.given or cut.names.count(name) > 1]
    if twice:
        raise table.error("names", f"{twice[0]!r} is named twice, in names or in names and given")
    return cut


def read_test(table: Table) -> Test:
    """One [[tests]] of a manifest. Raises CourseError."""
    table.check_known({one.name for one in fields(Test)})
    name, points = table.take("name", str), table.count("points")
    if not name.startswith("test_") or not name.isidentifier():
        raise table.error("name", f"{name!r} is no name of a test function; it begins with test_")
    parts, hidden = table.count("parts", 1), table.take("hidden", bool, False)
    return Test(name, points, parts, hidden, table.take("catches", str))


def check_tests(table: Table, tests: tuple[Test, ...]) -> None:
    """Raises CourseError where two tests have one name, or the points do not sum to 100."""
    names = [test.name for test in tests]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise table.error("tests", f"{twice[0]!r} is declared twice")
    total = sum(test.points for test in tests)
    if total != FULL_MARKS:
        raise table.error("tests", f"the points of all tests sum to {total}; they must sum to {FULL_MARKS}")


def read_switches(table: Table) -> Mapping[str, tuple[Any, ...]]:
    """The values of each switch under which a student's code serves: one, or a list whose first is the default.

    Raises CourseError for what neither engine nor sampling has or allows.
    """
    given = table.take("switches", dict, {})
    serves = {name: tuple(value) if isinstance(value, list) else (value,) for name, value in given.items()}
    for name, values in serves.items():
        if not values:
            raise table.error("switches", f"{name} has no value")
    first = {name: values[0] for name, values in serves.items()}
    try:
        for name, values in serves.items():
            for value in values:
                check_switches(first | {name: value})
    except ValueError as error:
        raise table.error("switches", str(error)) from None
    return MappingProxyType(serves)


def check_switches(values: Mapping[str, Any]) -> None:
    """Raises ValueError for switches of engine and sampling that do not exist or cannot work together."""
    sampling = {one.name for one in fields(SamplingParams)} & {*values}
    SamplingParams(**{name: values[name] for name in sampling})
    EngineConfig.from_switches(**{name: value for name, value in values.items() if name not in sampling})


def read_given(table: Table) -> Mapping[str, str]:
    """The source text of a manifest, by class. Raises CourseError for what is no source."""
    given = table.take("given_source", dict, {})
    for name, text in given.items():
        if not isinstance(text, str) or not text.strip():
            raise table.error("given_source", f"{name} must be Python source, as text")
        try:
            ast.parse(text)
        except (SyntaxError, ValueError) as error:
            raise table.error("given_source", f"{name} is no Python source ({error})") from None
    return MappingProxyType(given)
