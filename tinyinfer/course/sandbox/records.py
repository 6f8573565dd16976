"""What stands for a record or an object on each side of the pipe.

A record is a dataclass or a named tuple. The child builds a record by its class, for the grader can be trusted. For the
grader a record of the child is a `Received`: names and plain data. An object that is no data, such as a cache that the
student's class has made, stays in the child; the grader has its number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from tinyinfer.course.sandbox.lent import Exchange, Lent, nothing_lent
from tinyinfer.course.sandbox.stand_ins import SequenceView


@dataclass(frozen=True)
class Handle:
    """The number of an object that stays in the child."""

    number: int


@dataclass(frozen=True)
class Received:
    """A record of the child: the name of its class, and its fields as attributes; those of a named tuple in order."""

    kind: str
    fields: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self.fields:
            raise AttributeError(f"{self.kind} has no field {name!r}; its fields are {', '.join(self.fields)}")
        return self.fields[name]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fields.values())


class Objects(Protocol):
    """What stands for objects that are no data, on one side of the pipe."""

    def number(self, value: object) -> int | None:
        """The number of an object that the child keeps; None for any other value."""

    def known(self, number: int) -> Any:
        """What this side has for that number. Raises KeyError when the child keeps no such object."""

    def record(self, kind: str, values: dict[str, Any]) -> object:
        """What this side has for a record. Raises ValueError for one that this side does not know."""


class Plain:
    """The grader's side: handles and `Received` records. A Handle that is sent is the child's object."""

    def number(self, value: object) -> int | None:
        return value.number if isinstance(value, Handle) else None

    def known(self, number: int) -> Any:
        return Handle(number)

    def record(self, kind: str, values: dict[str, Any]) -> object:
        return Received(kind.rpartition(":")[2], values)


class Kept:
    """The child's side: the objects that requests have made, and one view for each sequence.

    exchange: asks the grader for numbers of a lent array.
    """

    def __init__(self, exchange: Exchange = nothing_lent) -> None:
        self._exchange = exchange
        self._objects: list[object] = []
        self._numbers: dict[int, int] = {}  # by id()
        self._views: dict[int, SequenceView] = {}  # a cache may keep its rows by the sequence itself

    def keep(self, value: object) -> Handle:
        """Keeps an object; the handle under which the grader asks for it."""
        number = self._numbers.setdefault(id(value), len(self._objects))
        if number == len(self._objects):
            self._objects.append(value)
        return Handle(number)

    def number(self, value: object) -> int | None:
        return value.number if isinstance(value, Handle) else self._numbers.get(id(value))

    def known(self, number: int) -> Any:
        if not 0 <= number < len(self._objects):
            raise KeyError(number)
        return self._objects[number]

    def record(self, kind: str, values: dict[str, Any]) -> object:
        """The record, made by its class. Raises ValueError, and what the class raises."""
        module, _, name = kind.partition(":")
        if module.partition(".")[0] != "tinyinfer":
            raise ValueError(f"{kind} is no class of the package")
        cls = getattr(import_module(module), name)
        made = cls(**values)
        if isinstance(made, Lent):
            return made.connected(self._exchange)
        return self._view(made) if isinstance(made, SequenceView) else made

    def _view(self, new: SequenceView) -> SequenceView:
        """The one view of this sequence, with its numbers as they are now."""
        return self._views.setdefault(new.id, new).update(new)
