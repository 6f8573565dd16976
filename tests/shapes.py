"""The shape signatures at the end of defs, read by machine: `# (T, H, E), (S, K, E), (S, K, E) -> (T, H, E)`.

Left of the arrow are the shapes of the arrays among the parameters, in order; right of it those of the result, and
nothing when no array is returned. Parentheses around several shapes are a tuple of arrays. A dimension is a number, a
letter, or arithmetic on them; a letter is one length within a call, and the model's letters (L, D, F, V, H, K, E; X and
k of a mixture of experts) are the configuration's in every call. `...` means any number of dimensions, a
parameter's name for its value (an int, or a whole shape); `(N,) | None` is an array that may be
absent. A Batch counts as its tokens, (T,), where no array is passed.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
from fake_cupy import DeviceArray

import tinyinfer
from tinyinfer.model.config import ModelConfig
from tinyinfer.model.quantized_matrix import Nested
from tinyinfer.parallel.lead import Given
from tinyinfer.sequence import Batch

ARRAYS = np.ndarray | DeviceArray | Nested | Given
PACKAGE = Path(tinyinfer.__file__).parent
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Signature:
    """One function with its shapes; `protocol`: it only says what others must look like, and never runs."""

    where: str  # attention.py:scores
    place: tuple[str, int]  # file and first line, as code objects have them
    text: str
    takes: list[ast.expr]
    gives: list[ast.expr]
    owner: str | None  # its class
    protocol: bool
    doc: str = ""  # its docstring
    compiled: bool = False  # by numba: Python never runs it


def functions(path: Path, nested: bool = True) -> Iterator[tuple[Function, ast.ClassDef | None]]:
    """Every function of a file, with the class around it; nested: also those inside other functions."""

    def walk(node: ast.AST, owner: ast.ClassDef | None) -> Iterator[tuple[Function, ast.ClassDef | None]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                yield child, owner
            if nested or not isinstance(child, Function):
                yield from walk(child, child if isinstance(child, ast.ClassDef) else owner)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), None)


def is_protocol(owner: ast.ClassDef | None) -> bool:
    """Whether a class is a typing.Protocol."""
    return owner is not None and any(ast.unparse(base).startswith("Protocol") for base in owner.bases)


def def_comments(path: Path) -> dict[int, str]:
    """Line of `def` -> the comment behind the colon that ends the def, which may be lines below."""
    found, line, depth = {}, 0, 0
    ended = 0  # the line of that colon
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.NAME and token.string == "def":
            line, depth, ended = token.start[0], 0, 0
        elif token.type == tokenize.OP and line and not ended:
            depth += (token.string in "([{") - (token.string in ")]}")
            ended = token.start[0] if token.string == ":" and depth == 0 else 0
        elif token.type == tokenize.COMMENT and ended == token.start[0]:
            found[line] = token.string.lstrip("# ")
            line = 0
    return found


def signatures(path: Path) -> list[Signature]:
    """All shape signatures of a file; ValueError for one that cannot be read."""
    comments, found = def_comments(path), []
    for node, owner in functions(path):
        text = comments.get(node.lineno, "")
        if "->" not in text:
            continue
        where = f"{path.relative_to(PACKAGE)}:{owner.name + '.' if owner else ''}{node.name}"
        before, _, after = text.partition("->")
        try:
            takes, gives = ([*ast.parse(f"[{part.strip()}]", mode="eval").body.elts] for part in (before, after))  # type: ignore[attr-defined]
        except SyntaxError:
            raise ValueError(f"{where}: the shape signature {text!r} cannot be read") from None
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        name = owner.name if owner else None
        doc, compiled = ast.get_docstring(node) or "", "njit" in map(ast.unparse, node.decorator_list)
        found.append(Signature(where, (str(path), first), text, takes, gives, name, is_protocol(owner), doc, compiled))
    return found


def letters_of(config: ModelConfig) -> dict[str, int]:
    """The model's letters and their lengths."""
    c, moe = config, config.experts
    letters = {"L": c.num_layers, "D": c.hidden_size, "V": c.vocab_size, "H": c.num_heads, "K": c.num_kv_heads}
    letters |= {"E": c.head_dim, "F": moe.expert_size if moe else c.intermediate_size}
    return letters | ({"X": moe.num_experts, "k": moe.experts_per_token} if moe else {})


@dataclass
class Call:
    """The letters of one call and what is not yet checked. `check` returns what is wrong, or None."""

    lengths: dict[str, Any]
    open: list[tuple[ast.expr, int]] = field(default_factory=list)

    def check(self, spec: ast.expr, value: Any) -> str | None:
        """One array, or tuple of arrays, against its shape."""
        if isinstance(spec, ast.BinOp):  # (N,) | None
            return None if value is None else self.check(spec.left, value)
        nested = isinstance(spec, ast.Tuple) and any(isinstance(element, ast.Tuple) for element in spec.elts)
        if isinstance(spec, ast.Tuple) and nested:
            if not isinstance(value, tuple) or len(value) != len(spec.elts):
                return f"is not a tuple of {len(spec.elts)} arrays"
            return next(filter(None, (self.check(*pair) for pair in zip(spec.elts, value, strict=True))), None)
        shape = getattr(value, "shape", None)
        if shape is None:
            return f"is {type(value).__name__}, not an array"
        wanted = ast.unparse(spec)
        if isinstance(spec, ast.Name):
            return None if self.lengths.get(spec.id) == shape else f"has shape {shape}, not {wanted}"
        return None if self._dims(spec.elts, shape) else f"has shape {shape}, not {wanted} with {self._known()}"  # type: ignore[attr-defined]

    def check_open(self) -> str | None:
        """Checks what had to wait until all letters are known."""
        for expression, length in self.open:
            try:
                if self._value(expression) != length:
                    return f"{length} is not {ast.unparse(expression)} with {self._known()}"
            except KeyError as unknown:
                return f"letter {unknown} is never a length of its own"
        return None

    def _dims(self, dims: list[ast.expr], shape: tuple[int, ...]) -> bool:
        gaps = [i for i, dim in enumerate(dims) if isinstance(dim, ast.Constant) and dim.value is ...]
        if gaps:
            stop = len(shape) - (len(dims) - gaps[0] - 1)
            if stop < gaps[0] or self.lengths.setdefault("...", shape[gaps[0] : stop]) != shape[gaps[0] : stop]:
                return False
            dims, shape = dims[: gaps[0]] + dims[gaps[0] + 1 :], shape[: gaps[0]] + shape[stop:]
        if len(dims) != len(shape):
            return False
        for dim, length in zip(dims, shape, strict=True):
            if isinstance(dim, ast.Name):
                if self.lengths.setdefault(dim.id, length) != length:
                    return False
            else:
                self.open.append((dim, length))
        return True

    def _value(self, node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            a, b = self._value(node.left), self._value(node.right)
            operations = {ast.Add: a + b, ast.Sub: a - b, ast.Mult: a * b}
            return a / b if isinstance(node.op, ast.Div) else operations[type(node.op)]
        if isinstance(node, ast.Constant):
            return Fraction(node.value)  # type: ignore[arg-type]
        return Fraction(self.lengths[node.id])  # type: ignore[attr-defined]

    def _known(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.lengths.items())


def arrays_in(values: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Those (name, value) that are arrays or tuples of arrays; where there is none, a Batch as its tokens."""

    def holds(value: Any) -> bool:
        if isinstance(value, tuple):
            return bool(value) and all(isinstance(part, ARRAYS) for part in value)
        return isinstance(value, ARRAYS)

    found = [(name, value) for name, value in values if holds(value)]
    return found or [(name, value.tokens) for name, value in values if isinstance(value, Batch)]


class Inspector:
    """Checks every call of a function that has a signature while `watch` runs something."""

    def __init__(self, known: list[Signature]) -> None:
        self.known = {signature.place: signature for signature in known}
        self.exercised: set[str] = set()
        self._faults: dict[tuple[str, str], str] = {}  # (function, argument) -> the first one found
        self._calls: dict[FrameType, Call] = {}

    @property
    def faults(self) -> list[str]:
        """What is wrong, naming file:function: argument."""
        return [f"{where}: {name}: {wrong}" for (where, name), wrong in self._faults.items()]

    def watch(self, letters: dict[str, int], work: Callable[[], Any]) -> None:
        """Runs `work` with the model's letters fixed."""

        def look(frame: FrameType, event: str, arg: Any) -> None:
            code = frame.f_code
            signature = self.known.get((code.co_filename, code.co_firstlineno)) if event in ("call", "return") else None
            if signature and event == "call":
                self._calls[frame] = self._begin(signature, frame, letters)
            elif signature and frame in self._calls:
                self._end(signature, self._calls.pop(frame), arg)

        sys.setprofile(look)
        try:
            work()
        finally:
            sys.setprofile(None)

    def _begin(self, signature: Signature, frame: FrameType, letters: dict[str, int]) -> Call:
        values = [(name, frame.f_locals[name]) for name in parameters(frame.f_code) if name in frame.f_locals]
        sizes = {name: value for name, value in values if len(name) > 1 and isinstance(value, int | tuple)}
        call, arrays = Call({**letters, **sizes}), arrays_in(values)
        self.exercised.add(signature.where)
        takes = signature.takes
        if len(arrays) < len(takes):
            takes = [spec for spec in takes if not isinstance(spec, ast.BinOp)]
        if len(arrays) != len(takes):
            names = ", ".join(name for name, _ in arrays) or "none"
            self._fault(signature, "arguments", f"arrays are {names}, but the signature has {len(signature.takes)}")
            return call
        for (name, value), spec in zip(arrays, takes, strict=True):
            self._fault(signature, name, call.check(spec, value))
        return call

    def _end(self, signature: Signature, call: Call, result: Any) -> None:
        if not signature.gives and arrays_in([("", result)]):
            self._fault(signature, "result", "is an array, and nothing was promised")
        elif not signature.gives:
            pass
        elif len(signature.gives) == 1:
            self._fault(signature, "result", call.check(signature.gives[0], result))
        else:
            self._fault(signature, "result", call.check(ast.Tuple(signature.gives), result))
        self._fault(signature, "result", call.check_open())

    def _fault(self, signature: Signature, name: str, wrong: str | None) -> None:
        if wrong:
            self._faults.setdefault((signature.where, name), wrong)


def parameters(code: CodeType) -> tuple[str, ...]:
    """A function's parameters in order, `*args` included."""
    star = bool(code.co_flags & 0x04)
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + star]


def handles_arrays(node: Function) -> bool:
    """Whether annotations say that arrays go in or come out (`*arrays` apart: their number has no signature)."""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    notes = [argument.annotation for argument in arguments if argument.arg != "xp"]
    returned = node.returns if node.args.vararg is None else None
    return any(note and re.search(r"\b(Array|ndarray)\b", ast.unparse(note)) for note in [*notes, returned])
