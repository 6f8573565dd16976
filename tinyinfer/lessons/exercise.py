"""An exercise: what its answer is judged by, the hint for each usual mistake, and our solution.

A judge gets the student's answer (a number, a list, a function, a class) and gives None when it is right, else what is
wrong and a hint. Whatever a judge or the student's code raises becomes a sentence, too.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import math
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import FrameType
from typing import Any

from tinyinfer.errors import one_line
from tinyinfer.units import number, show

PACKAGE = Path(__file__).parents[1]
LONGEST = 300  # characters of an error's text that are shown


@dataclass(frozen=True)
class Wrong:
    """Why an answer is wrong, in one sentence, and a hint that does not give the answer away."""

    sentence: str
    hint: str


Judge = Callable[[Any], Wrong | None]


@dataclass(frozen=True)
class Exercise:
    """name: what `check` is called with. solution: ours, what `use` gives until the student's is right.

    why: one or two sentences that are shown with a right answer and with the solution. draw: a picture of the
    student's answer, shown at each attempt; None when the answer cannot be drawn.
    """

    name: str
    judge: Judge
    solution: Any
    why: str = ""
    draw: Callable[[Any], object] | None = None

    def judged(self, answer: object) -> Wrong | None:
        """What is wrong with the answer; an exception of the student's code becomes a sentence, `exit()` too."""
        try:
            return self.judge(answer)
        except (Exception, SystemExit) as error:
            hint = f"the answer that `check` expects is {form(self.solution, getattr(answer, '__name__', ''))}"
            return Wrong(f"Your answer stopped with {_told(error)}{_place(error)}.", hint)

    def drawn(self, answer: object) -> object | None:
        """A picture of the answer; None for an answer that cannot be drawn, about which the judge has its sentence."""
        if self.draw is None:
            return None
        try:
            return self.draw(answer)
        except (Exception, SystemExit):
            return None

    def solution_text(self, answer: object = None) -> str:
        """Our solution as text that the student's cell runs: the source of a function or class, else the value; why.

        answer: the student's, whose name a function or class gets.
        """
        source, name = _source(self.solution) or repr(self.solution), getattr(answer, "__name__", "")
        if name.isidentifier() and (inspect.isfunction(self.solution) or inspect.isclass(self.solution)):
            source = re.sub(rf"\b{self.solution.__name__}\b", name, source)
        return f"{source}\n\n{self.why and f'# {self.why}'}".strip()


def written(answer: object) -> bool:
    """Whether the student has replaced `...`: in a value, or in the body of a function or class.

    Python finds no source of a class that a notebook defines: then its methods count, and there must be one.
    """
    if answer is ...:
        return False
    if not (inspect.isfunction(answer) or inspect.isclass(answer)):
        return True
    if inspect.isclass(answer) and not _source(answer):
        methods = _methods(answer)
        return bool(methods) and all(map(written, methods))
    try:
        body = ast.parse(_source(answer))
    except SyntaxError:  # a lambda over several lines: its lines alone are no program
        return True
    return not any(map(_is_open, ast.walk(body)))


def as_number(answer: object) -> float | None:
    """A number of the student's; None for a text, True, a list, NaN or infinity. A huge one is cut to 1e300."""
    if getattr(answer, "ndim", None) == 0 and callable(item := getattr(answer, "item", None)):
        answer = item()  # an array of no axis
    if isinstance(answer, bool) or not isinstance(answer, Real):
        return None
    try:
        value = float(answer)
    except OverflowError:
        return -1e300 if answer < 0 else 1e300
    return value if math.isfinite(value) else None


def judge_number(truth: float, unit: str, wrong: Mapping[float, Wrong], hint: str, tolerance: float = 0.01) -> Judge:
    """A judge of numbers. wrong: the usual wrong values; hint: for any other. tolerance: relative, of all of them."""

    def judge(answer: object) -> Wrong | None:
        if (value := as_number(answer)) is None:
            return Wrong(f"{show(answer)} is not a number.", f"write a number ({unit}), without quotes or unit")
        if math.isclose(value, truth, rel_tol=tolerance, abs_tol=1e-12):
            return None
        for known, why in wrong.items():
            if math.isclose(value, known, rel_tol=tolerance, abs_tol=1e-12):
                return why
        shown = number(value) if abs(value) < 1e15 else f"{value:.3g}"
        return Wrong(f"{shown} {unit} is too {'high' if value > truth else 'low'}.", hint)

    return judge


def judge_choice(truth: object, choices: Mapping[object, Wrong | None]) -> Judge:
    """A judge of one choice among named ones. choices: each with what is wrong about it; None for the right one."""

    def judge(answer: object) -> Wrong | None:
        if not isinstance(answer, type(truth)) or answer not in choices:
            return Wrong(f"{show(answer)} is none of the choices.", f"write one of {', '.join(map(repr, choices))}")
        return choices[answer]

    return judge


def form(value: object, name: str = "") -> str:
    """What kind of thing an answer is, in words: enough to see a wrong type, too little to copy. name: the student's
    of a function, empty for ours.
    """
    if inspect.isfunction(value):
        return f"a function {name or value.__name__}{inspect.signature(value)}".replace("'", "")
    if inspect.isclass(value):
        methods = [name for name, part in vars(value).items() if inspect.isfunction(part)]
        return f"a class with {', '.join(methods)}"
    kinds = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _source(thing: object) -> str:
    try:
        return textwrap.dedent(inspect.getsource(thing)).rstrip()  # type: ignore[arg-type]
    except (OSError, TypeError):
        return _source_in_its_cell(thing) if inspect.isclass(thing) else ""


def _source_in_its_cell(kind: type) -> str:
    """The source of a class that a notebook defines, which Python does not find: its first method knows the cell."""
    for method in filter(inspect.isfunction, _methods(kind)):
        cell = "".join(linecache.getlines(method.__code__.co_filename))
        for node in ast.walk(ast.parse(cell)):
            if isinstance(node, ast.ClassDef) and node.name == kind.__name__:
                return ast.get_source_segment(cell, node) or ""
    return ""


def _methods(kind: type) -> list[Any]:
    """The methods that a class itself defines, those without `self` included."""
    return [getattr(part, "__func__", part) for part in vars(kind).values() if inspect.isroutine(part)]


def _is_open(node: ast.AST) -> bool:
    """Whether the node is `...` as a statement, an assigned or a returned value; an index `x[..., 0]` is not."""
    value = node.value if isinstance(node, ast.Expr | ast.Assign | ast.AnnAssign | ast.Return) else None
    return isinstance(value, ast.Constant) and value.value is ...


def _told(error: BaseException) -> str:
    """The last line of a traceback; of an error that cannot say what it is, its name."""
    try:
        text = one_line(str(error))
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text[:LONGEST]}{'...' * (len(text) > LONGEST)}".rstrip(": ")


def _place(error: BaseException) -> str:
    """The line of the student's cell in which the error came up, and the call; nothing when it came up elsewhere."""
    lines, calls, traceback = [], [], error.__traceback__
    while traceback:
        file = traceback.tb_frame.f_code.co_filename
        if file.startswith("<ipython") or "ipykernel_" in file:
            lines.append(traceback.tb_lineno)
            calls.append(_call(traceback.tb_frame))
        traceback = traceback.tb_next
    return f" in line {lines[-1]} of your cell, in the call `{calls[0]}`" if lines else ""


def _call(frame: FrameType) -> str:
    """A call of the student's function, with its arguments; of an array the shape."""
    names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
    given = {name: frame.f_locals[name] for name in names if name in frame.f_locals and name != "self"}
    shapes = {name: getattr(value, "shape", None) for name, value in given.items()}
    parts = [f"{name} of shape {shapes[name]}" if shapes[name] else f"{name}={show(given[name])}" for name in given]
    return f"{frame.f_code.co_name}({', '.join(parts)})"
