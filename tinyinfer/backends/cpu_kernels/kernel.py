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

import llvmlite.binding as llvm
import numpy as np
from numba import types
from numba.core.ccallback import CFunc
from numba.core.errors import NumbaError

from tinyinfer.backends.cpu_kernels.disk_cache import KernelCache
from tinyinfer.errors import SwitchError

# LLVM may split an address in two where it is used, and takes one part, a mere number, for where an array begins: then
# it holds two accesses of the same memory for independent, and drops or moves a store. It keeps addresses whole so.
llvm.set_option("", "--addr-sink-using-gep=false")


class CachedCFunc(CFunc):
    """A function compiled to be called as C calls functions, kept on disk in our place."""

    def __init__(self, function: Callable[..., Any], signature: Any) -> None:
        options = {"nopython": True, "error_model": "numpy"}
        super().__init__(function, signature, locals={}, options=options)
        self._cache = KernelCache(function)


class Native:
    """A function of whole numbers, compiled when it is first called; calls give up the GIL.

    result: the type of what it returns. arguments: the types of what it takes.
    """

    def __init__(self, function: Callable[..., Any], result: Any, arguments: tuple[Any, ...]) -> None:
        self.function, self.name, self.__doc__ = function, function.__name__, function.__doc__
        self.signature = arguments, result

    def ready(self) -> None:
        """Compiles the function if that is still to be done. Raises SwitchError where the compiler refuses it."""
        assert self.address

    @cached_property
    def call(self) -> Callable[..., int]:
        """The function for Python."""
        called: Callable[..., int] = self._compiled.ctypes
        return called

    @cached_property
    def address(self) -> int:
        """Where its machine code begins."""
        return int(self._compiled.address or 0)

    @cached_property
    def _compiled(self) -> CachedCFunc:
        """Raises SwitchError, which names the function, where the compiler refuses it."""
        compiled = CachedCFunc(self.function, self.signature)
        try:
            compiled.compile()
        except (NumbaError, RuntimeError) as error:
            reason = "{field}={value}: its kernel {kernel} cannot be compiled: {words}"
            cure = "choose {field}=numpy, or update numba"
            raise SwitchError("backend", "numba", reason, cure, kernel=self.name, words=str(error)) from error
        return compiled


class Kernel(Native):
    """A function of kernels' signature."""

    def __init__(self, function: Callable[[Any, int, int], None]) -> None:
        super().__init__(function, types.void, (types.CPointer(types.int64), types.int64, types.int64))


def kernel(function: Callable[[Any, int, int], None]) -> Kernel:
    """Makes a function a kernel; nothing is compiled yet."""
    return Kernel(function)


def native(result: Any, count: int) -> Callable[[Callable[..., Any]], Native]:
    """Makes a function of `count` whole numbers a Native."""
    return lambda function: Native(function, result, (types.int64,) * count)


class Count:
    """How many items a launch has, where each pass says so anew."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def become(self, number: int) -> None:
        """Says how many items the next pass has."""
        self.number = number


class Launch(NamedTuple):
    """One kernel over `items` items. arguments: whole numbers, or arrays, whose addresses the kernel gets."""

    kernel: Kernel
    arguments: tuple[int | np.ndarray, ...]
    items: int | Count
