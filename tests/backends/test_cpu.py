"""Settings of the process: BLAS's threads, and memory that costs nothing before it is written."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import forward, make_engine, request, small_config
from test_limits import container

from tinyinfer.backends.cpu import default_threads, lazy_array, use_blas_threads
from tinyinfer.backends.limits import available_cores
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.engine.engine import Engine
from tinyinfer.ledger import Ledger


def blas_threads() -> int | None:
    """What OpenBLAS itself says; None with another BLAS."""
    library = ctypes.CDLL(np._core._multiarray_umath.__file__)
    for name in ("scipy_openblas_get_num_threads64_", "openblas_get_num_threads64_", "openblas_get_num_threads"):
        if hasattr(library, name):
            return getattr(library, name)()
    return None


def one_pass(engine: Engine) -> int | None:
    """A forward pass; BLAS's threads after it."""
    forward(engine, (request([1, 2, 3]), 0, 3))
    return blas_threads()


@pytest.mark.skipif(blas_threads() is None, reason="NumPy is built on another BLAS")
@pytest.mark.parametrize("backends", [(NumpyOps, NumpyOps), (NumpyOps, ReferenceOps), (ReferenceOps, ReferenceOps)])
def test_two_engines_of_one_process_keep_their_own_threads(backends):
    """Catches `--threads` without effect, and a second engine that changes the first one's, whatever the backends."""
    before = blas_threads()
    try:
        kinds = zip(backends, (1, 2), strict=True)
        one, two = (make_engine(small_config(), ops=kind(Ledger(), threads=n)) for kind, n in kinds)
        assert [one_pass(engine) for engine in (one, two, one, two)] == [1, 2, 1, 2]
        use_blas_threads(3)
        assert blas_threads() == 3
    finally:
        use_blas_threads(before or 1)


@pytest.mark.skipif(blas_threads() is None, reason="NumPy is built on another BLAS")
@pytest.mark.parametrize("threads", [2**32 + 1, 2**64])
def test_more_threads_than_a_c_int_counts_are_as_many_as_there_are(threads):
    """Catches an error of ctypes for 2**64 threads (`--threads`, OMP_NUM_THREADS), and one thread for 2**32 + 1."""
    before = blas_threads()
    try:
        use_blas_threads(threads)
        assert blas_threads() > 1
    finally:
        use_blas_threads(before or 1)


@pytest.mark.parametrize(
    ("environ", "quota", "threads"),
    [
        ({}, "max 100000", "cores"),
        ({}, "50000 100000", 1),
        ({"OMP_NUM_THREADS": "3"}, "50000 100000", 3),
        ({"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "5"}, "max 100000", 5),
        ({"OMP_NUM_THREADS": "4,2"}, "max 100000", 4),
        ({"OMP_NUM_THREADS": "", "OPENBLAS_NUM_THREADS": "many"}, "50000 100000", 1),
        ({"OMP_NUM_THREADS": "0"}, "50000 100000", 1),
    ],
)
def test_the_environments_limit_comes_first_then_the_quota_then_the_cores(environ, quota, threads, tmp_path):
    """What SLURM, joblib and containers set is meant; B12 of the reports about engines like this one."""
    root = container(tmp_path, "0::/", {"cpu.max": quota})
    assert default_threads(environ, root) == (available_cores() if threads == "cores" else threads)


def test_a_part_of_a_core_counts_as_a_core(tmp_path):
    """1.2 cores' worth of time are 2 threads: rounded down, a fifth of the time would be given away."""
    assert default_threads({}, container(tmp_path, "0::/", {"cpu.max": "120000 100000"})) == min(2, available_cores())


def test_more_quota_than_cores_is_no_more_threads(tmp_path):
    assert default_threads({}, container(tmp_path, "0::/", {"cpu.max": "99900000 100000"})) == available_cores()


def test_a_lazy_array_is_an_ordinary_array_of_zeros():
    """Writable, of the shape asked for, and its own: two arrays share nothing."""
    a, b = lazy_array((3, 4)), lazy_array((3, 4))
    assert (a.shape, a.dtype) == ((3, 4), np.float32)
    a[1] = 7
    assert a.sum() == 28
    assert not b.any()
    assert lazy_array((0, 4)).shape == (0, 4)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_lazy_array_takes_up_only_what_is_written():
    """A context of 8192 positions is promised to every sequence, and most of it is never used."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    rows = lazy_array((64, 1 << 20))  # 256 MB
    rows[:, :16] = 1  # the first page of each row
    assert resident() - before < 32 << 20


@pytest.mark.parametrize("rows", [1 << 50, 1 << 70])
def test_a_lazy_array_larger_than_the_memory_is_a_memory_error(rows: int):
    """The system's "Cannot allocate memory" did not say how much; 2^70 was an OverflowError."""
    with pytest.raises(MemoryError, match=r"the system does not give .*B$"):
        lazy_array((rows, 2))


glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told what to keep")
PROGRAM = "import gc, os, sys\nsys.path.insert(0, sys.argv[1])\n"


def run(program: str, *args: str, **environ: str) -> str:
    """What a program prints in a process of its own."""
    command = [sys.executable, "-c", PROGRAM + program, str(Path(__file__).parents[1]), *args]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=os.environ | environ)
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_a_lazy_array_of_its_own():
    """Catches memory that parent and child share: each child's answers were then written over the others' keys."""
    program = """
from tinyinfer.backends.cpu import lazy_array
a = lazy_array((4,))
a[0] = 1
if not os.fork():
    a[:] = 9
    os._exit(0)
os.wait()
print(a.tolist())
"""
    assert run(program) == "[1.0, 0.0, 0.0, 0.0]\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    "switches",
    [{"kv_cache": "paged"}, pytest.param({"kv_cache": "paged", "kv_bits": 4}, marks=pytest.mark.full)],
    ids=str,
)
def test_forked_processes_answer_as_the_first_one_does(switches):
    """A model is loaded, has answered, and then the process forks: three processes answer at the same time."""
    program = """
import json
from helpers import finish, make_engine, request, small_config
engine = make_engine(small_config(), **json.loads(sys.argv[2]))
def answers():
    return [finish(engine, request([1 + i, 2, 3, 4, 5, 6, 7], 40)) for i in range(6)]
want = answers()
children = []
for _ in range(2):
    child = os.fork()
    if not child:
        os._exit(sum(answers() != want for _ in range(5)))
    children.append(child)
own = sum(answers() != want for _ in range(5))
print(own, *(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""
    assert run(program, json.dumps(switches)) == "0 0 0\n"


@glibc
@pytest.mark.parametrize(("quantize", "cyclic"), [("off", True), pytest.param("int8", False, marks=pytest.mark.full)])
def test_the_memory_of_a_deleted_model_comes_back(quantize, cyclic):
    """585 of 588 MB stayed with the process, because freed memory was kept for good. The second of two models comes
    back, too, and five models one after the other take no more than one. In a cycle, as a traceback makes it, what
    watches the model's end is told before the weights are freed.
    """
    program = """
from helpers import finish, make_engine, request, small_config
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
def answering():
    engine = make_engine(small_config(hidden_size=1024, intermediate_size=2048), quantize=sys.argv[2])
    finish(engine, request([5, 6, 7] * 20, 4))
    kept = [engine]
    if sys.argv[3] == "True":
        kept.append(kept)
    return kept
answering()
gc.collect()
before = resident()
first = answering()
full = resident()
second = answering()
del first, second
gc.collect()
after = resident()
for _ in range(5):
    answering()
    gc.collect()
print(full - before, after - before, resident() - before)
"""
    full, after, many = map(int, run(program, quantize, str(cyclic)).split())
    assert full > 48, "a model is large enough to be seen"
    assert after < 10
    assert many < 10


@glibc
def test_freed_memory_is_kept_in_every_thread():
    """Catches arenas of threads' own, in which a prefill's temporaries of 64 MB fault in all of their pages each time:
    16,000 faults, where the memory of a first pass serves the next ones. In pages of 4 KB, so that they can be counted.
    """
    program = """
import resource
from threading import Thread
from helpers import finish, make_engine, request, small_config
engine = make_engine(small_config(hidden_size=256, intermediate_size=16384, num_layers=1, max_position=600))
def answer():
    finish(engine, request([1, 2, 3, 4] * 128, 1))
def faults(work):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def twice():
    answer()
    print(faults(answer))
thread = Thread(target=twice)
thread.start()
thread.join()
twice()
"""
    assert all(int(count) < 1000 for count in run(program, NUMPY_MADVISE_HUGEPAGE="0").split())
