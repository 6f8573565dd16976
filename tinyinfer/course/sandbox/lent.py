"""Lent arrays: the numbers stay with the grader, and each number that the student's code reads or writes crosses.

So the grader itself counts what a function reads, how often, and in which order. A `Lent` is used as NumPy's arrays
are: `a[j, k, n]` reads one number, `a[j, k]` is a row of which nothing is read yet, and arithmetic reads a row at once.
Whole numbers come as 64 bits, as numba computes them: two codes of 8 bits do not overflow in a product.

Wins: nothing in the student's process can change a count, and no compiler can hide one. Loses: about 0.1 ms a number,
and so only for arrays of some hundred numbers, in code that Python itself runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from tinyinfer.course.sandbox.frames import WireError

Exchange = Callable[[dict[str, Any]], dict[str, Any]]  # a question to the grader -> the answer


def nothing_lent(question: dict[str, Any]) -> dict[str, Any]:
    """The exchange of a side without a grader. Raises WireError."""
    raise WireError("no array is lent here")


@dataclass(eq=False)
class Lent(NDArrayOperatorsMixin):
    """An array that the grader holds, by its number there; or a part of that array, which indexing gives."""

    number: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def connected(self, exchange: Exchange) -> Lent:
        """This array, once it can ask for its numbers."""
        self._exchange, self._places = exchange, np.arange(prod(self.shape)).reshape(self.shape)
        return self

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        places = self._places[index]
        if isinstance(places, np.ndarray):
            part = Lent(self.number, places.shape, self.dtype)
            part._exchange, part._places = self._exchange, places
            return part
        return self._read(np.array([places]))[0]

    def __setitem__(self, index: Any, value: Any) -> None:
        places = np.asarray(self._places[index])
        values = np.broadcast_to(np.asarray(value), places.shape)
        self._exchange({"lent": self.number, "places": places.ravel(), "values": np.ravel(values)})

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._read(self._places.ravel()).reshape(self.shape).astype(dtype or None, copy=False)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = (), **kwargs: Any) -> Any:
        result = getattr(ufunc, method)(*(np.asarray(x) if isinstance(x, Lent) else x for x in inputs), **kwargs)
        for target in out:
            target[...] = result
        return out[0] if out else result

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(np.asarray(self), name)

    def _read(self, places: np.ndarray) -> np.ndarray:
        numbers = self._exchange({"lent": self.number, "places": places, "values": None})["numbers"]
        return np.asarray(numbers, np.int64 if self.dtype.kind in "iu" else self.dtype)
