"""numba for a lesson that compiles its loops; where it is missing, one sentence about how to get it.

A notebook shows the last line of an error and twenty lines before it. Of this error it shows the sentence alone.
"""

from __future__ import annotations

from importlib import import_module

CURE = "install it with pip install 'tinyinfer[cpu]', restart the notebook's kernel, and run this cell again"


class NumbaMissing(ImportError):
    """numba is not installed, or this Python cannot load it."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of a traceback."""
        return [str(self)]


try:
    numba = import_module("numba")  # it has no type hints
except ImportError as error:
    raise NumbaMissing(f"this lesson compiles its loops with numba, which is missing here ({error}); {CURE}") from None

njit, prange = numba.njit, numba.prange
