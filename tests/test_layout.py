"""The folders are the chapter's sections in one reading order: imports only point to what was read before."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import tinyinfer

PACKAGE = Path(tinyinfer.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
ORDER = [
    *("arrays", "errors", "units", "switches", "ledger"),
    *("sampling_params", "noise", "sampling", "text", "guided", "prompts", "rotation_sets", "sequence", "model"),
    *("backends", "kv_cache", "quantization", "pruning", "speculative", "loading", "parallel"),
    *("batching", "engine", "replicas", "request", "llm", "ray_serve", "distillation"),
    *("views", "measure", "server", "lessons", "course", "cli"),
]
FOLDERS = sorted(path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.glob("*/**/__init__.py"))


def module(path: Path) -> str:
    """The name under which a file is imported."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path) for path in FILES}


def imports(path: Path) -> set[str]:
    """The package's modules that a file imports anywhere: at its top, for types only, or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module(path)}: relative imports hide which section they name"
            assert node.module is not None
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return {name for name in found if name in MODULES and name != module(path)}


def room(name: str) -> str:
    """The folder or top file that a module belongs to."""
    return name.split(".")[1] if "." in name else ""


def rank(name: str) -> int:
    """A module's place in the order; the package itself, which offers the Python door, comes before the commands."""
    return ORDER.index(room(name) or "cli")


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_only_point_down(path):
    """Catches a section that needs a later one: a reader would have to know what comes after."""
    own = room(module(path))
    if module(path) in ("tinyinfer", "tinyinfer.__main__"):
        return
    upward = [name for name in imports(path) if rank(name) > ORDER.index(own)]
    assert not upward, f"{module(path)} ({own}) imports upward: {', '.join(sorted(upward))}"


def test_no_file_imports_in_a_circle():
    """Imports for types count: two files that name each other's types cannot be read one after the other."""
    TopologicalSorter({module(path): imports(path) - {"tinyinfer"} for path in FILES}).prepare()


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_page_of_a_folder_lists_its_files(folder):
    """In reading order; catches a file that was added, renamed or removed without a word on the section's page."""
    page = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    listed = re.findall(r"^    (\w+\.py)  ", page, re.MULTILINE)
    assert sorted(listed) == sorted(p.name for p in (PACKAGE / folder).glob("*.py") if p.name != "__init__.py")


def top_names(name: str) -> set[str]:
    """What a module defines, assigns or imports at its top level; nothing for a module that does not exist."""
    [tree] = [ast.parse(path.read_text(encoding="utf-8")) for path in FILES if module(path) == name] or [ast.Module([])]
    nodes = [node for top in tree.body if not is_definition(top) for node in ast.walk(top)]
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    imported = {(node.asname or node.name).partition(".")[0] for node in nodes if isinstance(node, ast.alias)}
    return stored | imported | {top.name for top in tree.body if is_definition(top)}


def is_definition(node: ast.AST) -> bool:
    """Whether a node is a function or a class."""
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def test_names_that_scripts_import_exist():
    """Benchmarks and the texts of notebooks run seldom. Catches one that is broken because a class has moved.

    A module is read, not imported: some need an extra.
    """
    root = PACKAGE.parent
    scripts = [*(root / "benchmarks").glob("*.py"), *(root / "notebooks").rglob("*.py")]
    named = {
        (script.name, node.module, alias.name)
        for script in scripts
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tinyinfer"
        for alias in node.names
    }
    assert len(named) > 50
    assert not [
        (script, module, name)
        for script, module, name in named
        if name not in top_names(module) and f"{module}.{name}" not in MODULES
    ]


def test_only_the_backend_and_its_registry_name_a_backend():
    """Model, caches, engine, quantization and speculation know the protocols of model/interfaces.py, no class.

    The tests of an assignment may name the class that it is cut from; a compiled kernel names its formula.
    """
    apart = PACKAGE / "course" / "assignments", PACKAGE / "backends" / "cpu_kernels"
    paths = [path for path in FILES if not any(path.is_relative_to(folder) for folder in apart)]
    classes = re.compile(r"\b(NumpyOps|ReferenceOps|CupyOps|NumbaOps)\b")
    named = [module(path) for path in paths if classes.search(path.read_text("utf-8"))]
    assert set(named) <= {
        "tinyinfer.backends.numpy_ops", "tinyinfer.backends.reference", "tinyinfer.backends.switches",
        "tinyinfer.backends.cupy_ops", "tinyinfer.backends.numba_ops", "tinyinfer.backends.numba_device",
        "tinyinfer.switches",
    }  # fmt: skip


def test_no_two_test_files_have_the_same_name():
    """pytest imports test files by their names alone: of two in different folders it collects only one."""
    names = [path.name for path in (PACKAGE.parent / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
