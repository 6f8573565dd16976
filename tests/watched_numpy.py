"""NumPy whose new arrays remember every operation in which float64 takes part, temporaries within expressions included.

A planted copy of the backend imports `watched` in place of NumPy (test_engine.py); arrays made from watched ones are
watched themselves. Python's own floats are no float64: NumPy computes with them in the array's type.
"""

from __future__ import annotations

from typing import Any

import numpy as np

wide: list[str] = []  # the operations found; test_engine.py empties it
seen: list[str] = []


def base(value: Any) -> Any:
    """The same array, unwatched; tuples part by part, anything else as it is."""
    if isinstance(value, tuple):
        return tuple(base(part) for part in value)
    return value.view(np.ndarray) if isinstance(value, WatchedArray) else value


class WatchedArray(np.ndarray):
    """An array that looks at each operation on it."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        out = options.pop("out", None)
        if out is not None:
            options["out"] = base(out)
        result = getattr(ufunc, method)(*map(base, inputs), **options)
        seen.append(ufunc.__name__)
        for value in (*inputs, *(result if isinstance(result, tuple) else (result,))):
            if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fc" and value.itemsize > 4:
                wide.append(ufunc.__name__)
        if out is not None:
            return out[0]
        return result.view(WatchedArray) if isinstance(result, np.ndarray) else result


class _Watched:
    """The module: NumPy, but for the arrays that it makes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, *args: Any, **options: Any) -> Any:
        """np.empty, watched."""
        return np.empty(*args, **options).view(WatchedArray)


watched = _Watched()
