"""The student's side: a frame with a request comes in, a frame with a value or an error goes out.

    {"operation": "call", "target": None, "name": "keep_top_k", "args": [...], "kwargs": {...}, "after": False}
    {"value": ..., "after": [...]}                                  "after": the arguments after the call, if asked for
    {"error": {"kind", "message", "place", "line"}}                 what the student's code raised, and where

`make` makes an object, which stays on this side; `call` with a target calls its method, `get` reads an attribute.
`interpret` is a `call` without numba's compiler. Compiled code checks that each index lies within its array.
"""

from __future__ import annotations

import traceback
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from tinyinfer.course.sandbox.frames import WireError
from tinyinfer.course.sandbox.lent import Exchange
from tinyinfer.course.sandbox.loading import interpreted, numba_setting
from tinyinfer.course.sandbox.records import Kept
from tinyinfer.course.sandbox.wire import pack, unpack

LONGEST = 2000  # characters of an error's message that go out
DEEPEST = "RecursionError"


class Server:
    """Answers requests by the functions and classes of a student's module. exchange: see Kept."""

    def __init__(self, module: ModuleType, path: str, exchange: Exchange) -> None:
        self.module, self.path, self.kept = module, path, Kept(exchange)

    @cached_property
    def interpreted(self) -> ModuleType:
        """The module once more, its functions not compiled. Raises what the student's code raises."""
        return interpreted(f"{self.module.__name__}_interpreted", Path(self.path))

    def answer(self, frame: bytes) -> tuple[bytes, BaseException | None]:
        """The reply to a request, and the error that the student's code raised, for a debugger in the same process."""
        try:
            request = unpack(frame, self.kept)
            with numba_setting("BOUNDSCHECK", 1):
                return pack(self.reply(request), self.kept, f"the result of {request['name']}"), None
        except WireError as error:
            message = str(error).replace("['value']", "", 1)  # the reply's own key, which no student knows
            return pack({"error": {"kind": "WireError", "message": message, "place": "", "line": ""}}), error
        except (Exception, SystemExit, KeyboardInterrupt, GeneratorExit) as error:
            return pack({"error": described(error, self.path)}), error

    def reply(self, request: dict[str, Any]) -> dict[str, Any]:
        """The value of a request. Raises what the student's code raises."""
        target, name = request["target"], request["name"]
        module = self.interpreted if request["operation"] == "interpret" else self.module
        found = getattr(module if target is None else target, name)
        if request["operation"] == "get":
            return {"value": found, "after": []}
        args = request["args"]
        value = found(*args, **request["kwargs"])
        if request["operation"] == "make":
            value = self.kept.keep(value)
        return {"value": value, "after": args if request["after"] else []}


def described(error: BaseException, path: str) -> dict[str, str]:
    """An error as texts; place and line: the last line of the student's own file."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    last = frames[-1] if frames else None
    kind = "NotImplementedError" if isinstance(error, NotImplementedError) else type(error).__name__
    place = f"line {last.lineno}, in {last.name}" if last else ""
    return {"kind": kind[:100], "message": safe_text(error), "place": place, "line": (last.line or "") if last else ""}


def safe_text(error: BaseException) -> str:
    """The message of an error, whose own code may fail."""
    try:
        return str(error)[:LONGEST].encode("utf-8", "replace").decode("utf-8")
    except Exception:
        return "(its message cannot be shown)"
