"""`python -m tinyinfer` and the script `tinyinfer` are the command line.

Ctrl-C during an import ends the process at once. Imports turn KeyboardInterrupt into other errors (NumPy: ImportError,
a dataclass: RuntimeError), whose tracebacks would be shown, and nothing is lost: no answer has begun.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130  # the exit status that shells give for SIGINT


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt; inside an import leaves the process instead."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt


def main() -> int:
    """Runs the process's own command line and returns its exit status."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in a background job
        signal.signal(signal.SIGINT, interrupt)
    try:
        from tinyinfer.cli import main as command

        return command()
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
