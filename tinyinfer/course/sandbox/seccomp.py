"""seccomp: Linux refuses system calls to a process, by a small program that the kernel runs at each call.

The program (classic BPF) sees the number of the call and its arguments, not what they point to. Refused with EPERM are
new processes, other programs, signals to others, sockets, tracing, and changes of files by name. Threads are allowed.
The filter cannot be undone. Other processors than x86_64 and aarch64 have other numbers, and get no filter.

Standard: kernel documentation, userspace-api/seccomp_filter.rst; numbers of arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator

NO_NEW_PRIVS, SET_SECCOMP, FILTER = 38, 22, 2  # of prctl
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
LOAD, EQUAL, ANY_BIT, ABOVE, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06  # BPF: ld [k], jeq, jset, jge, ret
NUMBER, ARCH, ARGUMENT = 0, 4, 16  # offsets in what the filter sees; each argument has 8 bytes, the low half first
CLONE_THREAD = 0x00010000
X32 = 0x40000000  # the numbers of a second table on x86_64
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# name: (number on x86_64, number on aarch64); None where a processor lacks the call
NEVER: dict[str, tuple[int | None, int | None]] = {
    # new processes and programs
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "setsid": (112, 157), "setpgid": (109, 154),
    # network, and memory that outlives a process
    "socket": (41, 198), "bind": (49, 200), "connect": (42, 203), "listen": (50, 201), "shmget": (29, 194),
    "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    # the kernel
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "bpf": (321, 280), "perf_event_open": (298, 241), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "prctl": (157, 167),
    "fsopen": (430, 430), "open_tree": (428, 428), "move_mount": (429, 429), "fanotify_init": (300, 262),
    "open_by_handle_at": (304, 265), "swapon": (167, 224), "reboot": (169, 142), "init_module": (175, 105),
    "finit_module": (313, 273), "kexec_load": (246, 104),
    # changes of files by name
    "truncate": (76, 45), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None),
    "mkdirat": (258, 34), "rmdir": (84, None), "creat": (85, None), "link": (86, None), "linkat": (265, 37),
    "unlink": (87, None), "unlinkat": (263, 35), "symlink": (88, None), "symlinkat": (266, 36), "mknod": (133, None),
    "mknodat": (259, 33), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None),
    "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5),
    "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
}  # fmt: skip
CLONE, CLONE3, KILL, TGKILL, PRLIMIT = (56, 220), (435, 435), (62, 129), (234, 131), (302, 261)
OWNED = {(72, 25): (8, 10, 15), (16, 29): (0x8901, 0x8902)}  # fcntl, ioctl: the kernel signals a pipe's "owner"
OPEN, OPENAT, OPENAT2 = (2, None), (257, 56), (437, 437)
SENTENCE = "seccomp: starts no process and no program, opens no socket, signals and traces no other process"


def supported() -> bool:
    """Whether this processor's numbers are known, and the kernel is a Linux."""
    return platform.system() == "Linux" and platform.machine() in ARCHES and struct.calcsize("P") == 8


def restrict(writes: bool) -> str:
    """Filters the system calls of this process for ever; a sentence that says what is in force.

    writes: whether files may be opened for writing, since something else forbids it already. The process must have one
    thread. Raises OSError when the kernel refuses.
    """
    program = b"".join(filter_program(platform.machine(), os.getpid(), writes))
    buffer = ctypes.create_string_buffer(program, len(program))
    libc = ctypes.CDLL(None, use_errno=True)
    filters = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    if libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(SET_SECCOMP, FILTER, ctypes.c_char_p(filters), 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return SENTENCE if writes else f"{SENTENCE}, opens no file for writing"


def filter_program(machine: str, pid: int, writes: bool) -> Iterator[bytes]:
    """The instructions of the filter for a process, 8 bytes each. machine: as platform.machine says."""
    column = list(ARCHES).index(machine)
    refuse, allow = _one(RETURN, ERRNO | errno.EPERM), _one(RETURN, ALLOW)
    yield from (_one(LOAD, ARCH), _one(EQUAL, ARCHES[machine], 1, 0), refuse, _one(LOAD, NUMBER))
    yield from (_one(ABOVE, X32, 0, 1), refuse)
    for numbers in NEVER.values():
        if numbers[column] is not None:
            yield from (_one(EQUAL, numbers[column], 0, 1), refuse)
    for numbers in (CLONE3, *([] if writes else [OPENAT2])):  # their arguments lie in memory; libc has an older way
        yield from (_one(EQUAL, numbers[column], 0, 1), _one(RETURN, ERRNO | errno.ENOSYS))
    yield from _unless(CLONE[column], 0, _one(ANY_BIT, CLONE_THREAD, 1, 0))
    for numbers in (KILL, TGKILL):
        yield from _unless(numbers[column], 0, _one(EQUAL, pid, 1, 0))
    yield from _unless(PRLIMIT[column], 0, _one(EQUAL, 0, 1, 0))
    for numbers, commands in OWNED.items():
        yield from _none_of(numbers[column], 1, commands)
    for numbers, flags in () if writes else ((OPEN, 1), (OPENAT, 2)):
        if numbers[column] is not None:
            yield from _unless(numbers[column], flags, _one(ANY_BIT, WRITES, 0, 1))
    yield allow


def _unless(number: int | None, argument: int, test: bytes) -> Iterator[bytes]:
    """Refuses the call of this number unless `test` jumps over the refusal; it sees the argument's low half."""
    yield _one(EQUAL, number, 0, 4)
    yield _one(LOAD, ARGUMENT + 8 * argument)
    yield test
    yield _one(RETURN, ERRNO | errno.EPERM)
    yield _one(RETURN, ALLOW)


def _none_of(number: int, argument: int, values: tuple[int, ...]) -> Iterator[bytes]:
    """Refuses the call of this number where the low half of an argument is one of the values."""
    yield _one(EQUAL, number, 0, len(values) + 3)
    yield _one(LOAD, ARGUMENT + 8 * argument)
    for left in range(len(values), 0, -1):
        yield _one(EQUAL, values[-left], left, 0)
    yield _one(RETURN, ALLOW)
    yield _one(RETURN, ERRNO | errno.EPERM)


def _one(code: int, k: int | None, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction: code, how many instructions to jump over when its test is true and when it is false, number."""
    return struct.pack("HBBI", code, if_true, if_false, k or 0)
