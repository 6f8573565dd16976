"""Limits that a child process puts on itself before it reads the student's file. None of them can be undone.

What a system lacks is left out and named: the report's head says which limits were in force. The order matters. A new
network needs root, another user ends root, and the filter of system calls comes last, for it forbids the others.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tinyinfer.course.sandbox import landlock, seccomp

NEW_NETWORK = 0x40000000  # CLONE_NEWNET, of unshare
PARENT_DEATH_SIGNAL = 1  # of prctl
PACKAGES = "site-packages", "dist-packages"  # where a Python keeps what was installed, the engine maybe
LINUX = sys.platform == "linux"


@dataclass(frozen=True)
class Confinement:
    """What to put in force. uid: of the other user; None to stay the same one. threads: of that user, in all.

    readable: paths that stay readable beside Python's own and the system's libraries. packages: loaded already, beside
    NumPy. grader: the parent's process id.
    """

    uid: int | None
    memory_bytes: int
    cpu_seconds: int
    threads: int
    open_files: int
    readable: tuple[str, ...]
    packages: tuple[str, ...]
    grader: int


def confine(c: Confinement) -> tuple[list[str], list[str]]:
    """Puts the limits in force: sentences for those that are, and for those that this system lacks."""
    in_force: list[str] = []
    missing: list[str] = []
    readable = list(readable_parts(c.readable)) if LINUX and landlock.abi() else []
    steps: list[tuple[str, Callable[[], str]]] = [
        ("no other network", _leave_network), ("no limit of memory", lambda: _limit_memory(c)),
        ("no limit of CPU time", lambda: _limit_cpu(c.cpu_seconds)),
        ("no limit of threads and files", lambda: _limit_counts(c)),
        ("no other user", lambda: _change_user(c)), ("no end with the grader's", lambda: _end_with(c.grader)),
        ("no Landlock", lambda: _restrict_files(readable)),
        ("no seccomp", lambda: _filter_calls(writes=bool(readable))),
    ]  # fmt: skip
    os.umask(0o077)
    for name, step in steps:
        try:
            in_force.append(step())
        except (OSError, ImportError, AttributeError, ValueError) as error:
            missing.append(f"{name}: {getattr(error, 'strerror', None) or error}")
    return in_force, missing


def _leave_network() -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if not LINUX or libc.unshare(NEW_NETWORK):
        raise OSError("this system or this user cannot make one")
    return "network: a namespace of its own without any connection"


def _limit_counts(c: Confinement) -> str:
    _limit("NPROC", c.threads)
    _limit("NOFILE", c.open_files)
    _limit("FSIZE", 0)
    _limit("CORE", 0)
    return f"{c.threads} threads and processes of this user, {c.open_files} open files, written files of 0 bytes"


def _limit_cpu(seconds: int) -> str:
    _limit("CPU", seconds, seconds + 1)  # at the first a signal, which can be ignored, at the second the end
    return f"{seconds} s of CPU time"


def _limit_memory(c: Confinement) -> str:
    """Limits the address space to what it is now, with Python and NumPy in it, and so many bytes."""
    with open("/proc/self/statm", encoding="ascii") as sizes:
        own = int(sizes.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    _limit("AS", own + c.memory_bytes)
    *most, last = "Python", "NumPy", *c.packages
    return f"{c.memory_bytes >> 20} MB of memory beside what {', '.join(most)} and {last} take"


def _limit(name: str, soft: int, hard: int | None = None) -> None:
    """Sets a limit of setrlimit for ever, or leaves a stricter one. Raises ImportError on a system without limits."""
    import resource

    kind = getattr(resource, f"RLIMIT_{name}")
    most = resource.getrlimit(kind)[1]
    own = sys.maxsize if most == resource.RLIM_INFINITY else most
    resource.setrlimit(kind, (min(soft, own), min(soft if hard is None else hard, own)))


def _change_user(c: Confinement) -> str:
    if c.uid is None:
        raise OSError("only root can change the user")
    os.setgroups([])
    os.setgid(c.uid)
    os.setuid(c.uid)
    return f"another user: uid {c.uid}, without groups"


def _end_with(grader: int) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if not LINUX or libc.prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0):
        raise OSError("this system cannot ask for it")
    if os.getppid() != grader:
        os._exit(1)
    return "ends with the grader"


def _restrict_files(readable: list[str]) -> str:
    if not readable:
        raise OSError("this kernel has none")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(seccomp.NO_NEW_PRIVS, 1, 0, 0, 0)
    return landlock.restrict(readable, landlock.abi())


def _filter_calls(writes: bool) -> str:
    if not seccomp.supported():
        raise OSError("no numbers of system calls for this system")
    return seccomp.restrict(writes)


# What stays readable.


def readable_parts(given: Iterable[str]) -> Iterator[str]:
    """Paths whose contents stay readable: Python's own, the system's libraries, the given ones; no installed packages.

    Installed packages often lie within a folder of Python's own, or of libraries. Then the former is given part by
    part, and of the latter only the libraries.
    """
    for folder in map(Path, sys.path):
        parts = [folder] if folder.is_dir() else []
        if any((folder / name).is_dir() for name in PACKAGES):
            parts = [part for part in folder.iterdir() if part.name not in PACKAGES]
        yield from map(str, parts)
    for folder in filter(Path.is_dir, map(Path, _library_folders())):
        yield from map(str, folder.glob("*.so*") if _has_packages(folder) else [folder])
    yield from given
    yield from ("/etc/ld.so.cache", "/dev/urandom", "/usr/share/zoneinfo", "/etc/localtime")


def _has_packages(folder: Path) -> bool:
    """Whether a folder holds installed packages, of itself or of a Python in it."""
    places = [folder, *(folder / name for name in os.listdir(folder) if name.startswith("python"))]
    return any((place / name).is_dir() for place in places for name in PACKAGES)


def _library_folders() -> set[str]:
    """The folders of the shared libraries that this process has loaded."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        paths = {line.split(maxsplit=5)[5].strip() for line in maps if ".so" in line and line.count("/") > 1}
    return {os.path.dirname(path) for path in paths if not set(PACKAGES) & set(Path(path).parts)}
