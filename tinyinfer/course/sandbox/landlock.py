"""Landlock: Linux takes from a process the right to open files, by three system calls that need no privilege.

After `restrict` the process reads only what lies below the folders that it was given, and writes nowhere but to
/dev/null. Where the kernel is new enough, it can also truncate no file (ABI 3), bind and connect no TCP socket (ABI 4),
and signal no process outside (ABI 6). None of it can be undone, not even by root. A process under Landlock can also
not trace one that is not.

Standard: kernel documentation, userspace-api/landlock.rst. The numbers are the same on all processors.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 5: 16}  # from this ABI on: how many rights on files there are
BIND_AND_CONNECT = 0b11
SOCKETS_AND_SIGNALS = 0b11
NETWORK_ABI, SCOPES_ABI = 4, 6
EXTRA = {3: "truncates no file", 4: "opens no TCP connection", 6: "signals no other process"}


def abi() -> int:
    """Landlock's version in this kernel; 0 where there is none."""
    return max(0, _system_call(CREATE_RULESET, None, 0, 1))


def restrict(readable: Iterable[str], version: int) -> str:
    """Restricts this process for ever to reading below these paths; a sentence that says what is in force.

    version: of Landlock, from `abi`. Paths that do not exist are passed over. Raises OSError when the kernel refuses.
    """
    rights = (1 << max(n for least, n in RIGHTS_BY_ABI.items() if least <= version)) - 1
    network = BIND_AND_CONNECT if version >= NETWORK_ABI else 0
    attributes = struct.pack("QQQ", rights, network, SOCKETS_AND_SIGNALS if version >= SCOPES_ABI else 0)
    size = 24 if version >= SCOPES_ABI else 16 if version >= NETWORK_ABI else 8
    ruleset = _checked(_system_call(CREATE_RULESET, attributes, size, 0))
    try:
        for path in readable:
            _allow(ruleset, path, READ_FILE | READ_DIR)
        _allow(ruleset, os.devnull, READ_FILE | WRITE_FILE)
        _checked(_system_call(RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    more = "".join(f", {text}" for least, text in EXTRA.items() if least <= version)
    return f"Landlock (ABI {version}): reads only Python, NumPy and its own folder, writes no file{more}"


def _allow(ruleset: int, path: str, rights: int) -> None:
    """Allows these rights on a file, or on all that is below a folder."""
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        folder = os.path.isdir(path)
        _checked(
            _system_call(ADD_RULE, ruleset, 1, struct.pack("=Qi", rights if folder else rights & ~READ_DIR, opened), 0)
        )
    finally:
        os.close(opened)


def _system_call(number: int, *arguments: int | bytes | None) -> int:
    """A system call of Linux by its number: -1 for an error, which ctypes.get_errno names."""
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
