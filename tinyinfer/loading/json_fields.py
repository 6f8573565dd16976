"""Fields of a JSON file, read by name and type; a field that no loader reads is refused.

A typed read turns a wrong file into one sentence here, and not into wrong text or a traceback of another module later.
Refusing the unread fields makes a loader safe: it ignores no setting that it does not know.

A model's file was written by a program, so a broken one is downloaded again. A file that is written by hand, of
prices or of a cluster, is corrected, and its sentence says in which line (`typed_fields`).
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

from tinyinfer.errors import ModelError, note
from tinyinfer.loading.small_files import DOWNLOAD, check_values, read_whole
from tinyinfer.units import show

CORRECT = "correct the file"

MAX_SIZE = 2**31 - 1  # no dimension of a model comes near it


def parse_object(text: bytes, where: str, size: int | None = None, cure: str = DOWNLOAD) -> dict[str, Any]:
    """The object in a JSON text. size: bytes of what it describes, its own when None. cure: the end of each message.

    Raises ModelError, which names `where`, for another value, a key given twice, or more values than `size` has room
    for.
    """
    check_values(text, where, len(text) if size is None else size, cure=cure)
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where}: not valid JSON{fault(text, error)}; {cure}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{where}: holds {show(value)} instead of a JSON object; {cure}")
    return value


def fault(text: bytes, error: Exception) -> str:
    """Where in a text an error of JSON or of UTF-8 is, by line and column from 1 on, and what it is.

    >>> fault(b"", json.JSONDecodeError("Expecting value", "{,}", 1))
    ' in line 1, column 2 (Expecting value)'
    """
    if isinstance(error, json.JSONDecodeError):
        return f" in line {error.lineno}, column {error.colno} ({error.msg})"
    if isinstance(error, UnicodeDecodeError):
        before = text[: error.start]
        column = len(before) - before.rfind(b"\n")
        return f" in line {before.count(10) + 1}, column {column} ({error.reason} of UTF-8)"
    return f" ({error})"


def typed_fields(path: Path, where: str | None = None) -> Fields:
    """The fields of a JSON file that is written by hand. where: how messages name it, its path when None.

    The mark that some editors put in front of UTF-8 is passed over. Raises ModelError as `read_json` does, with a cure
    for such a file.
    """
    where, text = where or str(path), read_whole(path, CORRECT).removeprefix(BOM_UTF8)
    return Fields(where, parse_object(text, where, cure=CORRECT), "add it")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelError when it is missing, unreadable, too large or not an object."""
    return parse_object(read_whole(path), str(path))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dictionary. Raises ValueError for a key given twice, whose values may differ."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {show(key)} is given twice")
        values[key] = value
    return values


class Fields:
    """A JSON object read field by field; a wrong type or value raises ModelError with the place and the field.

    where: the path of the file, with which every message begins. absent: the value of a missing field; None: the field
    is required. cure: what to do where one is missing.
    """

    def __init__(
        self, where: str, values: Mapping[str, Any], cure: str = "download the file again or add it"
    ) -> None:
        self.where, self.values, self.cure = where, dict(values), cure
        self.read: set[str] = set()

    def refuse(self, name: str, why: str) -> NoReturn:
        """Raises ModelError for this field; `why` is the rest of the sentence, with the cure."""
        raise ModelError(f"{self.where}: the field {show(name)} {why}")

    def get(self, name: str, absent: Any = None) -> Any:
        """The value as it is, null included."""
        self.read.add(name)
        return self.values.get(name, absent)

    def alias(self, name: str, other: str) -> None:
        """`other` is a second spelling of `name`; both may be given if they agree."""
        if other not in self.values:
            return
        value = self.get(other)
        main = self.values.setdefault(name, value)
        if main != value:
            self.refuse(other, f"is {show(value)}, but {name!r} means the same and is {show(main)}; remove one of them")

    def optional_size(self, name: str, absent: int | None = None, least: int = 1, most: int = MAX_SIZE) -> int | None:
        """A whole number from `least` to `most`, or None for null."""
        value = self.get(name, absent)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.refuse(name, f"is {show(value)}, but must be a whole number from {least} to {most}; correct it")
        return value

    def size(self, name: str, absent: int | None = None, least: int = 1, most: int = MAX_SIZE) -> int:
        """A whole number from `least` to `most`."""
        value = self.optional_size(name, absent, least, most)
        return self._missing(name) if value is None else value

    def number(self, name: str, absent: float | None = None) -> float:
        """A positive number that float32 can hold."""
        value = self.get(name, absent)
        if value is None:
            self._missing(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 1e-30 < value < 1e30:  # NaN fails too
            self.refuse(name, f"is {show(value)}, but must be a positive number; correct it")
        return float(value)

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of positive numbers."""
        values = self.get(name)
        if not isinstance(values, list) or not values:
            self.refuse(name, f"is {show(values)}, but must be a list of numbers; correct it")
        listed = Fields(f"{self.where}, {name}", {str(i): value for i, value in enumerate(values)}, self.cure)
        return tuple(listed.number(i) for i in listed.values)

    def flag(self, name: str, absent: bool) -> bool:
        """The value of a field that is true or false."""
        value = self.get(name, absent)
        if not isinstance(value, bool):
            self.refuse(name, f"is {show(value)}, but must be true or false; correct it")
        return value

    def text(self, name: str, absent: str | None = None) -> str:
        """The value of a field that is a string."""
        value = self.get(name, absent)
        if value is None:
            self._missing(name)
        if not isinstance(value, str):
            self.refuse(name, f"is {show(value)}, but must be a string; correct it")
        return value

    def table(self, name: str, value: object) -> Fields:
        """The fields of `value`, the object under `name`; a null has no fields."""
        if value is not None and not isinstance(value, dict):
            self.refuse(name, f"is {show(value)}, but must be an object; correct it")
        return Fields(f"{self.where}, {name}", value or {}, self.cure)

    def refuse_unread(
        self,
        neutral: Collection[str],
        harmless: Mapping[str, Collection[object]],
        foreign: Callable[[str], bool] = lambda name: False,
    ) -> None:
        """Raises ModelError for a field that no loader read, unless it is neutral or its value is harmless.

        Fields that are foreign by their names are passed over, with one line that names them.
        """
        passed = []
        for name, value in self.values.items():
            if name in self.read or name in neutral or value in harmless.get(name, ()):
                continue
            if name not in harmless and foreign(name):
                passed.append(show(name))
                continue
            why = f"is {show(value)}, which is not supported" if name in harmless else f"({show(value)}) is not known"
            self.refuse(name, f"{why}, and ignoring it could change the result; remove it if you know better")
        if passed:
            shown = ", ".join(passed[:5]) + (f" and {len(passed) - 5} more" if len(passed) > 5 else "")
            note(f"{self.where}: loading passes over {shown}: by its name no setting of a model")

    def _missing(self, name: str) -> NoReturn:
        self.refuse(name, f"is missing, and nothing else says its value; {self.cure}")
