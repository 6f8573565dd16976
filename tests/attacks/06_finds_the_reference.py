# base: skeleton of kv_cache
# tests: test_rows_come_back, test_layers_of_different_sizes
# named: imports importlib

import ctypes
import glob
import importlib
import os
import site
import subprocess
import sys

_PARENT = os.getppid()


def _imports():
    for name in ("tinyinfer.kv_cache.paged", "tinyinfer.lessons", "tinyinfer.course.assignments.kv_cache",
                 "tinyinfer.llm", "tinyinfer.course.cut", "pytest", "tokenizers"):
        try:
            importlib.import_module(name)
            print(f"BROKEN: imported {name}")
        except ImportError:
            pass


def _paths():
    folders = [*sys.path, *site.getsitepackages(), site.getusersitepackages(), "/proc/%d/cwd" % _PARENT, sys.prefix,
               os.path.expanduser("~"), "/", "/tmp", "/root", "/home"]
    for folder in folders:
        for pattern in ("tinyinfer/kv_cache/paged.py", "**/kv_cache/paged.py", "tinyinfer-*", "pytest/__init__.py"):
            for path in glob.glob(os.path.join(folder, pattern))[:3]:
                try:
                    open(path).read()
                    print(f"BROKEN: read {path}")
                except OSError:
                    pass


def _grader():
    for name in ("mem", "environ", "maps", "cmdline", "cwd/pyproject.toml", "fd/0", "fd/1", "fd/2", "fd/3", "stack"):
        try:
            open(f"/proc/{_PARENT}/{name}", "rb").read(1)
            print(f"BROKEN: read /proc/PPID/{name}")
        except OSError:
            pass
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(16)
    if libc.ptrace(16, _PARENT, 0, 0) == 0:
        print("BROKEN: traced the grader")
    for call in (310, 311, 312, 434, 438):  # process_vm_readv, process_vm_writev, kcmp, pidfd_open, pidfd_getfd
        if libc.syscall(call, _PARENT, buffer, 1, buffer, 1, 0) >= 0:
            print(f"BROKEN: system call {call}")


def _descriptors():
    for number in range(3, 64):
        try:
            kind = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            try:
                kind = "pipe" if os.fstat(number).st_mode & 0o170000 == 0o010000 else "other"
            except OSError:
                continue
        if not kind.startswith("pipe") and not kind.endswith("/kv_cache.py"):
            print(f"BROKEN: inherited descriptor {number}, {kind}")


def _tools():
    try:
        subprocess.run([sys.executable, "-m", "pip", "show", "-f", "tinyinfer"], check=True)
        print("BROKEN: ran pip")
    except Exception:
        pass


for _try in (_imports, _paths, _grader, _descriptors, _tools):
    _try()
