"""A chat template, a Jinja2 program, turns a conversation into text in the form that the model was trained on.

The program comes with the weights and is not trusted, so it runs in jinja2's sandbox, as in transformers and vLLM: it
sees plain data (JSON), reaches no attribute that leads out of them, and changes nothing but its own copy. So it can run
no other code and open no file. Nothing bounds its time and its memory: a template may loop until Ctrl-C, or take all
memory, which is an error of one sentence if Python sees it.

The environment is the one that transformers gives its templates (`apply_chat_template`; Hugging Face documentation,
"Chat templates"): block tags leave no blank lines, loops know break and continue, `raise_exception`, `strftime_now`, a
`tojson` that does not escape HTML, and `{% generation %}`, which marks the assistant's words for training.

A template may have variables of its own, such as Qwen3's `enable_thinking`, which switches its thinking off. A variable
that a template does not use changes nothing.

A content is a text, or a list of parts with types, as programs for models that read images write it. Most templates
read texts, some parts, and each kind would leave out or spoil the other without a word. Two trials find what a template
reads, and contents are given to it in that form (llama.cpp, vLLM).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from tinyinfer.errors import SwitchError, TextError
from tinyinfer.text.reasoning import REASONING_FIELDS, Thinking, find_markers

TRIAL = "a trial text"  # looked for in the rendering of a trial


class ChatTemplate:
    """A chat template, compiled on first use.

    path: the file that holds the template, for error messages. special_tokens: bos_token, eos_token, pad_token and
    others by these names, which the template may write.
    """

    def __init__(self, source: str, path: str, special_tokens: Mapping[str, str] = MappingProxyType({})) -> None:
        self.source = source
        self.path = path
        self.special_tokens = dict(special_tokens)

    def render(self, messages: list[dict[str, Any]], /, add_generation_prompt: bool = True, **variables: Any) -> str:
        """The conversation as text, special tokens included: tokenize it with add_special_tokens=False.

        variables: the template's own, in the place of special tokens, tools and documents, too. Raises ValueError for
        messages that are not a conversation, and for messages and variables that are no JSON, TextError, a
        ModelError, when the template is broken or fails.
        """
        ok = isinstance(messages, list | tuple) and all(isinstance(m, dict) and "role" in m for m in messages)
        if not messages or not ok:
            raise ValueError('a conversation is a list of at least one {"role": ..., "content": ...}')
        given, plain = _plain("chat_template_kwargs", variables), _plain("messages", messages)
        try:
            kept = [_message(m, self._reads) for m in plain]
            return self._rendered(given | {"messages": kept, "add_generation_prompt": add_generation_prompt})
        except Exception as error:  # a template may raise anything
            cure = "correct it, or give the prompt as plain text"
            raise TextError(self.path, f"the chat template fails ({_reason(error)}); {cure}") from error

    @cached_property
    def thinking(self) -> Thinking | None:
        """The markers that the template writes around thinking; None when it writes none."""
        return find_markers(self.render, self.source)

    def unused(self, names: Iterable[str]) -> list[str]:
        """Those of the names that are no variables of the template; none when it is broken, which `render` tells."""
        try:
            used = meta.find_undeclared_variables(self._compiled.environment.parse(self.source))
        except Exception:  # a template may raise anything
            return []
        return [name for name in names if name not in used]

    @cached_property
    def _reads(self) -> tuple[bool, bool]:
        """Whether the template writes a content that is a text, and one that is a list of parts."""
        text, parts = self._tried(TRIAL), self._tried(_parts(TRIAL))
        return TRIAL in text, TRIAL in parts and (text == parts or TRIAL not in text)

    def _tried(self, content: Any) -> str:
        """A conversation of this content as text; nothing where the template fails."""
        try:
            messages = [{"role": "user", "content": content}]
            return self._rendered({"messages": messages, "add_generation_prompt": False})
        except Exception:  # a template may raise anything
            return ""

    def _rendered(self, given: dict[str, Any]) -> str:
        return self._compiled.render(self.special_tokens | {"tools": None, "documents": None} | given)

    @cached_property
    def _compiled(self) -> Template:
        return _environment().from_string(self.source)


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox; a forbidden attribute raises, where jinja2 would print nothing."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Raises SecurityError: called by jinja2 for a forbidden attribute."""
        raise SecurityError(f"it may not use the attribute {attribute!r} of a {type(obj).__name__}")


def _environment() -> _Sandbox:
    """A sandbox with what transformers gives to templates."""
    sandbox = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
    sandbox.filters["tojson"] = _tojson
    sandbox.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    return sandbox


def _plain(name: str, data: Any) -> Any:
    """A copy of the variables or the messages; only JSON, because a template could call the methods of other objects.

    A copy, because jinja2's filter `indent` extends a list that it is given.
    """
    if name == "chat_template_kwargs" and "messages" in data:
        reason = "{field} may not hold 'messages', which is the conversation itself"
        raise SwitchError(name, data, reason, "leave it out")
    try:
        return json.loads(json.dumps(data))
    except (TypeError, ValueError, RecursionError) as error:
        reason = "{field} may only hold what JSON can: texts, numbers, true, false, null, lists and objects ({why})"
        raise SwitchError(name, data, reason, why=error) from None


def _message(message: dict[str, Any], reads: tuple[bool, bool]) -> dict[str, Any]:
    """A copy for the template: without None, and with its thinking under each name that templates read (transformers).

    reads: whether the template reads contents that are texts, and that are parts.
    """
    copy = {key: value for key, value in message.items() if value is not None}
    content = copy.get("content")
    if reads == (False, True) and isinstance(content, str):
        copy["content"] = _parts(content)
    elif reads == (True, False) and content and isinstance(content, list) and all(map(_is_text, content)):
        copy["content"] = "\n".join(part["text"] for part in content)
    thinking = next((copy[name] for name in REASONING_FIELDS if name in copy), None)
    return copy if thinking is None else {"thinking": thinking, **copy, "reasoning_content": thinking}


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _is_text(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _reason(error: Exception) -> str:
    """What a template's error says, on one line; a deep list in it may be too deep to be written."""
    try:
        return " ".join(str(error).split())[:200] or type(error).__name__
    except Exception:  # a RecursionError, a MemoryError
        return type(error).__name__


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
