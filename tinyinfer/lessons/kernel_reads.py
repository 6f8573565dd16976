"""In which order a kernel reads its codes, of lesson 17: counted in lines of memory, on any machine, without a clock.

A processor reads memory in lines of 64 bytes, and a vector instruction takes numbers that lie side by side. `Reads` is
an array that notes the place of everything that is read of it. A loop in the order of memory fetches each line once. A
loop that jumps fetches a line for every number, and the line has been replaced when the loop comes back to it.

Wins: the order of two loops can be judged exactly. Loses: Python runs the loops, so the arrays are tiny; and the cache
of a few lines that is simulated is none that was ever built.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

LINE = 64  # bytes
CACHE = 8  # lines that stay near the processor, the longest unused one being replaced


class Reads(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of bytes that behaves as NumPy's, and appends to `noted` the place of each byte that is read."""

    def __init__(self, values: np.ndarray, places: np.ndarray, noted: list[int]) -> None:
        self.values, self.places, self.noted = values, places, noted

    def __getitem__(self, index: Any) -> Any:
        values, places = self.values[index], self.places[index]
        if isinstance(values, np.ndarray):
            return Reads(values, places, self.noted)
        self.noted.append(int(places))
        return values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it as a plain array: NumPy asks for it where it computes, and then everything is read."""
        self.noted.extend(self.places.ravel().tolist())
        return self.values.astype(dtype or self.values.dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        read = [part.__array__() if isinstance(part, Reads) else part for part in inputs]
        return getattr(ufunc, method)(*read, **options)

    def __len__(self) -> int:
        return len(self.values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what NumPy and copy() look for
            raise AttributeError(name)
        known = ("shape", "ndim", "size", "dtype")
        return getattr(self.values if name in known else self.__array__(), name)


def noted_reads(array: np.ndarray) -> Reads:
    """An array that notes what is read of it, from an array of bytes that lies in memory in its own order."""
    return Reads(array, np.arange(array.size).reshape(array.shape), [])


def lines_fetched(places: list[int]) -> int:
    """How many lines come from memory when these bytes are read in this order through the small cache."""
    cache: OrderedDict[int, None] = OrderedDict()
    fetched = 0
    for line in (place // LINE for place in places):
        if line in cache:
            cache.move_to_end(line)
            continue
        fetched += 1
        cache[line] = None
        if len(cache) > CACHE:
            cache.popitem(last=False)
    return fetched
