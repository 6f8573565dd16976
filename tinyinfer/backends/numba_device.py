"""numba: what must be there for backend=numba, and what to do where it is not.

numba is imported here, when a backend is made and not before, and by the modules of the compiled backend, which are
loaded only then: `import tinyinfer` stays as fast as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeVar

import numpy as np

from tinyinfer.backends.cpu import default_threads
from tinyinfer.backends.limits import available_cores
from tinyinfer.errors import SwitchError, note
from tinyinfer.ledger import Ledger
from tinyinfer.model.interfaces import Ops

T = TypeVar("T")
INSTALL = "install it: pip install 'tinyinfer[cpu]', in a checkout pip install -e '.[cpu]'"


class Compiling:
    """Who is told that kernels are being compiled: whoever opens a model by `told`, else all, by a note."""

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


def find_numba(load: Callable[[str], Any] = import_module) -> None:
    """Imports numba. Raises SwitchError, which says what is missing. load: imports a module by its name."""
    try:
        load("numba")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "numba":
            reason = "{field}={value} needs numba, which is not installed"
            cure = INSTALL + ", or choose another {field}"
        else:  # such as a NumPy that is newer than numba knows
            reason, cure = "{field}={value} cannot import numba: {words}", "update numba, or choose another {field}"
        words = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SwitchError("backend", "numba", reason, cure, words=words) from error


def numba_ops(
    ledger: Ledger, dtype: Any = np.float32, threads: int | None = None, activations: str = "float"
) -> Ops:
    """The operations of backend=numba. Raises SwitchError where numba is not there.

    Threads that compute a plan wait for each other by spinning, so more of them than cores can only be slower.
    """
    find_numba()
    threads, cores = threads or default_threads(), available_cores()
    if threads > cores:
        note(f"backend=numba computes on {cores} of {threads} threads, for this process may use no more cores")
    from tinyinfer.backends.numba_ops import NumbaOps  # here: it imports numba

    return NumbaOps(ledger, dtype, min(threads, cores), activations)
