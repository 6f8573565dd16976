"""The exceptions of our own: a setting that cannot work, memory that is not there, a model file that cannot be used.

A bad argument is a ValueError, as everywhere in Python. A SwitchError is a ValueError that keeps its parts apart: the
field, its value, the reason and the cure. Reason and cure name fields, and a field has two names: `kv_cache` in Python,
`--kv-cache` on the command line. So both are templates: `{kv_cache}` is the place of the field's name, which
Python and the command line each spell in their own way. A RequestError has the same two templates and the request
that it ends: a RoomError is a MemoryError, a NotFiniteError a FloatingPointError, a GrammarError a RuntimeError.

A file's fault is a ModelError, because its cure lies on disk and not in the caller's code. The command line turns each
into one line and exit status 2.

A loader that passes over a part of a usable file, or assumes what a file does not say, tells so by `note`. That is a
warning of Python, a ModelWarning: Python shows it once, and a program can silence it or turn it into an error
(warnings.filterwarnings). The command line shows it as one line, `tinyinfer: note: ...`, unless it has to be quiet.

A sentence may hold words of a stranger's file: a token, a tensor's name, what a chat template says. A terminal obeys
some letters (it clears the screen, it moves back), so every sentence is one line of letters that are seen.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Callable, Iterable
from typing import Any


def one_line(text: str) -> str:
    """The text in one line; what a terminal would not show but obey, such as its escape, is written as Python does.

    >>> one_line(chr(27) + "[2J a clear\\n  screen")
    '\\\\x1b[2J a clear screen'
    """
    line = " ".join(part.strip() for part in text.split("\n"))
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else ascii(c)[1:-1] for c in line)


class ModelError(Exception):
    """A model's file is missing, broken or unsupported; the message names the file, what is wrong and the cure."""

    def __init__(self, sentence: str) -> None:
        super().__init__(one_line(sentence))


class TextError(ModelError):
    """A model's own text file, its chat template or tokenizer, fails on a text. what: the sentence without the file."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path}: {what}")
        self.what = one_line(what)


class DownloadError(ModelError):
    """A model is not here and cannot be downloaded: there is no network, no room, or no such file any more."""


class TrainingError(ModelError):
    """A student cannot be trained on: its loss is no number any more."""


class ModelWarning(UserWarning):
    """A file is used, but a part of it was passed over, or something assumed; the message names the file and what."""


def note(sentence: str) -> None:
    """Gives a ModelWarning: one sentence that names the file, what was passed over or assumed, and what follows."""
    warnings.warn(one_line(sentence), ModelWarning, stacklevel=2)


class Worded(Exception):
    """An error of one sentence, made of two templates of str.format: `reason` and `cure`.

    In both, a keyword of `texts` is that text, and any other name is the name of a field.
    """

    reason: str
    cure: str
    texts: dict[str, object]

    def sentence(self, spell: Callable[[str], str]) -> str:
        """Reason and cure in one sentence and line; spell: the name of a field as its reader writes it."""
        template = f"{self.reason}; {self.cure}" if self.cure else self.reason
        return one_line(template.format_map(_Names(spell, self.given(spell) | self.texts)))

    def given(self, spell: Callable[[str], str]) -> dict[str, object]:
        """Texts that every error of this kind has."""
        return {}

    def __str__(self) -> str:
        return self.sentence(str)


class SwitchError(Worded, ValueError):
    """A switch, a sampling parameter or a prompt that cannot work.

    field, value: what was given, field "" for a prompt; `{field}` and `{value}` in the templates.

    >>> error = SwitchError("num_blocks", 8, "{field}={value} counts blocks", "add {kv_cache}={new}", new="paged")
    >>> str(error)
    'num_blocks=8 counts blocks; add kv_cache=paged'
    >>> error.sentence(lambda name: "--" + name.replace("_", "-"))
    '--num-blocks=8 counts blocks; add --kv-cache=paged'
    """

    def __init__(self, field: str, value: object, reason: str, cure: str = "", **texts: object) -> None:
        super().__init__(field, value, reason, cure)
        self.field, self.value, self.reason, self.cure, self.texts = field, value, reason, cure, texts

    def given(self, spell: Callable[[str], str]) -> dict[str, object]:
        return {"field": spell(self.field), "value": self.value}


class RequestError(Worded):
    """What ends one request: the others of its step go on, computed again where the step could not stand.

    request_id: the id of the request's sequence, which can never go on; None when no sequence is the cause.
    """

    def __init__(self, reason: str, cure: str, request_id: int | None = None, **texts: object) -> None:
        super().__init__(reason, cure, request_id)
        self.reason, self.cure, self.request_id, self.texts = reason, cure, request_id, texts


class RoomError(RequestError, MemoryError):
    """Memory that the system does not give, for a request or for a switch."""


class NotFiniteError(RequestError, FloatingPointError):
    """The model's numbers overflow (NaN, infinity) for a request; the message names the part where that began."""


class GrammarError(RequestError, RuntimeError):
    """An answer that cannot go on in its grammar: no token is left, or the grammar is too large to follow."""


class _Names(dict[str, Any]):
    """The texts of a template; a name without a text is the name of a field."""

    def __init__(self, spell: Callable[[str], str], texts: dict[str, Any]) -> None:
        super().__init__(texts)
        self.spell = spell

    def __missing__(self, name: str) -> str:
        return self.spell(name)


def all_of(names: Iterable[str]) -> str:
    """The template that lists fields: "{kv_cache} and {kv_bits}"."""
    return " and ".join(f"{{{name}}}" for name in names)


def placed(place: str, error: RequestError | ValueError) -> Exception:
    """The same error, its sentence beginning with the place where it was found."""
    if isinstance(error, RequestError):
        return type(error)("{place}: " + error.reason, error.cure, error.request_id, **error.texts, place=place)
    if isinstance(error, SwitchError):
        return SwitchError(error.field, error.value, "{place}: " + error.reason, error.cure, **error.texts, place=place)
    return ValueError(f"{place}: {error}")
