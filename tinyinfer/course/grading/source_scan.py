"""A look at a student's source before it runs: does Python parse it, and which imports does the task not need?

Parsing takes memory and time in the grader itself, and a hostile text makes it take much: an f-string of 900 kB needs
50 s and 600 MB, an import of a name with 50,000 dots 2,600 MB. So only a text of at most 100 kB without such names is
parsed here; the child finds the syntax error of another one.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator

from tinyinfer.course.assignment import Assignment
from tinyinfer.course.cut import skeleton
from tinyinfer.course.grading.report import bounded

PARSED = 100_000  # bytes
DOTTED = re.compile(rb"(?:\.[\s\\]*+[\w\x80-\xff]++[\s\\]*+){100}")  # a name of so many parts, over lines, too
FINDINGS = 12
HARMLESS = {"__future__", "abc", "bisect", "collections", "copy", "dataclasses", "enum", "fractions", "functools",
            "heapq", "itertools", "math", "numbers", "numpy", "operator", "statistics", "typing"}  # fmt: skip
NAMES = {"__builtins__", "__import__", "__loader__", "__spec__", "breakpoint", "compile", "eval", "exec", "globals",
         "input", "locals", "open", "vars"}  # fmt: skip
ATTRIBUTES = {"__bases__", "__class__", "__closure__", "__code__", "__dict__", "__globals__", "__mro__",
              "__subclasses__", "ctypeslib", "f_back", "f_globals", "f_locals", "fromfile", "gi_frame", "load",
              "memmap", "modules", "tb_frame", "tofile"}  # fmt: skip
COOKIE = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")  # PEP 263, in the first two lines


def parse_fault(source: bytes, name: str) -> str:
    """Why Python cannot read the source, with the line; "" if it can, or if the source is too large to try."""
    for number, line in enumerate(source.split(b"\n", 2)[:2], 1):
        found = COOKIE.match(line)
        if found and found[1].lower().replace(b"_", b"-") not in (b"utf-8", b"utf8"):
            return f"{name}, line {number}: declares the encoding {found[1].decode()}; save the file as UTF-8"
    if too_hard(source):
        return ""
    try:
        parsed(source)
    except SyntaxError as error:  # bounded: the message quotes the source
        return f"{name}, line {error.lineno or 1}: {bounded(str(error.msg), 200)}"
    except (MemoryError, RecursionError):
        return f"{name}: is nested too deeply for Python"
    except ValueError as error:
        return f"{name}: {bounded(str(error), 200)}"
    return ""


def too_hard(source: bytes) -> bool:
    """Whether parsing the source may take more than a second or 100 MB."""
    return len(source) > PARSED or (b"import" in source and DOTTED.search(source) is not None)


def parsed(source: bytes) -> ast.Module:
    """The source's syntax tree. Raises SyntaxError, ValueError, MemoryError, RecursionError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an invalid escape in a string
        return ast.parse(source)


def scan_source(source: bytes, a: Assignment) -> list[str]:
    """Notes about imports and names that the assignment does not need, each once, with its first line."""
    if too_hard(source):
        why = f"is larger than {PARSED:,} bytes" if len(source) > PARSED else "has a name with a hundred dots"
        return [f"{a.file}: {why}, so its imports were not looked at"]
    needed = {what for what, _ in imported(parsed(skeleton(a).encode()))}
    first: dict[str, int] = {}
    for line, what in sorted(findings(parsed(source), needed | HARMLESS | set(a.allowed))):
        first.setdefault(what, line)
    told = [f"{a.file}, line {line}: {what}" for what, line in first.items()]
    more = [f"{a.file}: {len(told) - FINDINGS} more such places"] if len(told) > FINDINGS else []
    return told[:FINDINGS] + more


def findings(tree: ast.Module, needed: set[str]) -> Iterator[tuple[int, str]]:
    """(line, what) of everything that the assignment does not need."""
    modules = {node.asname or node.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.alias)}
    for what, line in imported(tree):
        if what not in needed:
            yield line, f"imports {bounded(what, 60)}, which the assignment does not need"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in NAMES and isinstance(node.ctx, ast.Load):
            yield node.lineno, f"uses {node.id}, which the assignment does not need"
        elif isinstance(node, ast.alias) and node.name in ATTRIBUTES:
            yield node.lineno, f"imports {node.name}, which the assignment does not need"
        elif isinstance(node, ast.Attribute):
            if node.attr in ATTRIBUTES:
                yield node.lineno, f"uses .{node.attr}, which the assignment does not need"
            if isinstance(node.ctx, ast.Store | ast.Del) and root(node) in modules:
                yield node.lineno, f"changes {bounded(f'{root(node)}...{node.attr}', 60)}, which belongs to a module"


def imported(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """(module, line) of every import: a module of this package with its full name, others by their first name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "." * node.level]
        else:
            continue
        for name in names:
            yield name if name.startswith("tinyinfer") else name.partition(".")[0] or name, node.lineno


def root(node: ast.AST) -> str:
    """The name at which a chain of attributes begins; "" where it begins with something else."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
