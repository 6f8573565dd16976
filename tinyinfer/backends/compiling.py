"""Who is told that kernels are being compiled: it takes some seconds, once, and a user should know why nothing comes.

The command line shows a bar, or a line where there is no terminal; a program gets a note. Nothing is said while machine
code is found on disk (cpu_kernels/disk_cache.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from tinyinfer.errors import note

T = TypeVar("T")


class Compiling:
    """Who is told that kernels are being compiled: who opens a model asks by `told`; else a note says it."""

    def __init__(self) -> None:
        self.tell: Callable[[int, int], None] | None = None
        self.done = self.total = 0
        self.noted = False

    @contextmanager
    def told(self, tell: Callable[[int, int], None]) -> Iterator[None]:
        """Calls tell(done, total) before each kernel that is compiled in a block, and gives no note."""
        self.tell = tell
        try:
            yield
        finally:
            self.tell = None

    def each(self, kernels: Sequence[T]) -> Iterator[T]:
        """The kernels one by one; those of them that must be compiled are told as so many of all."""
        self.total = len(kernels)
        for done, one in enumerate(kernels):
            self.done = done
            yield one
        self.done = self.total = 0

    def begin(self, folder: str) -> None:
        """A kernel is not in the folder of compiled kernels."""
        if self.tell:
            self.tell(self.done, self.total)
        elif not self.noted:
            self.noted = True
            note(
                "backend=numba compiles its kernels for this CPU, which takes some seconds each time a new one is "
                f"needed; compiled kernels are kept in {folder}"
            )


compiling = Compiling()
