"""What a student's code cannot do, tried from within: the limits are in force before the file is read."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sandboxed import a_source, an_assignment, attempt, run

import tinyinfer
from tinyinfer.course.sandbox import landlock, processes, seccomp
from tinyinfer.course.sandbox.piped import PipedStudent
from tinyinfer.course.sandbox.sandbox import PREFIX, Sandbox, link_tree, new_folder, places, reachable, sweep

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
LANDLOCK = pytest.mark.skipif(sys.platform != "linux" or not landlock.abi(), reason="this kernel has no Landlock")
SECCOMP = pytest.mark.skipif(not seccomp.supported(), reason="no numbers of system calls for this processor")
ROOT = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
ENGINE = Path(tinyinfer.__file__).parent


@pytest.fixture(scope="module")
def student():
    """One child for all questions that leave it alive."""
    with PipedStudent(an_assignment(), a_source()) as student:
        yield student


def test_every_limit_is_told_in_a_sentence(student):
    """Catches a report that cannot say under which limits it was made."""
    told = [*student.limits, *student.missing_limits]
    assert len(set(told)) == len(told) >= 9
    assert "384 MB of memory beside what Python and NumPy take" in student.limits
    assert all(text and "\n" not in text for text in told)
    if processes.PROC.is_dir() and os.geteuid() == 0:
        assert any(text.startswith("another user: uid ") for text in student.limits)


# Linux refuses.

CALLS = {
    "fork": "import os\nos.fork()", "spawn": "import subprocess\nsubprocess.run(['/bin/true'])",
    "exec": "import os\nos.execv('/bin/true', ['true'])", "socket": "import socket\nsocket.socket()",
    "unix socket": "import socket\nsocket.socket(socket.AF_UNIX)", "priority": "import os\nos.setpriority(0, 0, 1)",
    "kill the grader": "import os\nos.kill(os.getppid(), 9)", "stop all": "import os\nos.kill(-1, 19)",
    "kill the group": "import os\nos.killpg(0, 9)", "new session": "import os\nos.setsid()",
    "another user": "import os\nos.setuid(0)", "memory as a file": "import os\nos.memfd_create('a')",
    "chmod": "import os, numpy\nos.chmod(numpy.__file__, 0o777)", "mkdir": "import os\nos.mkdir('a')",
    "limits of the grader": "import os, resource as r\nr.prlimit(os.getppid(), r.RLIMIT_CPU, (1, 1))",
    "link": "import os\nos.symlink('/etc/passwd', 'x')", "remove": "import os, numpy\nos.remove(numpy.__file__)",
}  # fmt: skip
BY_C = {"vfork": "vfork()", "trace": "ptrace(16, {parent}, 0, 0)", "shared memory": "shmget(0, 4096, 0o1600)",
        "debugging": "prctl(4, 1, 0, 0, 0)", "mount": "mount(b'a', b'/', b'tmpfs', 0, 0)"}  # fmt: skip


@SECCOMP
@pytest.mark.parametrize("name", CALLS)
def test_system_calls_that_reach_others_are_refused(student, name):
    """Catches a process that outlives the grading, a network, a signal to the grader."""
    assert attempt(student, CALLS[name]) == "PermissionError"


@SECCOMP
@pytest.mark.parametrize("name", BY_C)
def test_they_are_refused_to_c_as_well(student, name):
    """Catches a limit that only Python's own functions respect."""
    call = BY_C[name].format(parent=os.getpid())
    code = f"import ctypes\nout = [ctypes.CDLL(None, use_errno=True).{call}, ctypes.get_errno()]"
    assert run(student, code) == [-1, errno.EPERM]


def test_a_limit_cannot_be_raised_again(student):
    """Catches soft limits."""
    assert attempt(student, "import resource as r\nr.setrlimit(r.RLIMIT_AS, (1 << 40, 1 << 40))") == "ValueError"


FILES = {
    "engine": f"open({str(ENGINE / 'kv_cache' / 'contiguous.py')!r})", "tests": f"open({__file__!r})",
    "grader's memory": f"open('/proc/{os.getpid()}/mem', 'rb')", "passwords": "open('/etc/passwd')",
    "grader's environment": f"open('/proc/{os.getpid()}/environ')", "own memory": "open('/proc/self/mem')",
    "here": "open('x', 'w')", "numpy": "import numpy\nopen(numpy.__file__, 'r+')",
    "listing": "import os\nos.listdir('/')", "python": "import json\nopen(json.__file__, 'a')",
    "shared memory": "open('/dev/shm/x', 'w')",
}  # fmt: skip


@LANDLOCK
@pytest.mark.parametrize("name", FILES)
def test_files_of_others_cannot_be_opened(student, name):
    """Catches the reference, hidden tests or a secret that are read by path, and anything that is left behind."""
    assert attempt(student, FILES[name]) == "PermissionError"


@LANDLOCK
def test_installed_packages_cannot_be_read_beside_numpy(student):
    """Catches Landlock's rule for Python's own folder, which holds those packages, the engine maybe among them."""
    for package in ("pytest", "tokenizers"):
        path = Path(sys.modules["pytest"].__file__).parents[1] / package / "__init__.py"
        assert attempt(student, f"open({str(path)!r})") in ("PermissionError", "FileNotFoundError")


def test_python_and_numpy_can_be_used(student):
    """Catches limits that break what a solution may need: lazily loaded parts, threads, silence by /dev/null."""
    used = (
        "import numpy.random, numpy.fft, fractions, decimal, statistics, ctypes, unittest, sqlite3, zoneinfo, hashlib"
    )
    assert run(student, used + "\nout = float(numpy.linalg.norm(numpy.fft.fft(numpy.ones(4))))") == 4.0
    thread = "import threading\nout = []\nt = threading.Thread(target=out.append, args=(1,))\nt.start()\nt.join()"
    assert run(student, thread) == [1]
    quiet = "import contextlib, os\nwith open(os.devnull, 'w') as f, contextlib.redirect_stdout(f): print(1)\nout = 2"
    assert run(student, quiet) == 2


def test_the_engine_s_own_version_is_not_there(student):
    """Catches a child whose package holds what is to be written, or its siblings."""
    assert (
        attempt(student, "import tinyinfer.kv_cache.contiguous as m\nassert 'student' in m.ContiguousCache.__module__")
        == "done"
    )
    assert attempt(student, "import tinyinfer.kv_cache.paged") == "ModuleNotFoundError"
    assert attempt(student, "import tinyinfer.course.sandbox.piped") == "ModuleNotFoundError"
    assert attempt(student, "import pytest") == attempt(student, "import filelock") == "ModuleNotFoundError"


def test_the_environment_holds_six_names_and_the_folder_nothing(student):
    """Catches a secret of the grader's environment, and an open file of the grader's."""
    names = set(run(student, "import os\nout = list(os.environ)")) - {"PYTHONHOME", "LC_CTYPE", "SYSTEMROOT"}
    assert names == {"HOME", "LANG", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED"}
    assert run(student, "import os\nout = os.listdir('.')") == []
    count = "import os\nout = 0\nfor n in range(64):\n    try: os.fstat(n)\n    except OSError: continue\n    out += 1"
    assert run(student, count) == 5  # 0, 1, 2, requests, replies
    assert run(student, "import sys\nout = sys.stdin.read()") == ""


@ROOT
def test_the_child_s_user_owns_nothing(student):
    """Catches a child that is root, or keeps root's groups."""
    uid, real, gid, groups = run(student, "import os\nout = [os.geteuid(), os.getuid(), os.getgid(), os.getgroups()]")
    assert uid == real == gid != 0
    assert groups == []


@pytest.mark.course
def test_10_gigabytes_are_an_error_and_not_the_end(student):
    """Catches a limit that ends the child, so that the student learns nothing."""
    for code in (
        "out = bytearray(10 << 30)",
        "import numpy\nout = numpy.ones(10 << 27)",
        "out = [[] for _ in range(10**8)]",
    ):
        assert attempt(student, code) == "MemoryError"
    assert run(student, "out = 1") == 1


# The folder.


def test_the_folder_is_gone_afterwards_and_the_file_is_as_it_came():
    """Catches leftovers of thousands of gradings, and a grader that reads the student's file itself."""
    source = b"\xff\x00((("
    with Sandbox(an_assignment(), source) as sandbox:
        folder = sandbox.folder
        assert folder.name.startswith(PREFIX)
        assert list((folder / "empty").iterdir()) == []
        assert sandbox.file.read_bytes() == source
    assert not folder.exists()


@pytest.mark.course
def test_the_folder_of_a_killed_grader_is_removed_by_the_next(tmp_path):
    """Catches folders that stay for ever; those of graders that run, and new ones, stay."""
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from sandboxed import *; import tempfile;"
        "from tinyinfer.course.sandbox.sandbox import Sandbox; tempfile.tempdir = sys.argv[2];"
        "s = Sandbox(an_assignment(), a_source()).__enter__(); print(s.folder, flush=True); time.sleep(60)"
    )
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", code, here, str(tmp_path)]
    grader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ENGINE.parent)
    folder = Path(grader.stdout.readline().strip())
    try:
        os.utime(folder, (0, 0))
        sweep(folder.parent)
        assert folder.is_dir()  # its grader lives
    finally:
        grader.kill()
        grader.communicate()
    new = folder.with_name(PREFIX + "new")
    new.mkdir()
    sweep(folder.parent)
    assert not folder.exists()
    assert new.is_dir()
    new.rmdir()


@LINUX
def test_a_folder_that_other_users_cannot_reach_is_not_taken_by_root(tmp_path, monkeypatch):
    """Catches a child that cannot even read its own file, where TMPDIR lies in root's home."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert not reachable(closed / ".." / "closed")
    monkeypatch.setattr("tempfile.tempdir", str(closed))
    assert list(places(as_root=False)) == [closed]
    assert closed not in places(as_root=True)
    folder = new_folder(as_root=True)
    assert folder.parent != closed
    folder.rmdir()


def test_files_are_linked_without_tests_and_installed_packages(tmp_path):
    """Catches the engine in the copy of a Python that another user cannot reach."""
    old, new = tmp_path / "old", tmp_path / "new" / "lib"
    for name in ("a.py", "b/c.py", "site-packages/tinyinfer/x.py", "test/y.py"):
        path = old / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    link_tree(old, new)
    assert sorted(p.relative_to(new).as_posix() for p in new.rglob("*.py")) == ["a.py", "b/c.py"]
    assert (new / "b" / "c.py").read_text() == "b/c.py"


# Other systems, by force.

FORCED = """
import os, sys
from tinyinfer.course.sandbox import confine, landlock, seccomp
{change}
c = confine.Confinement(None, 1 << 30, 9, 100, 64, (), (), os.getppid())
in_force, missing = confine.confine(c)
print(*in_force, "-", *missing, sep="\\n")
"""
CHANGES = {
    "macOS": ("confine.LINUX = False; seccomp.supported = lambda: False",
              {"network", "user", "end with", "Landlock", "seccomp"}),
    "Windows": ("sys.modules['resource'] = None; confine.LINUX = False; seccomp.supported = lambda: False",
                {"network", "user", "end with", "Landlock", "seccomp", "limit of memory", "limit of CPU time",
                 "limit of threads"}),
    "an old kernel": ("landlock.abi = lambda: 0", {"Landlock", "user"}),
    "another processor": ("seccomp.platform.machine = lambda: 'riscv64'", {"seccomp", "user"}),
}  # fmt: skip


@pytest.mark.course
@LINUX
@pytest.mark.parametrize("system", CHANGES)
def test_what_a_system_lacks_is_named(system):
    """Catches a child that does not start where a limit is missing, and a report that claims it."""
    change, lacks = CHANGES[system]
    code = FORCED.format(change=change)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ENGINE.parent, timeout=60)
    assert done.returncode == 0, done.stderr
    missing = done.stdout.partition("-\n")[2].splitlines()
    assert all(any(text.startswith("no ") and word in text for text in missing) for word in lacks), missing


@pytest.mark.course
@LINUX
def test_a_stricter_limit_of_the_machine_stays():
    """Catches a limit that is told as missing since the machine's own is lower and cannot be raised."""
    low = "import resource as r\nr.setrlimit(r.RLIMIT_NOFILE, (32, 32))\nr.setrlimit(r.RLIMIT_CPU, (3, 3))"
    code = FORCED.format(change=low) + "\nprint(r.getrlimit(r.RLIMIT_NOFILE), r.getrlimit(r.RLIMIT_CPU))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ENGINE.parent, timeout=60)
    assert "no limit" not in done.stdout
    assert done.stdout.splitlines()[-1] == "(32, 32) (3, 3)"


@pytest.mark.course
@SECCOMP
def test_without_landlock_no_file_can_be_opened_for_writing(tmp_path):
    """Catches results that a child overwrites on a kernel without Landlock, where grader and child are one user."""
    code = (
        "import os, sys; from tinyinfer.course.sandbox import seccomp; print(seccomp.restrict(writes=False));"
        "f = open(sys.argv[1]); print(f.read())\n"
        "for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_RDONLY | os.O_CREAT):\n"
        "    try: os.open(sys.argv[1], flags)\n"
        "    except PermissionError: print('refused')\n"
    )
    path = tmp_path / "results.json"
    path.write_text("12")
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ENGINE.parent, timeout=60)
    assert done.stdout.splitlines()[1:] == ["12", *["refused"] * 4], done
    assert "opens no file for writing" in done.stdout
    assert path.read_text() == "12"


def test_the_filter_for_both_processors_has_no_jump_beyond_its_end():
    """Catches a filter that the kernel of a machine we do not have would refuse."""
    for machine in seccomp.ARCHES:
        for writes in (True, False):
            program = list(seccomp.filter_program(machine, 1, writes))
            assert len(program) < 4096
            for at, one in enumerate(program):
                code, yes, no, _ = np.frombuffer(one, "u2,u1,u1,u4")[0]
                assert code == seccomp.RETURN or at + 1 + max(yes, no) < len(program)


# What a child leaves behind.


@LINUX
def test_a_process_that_a_child_has_left_behind_is_ended(tmp_path):
    """Catches a process that writes its own results after the grader's: in a session of its own, its parent gone."""
    double_fork = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        print(os.getpid(), flush=True); time.sleep(60)\n"
        "    os._exit(0)\n"
        "os.wait(); time.sleep(60)\n"
    )
    env = {"HOME": str(tmp_path)}
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", double_fork],
        stdout=subprocess.PIPE,
        text=True,
        env=env,
        start_new_session=True,
    )
    grandchild = int(child.stdout.readline())
    assert grandchild in {process.pid for process in processes.running()}
    processes.end(child, processes.Owned(None, str(tmp_path)))
    time.sleep(0.05)
    assert grandchild not in {process.pid for process in processes.running()}
    child.stdout.close()


@LINUX
def test_a_system_without_proc_ends_the_group(tmp_path, monkeypatch):
    """Catches macOS: the child's group ends, and what it forked with it."""
    monkeypatch.setattr(processes, "PROC", tmp_path / "proc")
    code = "import os, time; os.fork(); print(os.getpid(), flush=True); time.sleep(60)"
    command = [sys.executable, "-I", "-S", "-c", code]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    pids = {int(child.stdout.readline()) for _ in range(2)}
    processes.end(child, processes.Owned(None, str(tmp_path)))
    assert child.stdout.read() == ""  # the pipe's last writer is gone
    monkeypatch.undo()
    assert not pids & {process.pid for process in processes.running()}
    child.stdout.close()


@ROOT
@LINUX
def test_all_processes_of_a_child_s_user_end_at_once(tmp_path):
    """Catches processes that hide from a search, by another name, session and environment."""
    uid = processes.free_uid()
    code = f"import os, time; os.setuid({uid}); os.fork(); os.fork(); os.setsid; print(1, flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    for _ in range(4):
        child.stdout.readline()
    assert len(processes.left_of(processes.Owned(uid, ""))) == 4
    assert processes.free_uid() != uid
    processes.end(child, processes.Owned(uid, ""))
    assert processes.left_of(processes.Owned(uid, "")) == []
    child.stdout.close()


@pytest.mark.course
@LINUX
def test_a_child_ends_when_its_grader_is_killed():
    """Catches a child that goes on for ever: its own code never asks for the next request."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from sandboxed import *\n"
        "from tinyinfer.course.sandbox.piped import PipedStudent\n"
        "s = PipedStudent(an_assignment(), a_source()).__enter__()\n"
        "print(run(s, 'import os; out = os.getpid()'), flush=True)\n"
        "run(s, 'import time; time.sleep(60)')"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    grader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ENGINE.parent)
    child = int(grader.stdout.readline())
    time.sleep(0.3)
    grader.kill()
    grader.communicate()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and child in {process.pid for process in processes.running()}:
        time.sleep(0.05)
    assert child not in {process.pid for process in processes.running()}


@pytest.mark.course
@LANDLOCK
@SECCOMP
@ROOT
def test_the_same_limits_hold_for_a_grader_that_is_not_root():
    """Catches a path that only root's tests take: no other user, but files, calls and memory as limited."""
    code = (
        "import ctypes, os, sys; assert ctypes.CDLL(None).unshare(0x10000000) == 0; assert os.geteuid() != 0\n"
        "sys.path.insert(0, sys.argv[1]); from sandboxed import *\n"
        "from tinyinfer.course.sandbox.piped import PipedStudent\n"
        "with PipedStudent(an_assignment(), a_source()) as s:\n"
        "    print(*s.limits, '-', *s.missing_limits, sep='\\n')\n"
        "    print([attempt(s, code) for code in sys.argv[2:]])\n"
    )
    tries = [*(CALLS[name] for name in ("fork", "socket", "kill the grader")), FILES["engine"], FILES["here"]]
    command = [sys.executable, "-c", code, str(Path(__file__).parent), *tries, "bytearray(1 << 33)"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ENGINE.parent, timeout=60)
    assert "\nno other user: only root can change the user\n" in done.stdout, done
    assert done.stdout.splitlines()[-1] == str([*["PermissionError"] * 5, "MemoryError"])
