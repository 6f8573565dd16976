"""A student in a child process gives the same values as one in this process, and no child can harm its grader."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from queue import SimpleQueue
from types import SimpleNamespace

import numpy as np
import pytest
from sandboxed import RUN, a_source, an_assignment, attempt, run

from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.course.errors import CourseError
from tinyinfer.course.sandbox import piped, processes, seccomp
from tinyinfer.course.sandbox.piped import PipedStudent
from tinyinfer.course.sandbox.sandbox import Limits, Sandbox
from tinyinfer.course.student import LocalStudent, Student, StudentDied, StudentError, StudentTimeout
from tinyinfer.kv_cache.base import CacheSpec
from tinyinfer.ledger import Ledger
from tinyinfer.model.config import Rows
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.sequence import RequestSpec, Sequence, make_batch

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
QUICK = Limits(request_seconds=1.5, cpu_seconds=5)


@pytest.fixture(scope="module")
def sandbox():
    """One folder for all children of these tests."""
    with Sandbox(an_assignment(), a_source()) as sandbox:
        yield sandbox


@pytest.mark.parametrize(
    ("gets_a_core", "runnable", "after", "answers"),
    [(False, True, 0.2, True), (True, True, 0.2, False), (False, False, 0.2, False), (False, True, 0.9, False)],
)
def test_a_busy_machine_is_no_fault_of_the_code(monkeypatch, gets_a_core, runnable, after, answers):
    """Catches marks that a class loses since its grader got no core; a loop and a sleep still end, and so does this."""
    begun = time.monotonic()
    monkeypatch.setattr(piped, "LOOK", 0.01)
    monkeypatch.setattr(processes, "resident_bytes", lambda pid: 0)
    monkeypatch.setattr(processes, "runnable", lambda pid: runnable)
    monkeypatch.setattr(processes, "cpu_seconds", lambda pid: time.monotonic() - begun if gets_a_core else 0.0)
    one = object.__new__(piped.Child)
    vars(one).update(_process=SimpleNamespace(pid=0), _received=SimpleQueue(), limits=Limits(), end=lambda: None)
    timer = threading.Timer(after, one._received.put, [b"reply"])
    timer.start()
    try:
        assert one._wait(0.08) == b"reply"
        assert answers
    except StudentTimeout:
        assert not answers
    timer.cancel()


def child(sandbox: Sandbox, limits: Limits | None = None) -> PipedStudent:
    return PipedStudent(sandbox.assignment, a_source(), limits, sandbox)


def rows_of(student: Student) -> tuple[list[np.ndarray], dict]:
    """Two steps of one sequence through a student's cache: what it gives back, and what crossed."""
    rng, spec = np.random.default_rng(0), CacheSpec((Rows(2, 4, 4),), 16)
    seq = Sequence(RequestSpec(3, [1, 2, 3], SamplingParams(), 7, 5, frozenset()), lambda: None)
    cache = student.ContiguousCache(spec, ReferenceOps(Ledger()))
    out = []
    for first, n in ((0, 2), (2, 1)):
        k, v = (rng.random((n, 2, 4), dtype=np.float32) for _ in range(2))
        cache.reserve(seq, n)
        cache.append(0, k, v, make_batch([(seq, first, n)]))
        out += cache.read(0, seq, 0)
        cache.commit(seq, n)
    out.append(np.array([cache.length(seq), cache.held_bytes]))
    return out, {name: dict(counts) for name, counts in vars(student.traffic).items()}


def test_a_child_gives_what_the_same_process_gives(sandbox, tmp_path):
    """Catches a proxy that loses state between calls, values that change on their way, and counts that differ."""
    path = tmp_path / an_assignment().file
    path.write_bytes(a_source())
    here, here_crossed = rows_of(LocalStudent(an_assignment(), path))
    with child(sandbox) as student:
        there, there_crossed = rows_of(student)
        assert attempt(student, "1 / 0") == "ZeroDivisionError"
        print_it = "import sys\nprint('one')\nprint('two', file=sys.stderr)\nsys.stdout.flush()\nout = 5"
        assert run(student, print_it) == 5
    assert [array.tolist() for array in there] == [array.tolist() for array in here]
    assert len(there) == 5
    assert there_crossed == here_crossed
    assert student.printed == (b"two\none\n", 0)
    assert len(there[2]) == 3


@pytest.mark.course
def test_an_error_of_the_code_names_its_line_and_leaves_the_child_alive(sandbox):
    """Catches a child that ends with SystemExit, endless recursion, or an error of the student's own kind."""
    with child(sandbox) as student:
        deep = "def f(): return f()\nf()"
        for code, kind in (("raise SystemExit(0)", "SystemExit"), (deep, "RecursionError"),
                           ("1 / 0", "ZeroDivisionError"), ("raise KeyboardInterrupt", "KeyboardInterrupt"),
                           ("raise GeneratorExit", "GeneratorExit"), ("raise type('Own', (BaseException,), {})", "Own"),
                           ("exit()", "NameError")):  # fmt: skip
            with pytest.raises(StudentError) as error:
                run(student, code)
            assert error.value.kind == kind
            assert "in run" in error.value.sentence
        assert run(student, "out = 3") == 3


def message(sandbox: Sandbox, code: str, kind: type[StudentError], limits: Limits = QUICK) -> str:
    """The sentence of the error with which code ends the child; after it, the same error again, and no process."""
    with child(sandbox, limits) as student:
        pid = run(student, "import os\nout = os.getpid()")
        with pytest.raises(kind) as error:
            run(student, code)
        assert pid not in {process.pid for process in processes.running()}
        with pytest.raises(kind):
            run(student, "out = 1")
    return error.value.sentence


ENDS = {
    "exit": ("import os\nos._exit(7)", "ended by itself, with exit status 7"),
    "exit 0": ("import os\nos._exit(0)", "ended by itself, with exit status 0"),
    "crash": ("import ctypes\nctypes.string_at(0)", "was ended by SIGSEGV"),
    "abort": ("import os\nos.abort()", "was ended by SIGABRT"),
    "kills itself": ("import os\nos.kill(os.getpid(), 9)", "was ended by SIGKILL"),
    "deep": ("import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)", "SIGSEGV"),
    "thread exits": ("import os, threading\nt = threading.Thread(target=os._exit, args=(3,))\nt.start()\nt.join()",
                     "exit status 3"),
}  # fmt: skip


@pytest.mark.course
@LINUX
@pytest.mark.parametrize("name", ENDS)
def test_a_child_that_ends_is_a_sentence(sandbox, name):
    """Catches a grader that waits for ever, or cannot say what happened."""
    code, sentence = ENDS[name]
    assert sentence in message(sandbox, code, StudentDied, Limits(request_seconds=8.0))


LOOPS = {
    "loop": "while True: pass", "sleep": "import time\ntime.sleep(99)", "stop": "import os\nos.kill(os.getpid(), 19)",
    "deaf": "import signal, time\nfor n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n"
            "    except OSError: pass\ntime.sleep(99)",
    "in C": "import re\nre.match('(a*)*b', 'a' * 40)",
    "waits for input": "import os\nos.read(3, 1 << 20)",
}  # fmt: skip


@pytest.mark.course
@LINUX
@pytest.mark.parametrize("name", LOOPS)
def test_a_call_without_an_end_is_a_timeout(sandbox, name):
    """Catches loops that no signal ends, and a process that is stopped."""
    begun = time.monotonic()
    assert "did not answer within 1.5 seconds" in message(sandbox, LOOPS[name], StudentTimeout)
    assert time.monotonic() - begun < 30


@pytest.mark.course
@LINUX
def test_cpu_time_is_limited_over_all_calls_and_for_each_test(sandbox):
    """Catches a solution that stays below the time of a call in each of a thousand calls."""
    limits = Limits(request_seconds=20.0, cpu_seconds=1)
    assert "more than 1 seconds of CPU time" in message(sandbox, "while True: pass", StudentTimeout, limits)
    ignoring = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert "more than 1 seconds of CPU time" in message(sandbox, ignoring, StudentTimeout, limits)
    with child(sandbox, Limits(test_seconds=2.0)) as student:
        run(student, "import time\ntime.sleep(0.1)")
        with pytest.raises(StudentTimeout):
            run(student, "import time\ntime.sleep(3)")


REPLY = "import os\nfd = 4\n"
FRAMES = {
    "text": (REPLY + "os.write(fd, b'score: 100')\nos._exit(0)", StudentDied),
    "huge header": (REPLY + "os.write(fd, b'\\xff' * 4)", StudentDied),
    "huge array": (REPLY + "h = b'{\"arrays\":[[\"int8\",[67108865]]],\"value\":{\"array\":0}}'\n"
                   "os.write(fd, len(h).to_bytes(4, 'little') + h)", StudentDied),
    "half a frame": (REPLY + "os.write(fd, b'\\x09\\0\\0\\0{')\nos._exit(0)", StudentDied),
    "half a frame, then nothing": (REPLY + "os.write(fd, b'\\x09\\0\\0\\0{')\nimport time\ntime.sleep(99)",
                                   StudentTimeout),
    "another shape of reply": (REPLY + "os.write(fd, b'\\x17\\0\\0\\0{\"arrays\":[],\"value\":1}')", StudentDied),
    "endless": (REPLY + "while True: os.write(fd, b'\\x17\\0\\0\\0{\"arrays\":[],\"value\":1}')", StudentDied),
    "closed": (REPLY + "os.close(fd)\nimport time\ntime.sleep(99)", StudentDied),
}  # fmt: skip


@pytest.mark.course
@LINUX
@pytest.mark.parametrize("name", FRAMES)
def test_forged_frames_end_the_child_and_nothing_else(sandbox, name):
    """Catches a grader that trusts the pipe: bytes are values or a fault, and never more."""
    code, kind = FRAMES[name]
    with child(sandbox, QUICK) as student:
        run(student, "import os\nos.fstat(4)")
        with pytest.raises(kind) as error:
            run(student, code)
        if kind is StudentDied:
            assert error.value.kind == "BadReply" or "exit status 0" in error.value.sentence


@pytest.mark.course
def test_a_flood_of_output_is_counted_and_stops_neither_side(sandbox):
    """Catches a child that waits since its output is full, and a grader whose memory fills."""
    with child(sandbox) as student:
        flood = "for n in range(100_000): print(n, '\\x1b[2J' * 10)\nout = 4"
        assert run(student, flood) == 4
        assert run(student, "import os\nos.write(1, b'a' * 1000)\nout = 5") == 5
    kept, dropped = student.printed
    assert len(kept) == 64 << 10
    assert dropped > 4_000_000


@pytest.mark.course
@LINUX
def test_memory_that_no_limit_of_the_system_holds_is_watched(sandbox, monkeypatch):
    """Catches macOS, which does not enforce the limit of the address space."""
    with child(sandbox) as student:
        run(student, "out = 1")
        monkeypatch.setattr(processes, "resident_bytes", lambda pid: 1 << 40)
        with pytest.raises(StudentDied, match="the code used more than 384 MB of memory"):
            run(student, "import time\ntime.sleep(9)")


BROKEN = {
    "syntax": (b"def f(:", "SyntaxError"), "no text": (b"\xff\xfe\x00", "SyntaxError ValueError"),
    "zero": (b"x = 1\0", "SyntaxError ValueError"),
    "empty": (b"", "ImportError"), "exit": (b"raise SystemExit(0)", "SystemExit"),
    "missing": (b"import torch", "ModuleNotFoundError"),
    "memory": (b"x = bytearray(1 << 40)", "MemoryError"), "dies": (b"import os\nos._exit(0)", "StudentDied"),
    "loop": (b"while True: pass", "StudentTimeout"), "deep": (b"(" * 100_000, "SyntaxError"),
    "own": (b"class E(BaseException): pass\nraise E", "E"),
}  # fmt: skip


@pytest.mark.course
@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_loaded_is_the_student_s_error_in_every_call(name):
    """Catches a grader that stops at a broken file: each test has its line in the report."""
    source, kind = BROKEN[name]
    with PipedStudent(an_assignment(), source, QUICK) as student:
        assert student.limits
        for call in (student.load, student.load, lambda: student.ContiguousCache(None, None)):
            with pytest.raises(StudentError) as error:
                call()
            assert error.value.kind in kind.split()


@pytest.mark.course
@LINUX
def test_limits_hold_before_the_first_line_of_the_file():
    """Catches a child that reads the student's file and only then limits itself."""
    begin = "import os\ntry: open('/etc/passwd')\nexcept OSError as error: first = type(error).__name__\n"
    with PipedStudent(an_assignment(), a_source(begin)) as student:
        assert run(student, "import tinyinfer._student_kv_cache as m\nout = m.first") == "PermissionError"


@pytest.mark.course
@LINUX
def test_a_child_that_does_not_start_is_the_grader_s_fault():
    """Catches points that are lost since a machine is too small."""
    with Sandbox(an_assignment(), a_source()) as alone:
        shutil.rmtree(alone.folder / "package")  # as on a full disk
        with child(alone) as student, pytest.raises(CourseError, match="the student's code did not start"):
            run(student, "out = 1")


@pytest.mark.course
@LINUX
def test_root_does_not_grade_without_a_second_user(monkeypatch, sandbox):
    """Catches root's rights in the hands of a student's code."""
    if not sandbox.as_root:
        pytest.skip("needs root")
    monkeypatch.setattr("tinyinfer.course.sandbox.sandbox.free_uid", lambda: None)
    with child(sandbox) as student, pytest.raises(CourseError, match="root cannot grade without a second user"):
        run(student, "out = 1")


@pytest.mark.course
@LINUX
@pytest.mark.skipif(not seccomp.supported(), reason="no numbers of system calls for this processor")
def test_a_thread_of_the_student_s_that_goes_on_changes_no_later_value(sandbox):
    """Catches a reply that another thread writes between two calls and that shifts all later replies."""
    code = (REPLY + "import threading, time\n"
            "def late():\n    time.sleep(0.2)\n    os.write(fd, b'\\x17\\0\\0\\0{\"arrays\":[],\"value\":1}')\n"
            "threading.Thread(target=late).start()\nout = 1")  # fmt: skip
    with child(sandbox) as student:
        assert run(student, code) == 1
        time.sleep(0.5)
        with pytest.raises(StudentDied):
            run(student, "out = 2")


def test_the_tests_own_functions_are_in_the_file():
    """Catches a source for these tests that does not hold what they call."""
    assert a_source().decode().endswith(RUN)
