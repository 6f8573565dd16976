"""A student's file is the engine's text with holes, and a merged package is the engine with the student's names."""

from __future__ import annotations

import ast
import doctest
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest

from tinyinfer import LLM, SamplingParams
from tinyinfer.course import cut, source
from tinyinfer.course.assignment import Assignment, Cut, assignment, assignments
from tinyinfer.course.cut import merged_package, skeleton, solution
from tinyinfer.course.errors import CourseError
from tinyinfer.course.source import read_source

ATTENTION, REFERENCE, CACHE = (
    "tinyinfer.model.attention",
    "tinyinfer.backends.reference",
    "tinyinfer.kv_cache.contiguous",
)
COST = "tinyinfer.measure.cost"
VERIFY, COUPLING = "tinyinfer.speculative.verify", "tinyinfer.speculative.best_coupling"


def made(name: str, *cuts: Cut, **fields: object) -> Assignment:
    """An assignment that cuts something; all else is a real one's."""
    return replace(assignment("kv_cache"), name=name, title=name, cut=cuts, **fields)


OPERATIONS = made(
    "operations",
    Cut(ATTENTION, ("full_attention", "visible"), ("fold", "unfold")),
    Cut(REFERENCE, ("ReferenceOps.rms_norm", "ReferenceOps.rope")),
    given_source={"ReferenceOps": "def __init__(self, xp=np):\n    self.xp = xp"},
)
SAMPLER = made(
    "sampler",
    Cut("tinyinfer.sampling", ("filtered", "penalize", "keep_top_k", "keep_top_p", "keep_min_p"),
        ("softmax", "has_penalties")),
)  # fmt: skip
ROUNDING = made("rounding", Cut("tinyinfer.quantization.rtn", ("fit", "to_codes"), ("to_half",)))
VERIFIER = made("verifier", Cut(COUPLING, ("accept_or_replace",), ("judge_drawn",)), Cut(VERIFY, ("verify", "judge")))
CACHING = made("caching", Cut(CACHE, ("ContiguousCache",), ("ContiguousCache.__init__",)))
MADE = {a.name: a for a in (OPERATIONS, SAMPLER, ROUNDING, VERIFIER, CACHING)}
ALL = [*MADE.values(), *assignments().values()]
by_name = pytest.mark.parametrize("a", ALL, ids=lambda a: a.name)


@pytest.fixture
def merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Merges students' sources, by the names of MADE; returns the folder that holds the package."""
    monkeypatch.setattr(cut, "assignment", lambda name: MADE.get(name) or assignment(name))

    def make(whole: bool = True, also: tuple[str, ...] = (), **sources: str) -> Path:
        files = {name: tmp_path / f"{name}.py" for name in sources}
        for name, path in files.items():
            path.write_text(sources[name], encoding="utf-8")
        merged_package(tmp_path / "merged", files, whole, also)
        return tmp_path / "merged"

    return make


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process that imports the package of a folder."""
    environ = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, cwd=folder)


def functions(source: str) -> dict[str, ast.FunctionDef]:
    """The functions of a source by name, methods as "Class.method"."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}": part for part in node.body if isinstance(part, ast.FunctionDef)}
    return found


def body(node: ast.FunctionDef) -> list[str]:
    """The statements of a function without its docstring."""
    statements = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return [ast.unparse(statement) for statement in statements]


def holes(a: Assignment) -> list[str]:
    """The functions that a skeleton asks for, in the order of their tasks."""
    bodies = {name: body(node) for name, node in functions(skeleton(a)).items()}
    tasks = [(name, lines[0]) for name, lines in bodies.items() if "NotImplementedError" in lines[0]]
    for number, (name, line) in enumerate(tasks, 1):
        assert line == f"raise NotImplementedError('{a.name}, task {number}: {name}')"
        assert len(bodies[name]) == 1
    return [name for name, _ in tasks]


# --- The student's file ---


@by_name
def test_a_skeleton_has_a_hole_for_each_name_that_is_asked_for(a: Assignment) -> None:
    """Catches a body that is left in, a given function that is taken out, tasks that are counted wrong."""
    expected = []
    for part in a.cut:
        known = read_source(part.module).definitions
        methods = [name for name in known if name.partition(".")[0] in part.names and "." in name]
        expected += [name for name in known if name in (*part.names, *methods)]
        expected = [
            name for name in expected if name not in part.given and not isinstance(known.get(name), ast.ClassDef)
        ]
    assert holes(a) == expected


@by_name
def test_a_solution_has_the_engines_own_bodies_and_signatures(a: Assignment) -> None:
    """Catches text that is cut at a wrong line."""
    found = functions(solution(a))
    for part in a.cut:
        known = read_source(part.module).definitions
        for name in {*found} & {name for name, node in known.items() if isinstance(node, ast.FunctionDef)}:
            if name == "ReferenceOps.__init__":  # the manifest's own text
                continue
            assert ast.unparse(found[name].args) == ast.unparse(known[name].args), name
            assert body(found[name]) == body(known[name]), name
    empty, full = functions(skeleton(a)), found
    assert {name: (ast.unparse(node.args), ast.get_docstring(node)) for name, node in empty.items()} == {
        name: (ast.unparse(node.args), ast.get_docstring(node)) for name, node in full.items()
    }


@pytest.mark.parametrize("a", [pytest.param(a, marks=[pytest.mark.course] * bool(a.packages), id=a.name) for a in ALL])
def test_the_examples_of_a_students_file_run_in_the_file_alone(a: Assignment) -> None:
    """Catches an example that needs a name of the engine's module, or tries the library's class and not the student's.

    cost_accounting's break_even lacked `replace`, and imported the library's Price.
    """
    module = ModuleType(a.name)
    text = solution(a)
    assert not [line for line in text.splitlines() if ">>>" in line and "import" in line and "tinyinfer" in line]
    with mock.patch.dict(sys.modules, {a.name: module}):  # a dataclass looks for its module
        exec(compile(text, a.file, "exec"), vars(module))
        assert doctest.testmod(module).failed == 0


@by_name
def test_a_skeleton_keeps_every_line_of_a_definition_but_its_body(a: Assignment) -> None:
    """Catches a lost shape signature, decorator or comment above a definition."""
    lines = skeleton(a).splitlines()
    engine = {line for part in a.cut for line in read_source(part.module).lines}
    heads = [line for line in lines if "def " in line or "# (" in line or line.strip().startswith("@")]
    given = "\n".join(a.given_source.values())
    assert not [line for line in heads if line not in engine and line.strip() not in given]
    assert max(map(len, lines)) <= 120


def test_comments_decorators_and_shapes_stay() -> None:
    """Catches a rule of the test above that holds because there is nothing to keep."""
    text = skeleton(CACHING)
    assert "    @property\n    def held_bytes(self) -> int:\n" in text
    assert "    ) -> tuple[Array, Array]:  # -> (S, K, E), (S, K, E)\n" in text
    assert (
        "    def append(self, layer: int, k: Array, v: Array, batch: Batch) -> None:  # (T, K, E), (T, K, E) ->\n"
        in text
    )
    assert "self._arrays: dict[int, tuple[LayerRows, ...]] = {}  # sequence id -> each" in text


def test_a_method_without_a_docstring_has_that_of_its_contract() -> None:
    """Catches a hole that says nothing: the docstring is in a base class, or in the protocol that the class fulfils."""
    cache, operations = functions(skeleton(CACHING)), functions(skeleton(OPERATIONS))
    assert (ast.get_docstring(cache["ContiguousCache.free"]) or "").startswith("Frees the sequence's room")
    assert (ast.get_docstring(cache["ContiguousCache.append"]) or "").startswith("Takes the keys and values of all")
    assert "(Su et al. 2021, equation 34)" in (ast.get_docstring(operations["ReferenceOps.rope"]) or "")


def test_only_the_imports_and_constants_that_are_needed_stay() -> None:
    """Catches imports of what the student does not need, and constants that only another function needs."""
    head = solution(VERIFIER).partition("def ")[0]
    assert "\nfrom tinyinfer.noise import uniform\n" in head
    assert "\nfrom tinyinfer.sampling import Choice, choose, describe, distribution, draw\n" in head
    assert "ACCEPT_STREAM, DRAFT_STREAM = 1, 2" in head
    assert "collections" not in head
    assert "best_coupling import" not in head  # both modules share the file
    assert "HALF_MIN" not in solution(ROUNDING)
    assert "\nfrom collections.abc import Sequence as Seq\n" in solution(SAMPLER)


def test_a_constant_that_two_cut_modules_share_is_shown_once() -> None:
    """Catches a file that imports a constant from a module which imports the file, and one that lacks the constant."""
    given = ("Price", "Tokens", "Speed", "Service", "shares")
    a = made("bills", Cut(COST, ("owned",), given), Cut("tinyinfer.measure.api_bill", ("bill",), ("Api",)))
    text = skeleton(a)
    assert text.count("HOURS, SECONDS, MILLION = 24, 3600.0, 1e6\n") == 1
    assert "tinyinfer.measure.cost import" not in text
    wage = Cut(COST, ("people_a_day",), ("Tokens",))  # without MILLION of its own
    assert "MILLION = " in skeleton(made("wages", wage, a.cut[1]))


def test_a_file_without_shapes_announces_none() -> None:
    """Catches "the letters are those of", and then none."""
    docstring = ast.get_docstring(ast.parse(skeleton(made("wage", Cut(COST, ("people_a_day",)))))) or ""
    assert docstring.endswith("Cut from tinyinfer.measure.cost.")


def test_the_letters_of_the_shapes_are_explained() -> None:
    """Catches a letter that the student would have to look up."""
    docstring = ast.get_docstring(ast.parse(skeleton(ROUNDING))) or ""
    assert "\n    N  outputs of a matrix\n    M  inputs of a matrix\n    G  groups of numbers" in docstring
    assert "\n    T  " not in docstring


def test_imports_for_types_only_stay_for_types_only() -> None:
    """Catches an import that would run a module which the engine imports for its types alone."""
    a = made("mixer", Cut(ATTENTION, ("GroupedQuery",)))
    assert "if TYPE_CHECKING:\n    from tinyinfer.model.interfaces import KVCache, Ops\n" in skeleton(a)
    assert "from typing import TYPE_CHECKING\n" in skeleton(a)


@pytest.mark.parametrize(
    ("cuts", "told"),
    [
        ([Cut("tinyinfer.sampling", ("keep_top_q",))], "names 'keep_top_q', which tinyinfer.sampling does not define"),
        ([Cut("tinyinfer.nothing", ("f",))], "there is no module tinyinfer.nothing"),
        ([Cut("tinyinfer.sampling", ("keep_top_p",))], "needs softmax of tinyinfer.sampling; add the name to `given`"),
        ([Cut(VERIFY, ("verify",), ("judge",)), Cut(COUPLING, ("accept_or_replace",))],
         "needs judge_drawn of tinyinfer.speculative.best_coupling; add the name to `given`"),
        ([Cut("tinyinfer.sampling", ("token_scores", "log_softmax")), Cut(CACHE, ("ContiguousCache",))],
         "the name Sequence has two meanings in the modules that share the file"),
        ([Cut("tinyinfer.sampling", ("log_softmax",)), Cut(CACHE, ("ContiguousCache.append",))],
         "needs tinyinfer.sequence, which imports tinyinfer.sampling, which imports the file"),
        ([Cut(CACHE, ("ContiguousCache", "ContiguousCache.append"))], "names class 'ContiguousCache' whole and"),
        ([Cut(CACHE, ("ContiguousCache.append",), ("ContiguousCache",))], "names class 'ContiguousCache' whole and"),
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_cut_is_refused(cuts: list[Cut], told: str) -> None:
    """Catches a student's file that lacks a name, that has one name twice, or that imports itself."""
    with pytest.raises(CourseError) as error:
        skeleton(made("wrong", *cuts))
    assert str(error.value).startswith("wrong: ")
    assert told in str(error.value)


def test_source_for_a_class_that_is_not_cut_is_refused() -> None:
    """Catches a misspelt class, whose methods would lack what the manifest gives them."""
    with pytest.raises(CourseError, match=r"given_source: no .* names a method of class 'Ops'"):
        skeleton(replace(OPERATIONS, given_source={"Ops": "pass"}))


# --- The merged package ---

WHERE = """
import json
from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.kv_cache.contiguous import ContiguousCache
from tinyinfer.model import attention
from tinyinfer.model.weights import RMSNorm
from tinyinfer.quantization import rtn
from tinyinfer.sampling import choose, filtered
from tinyinfer.speculative import best_coupling, verify
print(json.dumps({name: f.__code__.co_filename for name, f in {
    "a table of the class": ReferenceOps.norms[RMSNorm], "a method": ReferenceOps.rope, "another": ReferenceOps.gate,
    "a function": attention.full_attention, "given": attention.fold, "a class": ContiguousCache.append,
    "rounding": rtn.fit, "imported": best_coupling.accept_or_replace, "verify": verify.verify,
    "sampling": filtered, "choose": choose,
}.items()}))
"""
ANSWER = """
import json, sys
from tinyinfer import LLM, SamplingParams
for backend, quantize, speculative in CASES:
    llm = LLM(sys.argv[1], backend=backend, quantize=quantize, speculative=speculative)
    params = SamplingParams(max_tokens=20, temperature=0.8, top_k=50, top_p=0.9, repetition_penalty=1.1, seed=3)
    tokens = llm.generate([[5, 6, 7, 5, 6, 7]], params)[0].token_ids
    print(json.dumps([tokens, llm.ledger.as_dict() if speculative == "off" else None]))
"""
# How many drafts are proposed depends on measured times, and with it what the ledger counts; no token does.
CASES = [("reference", "off", "off"), ("numpy", "int8", "off"), ("numpy", "int8", "prompt-lookup")]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_an_engine_of_all_our_solutions_answers_as_the_engine_does(
    merge: Callable[..., Path], golden_folder: Callable[[str], Path], family: str
) -> None:
    """Catches a name that is replaced at a wrong place, or not at all, and a package that cannot be imported.

    And: attention of the student's that does not fit to caps (Gemma 2) or sinks (gpt-oss).
    """
    folder = merge(**{name: solution(a) for name, a in MADE.items()})
    model = str(golden_folder(family))
    done = run(folder, f"import sys; sys.argv = ['', {model!r}]\nCASES = {CASES}\n{ANSWER}\n{WHERE}")
    assert not done.stderr
    *answers, where = [json.loads(line) for line in done.stdout.splitlines()]
    params = SamplingParams(max_tokens=20, temperature=0.8, top_k=50, top_p=0.9, repetition_penalty=1.1, seed=3)
    for (backend, quantize, speculative), answer in zip(CASES, answers, strict=True):
        llm = LLM(model, backend=backend, quantize=quantize, speculative=speculative)
        tokens = llm.generate([[5, 6, 7, 5, 6, 7]], params)[0].token_ids
        assert answer == [tokens, llm.ledger.as_dict() if speculative == "off" else None]
    names = {what: Path(path).name for what, path in where.items()}
    assert names == {
        "a table of the class": "operations.py", "a method": "operations.py", "another": "reference.py",
        "a function": "operations.py", "given": "attention.py", "a class": "caching.py", "rounding": "rounding.py",
        "imported": "verifier.py", "verify": "verifier.py", "sampling": "sampler.py", "choose": "sampling.py",
    }  # fmt: skip


def test_the_small_package_holds_no_sibling_and_no_solution(merge: Callable[..., Path]) -> None:
    """Catches an answer that a student's code could import: of the assignment itself, or of a module like it."""
    folder = merge(whole=False, also=("tinyinfer.units",), caching="class ContiguousCache: pass", sampler="")
    text = {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.rglob("*.py")}
    assert "tinyinfer/kv_cache/base.py" in text
    assert "tinyinfer/units.py" in text
    lessons = [name for name in text if "lessons" in name or "course" in name]
    assert not {"tinyinfer/kv_cache/paged.py", "tinyinfer/kv_cache/quantized.py", *lessons} & {*text}
    assert "keys[:, first:stop]" not in "".join(text.values())
    assert "np.cumsum" not in text["tinyinfer/sampling.py"]
    assert not list(folder.rglob("*.toml"))


LOADED = "import tinyinfer._student_{} as m"


@pytest.mark.parametrize(
    ("name", "source", "told"),
    [
        ("rounding", "def fit(w, scheme): pass", "rounding.py does not define to_codes, which the assignment asks for"),
        ("caching", "x = 1", "caching.py does not define ContiguousCache.missing, which"),
        ("caching", "from tinyinfer.kv_cache.base import Cache as ContiguousCache", "not define ContiguousCache.m"),
        ("operations", "def full_attention(): 0\ndef visible(): 0\nclass ReferenceOps:\n  def rope(): 0",
         "operations.py does not define ReferenceOps.rms_norm, which"),
    ],
)  # fmt: skip
def test_a_file_that_lacks_a_name_says_so(merge: Callable[..., Path], name: str, source: str, told: str) -> None:
    """Catches an AttributeError deep in the engine, and a method that is silently the base class's."""
    done = run(merge(whole=False, **{name: source}), LOADED.format(name))
    assert done.stderr.splitlines()[-1].startswith("ImportError: ")
    assert told in done.stderr


def test_helpers_of_the_students_own_are_found(merge: Callable[..., Path]) -> None:
    """Catches a helper method that is lost as the method that calls it becomes the engine's."""
    source = (
        solution(OPERATIONS)
        .replace("xp.sqrt(", "self.root(")
        .replace("    def rms_norm(", "    def root(self, x):\n        return self.xp.sqrt(x)\n\n    def rms_norm(")
    )
    assert source.count("self.root(") == 1
    code = (
        "import numpy as np\nfrom tinyinfer.backends.reference import ReferenceOps\n"
        "from tinyinfer.ledger import Ledger\nfrom tinyinfer.model.weights import RMSNorm\n"
        "ops = ReferenceOps(Ledger())\n"
        "print(ops.norm(np.full((1, 4), 2, np.float32), RMSNorm(np.ones(4, np.float32), 0.0)).tolist())"
    )
    done = run(merge(whole=False, operations=source), code)
    assert done.stdout == "[[1.0, 1.0, 1.0, 1.0]]\n", done.stderr


def test_a_changed_file_is_read_again_and_leaves_no_bytecode(merge: Callable[..., Path], tmp_path: Path) -> None:
    """Catches a cached older file of the same second and size, and a __pycache__ in the student's folder."""
    text = "def fit(w, scheme): return 1\ndef to_codes(): pass"
    folder = merge(whole=False, rounding=text)
    code = "import tinyinfer._student_rounding as m; print(m.fit(0, 0))"
    stamp = (tmp_path / "rounding.py").stat()
    assert run(folder, code).stdout == "1\n"
    (tmp_path / "rounding.py").write_text(text.replace("1", "2"))
    os.utime(tmp_path / "rounding.py", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert run(folder, code).stdout == "2\n"
    assert not (tmp_path / "__pycache__").exists()


def test_a_traceback_shows_the_students_lines(merge: Callable[..., Path]) -> None:
    """Catches lines of a file that is made by us."""
    source = "def fit(w, scheme):\n    return w / nothing\ndef to_codes(): pass"
    done = run(merge(whole=False, rounding=source), "import tinyinfer.quantization.rtn as rtn\nrtn.fit(1, 2)")
    assert 'rounding.py", line 2, in fit\n    return w / nothing\n' in done.stderr


def test_two_assignments_cannot_replace_one_name(merge: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches one student's code that silently serves in the place of the other's."""
    monkeypatch.setitem(MADE, "twin", replace(CACHING, name="twin", cut=(Cut(CACHE, ("ContiguousCache.append",)),)))
    with pytest.raises(CourseError, match="caching and twin both replace ContiguousCache"):
        merge(caching="", twin="")


def test_a_read_only_package_gives_a_copy_that_can_be_written(tmp_path, monkeypatch):
    """Catches rights that are copied, too: the cut modules could not be replaced, nor the copy be removed."""
    package = tmp_path / "tinyinfer"
    shutil.copytree(cut.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*package.rglob("*"), package):
        path.chmod(0o555 if path.is_dir() else 0o444)
    sources = cache(source.read_source.__wrapped__)
    for module, name, value in ((cut, "PACKAGE", package), (source, "PACKAGE", package), (cut, "read_source", sources)):
        monkeypatch.setattr(module, name, value)
    merged = merged_package(tmp_path / "merged", {"kv_cache": tmp_path / "kv_cache.py"}, whole=True)
    for path in (*package.rglob("*"), package):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert all(path.stat().st_mode & 0o200 for path in (*merged.rglob("*"), merged))
    assert "import ContiguousCache" in (merged / "kv_cache" / "contiguous.py").read_text("utf-8")
