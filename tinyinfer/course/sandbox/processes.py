"""Processes as the grader sees them: which ones a child has left behind, and how all of them end.

A child is the head of a session of its own, and its environment names a folder that no other child's does. Where the
grader is root, the child also has a user of its own, and `kill(-1)` under that user ends all of its processes at once,
so that none can start another one in time. Else the processes are looked for in /proc until none is left. Limits: a
system without /proc has only the process group.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tinyinfer.course.errors import CourseError

PROC = Path("/proc")
FIRST_UID, UIDS = 20_000, 40_000  # between people's and the system's own
PATIENCE = 5.0  # seconds until killed processes must be gone
KILL_ALL = "import os, sys; u = int(sys.argv[1]); os.setgroups([]); os.setgid(u); os.setuid(u); os.kill(-1, 9)"
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True)
class Owned:
    """What marks a child's processes. uid: of its own user, or None. home: the folder that its environment names."""

    uid: int | None
    home: str


@dataclass(frozen=True)
class Running:
    """One running process, as /proc tells."""

    pid: int
    uid: int
    threads: int


def running() -> Iterator[Running]:
    """All processes that run; zombies and those that end meanwhile are left out."""
    for folder in PROC.iterdir() if PROC.is_dir() else ():
        if folder.name.isdecimal():
            with suppress(OSError, KeyError, ValueError):
                lines = (folder / "status").read_text(errors="replace").splitlines()
                status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
                if status["State"][:1] not in "ZX":
                    yield Running(int(folder.name), int(status["Uid"].split()[0]), int(status["Threads"]))


def free_uid() -> int:
    """A user's number that no running process has and no account uses, for a child of a grader that is root."""
    import pwd

    used = {process.uid for process in running()}
    first = secrets.randbelow(UIDS)  # two graders that start together shall not find the same one
    for number in range(UIDS):
        uid = FIRST_UID + (first + number) % UIDS
        if uid not in used:
            try:
                pwd.getpwuid(uid)
            except KeyError:
                return uid
    raise OSError("every number of a user is used")


def threads_of(uid: int) -> int:
    """How many threads run under a user."""
    return sum(process.threads for process in running() if process.uid == uid)


def left_of(owned: Owned) -> list[int]:
    """The processes that a child has left behind."""
    if owned.uid is not None:
        return [process.pid for process in running() if process.uid == owned.uid]
    own = os.getuid() if hasattr(os, "getuid") else -1
    return [process.pid for process in running() if process.uid == own and _names(process.pid, owned.home)]


def _names(pid: int, home: str) -> bool:
    """Whether a process's environment names this home."""
    with suppress(OSError):
        return b"HOME=" + os.fsencode(home) in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    return False


def end(process: subprocess.Popen[bytes], owned: Owned) -> None:
    """Ends a child and all that it has started; none of it runs behind it. Raises CourseError when some stays."""
    if os.name == "posix":
        with suppress(ProcessLookupError, PermissionError):  # a group that has ended
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE)
    stop = time.monotonic() + PATIENCE
    while left := left_of(owned):
        if time.monotonic() > stop:
            raise CourseError(f"processes {', '.join(map(str, left))} of a student's code do not end; end them by hand")
        kill_all(left, owned.uid)


def kill_all(pids: list[int], uid: int | None) -> None:
    """Kills processes, with a user of their own all of that user's at once."""
    if uid is not None:
        subprocess.run([sys.executable, "-I", "-S", "-c", KILL_ALL, str(uid)], check=False, capture_output=True)
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    time.sleep(0.01)


def resident_bytes(pid: int) -> int:
    """The memory of a process that is in use, in bytes; 0 where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        if PROC.is_dir():
            return int((PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return int(subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=False).stdout) << 10
    return 0


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process, also of one that ended and was not waited for; 0 where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        numbers = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return (int(numbers[11]) + int(numbers[12])) / TICKS
    return 0.0


def runnable(pid: int) -> bool:
    """Whether a process runs, or waits for nothing but a core; False where the system does not tell."""
    with suppress(OSError, IndexError):
        return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] == "R"
    return False


def ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a child ends within so many seconds; where the system can, it stays a zombie whose times can be read."""
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        if hasattr(os, "waitid"):
            with suppress(ChildProcessError):
                if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
                    return True
        elif process.poll() is not None:
            return True
        time.sleep(0.005)
    return False
