"""A module of the package as text: its definitions, what they need, and which modules an import brings along.

Text is kept as it is written, comments and shape signatures included; the syntax tree only says where the parts are.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from tinyinfer.course.errors import CourseError

PACKAGE = Path(__file__).parents[1]
PROTOCOLS = "tinyinfer.model.interfaces"  # where the methods of backends and caches are documented
COMMENT = re.compile(r"\s*#")
Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


@dataclass(frozen=True)
class Imported:
    """A name that an import binds: `from module import original as name`, or `import module as name`."""

    name: str
    module: str
    original: str | None  # None: the module itself
    types_only: bool

    @property
    def sources(self) -> set[str]:
        """The modules that the import may execute: the original may be a module, too."""
        return {self.module} if self.original is None else {self.module, f"{self.module}.{self.original}"}


class Source:
    """The text of one module of the package, and where its parts are."""

    def __init__(self, module: str, path: Path) -> None:
        self.module, self.path = module, path
        self.text = path.read_text(encoding="utf-8")
        self.lines = self.text.splitlines()
        self.tree = ast.parse(self.text)

    @cached_property
    def definitions(self) -> dict[str, Definition]:
        """Functions, classes and methods ("Class.method") by name, in the order of the file."""
        found: dict[str, Definition] = {}
        for node in self.tree.body:
            if isinstance(node, Definition):
                found[node.name] = node
            if isinstance(node, ast.ClassDef):
                found |= {f"{node.name}.{part.name}": part for part in node.body if isinstance(part, Function)}
        return found

    @cached_property
    def constants(self) -> dict[str, ast.stmt]:
        """Names that the module itself assigns, with the statement."""
        targets = [(node, target) for node in self.tree.body for target in assigned(node)]
        return {part.id: node for node, target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}

    @cached_property
    def imports(self) -> dict[str, Imported]:
        """Names that imports at the module's top bind; those of `if TYPE_CHECKING` are for types only."""
        return {one.name: one for one in imported(self.tree.body) if one.module != "__future__"}

    @cached_property
    def executed(self) -> list[str]:
        """What importing and running the module may import: modules, and names in them that may be modules."""
        return sorted(source for one in imported(executed(self.tree)) for source in one.sources)

    def first_line(self, node: ast.stmt) -> int:
        """The index of the first line of a statement, with its decorators and the comments directly above it."""
        start = self.own_line(node)
        while start and COMMENT.match(self.lines[start - 1]):
            start -= 1
        return start

    def own_line(self, node: ast.stmt) -> int:
        """The index of the first line of a statement, with its decorators."""
        return min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))]) - 1

    def whole(self, node: ast.stmt) -> list[str]:
        """The lines of a statement, with its decorators and the comments directly above it."""
        return self.lines[self.first_line(node) : node.end_lineno]

    def body_line(self, node: Definition) -> int:
        """The index of the line behind a definition's header and docstring."""
        docstring = node.body[0].end_lineno if ast.get_docstring(node) is not None else None
        return docstring or header_end(self.lines, node)

    def inherited_docstring(self, owner: str, method: str) -> list[str]:
        """The lines of the docstring that a method has from a base class, or from a protocol with such a method."""
        node = self.definitions.get(f"{owner}.{method}")
        if node is not None and ast.get_docstring(node) is not None:
            return self.lines[node.body[0].lineno - 1 : node.body[0].end_lineno]
        for base in getattr(self.definitions.get(owner), "bases", ()):
            at = self.imports.get(ast.unparse(base))
            source = read_source(at.module) if at and module_path(at.module) else self
            lines = source.inherited_docstring(ast.unparse(base), method) if source.defines(base) else []
            if lines:
                return lines
        return []

    def defines(self, base: ast.expr) -> bool:
        """Whether a base class is a class of this module."""
        return isinstance(self.definitions.get(ast.unparse(base)), ast.ClassDef)

    def code_lines(self, node: Function) -> int:
        """How many lines of a function's body hold code: no docstring, comment or blank line."""
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        if not body:
            return 0
        lines = self.lines[body[0].lineno - 1 : node.end_lineno]
        return sum(bool(line.strip()) and not COMMENT.match(line) for line in lines)


@cache
def read_source(module: str) -> Source:
    """The source of a module of the package, read once. Raises CourseError where there is none."""
    path = module_path(module)
    if path is None:
        raise CourseError(f"there is no module {module} in this package")
    return Source(module, path)


def module_path(module: str) -> Path | None:
    """The file of a module of the package, or None."""
    first, *rest = module.split(".")
    if first != PACKAGE.name:
        return None
    at = PACKAGE.joinpath(*rest)
    return next((path for path in (at / "__init__.py", at.with_name(f"{at.name}.py")) if path.is_file()), None)


def documentation(source: Source, owner: str, method: str) -> list[str]:
    """The lines of a method's docstring, which another class may have: a base, or a protocol of the model."""
    protocols = read_source(PROTOCOLS)
    classes = [name for name, node in protocols.definitions.items() if isinstance(node, ast.ClassDef)]
    places = [(source, owner), *((protocols, name) for name in classes)]
    return next((lines for at, name in places if (lines := at.inherited_docstring(name, method))), [])


def header_end(lines: list[str], node: Definition) -> int:
    """The index behind the line that ends a definition's header: the one with the colon outside of all brackets."""
    text = "\n".join(lines[node.lineno - 1 : node.end_lineno])
    depth = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.OP:
            depth += (token.string in "([{") - (token.string in ")]}")
            if token.string == ":" and depth == 0:
                return node.lineno - 1 + token.start[0]
    raise CourseError(f"line {node.lineno}: the header of {node.name} has no end")


def assigned(node: ast.stmt) -> list[ast.expr]:
    """The targets of an assignment; of any other statement none."""
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def imported(body: Iterable[ast.stmt], types_only: bool = False) -> Iterator[Imported]:
    """The names that the import statements of a body bind."""
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from imported(node.body, types_only=True)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield Imported(alias.asname or alias.name, node.module, alias.name, types_only)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield Imported(alias.asname or alias.name.partition(".")[0], alias.name, None, types_only)


def free_names(node: ast.AST) -> set[str]:
    """The names that a part of a module takes from outside of itself, annotations included."""
    if isinstance(node, ast.ClassDef):
        outside = [*node.bases, *node.keywords, *node.decorator_list]
        return {name for part in [*outside, *node.body] for name in free_names(part)}
    names = [part for part in ast.walk(node) if isinstance(part, ast.Name)]
    inside = {part.id for part in names if isinstance(part.ctx, ast.Store)} if isinstance(node, Function) else set()
    inside |= {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)}
    return {part.id for part in names if isinstance(part.ctx, ast.Load)} - inside


def closure(modules: Iterable[str]) -> dict[str, Path]:
    """The modules of the package that importing some of its modules executes, themselves included, with their files.

    Imports inside functions count; those of `if TYPE_CHECKING` do not. Names that are no module are passed over.
    """
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        path = module_path(module)
        if module in found or path is None:
            continue
        found[module] = path
        waiting.append(module.rpartition(".")[0])
        waiting += read_source(module).executed
    return found


def executed(tree: ast.AST) -> Iterator[ast.stmt]:
    """All import statements below a node, but those for types only."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from executed(child)
