"""Mutants of our own solutions: one small change each, and the test that notices it. What no test notices is a hole.

    python tests/course/mutations.py -o docs/course_mutants.md           all assignments, some minutes
    python tests/course/mutations.py kv_cache sampling                   those assignments, to the screen

A change deletes a statement, negates a condition, adds or subtracts one, swaps < and <=, > and >=, == and !=, + and -,
* and /, takes another axis or leaves out a keyword argument. Only the lines that a student writes are changed. Each
mutant is graded in a process of its own, with limits of time and memory, since some never end. Public tests have the
seeds that a student sees, hidden ones seeds of that kind.

A mutant that computes the same as the original can be noticed by no test, nor can a count that the student's process
keeps. equivalent_mutants.toml lists those, with the reason; a listed mutant that a test notices is an error, too, so
that the list does not outlive the code.
"""

from __future__ import annotations

import argparse
import ast
import multiprocessing
import os
import resource
import tempfile
import tomllib
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from tinyinfer.cli.console import progress_bar
from tinyinfer.course.assignment import Assignment, assignments
from tinyinfer.course.cut import solution
from tinyinfer.course.pytest_plugin import public_seed
from tinyinfer.course.runner import run_test
from tinyinfer.course.sandbox.loading import load_source
from tinyinfer.course.student import LocalStudent

EQUIVALENT = Path(__file__).with_name("equivalent_mutants.toml")
SECONDS = 10.0  # without a reply: the mutant never ends
MEMORY = 4 << 30  # bytes of address space
SWAPS: dict[type[ast.AST], str] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.Is: "is not",
    ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in", ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*",
}  # fmt: skip
Conditional = ast.If | ast.While | ast.IfExp | ast.Assert


# The mutants of a text.


@dataclass(frozen=True)
class Mutant:
    """One change of a solution. before, after: the first line that differs, without its comment."""

    function: str
    kind: str
    before: str
    after: str
    source: str


def mutants(text: str, names: Iterable[str]) -> list[Mutant]:
    """All mutants of the functions `names` ("f", "Class.method" or "Class") of a source text, in its order."""
    found = {}
    for function, node in functions(ast.parse(text), set(names)):
        for kind, source in changes(Text(text), node):
            if source != text and source not in found and compiles(source):
                found[source] = Mutant(function, kind, *first_difference(text, source), source)
    return list(found.values())


def functions(tree: ast.Module, names: set[str]) -> Iterator[tuple[str, ast.FunctionDef]]:
    """The functions and methods that the names stand for; a class stands for all its methods."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in names:
            yield node.name, node
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                name = f"{node.name}.{getattr(method, 'name', '')}"
                if isinstance(method, ast.FunctionDef) and (node.name in names or name in names):
                    yield name, method


class Text:
    """A source text in which the place of a part of the syntax tree is replaced. Places are counted in UTF-8 bytes."""

    def __init__(self, text: str) -> None:
        self.data = text.encode()
        self.starts = [0]
        for line in self.data.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def place(self, node: ast.AST) -> tuple[int, int]:
        """Where a part begins and ends."""
        first = self.starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        return first, self.starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def with_new(self, first: int, last: int, new: str) -> str:
        """The text with other characters between two places."""
        return (self.data[:first] + new.encode() + self.data[last:]).decode()

    def replaced(self, node: ast.AST, new: str) -> str:
        """The text with other characters in the place of a part."""
        return self.with_new(*self.place(node), new)

    def without(self, node: ast.keyword) -> str:
        """The text without an argument, and without the comma in front of it or behind it."""
        first, last = self.place(node)
        before = self.data[:first].rstrip()
        if before.endswith(b","):
            return (before[:-1] + self.data[last:]).decode()
        return (before + self.data[last:].lstrip().removeprefix(b",").lstrip()).decode()

    def between(self, left: ast.AST, right: ast.AST, old: str, new: str) -> str:
        """The text with another operator between two operands."""
        first, last = self.place(left)[1], self.place(right)[0]
        gap = self.data[first:last].decode()
        return self.with_new(first, last, gap.replace(old, new, 1))


def changes(text: Text, function: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    """(kind, changed text) for every part of a function's body."""
    axes = {id(part) for node in ast.walk(function) if isinstance(node, ast.keyword) and node.arg in ("axis", "axes")
            for part in ast.walk(node.value)}  # fmt: skip
    for statement in function.body:
        for node in ast.walk(statement):
            yield from deletions(text, node)
            yield from negations(text, node)
            yield from operators(text, node)
            if isinstance(node, ast.Constant) and type(node.value) in (int, float):
                kind = "an axis" if id(node) in axes else "a number"
                yield from ((kind, text.replaced(node, str(node.value + step))) for step in (1, -1))
            if isinstance(node, ast.Call):
                yield from (("no keyword", text.without(one)) for one in node.keywords if one.arg)


def deletions(text: Text, node: ast.AST) -> Iterator[tuple[str, str]]:
    """A statement left out; a docstring, a definition and what has an `else` stay."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    stays = not isinstance(node, ast.stmt) or isinstance(node, ast.Pass | ast.FunctionDef | ast.ClassDef)
    if not stays and not getattr(node, "orelse", None):
        yield "deleted", text.replaced(node, "pass")


def negations(text: Text, node: ast.AST) -> Iterator[tuple[str, str]]:
    """A condition the other way round."""
    tests = [node.test] if isinstance(node, Conditional) else []
    tests += [test for part in getattr(node, "generators", ()) for test in part.ifs]
    for test in tests:
        first, last = text.place(test)
        yield "negated", text.with_new(first, last, f"(not ({text.data[first:last].decode()}))")


def operators(text: Text, node: ast.AST) -> Iterator[tuple[str, str]]:
    """One operator for another."""
    if isinstance(node, ast.Compare):
        lefts = [node.left, *node.comparators]
        triples = list(zip(lefts, node.ops, node.comparators, strict=False))
    elif isinstance(node, ast.BinOp):
        triples = [(node.left, node.op, node.right)]
    elif isinstance(node, ast.AugAssign):
        triples = [(node.target, node.op, node.value)]
    else:
        return
    for left, op, right in triples:
        if type(op) in SWAPS:
            yield "an operator", text.between(left, right, symbol(op), SWAPS[type(op)])


def symbol(op: ast.AST) -> str:
    """An operator as it is written."""
    opposite = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.Is: "is",
                ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in", ast.Add: "+", ast.Sub: "-", ast.Mult: "*",
                ast.Div: "/"}  # fmt: skip
    return opposite[type(op)]


def compiles(source: str) -> bool:
    """Whether a text is Python."""
    try:
        with warnings.catch_warnings(action="ignore"):
            compile(source, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def first_difference(text: str, source: str) -> tuple[str, str]:
    """The first lines that differ between two texts, without their comments."""
    pairs = zip(text.splitlines(), source.splitlines(), strict=False)
    before, after = next((a, b) for a, b in pairs if a != b)
    return code_of(before), code_of(after)


def code_of(line: str) -> str:
    """A line without its comment."""
    return line.partition("  #")[0].strip()


# Which test notices a mutant.


@dataclass(frozen=True)
class Graded:
    """What became of a mutant. noticed: the tests that did not pass; ended: the last of them ended the process."""

    mutant: Mutant
    noticed: tuple[str, ...]
    ended: bool = False


def grade(a: Assignment, source: str, folder: Path) -> tuple[tuple[str, ...], bool]:
    """The tests that a source does not pass, and whether the last of them never ended, or ended the process."""
    (folder / a.file).write_text(source, encoding="utf-8")
    mine, theirs = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=(a, folder / a.file, theirs))
    process.start()
    theirs.close()
    failed = []
    try:
        for test in a.tests:
            if not mine.poll(SECONDS):
                return (*failed, test.name), True
            if not mine.recv():
                failed.append(test.name)
    except EOFError:
        return (*failed, test.name), True
    finally:
        process.kill()
        process.join()
    return tuple(failed), False


def run_tests(a: Assignment, path: Path, results: Connection) -> None:
    """Runs all tests on a student's file, and sends whether each has passed."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    kinds = {False: f"test_{a.name}", True: f"hidden_{a.name}"}
    compiled = LocalStudent(a, path) if a.packages else None  # one for all tests: a compiler takes seconds
    files = {hidden: load_source(f"tinyinfer_tests_{kind}", a.folder / f"{kind}.py") for hidden, kind in kinds.items()}
    with np.errstate(all="ignore"), open(os.devnull, "w") as out, redirect_stdout(out), redirect_stderr(out):
        for test in a.tests:
            rng = np.random.default_rng(public_seed(test.name))
            student = compiled or LocalStudent(a, path)
            outcome = run_test(getattr(files[test.hidden], test.name), student, test.parts, rng)
            results.send(outcome.passed == outcome.parts and not outcome.faults)


def graded(a: Assignment) -> list[Graded]:
    """All mutants of an assignment's solution, and what became of them. The solution itself must pass."""
    text, names = solution(a), [name for cut in a.cut for name in cut.names]
    given = {name for cut in a.cut for name in cut.given}
    made = [mutant for mutant in mutants(text, names) if mutant.function not in given]
    with tempfile.TemporaryDirectory() as folder:
        failed, _ = grade(a, text, Path(folder))
        assert not failed, f"{a.name}: our own solution does not pass {failed}"
        found = []
        with progress_bar(f"{a.name}: {len(made)} mutants") as show:
            for number, mutant in enumerate(made, 1):
                found.append(Graded(mutant, *grade(a, mutant.source, Path(folder))))
                show(number, len(made))
    return found


# The list of those that compute the same.


def equivalents() -> dict[tuple[str, str, str, str], str]:
    """(assignment, function, line before, line after) -> why no test can notice the change."""
    entries = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["mutants"]
    return {(e["assignment"], e["function"], e["before"], e["after"]): e["why"] for e in entries}


def key_of(a: Assignment, mutant: Mutant) -> tuple[str, str, str, str]:
    """What a mutant is listed under."""
    return a.name, mutant.function, mutant.before, mutant.after


# The table.


def page(results: dict[str, list[Graded]], known: dict[tuple[str, str, str, str], str]) -> str:
    """The table of all mutants as Markdown."""
    parts = ["# Mutants of the course's solutions\n", f"{INTRODUCTION}\n", summary(results)]
    for name, found in results.items():
        parts += [f"\n## {name}\n", killers(found), "\n| function | change | line becomes | noticed by |"]
        parts += ["|---|---|---|---|", *(row(name, one, known) for one in found)]
    return "\n".join(parts) + "\n"


INTRODUCTION = """Each row is one small change of our own solution of an assignment, and the first test that notices it.
`python tests/course/mutations.py -o docs/course_mutants.md` writes this page. `pytest -m slow
tests/course/test_mutations.py` checks that each change is noticed, or listed with the reason why none can notice it."""


def summary(results: dict[str, list[Graded]]) -> str:
    """One line for each assignment."""
    known = assignments()
    lines = ["| assignment | mutants | noticed by a public test | only by a hidden one | listed, with the reason |"]
    lines += ["|---|---|---|---|---|"]
    for name, found in results.items():
        public = {test.name for test in known[name].tests if not test.hidden}
        seen = [one for one in found if one.noticed]
        by_public = sum(bool(public & set(one.noticed)) for one in seen)
        lines.append(f"| {name} | {len(found)} | {by_public} | {len(seen) - by_public} | {len(found) - len(seen)} |")
    return "\n".join(lines)


def killers(found: list[Graded]) -> str:
    """How many mutants each test notices, and how many of them no other test does."""
    every = Counter(test for one in found for test in one.noticed)
    alone = Counter(one.noticed[0] for one in found if len(one.noticed) == 1)
    lines = ["| test | notices | alone |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {test} | {count} | {alone[test]} |" for test, count in every.most_common())])


def row(name: str, one: Graded, known: dict[tuple[str, str, str, str], str]) -> str:
    """A mutant as a line of the table."""
    m = one.mutant
    if one.noticed:
        more = f" and {len(one.noticed) - 1} more" if len(one.noticed) > 1 else ""
        by = f"{one.noticed[0]}{more}" + " (never ends)" * (one.ended and len(one.noticed) == 1)
    else:
        by = f"none: {known.get((name, m.function, m.before, m.after), 'A HOLE')}"
    change = m.after if m.kind != "deleted" else f"{m.before} → pass"
    return f"| {m.function} | {m.kind} | {cell(change)} | {by} |"


def cell(code: str) -> str:
    """Code within a table: a bar would end the cell."""
    return f"`{code}`".replace("|", "\\|")


def main() -> None:
    """Writes the table of all mutants, or of some assignments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="assignments; without any, all")
    parser.add_argument("-o", "--output", type=Path, help="file to write")
    args = parser.parse_args()
    chosen = {name: a for name, a in assignments().items() if not args.names or name in args.names}
    text = page({name: graded(a) for name, a in chosen.items()}, equivalents())
    if args.output:
        args.output.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
