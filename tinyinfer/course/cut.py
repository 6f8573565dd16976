"""The cut: a student's file out of the engine's modules, and an engine whose names come from students' files.

A student's file is a module's source with holes. Signatures, docstrings, shape signatures and the comments above stay;
so do the imports and constants that our own bodies use. The file holds what the manifest cuts or gives, and nothing
else of the module. Several modules may share one file.

In a merged package each cut definition is replaced, at its place, by an import from the student's file. So a table in a
class body that names a function, or a module that imports one, has the student's. A whole class is the student's own
class. Methods of a class with many others become attributes of the engine's class; the student's class is its last
base, so that the student's own helper methods are found.
"""

from __future__ import annotations

import ast
import compileall
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tinyinfer.course.assignment import Assignment, Cut, assignment
from tinyinfer.course.errors import CourseError
from tinyinfer.course.file_text import file_text
from tinyinfer.course.source import PACKAGE, Source, closure, read_source

LOADER = '''"""The names that a student's {file} defines, executed from their own place: tracebacks show them."""

__file__ = {path!r}
with open(__file__, "rb") as _file:
    exec(compile(_file.read(), __file__, "exec", dont_inherit=True), globals())

for _name in {names!r}:
    _owner, _, _method = _name.rpartition(".")
    _found = globals().get(_owner or _name)
    _own = [part for part in getattr(_found, "__mro__", ()) if part.__module__ == __name__]
    if _found is None or (_owner and not any(_method in vars(part) for part in _own)):
        raise ImportError(f"{file} does not define {{_name}}, which the assignment asks for", name=__name__)
'''


def skeleton(a: Assignment) -> str:
    """The student's file before any work: each body that is asked for raises NotImplementedError with its task."""
    return file_text(a, with_bodies=False)


def solution(a: Assignment) -> str:
    """The same file with the engine's own bodies."""
    return file_text(a, with_bodies=True)


def merged_package(target: Path, students: Mapping[str, Path], whole: bool, also: Iterable[str] = ()) -> Path:
    """Writes target/tinyinfer, a copy of the package whose cut names come from the students' files; returns its path.

    students: assignment -> file. whole: all of the package; else only the modules that the cut modules import, those
    that the manifests allow, and `also`. Raises CourseError where two assignments cut one name, OSError.
    """
    given = {name: assignment(name) for name in students}
    into = target / PACKAGE.name
    for path in all_files() if whole else needed_files(given.values(), also):
        place = into / path.relative_to(PACKAGE)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)  # not its rights: an installed package may be read-only
    for module, replacements in by_module(given.values()).items():
        source = read_source(module)
        (into / source.path.relative_to(PACKAGE)).write_text(merged(source, replacements), encoding="utf-8")
    for name, path in students.items():
        loader = LOADER.format(file=given[name].file, names=asked(given[name]), path=str(path.absolute()))
        (into / f"{student_module(name)}.py").write_text(loader, encoding="utf-8")
    if not whole:
        compileall.compile_dir(into, quiet=1)  # many processes start from it, and none of them may write there
    return into


def all_files() -> list[Path]:
    """The files of the package."""
    return [path for path in PACKAGE.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]


def needed_files(given: Iterable[Assignment], also: Iterable[str]) -> list[Path]:
    """The modules that the cut modules, those that the manifests allow, and `also` import, with themselves."""
    return list(closure({m for a in given for m in (*(cut.module for cut in a.cut), *a.allowed)} | {*also}).values())


def asked(a: Assignment) -> tuple[str, ...]:
    """The names that a student's file must define, methods as "Class.method"; private helpers, and what is given, are
    free.
    """
    names = []
    for cut in a.cut:
        known = read_source(cut.module).definitions
        for name in cut.names:
            methods = [part for part in known if part.startswith(f"{name}.") and not part.startswith(f"{name}._")]
            names += [part for part in methods if part not in cut.given] or [name]
    return tuple(names)


def student_module(name: str) -> str:
    """The module of a merged package that holds the names of a student's file."""
    return f"_student_{name}"


# A module with replacements.


@dataclass(frozen=True)
class Replacement:
    """A definition of a module that comes from a student's file: a function, a class or a method."""

    name: str
    assignment: str


def by_module(given: Iterable[Assignment]) -> dict[str, list[Replacement]]:
    """What is replaced, by module. Raises CourseError where two assignments replace the same name."""
    found: dict[str, list[Replacement]] = {}
    for a in given:
        for cut in a.cut:
            for name in replaced(cut):
                others = found.setdefault(cut.module, [])
                for other in others:
                    if overlap(other.name, name):
                        who = f"{other.assignment} and {a.name}"
                        raise CourseError(f"{who} both replace {name} of {cut.module}; use one of them at a time")
                others.append(Replacement(name, a.name))
    return found


def replaced(cut: Cut) -> list[str]:
    """The names of a cut that come from the student's file: what is asked for, and given classes.

    A class that both files define would be two classes; a given function is left as it is.
    """
    known = read_source(cut.module).definitions
    return [*cut.names, *(name for name in cut.given if isinstance(known.get(name), ast.ClassDef))]


def overlap(one: str, other: str) -> bool:
    """Whether two names are equal, or one is a class and the other its method."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def merged(source: Source, replacements: Iterable[Replacement]) -> str:
    """The text of a module with imports from students' files in the place of the replaced definitions."""
    edits: dict[tuple[int, int], str] = {}  # (first line, line behind the last) -> text
    lenders: dict[str, dict[str, str]] = {}  # class -> the students' classes, alias -> module
    for one in replacements:
        node, module = source.definitions[one.name], f"tinyinfer.{student_module(one.assignment)}"
        owner, _, method = one.name.rpartition(".")
        alias = f"_{owner}_of_{one.assignment}"
        text = f"from {module} import {one.name}" if not owner else f"    {method} = {alias}.{method}"
        if owner:
            lenders.setdefault(owner, {})[alias] = module
        edits[source.own_line(node), node.end_lineno or 0] = text
    for owner, aliases in lenders.items():
        node = source.definitions[owner]
        assert isinstance(node, ast.ClassDef)
        start = source.own_line(node)
        edits[start, start] = "\n".join(f"from {aliases[a]} import {owner} as {a}" for a in aliases)
        edits[node.lineno - 1, node.lineno] = with_bases(source.lines[node.lineno - 1], node, list(aliases))
    lines = list(source.lines)
    for (start, stop), text in sorted(edits.items(), reverse=True):
        lines[start:stop] = [text]
    return "\n".join(lines) + "\n"


def with_bases(line: str, node: ast.ClassDef, more: list[str]) -> str:
    """The line of a class's header with further bases behind its own. Raises CourseError for a longer header."""
    bases = [ast.unparse(base) for base in node.bases] + more
    bases += [ast.unparse(keyword) for keyword in node.keywords]
    if node.bases and node.bases[-1].end_lineno != node.lineno:
        raise CourseError(f"the header of class {node.name} has several lines, so that no base can be added")
    return f"{line[: node.col_offset]}class {node.name}({', '.join(bases)}):"
