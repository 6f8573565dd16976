"""A TOML file read with its place at hand: every mistake is a CourseError that names the file and the field."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from tinyinfer.course.errors import CourseError

KINDS = {str: "a text", int: "a whole number", bool: "true or false", list: "a list", dict: "a table"}
T = TypeVar("T")


class Table:
    """A table of a TOML file that knows its place, so that each mistake names the file and the field."""

    def __init__(self, path: Path, values: Mapping[str, Any], place: str = "") -> None:
        self.path, self.values, self.place = path, values, place

    def error(self, key: str, what: str) -> CourseError:
        """The CourseError about a field of this table."""
        return CourseError(f"{self.path}: {self.place}{key}: {what}")

    def check_known(self, known: set[str]) -> None:
        """Raises CourseError for a field that does not exist, with the nearest that does."""
        for key in self.values:
            if key not in known:
                near = get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"the fields are {', '.join(sorted(known))}"
                raise self.error(key, f"there is no such field; {hint}")

    def take(self, key: str, kind: type[T], default: T | None = None) -> T:
        """A field's value. Raises CourseError where the field is missing, of another type, or an empty text."""
        value = self.values.get(key, default)
        if value is None:
            raise self.error(key, "is missing")
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(key, f"must be {KINDS[kind]}, not {value!r}")
        if isinstance(value, str) and not value.strip():
            raise self.error(key, "is empty")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1. Raises CourseError."""
        value = self.take(key, int, default)
        if value < 1:
            raise self.error(key, f"must be at least 1, not {value}")
        return value

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """A list of texts. Raises CourseError."""
        values = self.take(key, list, None if default is None else list(default))
        if any(not isinstance(value, str) or not value.strip() for value in values):
            raise self.error(key, "must be a list of texts")
        return tuple(values)

    def tables(self, key: str) -> list[Table]:
        """The tables of an array of tables, at least one. Raises CourseError."""
        values = self.take(key, list)
        if not values or any(not isinstance(value, dict) for value in values):
            raise self.error(key, f"must be tables, each below a line [[{key}]]")
        return [Table(self.path, value, f"[[{key}]] number {i}: ") for i, value in enumerate(values, 1)]


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file. Raises CourseError for a file that cannot be read or is no TOML."""
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        reason = error.strerror or error
        raise CourseError(f"{path}: cannot be read ({reason}); check the file and its permissions") from None
    except (ValueError, RecursionError) as error:
        raise CourseError(f"{path}: is no TOML in UTF-8 ({error}); correct it") from None
