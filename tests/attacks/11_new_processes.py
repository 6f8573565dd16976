# base: solution of sampling
# tests: test_top_k, test_min_p
# named: imports subprocess

import ctypes
import multiprocessing
import os
import subprocess
import sys
import threading
import time

_libc = ctypes.CDLL(None, use_errno=True)


def _clone():
    number = 56 if os.uname().machine == "x86_64" else 220
    done = _libc.syscall(number, 17, 0, 0, 0, 0)
    if done == 0:
        time.sleep(30)
        os._exit(0)
    return done


def _memory_program():
    """A program in memory: nothing on disk is executed."""
    handle = os.memfd_create("x")
    with open("/bin/true", "rb") as file:
        os.write(handle, file.read())
    os.execve(handle, ["x"], {})


_WAYS = {
    "fork": os.fork, "forkpty": os.forkpty, "vfork": lambda: _libc.vfork(), "clone": _clone,
    "clone3": lambda: _libc.syscall(435, ctypes.create_string_buffer(88), 88),
    "subprocess": lambda: subprocess.Popen(["/bin/sleep", "30"]).pid, "system": lambda: 1 - os.system("true"),
    "spawn": lambda: os.posix_spawn(sys.executable, [sys.executable, "-c", "import time; time.sleep(30)"], {}),
    "multiprocessing": lambda: multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,)).start() or 1,
    "exec": lambda: os.execv("/bin/true", ["true"]), "memory": _memory_program,
    "io_uring": lambda: _libc.syscall(425, 8, ctypes.create_string_buffer(120)),
}
for _name, _way in _WAYS.items():
    try:
        _done = _way()
    except Exception:
        continue
    if _done == 0 and _name in ("fork", "forkpty"):
        time.sleep(30)
        os._exit(0)
    if isinstance(_done, int) and _done > 0:
        print(f"BROKEN: {_name} started {_done}")

for _ in range(1000):
    try:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    except RuntimeError:
        break
else:
    print("BROKEN: a thousand threads")
