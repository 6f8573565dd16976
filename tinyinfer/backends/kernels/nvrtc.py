"""Compiles a kernel as CuPy does, without a GPU: NVRTC makes PTX, and ptxas says what a multiprocessor must hold.

NVRTC refuses what nvcc takes (it has no headers: no INFINITY, no uint8_t), so only NVRTC is evidence. The libraries
come from the wheels of the extra `kernels`, or from a CUDA toolkit of the machine.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import re
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ARCHITECTURES = ("80", "90")  # A100, H100
OPTIONS = ("-std=c++17", "-ftz=true", "--device-as-default-execution-space")  # kernels' own, and what CuPy adds
ENTRY = re.compile(r"Compiling entry function '(\w+)'")
SPILLS = re.compile(r"(\d+) bytes spill (?:stores|loads)")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


class CompileError(RuntimeError):
    """The compiler's own words."""


class Usage(NamedTuple):
    """What one kernel needs of a multiprocessor."""

    registers: int  # a thread
    shared: int  # static bytes a block
    spills: int  # bytes that a thread stores to memory and loads again because registers are too few

    @classmethod
    def parse(cls, text: str) -> Usage:
        """Reads what `ptxas -v` says of a kernel and of the functions that it calls."""
        shared, spills = (sum(map(int, pattern.findall(text))) for pattern in (SHARED, SPILLS))
        return cls(max(map(int, USED.findall(text))), shared, spills)


def nvidia(package: str, pattern: str) -> str | None:
    """A file of one of NVIDIA's wheels."""
    spec = find_spec("nvidia")
    places = spec.submodule_search_locations if spec else None
    return next((str(p) for place in places or [] for p in sorted(Path(place).glob(f"{package}/{pattern}"))), None)


def library() -> ctypes.CDLL:
    """NVRTC: the wheel's, else the machine's."""
    path = nvidia("cuda_nvrtc", "lib/libnvrtc.so.*") or ctypes.util.find_library("nvrtc")
    if path is None:
        raise CompileError("NVRTC is not installed: pip install -e '.[kernels]'")
    return ctypes.CDLL(path)


def compile(source: str, arch: str) -> str:
    """The PTX of a source for the architecture sm_ARCH, or a CompileError with the log."""
    nvrtc = library()
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kern.cu", 0, None, None)
    options = [option.encode() for option in (*OPTIONS, f"-arch=compute_{arch}")]
    wrong = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    text = log_or_code(nvrtc, "ProgramLog" if wrong else "PTX", program)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    if wrong:
        raise CompileError(f"NVRTC does not compile the kernel for sm_{arch}: {text}")
    return text


def log_or_code(nvrtc: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> str:
    """One of the texts that NVRTC keeps of a program."""
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, text)
    return text.value.decode()


def report(source: str, arch: str) -> dict[str, Usage]:
    """What every kernel of a source needs on the architecture sm_ARCH."""
    ptxas = nvidia("cuda_nvcc", "bin/ptxas") or shutil.which("ptxas")
    if ptxas is None:
        raise CompileError("ptxas is not installed: pip install -e '.[kernels]'")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(compile(source, arch), encoding="utf-8")
        command = [ptxas, "-v", f"-arch=sm_{arch}", str(path), "-o", str(path.with_suffix(".cubin"))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(f"ptxas does not assemble the kernel for sm_{arch}: {done.stderr}")
    _, *parts = ENTRY.split(done.stderr)  # name, what ptxas says of it, name, ...
    return {name: Usage.parse(text) for name, text in zip(parts[::2], parts[1::2], strict=True)}
