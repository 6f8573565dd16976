"""Which cell to run first: said in place of Python's NameError.

The cells of a notebook can run in any order. A name that a cell above would have made is missing then. The lesson
looks that name up in its own source, and names the cell that makes the name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinyinfer.lessons.messages import Message, shell, show

FOLDERS = (Path("src"), Path("notebooks") / "src", Path(__file__).parents[2] / "notebooks" / "src")


def explain_missing_names(lesson: str) -> None:
    """Makes the notebook say which cell to run first when a name is missing; does nothing in a plain Python."""
    kernel, cells = shell(), _cells(lesson)
    if kernel is None:
        return

    def explain(self: Any, kind: type, error: NameError, trace: Any, tb_offset: int | None = None) -> None:
        message = missing(error.name, cells) if error.name else None  # a local variable's error has none
        if message is None:
            self.showtraceback((kind, error, trace), tb_offset=tb_offset)
        else:
            show(message)

    kernel.set_custom_exc((NameError,), explain)


def missing(name: str, cells: dict[str, str] | None) -> Message | None:
    """What to say about a missing name; None for a name that no cell of the lesson makes."""
    if cells is None:
        hint = f"run the cells above this one, from the top; if that does not help, is `{name}` spelt as it was made?"
        return Message("wrong", f"`{name}` does not exist yet.", hint=hint)
    if name not in cells:
        return None
    text = f"`{name}` does not exist yet: first run {cells[name]}."
    return Message("wrong", text, hint="or run all cells above this one")


def _cells(lesson: str) -> dict[str, str] | None:
    """Each name that a cell makes -> where that cell is, in words; None where the lesson's source is not here."""
    path = next((path for folder in FOLDERS if (path := folder / f"{lesson}.py").is_file()), None)
    return None if path is None else made_names(path.read_text(encoding="utf-8"))


def made_names(source: str) -> dict[str, str]:
    """Each name that the code cells of a source make, with the section and first line of the first such cell."""
    places: dict[str, str] = {}
    section = "the title"
    for cell in source.split("\n# %%")[1:]:
        head, _, body = cell.partition("\n")
        if "[markdown]" in head:
            section = next((line[5:] for line in body.splitlines() if line.startswith("# ## ")), section)
            continue
        first = next((line for line in body.splitlines() if line.strip()), "")
        for name in _assigned(body):
            places.setdefault(name, f'the cell under "{section}" that begins with `{first}`')
    return places


def _assigned(body: str) -> Iterator[str]:
    """The names that a cell makes at its top level."""
    try:
        tree = ast.parse(body)
    except SyntaxError:
        return
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            yield statement.name
            continue
        inner = [node.target for node in ast.walk(statement) if isinstance(node, ast.comprehension)]
        hidden = {id(node) for target in inner for node in ast.walk(target)}  # names of a comprehension end with it
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in hidden:
                yield node.id
            elif isinstance(node, ast.alias):
                yield (node.asname or node.name).partition(".")[0]
