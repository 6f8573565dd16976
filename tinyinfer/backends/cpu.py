"""What NumPy leaves to the process: how many threads BLAS runs on, and where memory comes from.

Threads help a product while each has a core of its own. OpenBLAS's threads wait for each other by spinning, so on a
machine that is busy otherwise more threads are slower than one: each product then waits until the system has given
every thread a core. `--threads 1` never waits (docs/threads.md has the measurements).
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
KEPT = 1 << 30  # bytes
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


def available_cores() -> int:
    """How many cores this process may run on, by its affinity mask."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quotas(root: Path = Path("/")) -> Iterator[float]:
    """The limits, in cores, of the control groups that the process is in and of those above; of Linux containers.

    Version 2 keeps quota and period in cpu.max, version 1 in cpu.cfs_quota_us and cpu.cfs_period_us.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        mount = "sys/fs/cgroup" if not controllers else f"sys/fs/cgroup/{controllers}"
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = root / mount / path.lstrip("/")
        for folder in (group, *group.parents):
            yield from _quota(folder)
            if folder == root / mount:
                break


def _quota(folder: Path) -> Iterator[float]:
    """The limit of one control group, if it has one."""
    names = ("cpu.max",) if (folder / "cpu.max").exists() else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    try:
        quota, period = " ".join((folder / name).read_text() for name in names).split()
    except (OSError, ValueError):  # no such file: no limit here
        return
    if quota.isdecimal() and int(quota) > 0 and int(period) > 0:  # "max" and -1: no limit
        yield int(quota) / int(period)


def use_blas_threads(threads: int) -> None:
    """Sets the number of threads of the OpenBLAS inside NumPy; nothing happens with another BLAS.

    The number is the process's. An engine therefore says its own at the start of each forward pass, and two engines of
    one process each keep theirs.
    """
    functions = _blas_functions()
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


def lazy_array(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:  # -> shape
    """An array, zero everywhere, that takes up memory only page by page as it is written.

    np.zeros asks for pages of 2 MB instead of 4 KB: a cache with a few positions in each of its 180 rows then takes up
    360 MB, where 1 MB would do. Raises MemoryError when the system does not promise so much.
    """
    nbytes = np.dtype(dtype).itemsize * math.prod(shape)
    try:
        private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
        memory = mmap.mmap(-1, max(1, nbytes), **private)  # of its own also in a process that is forked
    except (OSError, OverflowError):
        raise MemoryError(f"the KV cache needs {nbytes} bytes, and less with a shorter context") from None
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype=dtype, count=math.prod(shape)).reshape(shape)
