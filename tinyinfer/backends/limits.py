"""What the process may use: cores and memory, as the machine, its containers and `ulimit` allow.

A container shows the whole machine and stops the process at the container's own limit: a process that counts the
machine's cores waits for time, and one that counts the machine's memory is killed. So the control groups of Linux are
asked, version 1 and 2, the process's own and those above it: the smallest limit holds.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

NO_LIMIT = 1 << 60  # bytes; version 1 writes a number like this where there is no limit
MEMORY_FILES = ("memory.max", "memory.limit_in_bytes")  # of version 2, and of version 1


def available_cores() -> int:
    """How many cores this process may run on, by its affinity mask."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory(
    processes: int = 1, root: Path = Path("/"), machine: Iterable[int] | None = None, own: Iterable[int] | None = None
) -> int:
    """Bytes that this process may use at most: its share of the machine's memory, and no more than any limit.

    processes: how many share the memory of the machine, or of the container. machine: its memory; own: the limits of
    this process alone, which no other one shares; None: the system is asked.
    """
    shared = [NO_LIMIT, *(machine_memory() if machine is None else machine), *memory_limits(root)]
    return min([min(shared) // processes, *(process_limits() if own is None else own)])


class SharesMemory:
    """What has the machine's memory for its arrays, in one of several processes that share it."""

    processes = 1

    def share_memory(self, processes: int) -> None:
        """From now on so many processes share the memory; of several numbers the largest holds."""
        self.processes = max(self.processes, processes)

    def available_memory(self) -> int:
        """Bytes that this process may use."""
        return available_memory(self.processes)


def machine_memory() -> Iterator[int]:
    """The machine's memory in bytes; nothing where the system does not say."""
    if sys.platform == "win32":
        yield windows_memory(ctypes.windll.kernel32.GlobalMemoryStatusEx)
    elif hasattr(os, "sysconf"):
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def windows_memory(status: Callable[[Any], int]) -> int:
    """The machine's memory by GlobalMemoryStatusEx, which fills a MEMORYSTATUSEX of 64 bytes: its size and the load in
    percent (4 bytes each), the machine's memory (8 bytes), and more."""
    buffer = ctypes.create_string_buffer(struct.pack("<I60x", 64), 64)
    return int(struct.unpack_from("<Q", buffer, 8)[0]) if status(buffer) else NO_LIMIT


def process_limits() -> Iterator[int]:
    """The limits of `ulimit -v` and `ulimit -d`, in bytes; Windows has none."""
    if sys.platform != "win32":
        import resource

        for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            soft, _ = resource.getrlimit(which)
            if soft != resource.RLIM_INFINITY:
                yield soft


def memory_limits(root: Path = Path("/")) -> Iterator[int]:
    """The limits, in bytes, of the control groups that the process is in and of those above."""
    for folder in control_groups("memory", root):
        for name in MEMORY_FILES:
            try:
                limit = (folder / name).read_text().strip()
            except (OSError, ValueError):  # no such file, or no text: no limit here
                continue
            if limit.isdecimal() and 0 < int(limit) < NO_LIMIT:  # "max" and huge numbers: no limit
                yield int(limit)


def cpu_quotas(root: Path = Path("/")) -> Iterator[float]:
    """The limits, in cores, of the control groups that the process is in and of those above.

    Version 2 keeps quota and period in cpu.max, version 1 in cpu.cfs_quota_us and cpu.cfs_period_us.
    """
    for folder in control_groups("cpu", root):
        names = ("cpu.max",) if (folder / "cpu.max").exists() else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        try:
            quota, period = " ".join((folder / name).read_text() for name in names).split()
        except (OSError, ValueError):  # no such file: no limit here
            continue
        if quota.isdecimal() and period.isdecimal() and int(quota) > 0 and int(period) > 0:  # "max" and -1: no limit
            yield int(quota) / int(period)


def control_groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of the control groups that limit this process in "cpu" or "memory", up to the top one.

    Inside a container the top folder is often the container's own group, whatever path the kernel names.
    """
    try:
        groups = os.fsdecode((root / "proc/self/cgroup").read_bytes()).splitlines()
    except OSError:
        return
    for line in groups:
        if line.count(":") < 2:  # not as the kernel writes it
            continue
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers  # version 2 has one tree for all controllers, and names none
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            yield folder
            if folder == mount:
                break
