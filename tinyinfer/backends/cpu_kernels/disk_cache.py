"""Machine code of kernels kept on disk: a kernel is compiled once for a CPU, and read back in some milliseconds.

numba has such a cache, but its files are found through an index that is written first: a process that is stopped in
between, or two that write at once, leave an index that names another kernel's machine code. Here each file's name says
what is in it: the function, its types, the CPU and its features, and a hash of all sources of this folder, since
kernels call helpers of other files. Its first bytes are a hash of its name and of the others. A file is written under
another name first, so processes that compile at once do not disturb each other. A folder that cannot be written, a
full disk or a damaged file cost the time to compile again and nothing else.
"""
# numba has no type hints
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import hashlib
import os
import pickle
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import caching
from numba.core.runtime import rtsys
from numba.core.serialize import dumps
from platformdirs import user_cache_dir

from tinyinfer.backends.compiling import compiling
from tinyinfer.errors import note

SOURCES = Path(__file__).parent
WEEK = 7 * 24 * 3600  # seconds


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


class Files:
    """Machine code by its key, each in a file of its own. name: of the function."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    def path(self, key: object) -> Path:
        """The file for a key."""
        of_all = hashlib.sha256(repr((stamp(), key)).encode()).hexdigest()
        return self.folder / f"{self.name}.{stamp()[:8]}.{of_all[:32]}"

    def load(self, key: object) -> Any:
        """What was saved under a key; None where nothing was, or where it is damaged."""
        path = self.path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        return pickle.loads(data[32:]) if seal(path, data[32:]) == data[:32] else None

    def save(self, key: object, data: object) -> None:
        """Keeps machine code under a key. Raises OSError."""
        path, body = self.path(key), dumps(data)
        draft = path.with_name(f"{uuid.uuid4().hex}.draft")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_old(self.folder)
            draft.write_bytes(seal(path, body) + body)
            draft.replace(path)
        finally:
            with suppress(OSError):
                draft.unlink()


def seal(path: Path, body: bytes) -> bytes:
    """What a file begins with: a hash of its name, too, so that no file can take another's place."""
    return hashlib.sha256(path.name.encode() + body).digest()


@cache
def remove_old(folder: Path) -> None:
    """Once in a process: removes what other sources, or processes that were stopped, have left behind for a week."""
    for path in folder.iterdir():
        if stamp()[:8] not in path.name and time.time() - path.stat().st_mtime > WEEK:
            path.unlink(missing_ok=True)


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

    def __init__(self, function):
        super().__init__(function)
        self._cache_file = Files(Path(self._cache_path), self._impl.filename_base)

    def load_overload(self, sig, target_context):
        """The function as it was compiled before; None, and who waits is told, when it must be compiled.

        Unlike numba's own, it loads only the runtime that machine code calls, and not what compiling needs beside it,
        which takes longer than loading the kernels themselves.
        """
        found = None
        with suppress(Exception):  # of another numba, in whatever way: the function is compiled again
            rtsys.initialize(target_context)
            found = self._load_overload(sig, target_context)
        if found is None:
            compiling.begin(str(cache_folder()))
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
