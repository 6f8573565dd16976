"""The text of a student's file: what a manifest cuts and gives out of the engine's modules, with or without bodies."""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping

from tinyinfer import arrays
from tinyinfer.course.assignment import Assignment, Cut
from tinyinfer.course.errors import CourseError
from tinyinfer.course.source import (
    Function,
    Imported,
    Source,
    closure,
    documentation,
    free_names,
    module_path,
    read_source,
)

WIDTH = 120
SHAPE = re.compile(r"#.*(\([\w, ():|/*+.-]*\).*)$", re.MULTILINE)
LETTER = re.compile(r"^    (\w)  (.+)$", re.MULTILINE)  # a letter in the list of arrays.py, and its meaning


def file_text(a: Assignment, with_bodies: bool) -> str:
    """A student's file: our solution, or a hole in the place of each body that is asked for.

    Raises CourseError for a manifest that names what the modules do not have, or gives less than the file needs.
    """
    sources = {cut.module: module_source(a, cut) for cut in a.cut}
    for cut in a.cut:
        check_names(a, cut, sources[cut.module])
    needs = [Needs(a, cut, sources[cut.module]) for cut in a.cut]
    for one in needs:
        one.take_constants(needs)
    imports = merged_imports(a, needs, {name for one in needs for name in one.kept})
    parts = Parts(a, with_bodies)
    definitions = [own_names(a, part) for cut in a.cut for part in parts.of(cut, sources[cut.module])]
    constants = [text for one in needs for text in one.constant_texts]
    head = ["from __future__ import annotations", *import_texts(imports)]
    head += ["\n".join(dict.fromkeys(constants))] * bool(constants)
    text = "\n\n".join(head) + "\n\n\n" + "\n\n\n".join(definitions) + "\n"
    return file_docstring(a, text) + "\n\n" + text


def own_names(a: Assignment, text: str) -> str:
    """A definition whose examples take the file's own names: without their imports of the modules that are cut."""
    modules = "|".join(re.escape(cut.module) for cut in a.cut)
    return re.sub(rf"^ *>>> from ({modules}) import .*\n", "", text, flags=re.MULTILINE)


def file_docstring(a: Assignment, text: str) -> str:
    """The docstring of a student's file: what it is, and what the letters of its shapes mean."""
    modules = " and ".join(dict.fromkeys(cut.module for cut in a.cut))
    shapes = " ".join(SHAPE.findall(text))
    known = LETTER.findall(arrays.__doc__ or "")
    letters = [f"    {letter}  {meaning}" for letter, meaning in known if re.search(rf"\b{letter}[kv]?\b", shapes)]
    about = f"Cut from {modules}."
    if letters:
        about += " Shapes stand behind each `def`; the letters are those of tinyinfer/arrays.py:"
    first = f'"""{a.title}: the file to edit. README.md beside it has the task and the commands.'
    return "\n".join([first, "", *textwrap.wrap(about, WIDTH), *(["", *letters] if letters else []), '"""'])


def module_source(a: Assignment, cut: Cut) -> Source:
    """The source of a cut's module. Raises CourseError where there is none."""
    if module_path(cut.module) is None:
        raise CourseError(f"{a.name}: [[cut]]: there is no module {cut.module} in this package")
    return read_source(cut.module)


def check_names(a: Assignment, cut: Cut, source: Source) -> None:
    """Raises CourseError for a name that the module does not define, or that cannot be cut."""
    for name in (*cut.names, *cut.given):
        owner = name.rpartition(".")[0]
        if name not in source.definitions:
            raise CourseError(f"{a.name}: [[cut]] names {name!r}, which {cut.module} does not define")
        if owner in (cut.names if name in cut.names else ()) or owner in cut.given:
            raise CourseError(f"{a.name}: [[cut]] names class {owner!r} whole and {name!r} of it; name one of them")
    for name in a.given_source:
        if not any(name in source_names(one) for one in a.cut):
            raise CourseError(f"{a.name}: given_source: no [[cut]] names a method of class {name!r}")


def source_names(cut: Cut) -> set[str]:
    """The classes of which a cut names methods."""
    return {name.rpartition(".")[0] for name in cut.names}


# The definitions.


class Parts:
    """The definitions of a student's file; tasks are counted in their order."""

    def __init__(self, a: Assignment, with_bodies: bool) -> None:
        self.a, self.with_bodies, self.task = a, with_bodies, 0

    def of(self, cut: Cut, source: Source) -> Iterator[str]:
        """The definitions of one cut, in the order of the module."""
        for name, node in source.definitions.items():
            if name in cut.given and "." not in name:
                yield "\n".join(source.whole(node))
            elif isinstance(node, ast.ClassDef):
                if name in cut.names:
                    yield self.whole_class(cut, source, node)
                elif chosen(cut, node):
                    yield self.class_of_methods(cut, source, node)
            elif name in cut.names and "." not in name:
                yield self.function(cut, source, name)

    def function(self, cut: Cut, source: Source, name: str) -> str:
        """A function or method: whole where it is given, else documented, with a hole in the place of its body."""
        node = source.definitions[name]
        if name in cut.given:
            return "\n".join(source.whole(node))
        self.task += 1
        first, at = source.first_line(node), source.body_line(node)
        owner, _, method = name.rpartition(".")
        silent = owner and ast.get_docstring(node) is None
        about = documentation(source, owner, method) if silent else []
        hole = f'raise NotImplementedError("{self.a.name}, task {self.task}: {name}")'
        body = source.lines[at : node.end_lineno] if self.with_bodies else [" " * (node.col_offset + 4) + hole]
        return "\n".join([*source.lines[first:at], *about, *body])

    def whole_class(self, cut: Cut, source: Source, node: ast.ClassDef) -> str:
        """A class with holes in its methods; what stands between the methods stays."""
        lines, at = [], source.first_line(node)
        for part in node.body:
            if isinstance(part, Function):
                lines += source.lines[at : source.first_line(part)]
                lines += self.function(cut, source, f"{node.name}.{part.name}").split("\n")
                at = part.end_lineno or 0
        return "\n".join([*lines, *source.lines[at : node.end_lineno]])

    def class_of_methods(self, cut: Cut, source: Source, node: ast.ClassDef) -> str:
        """A class without bases: the manifest's text for it, and the methods of it that are cut or given."""
        about = f'    """The methods of {node.name} that this assignment is about."""'
        own = textwrap.indent(self.a.given_source.get(node.name, "").strip("\n"), "    ")
        methods = [self.function(cut, source, f"{node.name}.{part.name}") for part in chosen(cut, node)]
        return "\n\n".join([f"class {node.name}:\n{about}", *([own] if own else []), *methods])


def chosen(cut: Cut, node: ast.ClassDef) -> list[Function]:
    """The methods of a class that a cut names one by one."""
    names = {*cut.names, *cut.given}
    return [part for part in node.body if isinstance(part, Function) and f"{node.name}.{part.name}" in names]


# What the definitions need.


class Needs:
    """The names that one cut keeps of its module, and the constants and imports that they need.

    Raises CourseError for a name of the module that is needed, but neither cut nor given.
    """

    def __init__(self, a: Assignment, cut: Cut, source: Source) -> None:
        whole = [n for n in (*cut.names, *cut.given) if "." not in n]
        nodes: list[ast.AST] = [source.definitions[name] for name in (*cut.names, *cut.given)]
        partial = [n for n in source_names(cut) if n and n not in whole]
        nodes += [ast.parse(a.given_source[name]) for name in partial if name in a.given_source]
        self.cut, self.source, self.kept = cut, source, {*whole, *partial}
        self.names = {name for node in nodes for name in free_names(node)}
        self._add_constants()
        lacking = sorted(n for n in self.names - self.kept if n in source.definitions)
        if lacking:
            raise CourseError(f"{a.name}: the file needs {lacking[0]} of {cut.module}; add the name to `given`")

    @property
    def constant_texts(self) -> list[str]:
        """The needed constants as the module writes them, in its order."""
        needed = [node for name, node in self.source.constants.items() if name in self.names]
        return ["\n".join(self.source.whole(node)) for node in dict.fromkeys(needed)]

    @property
    def imports(self) -> list[Imported]:
        """The imports that the kept definitions need."""
        return [one for name, one in self.source.imports.items() if name in self.names]

    def take_constants(self, needs: Iterable[Needs]) -> None:
        """Keeps the constants of this module that the file's other cuts import: their module is not imported there."""
        wanted = {one.original for other in needs for one in other.imports if one.module == self.cut.module}
        found = {name for name in wanted if name in self.source.constants}
        self.names |= found
        self.kept |= found
        self._add_constants()

    def _add_constants(self) -> None:
        """Adds what the needed constants need themselves."""
        waiting = list(self.names)
        while waiting:
            node = self.source.constants.get(waiting.pop())
            more = free_names(node) - self.names if node else set()
            self.names |= more
            waiting += more


def merged_imports(a: Assignment, needs: Iterable[Needs], kept: set[str]) -> list[Imported]:
    """The imports of the whole file. Raises CourseError for two meanings of one name, and for a circle."""
    cut_modules = {cut.module for cut in a.cut}
    found: dict[str, Imported] = {}
    for one in (one for part in needs for one in part.imports):
        if one.module in cut_modules:
            if one.original != one.name or one.name not in kept:
                raise CourseError(f"{a.name}: the file needs {one.original} of {one.module}; add the name to `given`")
            continue
        other = found.setdefault(one.name, one)
        if (other.module, other.original) != (one.module, one.original) or one.name in kept:
            raise CourseError(f"{a.name}: the name {one.name} has two meanings in the modules that share the file")
        if not one.types_only:
            found[one.name] = one
    check_circle(a, found, cut_modules)
    return list(found.values())


def check_circle(a: Assignment, found: Mapping[str, Imported], cut_modules: set[str]) -> None:
    """Raises CourseError where a module that the file imports would import the file."""
    for one in found.values():
        circle = sorted(cut_modules & set(closure(one.sources))) if not one.types_only else []
        if circle:
            raise CourseError(
                f"{a.name}: the file needs {one.module}, which imports {circle[0]}, which imports the file"
            )


def import_texts(imports: list[Imported]) -> Iterator[str]:
    """Import statements as ruff sorts them: one text for each of Python's own, other packages, tinyinfer, and types."""
    types = [one for one in imports if one.types_only]
    runtime = [one for one in imports if not one.types_only]
    if types:
        runtime.append(Imported("TYPE_CHECKING", "typing", "TYPE_CHECKING", False))
    for section in range(3):
        lines = import_lines(one for one in runtime if section_of(one.module) == section)
        if lines:
            yield "\n".join(lines)
    if types:
        yield "if TYPE_CHECKING:\n" + textwrap.indent("\n".join(import_lines(types)), "    ")


def section_of(module: str) -> int:
    """0 for Python's own modules, 1 for other packages, 2 for this one."""
    first = module.partition(".")[0]
    return 0 if first in sys.stdlib_module_names else 2 if first == "tinyinfer" else 1


def import_lines(imports: Iterable[Imported]) -> list[str]:
    """Modules first, then names, one statement a module; a statement that is too long has one name a line."""
    plain: list[str] = []
    by_module: dict[str, list[Imported]] = {}
    for one in imports:
        if one.original is None:
            plain.append(f"import {one.module}" + f" as {one.name}" * (one.name != one.module))
        else:
            by_module.setdefault(one.module, []).append(one)
    lines = sorted(plain)
    for module in sorted(by_module):
        ordered = sorted(by_module[module], key=lambda one: name_rank(one.original or ""))
        for alone in (True, False):  # a name with `as` has a statement of its own
            names = [spelled(one) for one in ordered if (one.name != one.original) == alone]
            for group in [[name] for name in names] if alone else [names] * bool(names):
                lines.append(import_line(module, group))
    return lines


def import_line(module: str, names: list[str]) -> str:
    """One import statement, in one line where it fits."""
    line = f"from {module} import {', '.join(names)}"
    return line if len(line) <= WIDTH else f"from {module} import (\n    " + ",\n    ".join(names) + ",\n)"


def spelled(one: Imported) -> str:
    """A name as an import statement lists it."""
    return one.name if one.name == one.original else f"{one.original} as {one.name}"


def name_rank(name: str) -> tuple[int, str]:
    """Constants before classes before functions, as ruff sorts the names of an import."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2, name)
