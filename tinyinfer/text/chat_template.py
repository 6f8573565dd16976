"""A chat template is a program: Jinja2 that came with the weights and spells a conversation as the model was trained.

A program from a stranger runs in a sandbox: jinja2's own (no attribute that leads out of the data, nothing that it may
change), plus two bounds: on loop turns and calls, because `range` inside `range` would otherwise never end, and on the
size of every number, text and list that is made on the way, because `'x' * 10**10` would take all memory there is.

The environment is the one that transformers gives its templates (`apply_chat_template`; Hugging Face documentation,
"Chat templates"): block tags leave no blank lines, loops know break and continue, `raise_exception`, `strftime_now`, a
`tojson` that does not escape HTML, and `{% generation %}`, which marks the assistant's words for training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sized
from datetime import datetime
from functools import cached_property, wraps
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from tinyinfer.errors import ModelError

MAX_STEPS = 1_000_000  # loop turns and calls; a template of the hub uses some ten a message
MAX_SIZE = 10_000_000  # of a number, the characters of a text and the items of a list


class ChatTemplate:
    """A template, compiled on first use. path is the file that it came from, for error messages."""

    def __init__(self, source: str, path: str, bos_token: str | None = None, eos_token: str | None = None) -> None:
        self.source = source
        self.path = path
        self.special_tokens = {"bos_token": bos_token, "eos_token": eos_token}

    def render(self, messages: list[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        """The conversation as text; it holds its own special tokens, so tokenize it without adding any.

        Raises ValueError for messages that are not a conversation, ModelError when the template is broken or fails.
        """
        ok = isinstance(messages, list | tuple) and all(isinstance(m, dict) and "role" in m for m in messages)
        if not messages or not ok:
            raise ValueError('a conversation is a list of at least one {"role": ..., "content": ...}')
        variables = {name: token for name, token in self.special_tokens.items() if token is not None}
        try:
            sandbox, template = self._compiled
            sandbox.steps = 0
            pieces = template.generate(
                messages=messages, add_generation_prompt=add_generation_prompt, tools=None, documents=None, **variables
            )
            return sandbox.joined(pieces)
        except Exception as error:  # a stranger's program may raise anything
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ModelError(
                f"{self.path}: the chat template fails ({reason}); correct it, or do without it: --raw, or generate()"
            ) from error

    @cached_property
    def _compiled(self) -> tuple[_Sandbox, Template]:
        sandbox = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        sandbox.filters["tojson"] = _tojson
        sandbox.filters = {name: sandbox.bounded(function) for name, function in sandbox.filters.items()}
        sandbox.filters |= {"metered": sandbox.metered, "joined": sandbox.joined}
        sandbox.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        tree = sandbox.parse(self.source)
        for loop in tree.find_all(nodes.For):
            loop.iter = _filtered(loop.iter, "metered")
        for chain in tree.find_all(nodes.Concat):  # a ~ b
            chain.nodes = [_filtered(nodes.List(chain.nodes), "joined")]
        for block in tree.find_all(nodes.AssignBlock):  # {% set x %}...{% endset %}
            block.filter = block.filter or _filtered(None, "string")
        return sandbox, sandbox.from_string(tree)


def _filtered(node: nodes.Node | None, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None)


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox that also counts its steps and bounds what they make.

    It raises at a forbidden attribute instead of printing nothing.
    """

    steps = 0
    intercepted_binops = frozenset({"+", "*", "**"})  # the operators that make much of little

    def spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise SecurityError(f"it takes more than {MAX_STEPS} steps")

    def metered(self, items: Iterable[Any]) -> Iterable[Any]:
        items = items if isinstance(items, Sized) else list(items)
        self.spend(1 + len(items))
        return items

    def call(self, *args: Any, **kwargs: Any) -> Any:
        self.spend(1)
        return self.bounded(super().call)(*args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        a, b = _size(left), _size(right)
        if operator == "**":  # a bound from below, in bits
            self.check((a.bit_length() - 1) * b <= MAX_SIZE.bit_length())
        else:
            self.check((a * b if operator == "*" else a + b) <= MAX_SIZE)
        return self.measured(super().call_binop(context, operator, left, right))

    def bounded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, taking and giving nothing too large."""

        @wraps(function)  # with the marks by which jinja2 knows what to pass
        def inner(*args: Any, **kwargs: Any) -> Any:
            for value in (*args, *kwargs.values()):
                self.measured(value)
            return self.measured(function(*args, **kwargs))

        return inner

    def measured(self, value: Any) -> Any:
        self.check(_size(value) <= MAX_SIZE)
        return value

    def joined(self, pieces: Iterable[Any]) -> str:
        texts, size = [], 0
        for piece in pieces:
            texts.append(str(piece))
            size += len(texts[-1])
            self.check(size <= MAX_SIZE)
        return "".join(texts)

    def check(self, small: bool) -> None:
        if not small:
            raise SecurityError(f"it makes something larger than {MAX_SIZE}")

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(f"it may not use the attribute {attribute!r} of a {type(obj).__name__}")


def _size(value: Any) -> int:
    """Of a whole number its magnitude, of a text or a list its length, of anything else 1."""
    if isinstance(value, int):
        return abs(value)
    return len(value) if isinstance(value, str | bytes | list | tuple | dict) else 1


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: only training asks where it stands, here it is just its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 wants a set

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
