"""What NumPy leaves to the process: how many threads BLAS runs on, and where memory comes from.

Threads help a product while each has a core of its own. OpenBLAS's threads wait for each other by spinning, so on a
machine that is busy otherwise more threads are slower than one: each product then waits until the system has given
every thread a core. `--threads 1` never waits (docs/threads.md has the measurements).
"""

from __future__ import annotations

import ctypes
import gc
import math
import mmap
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tinyinfer.backends.limits import available_cores, cpu_quotas
from tinyinfer.units import amount

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # glibc's malloc.h
KEPT, MAPPED = 1 << 30, 1 << 17  # bytes
MOST_THREADS = 2**31 - 1  # a C int; OpenBLAS takes far fewer, and no error tells of one that it cannot count
LIMITS = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")  # in the order in which OpenBLAS reads them


def default_threads(environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> int:
    """Threads without a `--threads`: what the environment says, else the cores that the process may use.

    A container's CPU quota counts: half a core's worth of time is 1 thread, 2.5 cores' worth are 3.
    """
    for name in LIMITS:
        first = environ.get(name, "").partition(",")[0].strip()  # OpenMP allows a list, one for each nested level
        if first.isdecimal() and int(first) > 0:
            return int(first)
    return max(1, min([available_cores(), *(math.ceil(quota) for quota in cpu_quotas(root))]))


def use_blas_threads(threads: int) -> None:
    """Sets the number of threads of the OpenBLAS inside NumPy; nothing happens with another BLAS.

    The number is the process's. An engine therefore says its own at the start of each forward pass, and two engines of
    one process each keep theirs.
    """
    functions, threads = _blas_functions(), min(threads, MOST_THREADS)
    if functions is not None and functions[0]() != threads:
        functions[1](threads)


@cache
def _blas_functions() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """OpenBLAS's own functions to read and to set its number of threads; NumPy has no call for them."""
    library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]
    for name in ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads"):
        if hasattr(library, name.format("set")):
            return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None


def keep_freed_memory(owner: object) -> None:
    """Tells glibc to keep the memory of freed arrays for the next ones; when `owner` goes, the system gets it back.

    Each of a prefill's temporaries is megabytes; handed back, its pages are faulted in and zeroed again for the next
    one: 120,000 page faults in a prefill of 512 tokens of SmolLM2, a fifth of its time. Kept, there are none. One arena
    for all threads: in a thread's own, nothing would be kept. Nothing happens where malloc is not glibc's.
    """
    malloc = _malloc_functions()
    if malloc is not None:
        for parameter, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, KEPT), (M_TRIM_THRESHOLD, KEPT)):
            malloc.mallopt(parameter, value)
        weakref.finalize(owner, _trim, malloc)


def _trim(malloc: ctypes.CDLL) -> None:
    """Gives free memory back, and once more at the end of the next garbage collection.

    An owner in a cycle of references is finalized at the beginning of a collection, before what it holds is freed.
    """

    def at_the_end(phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            gc.callbacks.remove(at_the_end)
            malloc.malloc_trim(0)

    malloc.malloc_trim(0)
    gc.callbacks.append(at_the_end)


@contextmanager
def given_back() -> Iterator[None]:
    """Arrays that are allocated here go back to the system when they are freed: for weights, which stay long.

    malloc maps each of them by itself, and unmaps it whatever is said about later ones.
    """
    malloc = _malloc_functions()
    if malloc is not None:
        malloc.mallopt(M_MMAP_THRESHOLD, MAPPED)
    try:
        yield
    finally:
        if malloc is not None:
            malloc.mallopt(M_MMAP_THRESHOLD, KEPT)


@cache
def _malloc_functions() -> ctypes.CDLL | None:
    """The C library, if it is glibc with its mallopt and malloc_trim."""
    try:
        library = ctypes.CDLL(None)
        return library if library.mallopt and library.malloc_trim else None
    except (AttributeError, OSError, TypeError):
        return None


def mapped(nbytes: int) -> mmap.mmap:
    """So many bytes of zeros, this process's own. Raises MemoryError when the system does not promise so much.

    Python's default is memory that forked processes share, to which Linux gives no huge pages.
    """
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    try:
        return mmap.mmap(-1, max(1, nbytes), **private)
    except (OSError, OverflowError):
        raise MemoryError(f"the system does not give {amount(nbytes, 'B')}") from None


def lazy_array(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:  # -> shape
    """An array, zero everywhere, that takes up memory only page by page as it is written.

    np.zeros asks for pages of 2 MB instead of 4 KB: a cache with a few positions in each of its 180 rows then takes up
    360 MB, where 1 MB would do. A forked process gets a copy of its own, as of all other memory. Raises MemoryError
    when the system does not promise so much.
    """
    memory = mapped(np.dtype(dtype).itemsize * math.prod(shape))
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype=dtype, count=math.prod(shape)).reshape(shape)
