"""Loans: arrays that a test lends to the student's code, and the list of all that was read and written.

    blocks = student.lend(np.zeros((2, 6, 64), np.int8))
    student.interpreted("multiply", blocks, ...)
    student.loans.accesses              Access(lent=0, places=array([0]), write=False), ...

The other side is sandbox/lent.py. A question comes from the student's process, so nothing in it is believed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyinfer.course.sandbox.frames import WireError
from tinyinfer.course.sandbox.lent import Lent

MOST = 100_000  # reads and writes: a test lends a few hundred numbers


@dataclass(frozen=True)
class Access:
    """One read or write. lent: the array's number. places: of its numbers, counted in the order of memory."""

    lent: int
    places: np.ndarray  # (n,)
    write: bool


class Loans:
    """The lent arrays of a test; they are copies, which the student's code may change."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self.accesses: list[Access] = []

    def lend(self, array: np.ndarray) -> Lent:
        """What stands for an array in a call of the student's code."""
        self.arrays.append(array.copy())
        return Lent(len(self.arrays) - 1, array.shape, array.dtype)

    def is_question(self, reply: Any) -> bool:
        """Whether a frame of the student's process asks for lent numbers."""
        return isinstance(reply, dict) and set(reply) == {"lent", "places", "values"}

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Reads or writes lent numbers, and keeps what it was. Raises WireError for a question that is none."""
        lent, places, values = question["lent"], question["places"], question["values"]
        if type(lent) is not int or not 0 <= lent < len(self.arrays):
            raise WireError("no array of this number is lent")
        flat = self.arrays[lent].reshape(-1)
        if not isinstance(places, np.ndarray) or places.dtype != np.int64 or places.ndim != 1:
            raise WireError("lent numbers are asked for without their places")
        if places.size and not 0 <= places.min() <= places.max() < flat.size:
            raise WireError("a place lies outside of the lent array")
        if values is not None and (not isinstance(values, np.ndarray) or values.shape != places.shape):
            raise WireError("other numbers than places are to be written")
        if len(self.accesses) >= MOST:
            raise WireError(f"more than {MOST:,} reads and writes of lent numbers")
        self.accesses.append(Access(lent, places, values is not None))
        if values is None:
            return {"numbers": flat[places]}
        with np.errstate(all="ignore"):
            flat[places] = values.astype(flat.dtype)
        return {"numbers": None}
