"""A chat template, a Jinja2 program, turns a conversation into text in the form that the model was trained on.

The program comes with the weights and is not trusted, so it runs in a sandbox (sandbox.py).

The environment is the one that transformers gives its templates (`apply_chat_template`; Hugging Face documentation,
"Chat templates"): block tags leave no blank lines, loops know break and continue, `raise_exception`, `strftime_now`, a
`tojson` that does not escape HTML, and `{% generation %}`, which marks the assistant's words for training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from tinyinfer.errors import ModelError
from tinyinfer.text.sandbox import Sandbox


class ChatTemplate:
    """A chat template, compiled on first use.

    path: the file that holds the template, for error messages. special_tokens: bos_token, eos_token, pad_token and
    others by these names, which the template may write.
    """

    def __init__(self, source: str, path: str, special_tokens: Mapping[str, str] = MappingProxyType({})) -> None:
        self.source = source
        self.path = path
        self.special_tokens = dict(special_tokens)

    def render(self, messages: list[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        """The conversation as text, special tokens included: tokenize it with add_special_tokens=False.

        Raises ValueError for messages that are not a conversation, ModelError when the template is broken or fails.
        """
        ok = isinstance(messages, list | tuple) and all(isinstance(m, dict) and "role" in m for m in messages)
        if not messages or not ok:
            raise ValueError('a conversation is a list of at least one {"role": ..., "content": ...}')
        variables: dict[str, Any] = dict(self.special_tokens)
        try:
            sandbox, template = self._compiled
            # A copy, because jinja2's filter `indent` extends a list that it is given.
            variables |= {"messages": deepcopy(messages), "add_generation_prompt": add_generation_prompt}
            return sandbox.render(template, variables | {"tools": None, "documents": None})
        except Exception as error:  # a template may raise anything
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ModelError(
                f"{self.path}: the chat template fails ({reason}); correct it, or give the prompt as plain text"
            ) from error

    @cached_property
    def _compiled(self) -> tuple[Sandbox, Template]:
        sandbox = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        sandbox.filters["tojson"] = _tojson
        sandbox.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        return sandbox, sandbox.metered_template(self.source)


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks text for training; here only its content counts."""

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
