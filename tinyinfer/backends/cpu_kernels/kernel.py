"""A kernel: one function, compiled by numba when it is first needed, that computes one item of a launch.

    @kernel
    def multiply(a, item, thread):
        ...

a: the launch's arguments, whole numbers: sizes, and addresses of arrays. item: which part of the work, from 0 on; items
of one launch may be computed in any order and by any thread, so each writes only what is its own. thread: which thread
computes it, for scratch memory. A kernel is called through its address, as C calls a function, so that the loop over a
step's launches (team.py) is compiled once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numba import cfunc, types

SIGNATURE = types.void(types.CPointer(types.int64), types.int64, types.int64)


class Kernel:
    """A function of kernels' signature; `address` compiles it, or loads what was compiled before."""

    def __init__(self, function: Callable[[Any, int, int], None]) -> None:
        self.function, self.name, self.__doc__ = function, function.__name__, function.__doc__

    @cached_property
    def address(self) -> int:
        """Where its machine code begins."""
        return int(self._compiled.address)

    @cached_property
    def _compiled(self) -> Any:
        return cfunc(SIGNATURE, cache=True, nopython=True, error_model="numpy")(self.function)


def kernel(function: Callable[[Any, int, int], None]) -> Kernel:
    """Makes a function a kernel; nothing is compiled yet."""
    return Kernel(function)


class Count:
    """How many items a launch has, where each pass says so anew."""

    def __init__(self, number: int = 0) -> None:
        self.number = number


class Launch(NamedTuple):
    """One kernel over `items` items. arguments: whole numbers, or arrays, whose addresses the kernel gets."""

    kernel: Kernel
    arguments: tuple[int | np.ndarray, ...]
    items: int | Count
