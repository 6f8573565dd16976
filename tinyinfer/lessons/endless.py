"""A student's function whose loop never ends: stopped after so many lines, before it fills the memory.

The count is of lines, not of seconds: the same function is stopped at the same line on every machine. It also stops a
loop that calls nothing. It does not see what one line does inside NumPy or `itertools`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

LINES = 100_000  # of Python that one call may run; the judges' cases need less than a hundredth


class Endless(Exception):
    """A call that ran more lines than any right answer needs."""


def bounded(function: Callable[..., Any], lines: int = LINES) -> Callable[..., Any]:
    """The function, but a call that runs more than so many lines raises Endless."""

    def call(*given: Any) -> Any:
        left = lines

        def count(frame: FrameType, event: str, value: Any) -> Any:
            nonlocal left
            left -= event == "line"
            if left < 0:
                raise Endless
            return count

        before = sys.gettrace()
        sys.settrace(count)
        try:
            return function(*given)
        finally:
            sys.settrace(before)

    return call
