"""A student's code as a test sees it: functions and objects that give plain values, wherever the code runs.

    student.keep_top_k(s, 5)                            calls a function
    cache = student.ContiguousCache(spec, device)       makes an object, which stays with the student's code
    cache.append(0, k, v, batch); cache.held_bytes      calls its method, reads its property
    student.wanda(w, hessian, pattern)                  an object of the student's as an argument is itself again there
    student.after("keep_top_k", s, 5)                   the result, and the arguments as the call has left them
    student.interpreted("multiply", student.lend(w))    without numba's compiler; each read of w crosses (loans.py)

Which names there are, and which of them are properties, the engine's own module says. Every argument and every result
is packed into bytes and unpacked again (wire.py), also within one process: a test can neither hand over nor get back
anything but values, so that `pytest` and `course grade` see the same.

`traffic` counts what crosses: calls, and the bytes of arrays there and back. The counts are the test's own, out of the
student's reach.
"""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tinyinfer.course.assignment import Assignment
from tinyinfer.course.errors import CourseError
from tinyinfer.course.loans import Loans
from tinyinfer.course.sandbox.frames import WireError
from tinyinfer.course.sandbox.lent import Lent
from tinyinfer.course.sandbox.loading import load_source, numba_setting
from tinyinfer.course.sandbox.records import Handle
from tinyinfer.course.sandbox.serving import LONGEST, Server, described
from tinyinfer.course.sandbox.wire import pack, unpack
from tinyinfer.errors import one_line

Request = dict[str, Any]  # operation, target, name, args, kwargs, after: see Student._ask
ERROR_FIELDS = {"kind", "message", "place", "line"}
HINTS = {
    "RecursionError": "a function calls itself without an end",
    "MemoryError": "an array is far larger than the task needs: look at the shapes",
    "ModuleNotFoundError": "only NumPy, the standard library and what the file imports already are there",
    "TypingError": "numba compiles a part of Python: numbers, arrays of NumPy and loops; the message names the line",
    "ImportError": "only NumPy, the standard library and what the file imports already are there",
}


class StudentError(Exception):
    """The student's code raised an error, or gave what is no value. sentence: what and where; hint: what to do."""

    def __init__(self, kind: str, sentence: str, hint: str = "") -> None:
        super().__init__(f"{sentence}\nhint: {hint}" if hint else sentence)
        self.kind, self.sentence, self.hint = kind, sentence, hint

    @property
    def not_implemented(self) -> bool:
        """Whether the code is still the skeleton's."""
        return self.kind == "NotImplementedError"


@contextmanager
def hinting(kind: str, hint: str) -> Iterator[None]:
    """Gives an error of this kind, which the student's code raises, its hint: for a test that expects the mistake."""
    try:
        yield
    except StudentError as error:
        if error.kind != kind:
            raise
        raise StudentError(kind, error.sentence, hint) from error


class StudentTimeout(StudentError):
    """The student's code did not answer in time, and was ended."""


class StudentDied(StudentError):
    """The student's process ended by itself, or answered with what is no reply."""


@dataclass
class Traffic:
    """What crossed between test and student, by the name of the function: "f" or "Class.method"."""

    calls: Counter[str] = field(default_factory=Counter)
    sent_bytes: Counter[str] = field(default_factory=Counter)  # of arrays, to the student's code
    received_bytes: Counter[str] = field(default_factory=Counter)  # of arrays, from it


class Student(ABC):
    """The names of an assignment in a student's code."""

    def __init__(self, a: Assignment) -> None:
        self.assignment, self.traffic, self.loans = a, Traffic(), Loans()
        self._reference = {name: found for cut in a.cut for name, found in top_names(cut.module, cut.names, cut.given)}

    @abstractmethod
    def _ask(self, request: Request) -> dict[str, Any]:
        """The reply to a request: {"value": ..., "after": [...]}. Raises StudentError.

        operation: "call" (a function; with a target, its method), "interpret" (a function that is not compiled), "make"
        (an object), "get" (a property of the target). target: the handle of an object, or None.
        """

    def __getattr__(self, name: str) -> Any:
        found = self.__dict__.get("_reference", {}).get(name)
        if found is None:
            raise AttributeError(f"the assignment has no name {name!r}")
        return StudentClass(self, found) if inspect.isclass(found) else Bound(self, None, name, name)

    def after(self, name: str | Bound, *args: Any, **kwargs: Any) -> tuple[Any, list[Any]]:
        """The result of a function or method, and its arguments as they are after the call."""
        __tracebackhide__ = True
        bound = getattr(self, name) if isinstance(name, str) else name
        reply = self.ask("call", bound.target, bound.name, bound.shown, args, kwargs, after=True)
        if len(reply["after"]) != len(args):
            raise StudentDied("BadReply", "the student's process answered without the arguments of the call")
        return reply["value"], reply["after"]

    def interpreted(self, name: str, *args: Any) -> Any:
        """The result of a function whose loops Python runs itself."""
        __tracebackhide__ = True
        return self.ask("interpret", None, name, name, args)["value"]

    def lend(self, array: np.ndarray) -> Lent:
        """What stands for an array in a call: its numbers stay here, and each one that is used crosses."""
        return self.loans.lend(array)

    def ask(
        self, operation: str, target: Handle | None, name: str, shown: str, args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None, after: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """Sends a request, counts what crosses under the name `shown`, and returns the reply."""
        __tracebackhide__ = True
        self.traffic.calls[shown] += 1
        self.traffic.sent_bytes[shown] += array_bytes((*args, kwargs))
        given = [one._handle if isinstance(one, StudentObject) else one for one in args]
        request = {"operation": operation, "target": target, "name": name, "args": given, "kwargs": kwargs or {}}
        reply = self._ask(request | {"after": after})
        self.traffic.received_bytes[shown] += array_bytes(reply["value"])
        return reply


@dataclass(frozen=True)
class StudentClass:
    """A class of the student's: calling it makes an object there."""

    student: Student
    reference: type

    def __call__(self, *args: Any, **kwargs: Any) -> StudentObject:
        __tracebackhide__ = True
        name = self.reference.__name__
        handle = self.student.ask("make", None, name, name, args, kwargs)["value"]
        if not isinstance(handle, Handle):
            raise StudentDied("BadReply", f"making a {name} gave no object")
        return StudentObject(self.student, self.reference, handle)


class StudentObject:
    """An object that lives with the student's code; methods and properties are those of the engine's class."""

    def __init__(self, student: Student, reference: type, handle: Handle) -> None:
        self._student, self._class, self._handle = student, reference, handle

    def __getattr__(self, name: str) -> Any:
        __tracebackhide__ = True
        if name.startswith("__"):
            raise AttributeError(name)
        shown = f"{self._class.__name__}.{name}"
        if callable(inspect.getattr_static(self._class, name, None)):
            return Bound(self._student, self._handle, name, shown)
        return self._student.ask("get", self._handle, name, shown)["value"]


@dataclass(frozen=True)
class Bound:
    """A function, or a method of an object of the student's. shown: its name in counts."""

    student: Student
    target: Handle | None
    name: str
    shown: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return self.student.ask("call", self.target, self.name, self.shown, args, kwargs)["value"]


class LocalStudent(Student):
    """The student's file, loaded into this process: for `pytest`, where a debugger is wanted. Nothing is limited."""

    def __init__(self, a: Assignment, path: Path) -> None:
        super().__init__(a)
        self._path = path
        self._server: Server | None = None

    def _ask(self, request: Request) -> dict[str, Any]:
        __tracebackhide__ = True
        server = self._server = self._server or self._load()
        reply, cause = server.answer(packed(request))
        if isinstance(cause, KeyboardInterrupt):
            raise cause  # Ctrl-C ends pytest, and not one test of many
        return answered(unpack(reply), self.assignment.file, cause)

    def _load(self) -> Server:
        """Executes the file. Raises StudentError for what its code raises, CourseError where there is no file."""
        try:
            with without(self._path.parent), numba_setting("BOUNDSCHECK", 1):
                module = load_source(f"tinyinfer_student_{self.assignment.name}", self._path)
            return Server(module, str(self._path), self.loans.answer)
        except CourseError:
            raise
        except (Exception, SystemExit) as error:
            found = student_error(described(error, str(self._path)), self.assignment.file)
            raise not_loaded(found, self.assignment.file) from error


@contextmanager
def without(folder: Path) -> Iterator[None]:
    """Within the block Python imports nothing from a folder, as in the grader, which takes one file out of it."""
    before = list(sys.path)
    sys.path[:] = [place for place in before if Path(place).resolve() != folder.resolve()]
    try:
        yield
    finally:
        sys.path[:] = before


def packed(request: Request) -> bytes:
    """The frame of a request. Raises StudentError where it cannot cross: only what the code gave before can be so."""
    try:
        return pack(request, what=request["name"])
    except WireError as error:
        raise StudentError("WireError", f"{error}.", "the code gave this before, and gets it back here") from None


def answered(reply: Any, file: str, cause: BaseException | None = None) -> dict[str, Any]:
    """A reply that has a value. Raises StudentError for an error of the student's code, StudentDied for no reply.

    file: the name of the student's file. cause: the error itself, where it is in this process.
    """
    __tracebackhide__ = True
    error = reply.get("error") if isinstance(reply, dict) else None
    if isinstance(error, dict) and set(error) == ERROR_FIELDS and all(isinstance(x, str) for x in error.values()):
        raise student_error(error, file) from cause
    if not isinstance(reply, dict) or set(reply) != {"value", "after"} or not isinstance(reply["after"], list):
        raise StudentDied("BadReply", "the student's process answered with what is no reply")
    return reply


def student_error(error: dict[str, str], file: str) -> StudentError:
    """What the student's code raised, in a sentence."""
    kind, message, place, line = (one_line(error[name][:LONGEST]) for name in ("kind", "message", "place", "line"))
    if kind == "NotImplementedError":
        return StudentError(kind, f"not written yet: {message or place}")
    if kind == "WireError":
        return StudentError(kind, f"{message}.", "a function gives numbers, texts, lists and arrays of NumPy")
    where = f" ({file}, {place}: {line})" if place else ""
    return StudentError(kind, f"the code stopped with {kind}: {message}{where}", HINTS.get(kind, ""))


def not_loaded(error: StudentError, file: str) -> StudentError:
    """Why a student's file cannot be executed at all."""
    return StudentError(error.kind, f"{file} cannot be loaded: {error.sentence}", error.hint)


def top_names(module: str, names: tuple[str, ...], given: tuple[str, ...]) -> list[tuple[str, Any]]:
    """The functions and classes of an engine's module that a cut names, by their names."""
    found = import_module(module)
    return [(name, getattr(found, name)) for name in dict.fromkeys(n.partition(".")[0] for n in (*names, *given))]


def array_bytes(value: Any) -> int:
    """The bytes of all arrays in a value."""
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if isinstance(value, dict):
        return sum(map(array_bytes, value.values()))
    return sum(map(array_bytes, value)) if isinstance(value, list | tuple) else 0
