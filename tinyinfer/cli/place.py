"""Which process this is of several that one command has started, and which of them says what all have to say.

An error that each process has, such as a model that is missing, is one line and not as many as there are processes:
launch gives them a folder, in which the one that says a sentence leaves a file. The first process has the user, so the
others wait a moment for it to speak.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

FOLDER = "TINYINFER_SAID"
MOMENT = 3.0  # seconds


def place() -> str:
    """Which process this is of several that were started together, for a message; "" for the first one."""
    rank = os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK", "0"))
    replica = os.environ.get("TINYINFER_PLACE", "0")
    names = [f"{name} {number}" for name, number in (("replica", replica), ("rank", rank)) if number != "0"]
    return f"{', '.join(names)}: " if names else ""


def said_elsewhere(message: str) -> bool:
    """Whether another process that launch has started on this machine has said this already."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        return False
    file = Path(folder, "said" + sha256(message.encode("utf-8", "replace")).hexdigest())
    until = time.monotonic() + (MOMENT if place() else 0.0)
    while time.monotonic() < until and not file.exists():
        time.sleep(0.02)
    with suppress(FileNotFoundError):  # a node of a cluster has no such folder
        try:
            file.touch(exist_ok=False)
        except FileExistsError:
            return True
    return False
