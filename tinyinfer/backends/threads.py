"""How many threads NumPy's matrix products use. It is BLAS's own setting, so it holds for the whole process."""

from __future__ import annotations

import ctypes
import os

import numpy as np


def set_blas_threads(threads: int | None) -> None:
    """Tells the OpenBLAS inside NumPy to use `threads` threads (None: all cores that the process may use).

    NumPy has no call for this. A NumPy built on another BLAS is left as it is; its own environment variables rule
    there.
    """
    library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]
    for name in ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads"):
        setter = getattr(library, name, None)
        if setter is not None:
            setter(threads or available_cores())
            return


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
