"""The child: the process in which the student's code runs, and nothing else.

The grader starts it with a pipe for requests, one for replies, and one for whatever is printed. The child puts its
limits in force and says which. Then it executes the student's file, says how that went, and answers one request at a
time (serving.py). It ends when the requests end, or when the grader ends it.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any, BinaryIO

from tinyinfer.course.sandbox.confine import Confinement, confine
from tinyinfer.course.sandbox.frames import read_frame
from tinyinfer.course.sandbox.loading import numba_setting
from tinyinfer.course.sandbox.serving import Server, described
from tinyinfer.course.sandbox.wire import pack, unpack

# What `python -c` runs: only the grader's own package is found before the child's module is.
BOOT = (
    "import json, sys; settings = json.loads(sys.argv.pop()); sys.path[:0] = [settings['package']]; "
    "sys.path.append(settings['numpy']); from tinyinfer.course.sandbox.child import main; main(settings)"
)


def main(settings: dict[str, Any]) -> None:
    """Runs the child. settings: package, numpy and packages (folders), module and file of the student, confinement."""
    requests, replies = private_pipes()
    sys.path.remove(settings["numpy"])  # NumPy is loaded; nothing else that is installed shall be found
    sys.path.append(settings["packages"])
    for package in settings["confinement"]["packages"]:
        import_module(package)
    in_force, missing = confine(Confinement(**settings["confinement"]))
    uid = os.getuid() if hasattr(os, "getuid") else None
    send(replies, pack({"in_force": in_force, "missing": missing, "uid": uid}))
    try:
        exchange = partial(ask_grader, requests, replies)
        with numba_setting("BOUNDSCHECK", 1):
            server = Server(import_module(settings["module"]), settings["file"], exchange)
    except BaseException as error:
        send(replies, pack({"error": described(error, settings["file"])}))
        return
    send(replies, pack({"value": None, "after": []}))
    while frame := read_frame(requests):
        send(replies, answer(server, frame))


def answer(server: Server, frame: bytes) -> bytes:
    """The reply to a request, whatever the student's code raises."""
    try:
        return server.answer(frame)[0]
    except BaseException as error:
        return pack({"error": described(error, server.path)})


def ask_grader(requests: BinaryIO, replies: BinaryIO, question: dict[str, Any]) -> dict[str, Any]:
    """The grader's answer to a question about a lent array."""
    send(replies, pack(question))
    answered: dict[str, Any] = unpack(read_frame(requests))
    return answered


def private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Requests and replies under other numbers than 0 and 1; whatever is printed goes to the pipe of errors."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


def send(replies: BinaryIO, frame: bytes) -> None:
    """Writes a whole frame, behind what was printed before it."""
    with suppress(Exception):  # the student's code may have put anything in its place
        sys.stdout.flush()
    left = memoryview(frame)
    while left:
        left = left[replies.write(left) or 0 :]
