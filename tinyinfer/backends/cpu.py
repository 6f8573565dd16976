"""What NumPy leaves to the process: threads, and where memory comes from."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
KEPT = 1 << 30  # bytes


def tune_process(threads: int | None) -> None:
    """BLAS on `threads` threads (None: all cores that the process may use), and freed memory kept for the next array.

    Both hold for the whole process; neither changes a result. Where they cannot be set (a NumPy on another BLAS, a
    system without glibc) nothing happens.
    """
    set_blas_threads(threads or available_cores())
    keep_freed_memory()


def set_blas_threads(threads: int) -> None:
    """Tells the OpenBLAS inside NumPy, for which NumPy has no call."""
    setter = _blas_setter()
    if setter is not None:
        setter(threads)


@cache
def _blas_setter() -> Callable[[int], None] | None:
    library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]
    for name in ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads"):
        if hasattr(library, name):
            return getattr(library, name)
    return None


def keep_freed_memory() -> None:
    """Tells glibc not to hand freed arrays back to the system between operations.

    Each of a prefill's temporaries is megabytes; handed back, its pages are faulted in and zeroed again for the next
    one: 120,000 page faults in a prefill of 512 tokens of SmolLM2, a fifth of its time. Kept, there are none.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, KEPT)
    mallopt(M_TRIM_THRESHOLD, KEPT)


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def lazy_array(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:  # -> shape
    """An array, zero everywhere, that takes up memory only page by page as it is written.

    np.zeros asks for pages of 2 MB instead of 4 KB: a cache with a few positions in each of its 180 rows then takes up
    360 MB, where 1 MB would do. Raises MemoryError when the system does not promise so much.
    """
    nbytes = np.dtype(dtype).itemsize * math.prod(shape)
    try:
        memory = mmap.mmap(-1, max(1, nbytes))
    except (OSError, OverflowError):
        raise MemoryError(f"the KV cache needs {nbytes} bytes, and less with a smaller max_model_len") from None
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype=dtype, count=math.prod(shape)).reshape(shape)
