"""SIGTERM and SIGHUP end a command as an exception does, so that `finally` removes what is half written.

`kill`, `timeout`, a stopped container and a closed terminal send these signals, and by default they end Python where it
stands. A program that imports tinyinfer keeps its own way with signals: only the command line calls this.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]  # Windows has no SIGHUP


@contextmanager
def ending_signals() -> Iterator[None]:
    """Inside the block a signal of ENDING raises SystemExit with 128 + its number, what a shell reports of it.

    A signal that is ignored stays so (nohup), and one that has another handler keeps it.
    """
    changed = []
    if threading.current_thread() is threading.main_thread():
        changed = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    """Ends the program by an exception; the same signal once more ends it where it stands, without clean-up.

    The others are ignored from now on: some systems send both, and the second must not cut the clean-up of the first.
    """
    for other in ENDING:
        signal.signal(other, signal.SIG_DFL if other == number else signal.SIG_IGN)
    sys.exit(128 + number)
