"""Settings of the process: BLAS's threads, and memory that costs nothing before it is written."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import forward, make_engine, request, small_config

from tinyinfer.backends.cpu import available_cores, cpu_quotas, default_threads, lazy_array, use_blas_threads
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


def container(root: Path, group: str, files: dict[str, str]) -> Path:
    """A file system root with this /proc/self/cgroup and these files under /sys/fs/cgroup."""
    for name, text in {"proc/self/cgroup": group, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("group", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, []),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, [0.5]),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, [1.5]),
        ("3:cpu,cpuacct:/x\n0::/\n", {"cpu,cpuacct/x/cpu.cfs_quota_us": "250000\n",
                                      "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"}, [2.5]),
        ("2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, []),
        ("2:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "1000\n", "cpuset/cpu.cfs_period_us": "100000\n"}, []),
        ("0::/\n", {"cpu.max": "nonsense\n"}, []),
        ("0::/\n", {"cpu.max": "50000 0\n"}, []),
    ],
)  # fmt: skip
def test_a_containers_quota_is_read_from_its_group_and_those_above(group, files, cores, tmp_path):
    """Kubernetes and docker --cpus limit time, not cores: the affinity mask still shows the whole machine."""
    assert list(cpu_quotas(container(tmp_path, group, files))) == cores


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
    """The system's "Cannot allocate memory" named neither what it was for nor what to do; 2^70 was an OverflowError."""
    with pytest.raises(MemoryError, match=rf"KV cache needs {rows * 8} bytes.*shorter context"):
        lazy_array((rows, 2))
