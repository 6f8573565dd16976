"""Compiled kernels on disk: whatever happens to the folder, answers are right and a sentence says what is lost."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from processes import ended, run, started

from tinyinfer.backends.cpu_kernels import disk_cache
from tinyinfer.backends.cpu_kernels.disk_cache import Files

pytestmark = pytest.mark.cpu
FILES = """
from tinyinfer.backends.cpu_kernels.kernel import Launch, kernel
from tinyinfer.backends.cpu_kernels.plan import Plan
from tinyinfer.backends.cpu_kernels.rows import gather
from tinyinfer.backends.cpu_kernels.buffers import Buffers
from tinyinfer.backends.cpu_kernels.team import team
def gathered():
    x, y = Buffers(5, 1).rows("x", 70), Buffers(5, 1).rows("y", 70)
    x.array[:, :70] = np.arange(350).reshape(5, 70)
    team().run(Plan(gather(x, y, np.array([4, 0, 3, 3, 1]), 2.0)), 1)
    return np.array_equal(y.array, 2 * x.array[[4, 0, 3, 3, 1]])
print(gathered())
"""  # two functions: a kernel, and what calls it
COMPILES, IS_KEPT = "compiles its kernels", 2


def gathering(home: Path, **environ: str) -> tuple[str, str]:
    """A process that needs two functions: what it prints, and its notes."""
    status, out, err = ended(started(FILES, TINYINFER_HOME=str(home), **environ))
    assert status == 0, err[-3000:]
    return out, err


def kept(home: Path) -> list[Path]:
    return sorted(path for path in home.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two compiled functions."""
    folder = tmp_path_factory.mktemp("home")
    out, err = gathering(folder)
    assert out == "True\n"
    assert COMPILES in err
    assert len(kept(folder)) == IS_KEPT
    return folder


def test_a_second_process_compiles_nothing(home: Path) -> None:
    """Nor does it load what only compiling needs, two thirds of a start. Catches numba's own way to load."""
    loaded = FILES + "import sys; print(sorted({'numba.np.linalg', 'numba.core.runtime.nrt'} & set(sys.modules)))"
    status, out, err = ended(started(loaded, TINYINFER_HOME=str(home)))
    assert (status, out, err) == (0, "True\n['numba.core.runtime.nrt']\n", "")


EVERY = """
import importlib, pkgutil, sys
import tinyinfer.backends.cpu_kernels as kernels
from tinyinfer.backends.cpu_kernels.kernel import Native
modules = [importlib.import_module(f"{kernels.__name__}.{one.name}") for one in pkgutil.iter_modules(kernels.__path__)]
values = [value for module in modules for value in vars(module).values()]
values += [value for some in values if isinstance(some, dict) for value in some.values()]
found = {id(one): one.address for one in values if isinstance(one, Native)}
print(len(found) > 50, "numba.np.linalg" in sys.modules)
"""


@pytest.mark.full
def test_every_kernel_comes_from_the_disk_without_the_compiler(tmp_path: Path) -> None:
    """Catches machine code that calls something of numba's that was not loaded, which would end the process."""
    for compiles in (True, False):
        status, out, err = ended(started(EVERY, TINYINFER_HOME=str(tmp_path)))
        assert (status, out) == (0, f"True {compiles}\n"), err[-3000:]


def test_files_that_are_damaged_or_exchanged_are_compiled_again(home: Path) -> None:
    """Cut short, empty, of other bytes, exchanged. Catches a crash, and one kernel called for another."""
    one, two = kept(home)
    sound = one.read_bytes(), two.read_bytes()
    for data in (sound[0][:1000], b"", bytes(len(sound[0])), sound[0][:-1] + b"x", sound[1]):
        one.write_bytes(data)
        out, err = gathering(home)
        assert out == "True\n"
        assert COMPILES in err
        assert one.read_bytes()[32:40] == sound[0][32:40]
        assert gathering(home) == ("True\n", "")


def test_a_cache_made_on_another_cpu_is_not_used(home: Path) -> None:
    """The CPU is a part of a file's name: no AVX at all, and AVX2 alone. Catches instructions that a CPU lacks, and a
    slow kernel that stays.
    """
    before = kept(home)
    for n, features in enumerate(("", "+avx,+avx2,+fma,+f16c"), 2):
        for noted in (True, False):
            out, err = gathering(home, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES=features)
            assert out == "True\n"
            assert (COMPILES in err) == noted
        assert len(kept(home)) == IS_KEPT * n
    assert gathering(home) == ("True\n", "")
    assert set(before) <= set(kept(home))


def test_processes_that_compile_at_once_leave_a_cache_that_can_be_used(tmp_path: Path) -> None:
    """Two for this CPU and one for another. Catches numba's index, in which one's machine code stands for another's."""
    other = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    processes = [started(FILES, TINYINFER_HOME=str(tmp_path), **environ) for environ in ({}, {}, other)]
    assert [ended(process)[:2] for process in processes] == [(0, "True\n")] * 3
    assert len(kept(tmp_path)) == 2 * IS_KEPT
    for environ in ({}, other):
        assert gathering(tmp_path, **environ) == ("True\n", "")


def test_a_folder_that_cannot_be_written_costs_one_note(tmp_path: Path) -> None:
    """A file stands where the folder should be; not even root can write into it. Catches an error, or ten notes."""
    (tmp_path / "kernels").write_text("")
    out, err = gathering(tmp_path)
    assert out == "True\n"
    assert err.count("compiled kernels cannot be kept in") == 1
    assert "let TINYINFER_HOME name a folder that can be written" in err


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(tmp_path / "new", "multiply")

    def write_half(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_half)
        with pytest.raises(OSError, match="No space left"):
            files.save("key", [1, 2, 3])
    assert not kept(tmp_path)
    assert files.load("key") is None
    files.save("key", [1, 2, 3])
    assert files.load("key") == [1, 2, 3]
    assert files.load("another key") is None


def test_other_sources_have_other_files_and_old_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches machine code of sources that have changed, and a folder that grows with every change."""
    files = Files(tmp_path, "multiply")
    files.save("key", 1)
    monkeypatch.setattr(disk_cache, "stamp", lambda: "changed sources")
    assert files.load("key") is None
    disk_cache.remove_old.cache_clear()
    files.save("key", 2)
    assert len(kept(tmp_path)) == 2, "another process may still run the sources of this week"
    for path in kept(tmp_path):
        os.utime(path, (0, time.time() - disk_cache.WEEK - 60))
    disk_cache.remove_old.cache_clear()
    files.save("key", 3)
    assert kept(tmp_path) == [files.path("key")]
    assert files.load("key") == 3


SMALL_MODELS = """
import json, warnings
warnings.simplefilter("ignore")
from helpers import checkpoint_of, random_tensors, forward, request
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.engine.config import EngineConfig
config = small_config(hidden_size=64, intermediate_size=96, head_dim=16, max_position=128)
for switches in ({}, {"dtype": "bfloat16"}, {"dtype": "float16"}, {"quantize": "int8"}, {"quantize": "int4"},
                 {"quantize": "int4", "activations": "int8"}, {"kv_cache": "paged", "kv_bits": 8, "kv_group_size": 16}):
    name = switches.get("dtype", "float32")
    dtype = __import__("ml_dtypes").bfloat16 if name == "bfloat16" else name
    both = [kind(Ledger(), dtype, 2, switches.get("activations", "float")) for kind in (NumbaOps, NumpyOps)]
    for prompt in ([1, 2, 3], [n % 31 for n in range(70)]):
        logits = []
        for ops in both:
            one = make_engine(config, ops=ops, **{n: v for n, v in switches.items() if n != "dtype"})
            logits.append(np.array(forward(one, (request(prompt), 0, len(prompt)))))
        allowed = 2e-2 if "activations" in switches or "kv_bits" in switches else 1e-4
        error = np.abs(logits[0] - logits[1]).max() / np.abs(logits[1]).max()
        print(switches, len(prompt), "right" if error < allowed else f"wrong by {error}", flush=True)
"""


@pytest.mark.parametrize("features", ["", "+avx,+avx2,+fma,+f16c"], ids=["no AVX", "AVX2"])
def test_whole_models_are_right_on_lesser_cpus(features: str) -> None:
    """Every kind of weight. Catches an instruction that a CPU lacks: then LLVM ends the process, or calls a function
    that is not there.
    """
    lines = run(SMALL_MODELS, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES=features).splitlines()
    assert len(lines) == 14
    assert all(line.endswith("right") for line in lines), lines
