"""The code is readable, by the rules that a machine can check: lengths, docstrings, no globals, no switch in the model.

A function's length is the lines from `def` to its end without those of its docstring.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

import tinyinfer
from tinyinfer.engine.config import EngineConfig
from tinyinfer.ledger import Ledger

PACKAGE = Path(tinyinfer.__file__).parent
ROOT = PACKAGE.parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
TREES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
FOLDERS = [PACKAGE, *(ROOT / name for name in ("tests", "benchmarks", "notebooks"))]
BRANCH_FREE = ["model/transformer.py", "model/layers.py", "model/heads.py"]
MODEL = [*BRANCH_FREE, "model/attention.py", "model/moe.py", "model/mlp.py"]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def definitions(kinds: type | tuple[type, ...] | object) -> Iterator[tuple[str, ast.AST]]:
    """(file:name, node) of every definition of these kinds in the package."""
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, kinds):  # type: ignore[arg-type]
                yield f"{name}:{node.name}", node  # type: ignore[attr-defined]


def length(node: ast.AST) -> int:
    """Lines of a function without its docstring."""
    lines = node.end_lineno - node.lineno + 1  # type: ignore[attr-defined]
    if ast.get_docstring(node):  # type: ignore[arg-type]
        lines -= node.body[0].end_lineno - node.body[0].lineno + 1  # type: ignore[attr-defined]
    return lines


def files() -> list[Path]:
    """Every file of the project that is or would be committed; what lies beside the package where there is no git."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    if (ROOT / ".git").exists():
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        return [ROOT / name for name in names if (ROOT / name).is_file()]
    return [path for folder in (PACKAGE, ROOT / "tests") for path in folder.rglob("*") if path.is_file()]


def texts() -> Iterator[tuple[Path, str]]:
    """The files that hold text."""
    for path in files():
        if path.suffix in (".py", ".md", ".toml", ".cfg", ".ipynb", ".sh", ".yml", ".txt", ".json", ""):
            yield path, path.read_text(encoding="utf-8")


# Lengths

PRAGMA = re.compile(r"(\s*# (type: ignore|noqa|fmt: )\S*)+$")  # ruff does not count them either


def test_nine_of_ten_functions_fit_in_20_lines_and_none_exceeds_60():
    """A function that needs scrolling is not read."""
    lengths = {name: length(node) for name, node in definitions(Function)}
    long = sorted((lines, name) for name, lines in lengths.items() if lines > 20)
    assert len(long) <= 0.1 * len(lengths), f"{len(long)} of {len(lengths)} are longer than 20 lines: {long}"
    assert not [entry for entry in long if entry[0] > 60]


def test_no_class_exceeds_150_lines():
    """Lines of code, without docstrings, comments and blank lines: a larger class holds more than one idea."""
    sizes = {name: code_lines(node, name) for name, node in definitions(ast.ClassDef)}
    assert not {name: size for name, size in sizes.items() if size > 150}


def code_lines(node: ast.AST, name: str) -> int:
    """Lines of a definition that hold code."""
    lines = (PACKAGE / name.partition(":")[0]).read_text(encoding="utf-8").splitlines()
    inner = [n for n in ast.walk(node) if isinstance(n, Function | ast.ClassDef) and ast.get_docstring(n)]
    prose = {line for n in inner for line in range(n.body[0].lineno, n.body[0].end_lineno + 1)}  # type: ignore[operator]
    own = range(node.lineno, node.end_lineno + 1)  # type: ignore[attr-defined]
    return sum(n not in prose and not re.match(r"\s*(#|$)", lines[n - 1]) for n in own)


def test_a_step_of_the_engine_is_at_most_10_lines():
    """Short enough to read aloud; `generate` calls `step`, `step` calls `choose`."""
    [step] = [node for name, node in definitions(Function) if name == "engine/engine.py:step"]
    body = step.body[1:] if ast.get_docstring(step) else step.body
    assert body[-1].end_lineno - body[0].lineno + 1 <= 10


def test_lines_are_as_short_as_pyproject_says():
    """One width in every file; ruff checks it too, but the tests run without ruff."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        limit = tomllib.load(file)["tool"]["ruff"]["line-length"]
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for path, text in texts()
        if path.suffix == ".py"
        for number, line in enumerate(text.splitlines(), 1)
        if len(PRAGMA.sub("", line)) > limit
    ]
    assert not long


# Docstrings


def test_everything_public_says_what_it_is():
    """Modules, classes, functions and methods, `__call__` included; other double underscores explain themselves.

    What is said once is enough: a method that a protocol or a base class documents needs no second docstring, nor does
    a property of one line.
    """
    silent = [name for name, tree in TREES.items() if not ast.get_docstring(tree)]
    for name, tree in TREES.items():
        silent += [
            f"{name}:{where}"
            for where, node in public(tree, "")
            if not ast.get_docstring(node) and not is_short_property(node) and not is_documented_above(where)
        ]
    assert not silent


def test_no_docstring_has_fewer_than_four_words():
    """So few only repeat the name: such a docstring says more, or goes where the name is enough."""
    documented = [(name, ast.get_docstring(node)) for name, node in definitions((*get_args(Function), ast.ClassDef))]
    assert not [name for name, text in documented if text and len(text.splitlines()[0].split()) < 4]


def test_every_file_that_is_named_exists():
    """Catches the old name of a file that was moved: a reader would look for it in vain."""
    python = [path for folder in FOLDERS for path in folder.rglob("*.py")]
    paths = ["/" + path.relative_to(ROOT).as_posix() for path in python]
    named = {
        (source.name, name)
        for source in SOURCES
        for name in re.findall(r"(?<![\w./])[\w/]+\.py\b", source.read_text(encoding="utf-8"))
    }
    assert len(named) > 50
    assert not [pair for pair in named if not any(path.endswith("/" + pair[1]) for path in paths)]


def test_the_readme_shows_the_statements_of_a_step():
    """Catches a step in README.md that the engine no longer takes; comments may differ."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    [shown] = [ast.parse(block) for block in blocks if "self.drafter.propose" in block]
    functions = [node for node in ast.walk(TREES["engine/engine.py"]) if isinstance(node, ast.FunctionDef)]
    taken: list[str] = []
    for name in ("begin", "step"):  # a step begins passes, and ends one
        [function] = [node for node in functions if node.name == name]
        inside = (part for part in ast.walk(function) if isinstance(part, ast.stmt))
        taken += map(ast.unparse, sorted(inside, key=lambda part: part.lineno))
    places = [taken.index(ast.unparse(part)) for part in shown.body]
    assert places == sorted(places)


OLD_WORDS = r"guess\w*|rivals?|takers?|settle\w*|revoke\w*|whoever|nobody|everybody|somebody|stood"


def test_one_word_for_one_thing():
    """The literature's: draft, candidate, accepted, commit and roll back; and the subject of a sentence has a name.

    Only a student guesses: the lessons ask for a guess before they show the answer.
    """
    in_lessons = OLD_WORDS.partition("|")[2]
    old, no_guess = (re.compile(rf"\b({words})\b", re.IGNORECASE) for words in (OLD_WORDS, in_lessons))
    quoting = {"test_readable.py", "smollm2_texts.py"}  # the list itself, texts for a model
    tests = [path for path in (ROOT / "tests").rglob("*.py") if path.name not in quoting]
    lessons = {path for path in [*SOURCES, *tests] if path.parent.name in ("lessons", "notebooks")}
    rules = {path: no_guess if path in lessons else old for path in [*SOURCES, *tests]}
    found = {path.name: match[0] for path, rule in rules.items() if (match := rule.search(path.read_text("utf-8")))}
    assert not found


def is_short_property(node: ast.AST) -> bool:
    """Whether a definition is a property that only returns something."""
    decorators = [ast.unparse(decorator) for decorator in getattr(node, "decorator_list", [])]
    return "property" in decorators and len(node.body) == 1  # type: ignore[attr-defined]


CLASSES = {node.name: node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def is_documented_above(where: str) -> bool:
    """Whether a method "Class.name" is documented in a base class, or in a protocol that has a method of that name."""
    owner, _, name = where.rpartition(".")
    if owner not in CLASSES:
        return False
    protocols = [node for node in CLASSES.values() if any("Protocol" in ast.unparse(base) for base in node.bases)]
    return any(
        isinstance(child, Function) and child.name == name and ast.get_docstring(child)
        for node in [*bases(owner), *protocols]
        for child in node.body
    )


def bases(name: str) -> list[ast.ClassDef]:
    """The package's classes from which a class inherits, however far above."""
    above = [ast.unparse(base).partition("[")[0] for base in CLASSES[name].bases]
    return [found for base in above if base in CLASSES for found in (CLASSES[base], *bases(base))]


def public(node: ast.AST, inside: str) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """(name, node) of public classes and functions; what is inside a function is not public."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            if child.name == "__call__" or not child.name.startswith("_"):
                yield f"{inside}{child.name}", child
                if isinstance(child, ast.ClassDef):
                    yield from public(child, f"{child.name}.")
        elif isinstance(child, ast.If | ast.Try):
            yield from public(child, inside)


# No state outside of objects


def module_names(tree: ast.Module) -> tuple[set[str], set[str]]:
    """Names that a module itself assigns, and those that it imports or defines as a class or function."""
    names: set[str] = set()
    others: set[str] = set()
    for node in tree.body:
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            names |= {part.id for part in ast.walk(target) if isinstance(part, ast.Name)} if target else set()
        if isinstance(node, ast.Import | ast.ImportFrom):
            others |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            others.add(node.name)
    return names, others


MUTATORS = {"append", "add", "update", "pop", "popitem", "clear", "extend", "insert", "remove", "setdefault", "discard"}


def changed(function: ast.AST, assigned: set[str], others: set[str]) -> Iterator[str]:
    """Outer names whose attributes or items a function sets, or whose contents it changes."""
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    own = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    own |= {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            holder, outer = node.value, assigned | others
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
            holder, outer = node.func.value, assigned
        else:
            continue
        if isinstance(holder, ast.Name) and holder.id in outer - own:
            yield holder.id


@pytest.mark.parametrize("name", TREES)
def test_no_global_and_nothing_patched_from_a_function(name):
    """State lives in objects: no `global`, no module's, class's or constant's contents changed from a function."""
    nodes = list(ast.walk(TREES[name]))
    names = module_names(TREES[name])
    assert not [node.names for node in nodes if isinstance(node, ast.Global)]
    assert not [(node.name, what) for node in nodes if isinstance(node, Function) for what in changed(node, *names)]


@pytest.mark.parametrize(
    ("code", "bad"),
    [
        ("KNOWN = {}\ndef f(x):\n    KNOWN[x] = 1", True),
        ("KNOWN = []\ndef f(x):\n    KNOWN.append(x)", True),
        ("import numpy as np\ndef f(x):\n    np.float_ = x", True),
        ("class A:\n    pass\ndef f(x):\n    A.x = x", True),
        ("N = 0\ndef f():\n    global N\n    N = 1", True),
        ("KNOWN = {}\ndef f(x):\n    KNOWN = {}\n    KNOWN[x] = 1", False),
        ("KNOWN = {}\ndef f(self, x):\n    self.x = KNOWN[x]", False),
    ],
)
def test_the_check_for_globals_finds_them(code, bad, monkeypatch):
    """A rule that nothing can break is no rule."""
    monkeypatch.setitem(TREES, "sample.py", ast.parse(code))
    if bad:
        with pytest.raises(AssertionError):
            test_no_global_and_nothing_patched_from_a_function("sample.py")
    else:
        test_no_global_and_nothing_patched_from_a_function("sample.py")


# Attributes are set by the object itself

COUNTERS = {counter.name for counter in fields(Ledger)}  # the object that does the work counts it
BY_ASSIGNMENT = {  # objects of other libraries that are built by assignment: they have no other way
    "cli": {"args"},  # argparse's Namespace is nothing but its attributes
    "text": {"loop", "chain", "block", "backend"},  # jinja2's syntax tree; the parts of a tokenizer of `tokenizers`
    "loading": {"backend"},  # those parts, too
    "backends": {"kernel"},  # the shared memory of CuPy's RawKernel
    "course": {"config"},  # numba's settings are the attributes of a module
}


def set_from_outside(name: str) -> Iterator[str]:
    """Attributes that a file sets of objects which are neither the function's own, nor made by it, nor its records.

    Its records: the dataclasses that the file itself defines, such as a tree's nodes.
    """
    tree = TREES[name]
    records = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.decorator_list]
    written = {part.target.id for node in records for part in node.body if isinstance(part, ast.AnnAssign)}  # type: ignore[attr-defined]
    for scope in [tree, *(node for node in ast.walk(tree) if isinstance(node, Function))]:
        known = {"self", "cls"} | made_here(scope) | BY_ASSIGNMENT.get(name.partition("/")[0], set())
        known |= set() if scope is tree else made_here(tree)
        for target, counted in attributes_set(scope):
            mine = isinstance(target.value, ast.Name) and target.value.id in known
            if not (mine or target.attr in written or (counted and target.attr in COUNTERS)):
                yield ast.unparse(target)


def statements(scope: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a scope but those of the functions inside it."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, Function):
            yield child
            yield from statements(child)


def made_here(scope: ast.AST) -> set[str]:
    """Names that a scope binds to a new object: `Class(...)`, or `copy(self)`."""
    return {
        target.id
        for node in statements(scope)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        and (ast.unparse(node.value) == "copy(self)" or ast.unparse(node.value.func).split(".")[-1][0].isupper())
        for target in node.targets
        if isinstance(target, ast.Name)
    }  # fmt: skip


def attributes_set(scope: ast.AST) -> Iterator[tuple[ast.Attribute, bool]]:
    """(attribute, whether it is counted up or down) of everything that a scope assigns, deletes or sets by name."""
    counted = {id(node.target) for node in statements(scope) if isinstance(node, ast.AugAssign)}
    for node in statements(scope):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            yield node, id(node) in counted
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("setattr", "delattr", "__setattr__")):
            yield ast.Attribute(node.args[0], "any"), False


@pytest.mark.parametrize("name", TREES)
def test_only_an_object_sets_its_attributes(name):
    """A class shows all that its attributes can become."""
    assert not list(set_from_outside(name))


@pytest.mark.parametrize(
    ("code", "bad"),
    [
        ("def f(llm):\n    llm.engine = 1", True),
        ("def f(self):\n    self.engine.clock = 1", True),
        ("def f(setting):\n    llm = copy(setting.llm)\n    llm.engine = 1", True),
        ("def f(seq):\n    seq.progress.computed += 1", True),
        ("def f(ledger):\n    ledger.flops = 0", True),
        ("def f(llm):\n    def g():\n        llm.engine = 1", True),
        ("def f(llm):\n    setattr(llm, 'engine', 1)", True),
        ("def f(llm):\n    del llm.engine", True),
        ("def f(seq):\n    with seq.step() as record:\n        record.choices = []", True),
        ("class A:\n    x: int\ndef f(a):\n    a.x = 1", True),
        ("@dataclass\nclass A:\n    x: int\ndef f(a):\n    a.x = 1", False),
        ("def f(self):\n    other = copy(self)\n    other.ledger = 1\n    return other", False),
        ("def f(self):\n    self.x, self.y = 1, 2\n    self.ledger.flops += 2", False),
        ("def f():\n    parser = Parser()\n    parser.width = 3", False),
    ],
)
def test_the_check_for_attributes_finds_them(code, bad, monkeypatch):
    """A rule that nothing can break is no rule."""
    monkeypatch.setitem(TREES, "sample.py", ast.parse(code))
    assert bool(list(set_from_outside("sample.py"))) == bad


# The model knows of no optimization


def branches(tree: ast.AST) -> list[ast.If | ast.IfExp]:
    """Every `if`, in statements, expressions and comprehensions, but `if TYPE_CHECKING`."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.If | ast.IfExp)]
    return [node for node in found if ast.unparse(node.test) != "TYPE_CHECKING"]


@pytest.mark.parametrize("name", BRANCH_FREE)
def test_the_transformer_has_no_branch(name):
    """What a family lacks is data that does nothing, and what is optimized is in `ops` and `cache`."""
    tree = TREES[name]
    assert not [ast.unparse(node.test) for node in branches(tree)]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.comprehension) and node.ifs]


@pytest.mark.parametrize("name", MODEL)
def test_the_model_never_mentions_a_switch(name):
    """Neither EngineConfig nor a field of it decides anything in the model's files."""
    switches = {field.name for field in fields(EngineConfig)} | {"EngineConfig", "engine_config"}
    assert "EngineConfig" not in ast.unparse(TREES[name])
    for branch in branches(TREES[name]):
        used = {node.id for node in ast.walk(branch.test) if isinstance(node, ast.Name)}
        used |= {node.attr for node in ast.walk(branch.test) if isinstance(node, ast.Attribute)}
        assert not used & switches, ast.unparse(branch.test)


# Nothing left over, nothing of one machine


def test_nothing_is_left_to_do():
    """A promise to finish something later is not a feature."""
    words = re.compile("|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]))
    assert not [f"{path.relative_to(ROOT)}: {found[0]}" for path, text in texts() if (found := words.search(text))]


def test_no_file_names_a_place_on_one_machine():
    """Absolute paths of one machine work on no other."""
    places = re.compile(r"(?<![\w.])/(work|root|home/\w+|Users/\w+|data|mnt|opt)/\w")
    found = {f"{path.relative_to(ROOT)}: {match[0]}" for path, text in texts() if (match := places.search(text))}
    assert not found


# Quick to start


@pytest.mark.parametrize("code", ["import tinyinfer", "import runpy, sys; sys.argv = ['tinyinfer', '--help']\n"
                                  "try: runpy.run_module('tinyinfer', run_name='__main__')\nexcept SystemExit: pass"],
                         ids=["import", "help"])  # fmt: skip
def test_importing_and_asking_for_help_load_no_numpy(code):
    """Help in a tenth of a second rather than in one."""
    tell = "\nimport sys; print('loaded:', [m for m in ('numpy', 'tokenizers', 'gguf', 'jinja2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code + tell], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.splitlines()[-1:] == ["loaded: []"], done.stderr
