"""Machine code of kernels kept on disk: a kernel is compiled once for a CPU, and read back in some milliseconds.

numba has such a cache, of pickles in one folder, by function, types and CPU. It looks for changes only in the file that
a function stands in; kernels call helpers of other files, so here the stamp is a hash of all sources of this folder. A
folder that cannot be written, or a file that is damaged, costs the time to compile again and nothing else. The files
are written under another name first, so processes that compile at once do not disturb each other.
"""
# numba has no type hints
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import caching
from platformdirs import user_cache_dir

from tinyinfer.errors import note

SOURCES = Path(__file__).parent


def cache_folder() -> Path:
    """Where compiled kernels are kept: $TINYINFER_HOME/kernels, else in the user's cache folder."""
    home = os.environ.get("TINYINFER_HOME")
    place = Path(home) if home else Path(user_cache_dir("tinyinfer", appauthor=False))
    return place / "kernels" / hashlib.sha256(str(SOURCES).encode()).hexdigest()[:12]  # another checkout has its own


@cache
def stamp() -> str:
    """A hash of all kernels' sources and of the compiler's versions."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for path in sorted(SOURCES.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def announce() -> None:
    """Tells once in a process that kernels are being compiled."""
    note(
        "backend=numba compiles its kernels for this CPU, which takes some seconds each time a new one is needed; "
        f"compiled kernels are kept in {cache_folder()}"
    )


class Locator(caching._CacheLocator):
    """Where numba keeps a kernel, and what it depends on."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def get_cache_path(self):
        """The folder of all kernels."""
        return str(cache_folder())

    def get_source_stamp(self):
        """What tells machine code of these sources from any other."""
        return stamp()

    def get_disambiguator(self):
        """What tells two functions of one name apart."""
        return str(self.function.__code__.co_firstlineno)

    @classmethod
    def from_function(cls, py_func, py_file):
        """The locator of a function."""
        return cls(py_func)


class Implementation(caching.CompileResultCacheImpl):
    """numba's way to write a compiled function, in our place."""

    _locator_classes = (Locator,)


class KernelCache(caching.FunctionCache):
    """The cache of one function."""

    _impl_class = Implementation

    def load_overload(self, sig, target_context):
        """The function as it was compiled before; None, and a note, when it must be compiled."""
        try:
            found = super().load_overload(sig, target_context)
        except Exception:  # damaged files, in whatever way: the function is compiled again
            found = None
        if found is None:
            announce()
        return found

    def save_overload(self, sig, data):
        """Keeps the function; where the folder cannot be written, a note says so."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            unwritable(str(error.strerror))


@cache
def unwritable(why: str) -> None:
    """Tells once in a process that nothing is kept."""
    note(
        f"compiled kernels cannot be kept in {cache_folder()} ({why}), so they are compiled each time; "
        "let TINYINFER_HOME name a folder that can be written"
    )

