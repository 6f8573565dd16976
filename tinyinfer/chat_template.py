"""A chat template is a program: Jinja2 that came with the weights and spells a conversation as the model was trained.

A program from a stranger runs in a sandbox: jinja2's own (no attribute that leads out of the data, nothing that it may
change), plus a count of loop turns and calls, because `range` inside `range` would otherwise never end. What is not
bounded is memory: a template that asks for too much of it fails like one that raises.

The environment is the one that transformers gives its templates (`apply_chat_template`; Hugging Face documentation,
"Chat templates"): block tags leave no blank lines, loops know break and continue, `raise_exception`, `strftime_now`, a
`tojson` that does not escape HTML, and `{% generation %}`, which marks the assistant's words for training.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sized
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from tinyinfer.errors import ModelError

MAX_STEPS = 1_000_000  # loop turns and calls; a template of the hub uses some ten a message


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
        if not messages or not all(isinstance(message, dict) and "role" in message for message in messages):
            raise ValueError('a conversation is a list of at least one {"role": ..., "content": ...}')
        variables = {name: token for name, token in self.special_tokens.items() if token is not None}
        try:
            sandbox, template = self._compiled
            sandbox.steps = 0
            return template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, tools=None, documents=None, **variables
            )
        except Exception as error:  # a stranger's program may raise anything
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ModelError(
                f"{self.path}: the chat template fails ({reason}); correct it, or do without it: --raw, or generate()"
            ) from error

    @cached_property
    def _compiled(self) -> tuple[_Sandbox, Template]:
        sandbox = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        sandbox.filters |= {"tojson": _tojson, "metered": sandbox.metered}
        sandbox.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        tree = sandbox.parse(self.source)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "metered", [], [], None, None, lineno=loop.lineno)
        return sandbox, sandbox.from_string(tree)


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox that also counts its steps, and raises at a forbidden attribute instead of printing nothing."""

    steps = 0

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
        return super().call(*args, **kwargs)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(f"it may not use the attribute {attribute!r} of a {type(obj).__name__}")


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
