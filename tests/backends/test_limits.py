"""How many cores and how much memory: of a made-up machine, in made-up containers."""

from __future__ import annotations

import ctypes
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tinyinfer.backends.limits import (
    NO_LIMIT,
    available_memory,
    cpu_quotas,
    machine_memory,
    memory_limits,
    windows_memory,
)


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
        ("0::/\n", {"cpu.max": "50000 nonsense\n"}, []),
        ("nonsense\n\n0::/\n", {"cpu.max": "50000 100000\n"}, [0.5]),
    ],
)  # fmt: skip
def test_a_containers_quota_is_read_from_its_group_and_those_above(group, files, cores, tmp_path):
    """Kubernetes and docker --cpus limit time, not cores: the affinity mask still shows the whole machine."""
    assert list(cpu_quotas(container(tmp_path, group, files))) == cores


@pytest.mark.parametrize(
    ("group", "files", "limits"),
    [
        ("0::/\n", {"memory.max": "max\n"}, []),
        ("0::/\n", {"memory.max": "536870912\n"}, [1 << 29]),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "1000000\n"}, [1000000]),
        ("0::/a\n", {"a/memory.max": "3000\n", "memory.max": "2000\n"}, [3000, 2000]),
        ("4:memory:/docker/x\n0::/\n", {"memory/memory.limit_in_bytes": "1073741824\n"}, [1 << 30]),
        ("4:memory:/x\n", {"memory/x/memory.limit_in_bytes": "5000\n",
                           "memory/memory.limit_in_bytes": "9223372036854771712\n"}, [5000]),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "-1\n"}, []),
        ("4:cpu:/\n", {"cpu/memory.limit_in_bytes": "1000\n"}, []),
        ("0::/\n", {"memory.max": "nonsense\n"}, []),
        ("0::/\n", {}, []),
    ],
)  # fmt: skip
def test_a_containers_memory_is_read_from_its_group_and_those_above(group, files, limits, tmp_path):
    """docker -m and Kubernetes end a process that takes more, and sysconf still shows the whole machine."""
    assert list(memory_limits(container(tmp_path, group, files))) == limits


@pytest.mark.parametrize(
    ("machine", "limit", "available"),
    [([8 << 30], "max", 8 << 30), ([8 << 30], "2147483648", 2 << 30), ([8 << 30, 1 << 30], "2147483648", 1 << 30),
     ([1 << 30], "2147483648", 1 << 30), ([], "max", NO_LIMIT)],
)  # fmt: skip
def test_the_smallest_limit_holds(machine, limit, available, tmp_path):
    """The machine's memory, `ulimit -v` and the container's limit, whichever is the least."""
    assert available_memory(1, container(tmp_path, "0::/", {"memory.max": limit}), machine, ()) == available


def test_processes_share_the_machine_and_not_their_own_limits(tmp_path):
    """Four of them plan a quarter each; `ulimit -v` is each one's own. Catches ranks that plan four times the memory.
    """
    root = container(tmp_path, "0::/", {"memory.max": str(8 << 30)})
    assert available_memory(4, root, [16 << 30], []) == 2 << 30
    assert available_memory(4, root, [16 << 30], [3 << 30]) == 2 << 30
    assert available_memory(4, root, [16 << 30], [1 << 30]) == 1 << 30


def test_without_control_groups_there_is_no_limit(tmp_path):
    """macOS and Windows have no /proc."""
    assert list(memory_limits(tmp_path)) == list(cpu_quotas(tmp_path)) == []


def test_windows_says_its_memory_in_a_structure():
    """Layout by Microsoft's page on MEMORYSTATUSEX: dwLength, dwMemoryLoad, ullTotalPhys, six more."""

    def status(buffer: ctypes.Array[ctypes.c_char]) -> int:
        assert struct.unpack_from("<I", buffer) == (64,), "the caller says how long the structure is"
        buffer[:] = struct.pack("<II7Q", 64, 37, 17_100_000_000, 2, 3, 4, 5, 6, 7)
        return 1

    assert windows_memory(status) == 17_100_000_000
    assert windows_memory(lambda buffer: 0) == NO_LIMIT, "the call failed"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_machines_memory_is_what_the_kernel_says():
    """In bytes, not in pages."""
    total = int(Path("/proc/meminfo").read_text().split()[1]) << 10
    assert list(machine_memory()) == [pytest.approx(total, rel=0.05)]


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS has no effect elsewhere")
@pytest.mark.parametrize("which", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_ulimit_counts(which):
    """`ulimit -v` and `ulimit -d`: what a user, a cluster's queue or systemd allows."""
    program = f"""
import resource
resource.setrlimit(resource.{which}, (3 << 30, 3 << 30))
from tinyinfer.backends.limits import process_limits
print(*process_limits())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"{3 << 30}\n"


def test_a_groups_name_and_its_limit_need_not_be_text(tmp_path):
    """A name of a group is bytes. Catches an LLM that does not start because a name or a limit is no UTF-8."""
    root = container(tmp_path, "", {"memory.max": "5000\n", "x/memory.max": ""})
    (root / "proc/self/cgroup").write_bytes(b"0::/x/\xff\n")
    (root / "sys/fs/cgroup/x/memory.max").write_bytes(b"\xff\xfe")
    assert list(memory_limits(root)) == [5000]
