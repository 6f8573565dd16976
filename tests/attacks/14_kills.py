# base: solution of sampling
# tests: test_top_k, test_min_p
# named: imports signal

import ctypes
import fcntl
import os
import signal
import socket

_libc = ctypes.CDLL(None, use_errno=True)
_parent = os.getppid()


def _try(what, function):
    try:
        done = function()
    except (OSError, ValueError):
        return
    if done in (None, 0):
        print(f"BROKEN: {what}")


for _number in (signal.SIGSTOP, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, 0):
    _try(f"signal {_number} to the grader", lambda: os.kill(_parent, _number))
    _try(f"signal {_number} to all", lambda: os.kill(-1, _number))
    _try(f"signal {_number} to the group of the grader", lambda: os.killpg(os.getpgid(_parent), _number))
_try("tkill", lambda: _libc.syscall(200, _parent, 19))
_try("tgkill", lambda: _libc.syscall(234, _parent, _parent, 19))
_try("sigqueue", lambda: _libc.sigqueue(_parent, 19, 0))
_try("pidfd", lambda: signal.pidfd_send_signal(os.pidfd_open(_parent), 19))
_try("priority", lambda: os.setpriority(os.PRIO_PROCESS, _parent, 19))
_try("limits", lambda: __import__("resource").prlimit(_parent, 0, (1, 1)))
_try("affinity", lambda: os.sched_setaffinity(_parent, {0}))
_try("scheduler", lambda: os.sched_setscheduler(_parent, os.SCHED_IDLE, os.sched_param(0)))


def _owner():
    """The kernel itself sends the signal: the grader is named the owner of a pipe on which data comes."""
    read, write = os.pipe()
    fcntl.fcntl(read, 10, signal.SIGSTOP)  # F_SETSIG
    fcntl.fcntl(read, fcntl.F_SETOWN, _parent)
    fcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    os.write(write, b"x")


_try("the owner of a pipe", _owner)
_try("the owner of a socket", lambda: fcntl.ioctl(socket.socketpair()[0], 0x8901, _parent.to_bytes(4, "little")))
