"""A lesson's source, parsed: its cells, the sections that they stand in, and the answers beside it."""

from __future__ import annotations

import ast
import builtins
import re
import tomllib
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import jupytext

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
NAMES = sorted(path.stem for path in (NOTEBOOKS / "src").glob("*.py"))
ANSWERABLE = ("prediction", "yours", "exercise", "puzzle")


@dataclass(frozen=True)
class Cell:
    """kind: markdown or code. section: the level-2 heading above it, "" before the first."""

    kind: str
    text: str
    tags: tuple[str, ...]
    section: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def tag(self) -> str:
        return self.tags[0] if self.tags else ""

    def calls(self, name: str) -> list[ast.Call]:
        """The calls of `name(...)` or `something.name(...)`."""
        calls = [node for node in ast.walk(self.tree) if isinstance(node, ast.Call)]
        return [call for call in calls if ast.unparse(call.func).rpartition(".")[2] == name]

    @property
    def checked(self) -> str:
        """The name that the cell calls `check` with; "" without one."""
        return next((str(ast.literal_eval(call.args[0])) for call in self.calls("check") if call.args), "")

    def dots(self) -> list[ast.Constant]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.Constant) and node.value is ...]


@dataclass(frozen=True)
class Source:
    """name: as the file's, such as 03_kv_cache. answers: the file beside it, None where there is none."""

    name: str
    cells: tuple[Cell, ...]
    answers: dict[str, Any] | None
    readme: str

    @property
    def code(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.kind == "code"]

    @property
    def markdown(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.kind == "markdown"]

    def tagged(self, *tags: str) -> list[Cell]:
        return [cell for cell in self.code if set(tags) & set(cell.tags)]

    def answer(self, name: str) -> dict[str, Any]:
        """What the answers file says for a check or the prediction; {} when it says nothing."""
        return next((one for one in (self.answers or {}).get("answers", []) if one.get("name") == name), {})


def parse(name: str, text: str, answers: str | None, readme: str) -> Source:
    """The parts of a lesson from the texts of its files."""
    section, cells = "", []
    for cell in jupytext.reads(text, fmt="py:percent").cells:
        if cell.cell_type == "markdown" and (heading := re.search(r"^## (.+)$", cell.source, re.MULTILINE)):
            section = heading[1].strip()
        cells.append(Cell(cell.cell_type, cell.source, tuple(cell.metadata.get("tags", [])), section))
    return Source(name, tuple(cells), None if answers is None else tomllib.loads(answers), readme)


@cache
def read(name: str) -> Source:
    """A lesson of the notebooks' folder."""
    answers = NOTEBOOKS / "answers" / f"{name}.toml"
    return parse(
        name,
        (NOTEBOOKS / "src" / f"{name}.py").read_text(encoding="utf-8"),
        answers.read_text(encoding="utf-8") if answers.is_file() else None,
        (NOTEBOOKS / "README.md").read_text(encoding="utf-8"),
    )


@cache
def builder() -> ModuleType:
    """notebooks/build.py, which is a script."""
    spec = spec_from_file_location("build_notebooks", NOTEBOOKS / "build.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answered(cell: str, answer: str) -> str:
    """A cell whose one `...` is replaced by an answer; its later lines are indented like the first.

    Raises ValueError for a cell with no `...`, or with several.
    """
    found = [node for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Constant) and node.value is ...]
    if len(found) != 1:
        raise ValueError(f"the cell holds {len(found)} times `...`, not once:\n{cell}")
    lines = cell.split("\n")
    row, line = found[0].lineno - 1, lines[found[0].lineno - 1]
    place = len(line.encode()[: found[0].col_offset].decode())
    indent = line[: len(line) - len(line.lstrip())]
    first, *rest = answer.strip("\n").split("\n")
    new = [line[:place] + first, *(indent + part if part.strip() else "" for part in rest)]
    new[-1] += line[place + 3 :]
    return "\n".join([*lines[:row], *new, *lines[row + 1 :]])


def too_early(source: Source) -> int:
    """The last code cell that at once needs a name which a cell between the first and itself makes."""
    made: set[str] = set()
    late = 0
    for number, cell in enumerate(source.code[1:], 1):
        late = number if needs(cell) & made else late
        made |= {node.id for node in outside(cell.tree) if isinstance(node.ctx, ast.Store)}
        made |= {node.name for node in cell.tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return late


def needs(cell: Cell) -> set[str]:
    """The names that a cell reads and does not make; what is inside functions is read later."""
    own, read_ = set(dir(builtins)), set()
    for statement in cell.tree.body:
        names = outside(statement)
        own |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
        own |= {statement.name} if isinstance(statement, ast.FunctionDef | ast.ClassDef) else set()
        read_ |= {node.id for node in names if isinstance(node.ctx, ast.Load)} - own
    return read_


def outside(tree: ast.AST) -> list[ast.Name]:
    """The names of a tree that stand in no function, class or comprehension."""
    inner = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    found, rest = [], [] if isinstance(tree, inner) else [tree]
    while rest:
        node = rest.pop()
        found += [node] if isinstance(node, ast.Name) else []
        rest += [child for child in ast.iter_child_nodes(node) if not isinstance(child, inner)]
    return found
