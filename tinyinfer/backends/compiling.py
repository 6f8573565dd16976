"""Compiling takes seconds, so it is told: by a progress bar where a model is opened by a command, else by one note.

numba is not needed here: who opens a model need not know whether its backend compiles anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from tinyinfer.errors import note

T = TypeVar("T")


class Compiling:
    """Who is told that kernels are being compiled: the one who opens a model by `told`; otherwise a note says it."""

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
