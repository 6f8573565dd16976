"""Runs CUDA C++ on a CPU: g++ compiles the source with shim.h and shim.cpp, and a kernel takes NumPy arrays.

    module = ShimModule(kernel_source("embed", constants))
    embed = module.get_function("embed")
    embed((4,), (128,), (tokens, codes, None, None, np.float32(1), x), seed=7)

A kernel is called as one of CuPy's RawModule is: arrays or np.uint64 addresses for pointers, None for a null pointer,
NumPy scalars for the rest; and it refuses what a device would take and read as something else, such as an array of
another type.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parent
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-fno-math-errno", "-fno-exceptions",
         "-fno-rtti", "-fno-threadsafe-statics", "-U_FORTIFY_SOURCE", "-w"]  # fmt: skip
LINK = ["-shared", "-nostdlib", "-lm", "-lc", "-lgcc"]
WATCHED = ["-g", "-fsanitize=thread", "--param=tsan-distinguish-volatile=1",
           "--param=tsan-instrument-func-entry-exit=0"]  # fmt: skip
KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\(([^()]*)\)\s+)?(\w+)\s*\(')
RACES = os.environ.get("TINYINFER_RACES") == "1"  # every kernel that is run is also searched for races
DEFAULT_SHARED = 48 << 10  # bytes that a block gets unless the kernel's attribute says more
LETTERS = {"b": "i1", "B": "u1", "h": "i2", "H": "u2", "i": "i4", "I": "u4", "q": "i8", "Q": "u8", "f": "f4",
           "d": "f8", "?": "b1"}  # fmt: skip


class KernelError(RuntimeError):
    """What a device would have done wrong, or refused."""


class BuildError(RuntimeError):
    """The words of g++."""


def library(source: str, races: bool) -> Path:
    """The library of a source's kernels; with races, one that reports every access to memory."""
    bounds = {name: bound.partition(",")[0] or "1024" for bound, name in KERNEL.findall(source)}
    kernels = "".join(f"SHIM_KERNEL({name}, {bound})\n" for name, bound in bounds.items())
    parts = [str(built((FOLDER / f"{name}.cpp").read_text("utf-8"), "o", ["-c", "-O2"])) for name in ("shim", "races")]
    text = f'#include "shim.h"\n#line 1 "kernel"\n{source}\n{kernels}'
    return built(text, "so", ["-x", "none", *parts, *LINK, *(WATCHED if races else [])])


def built(text: str, suffix: str, options: list[str]) -> Path:
    """What g++ makes of a text, made once for all processes: the file's name is the hash of all that goes into it."""
    if shutil.which("g++") is None:
        pytest.skip("kernels run on a CPU only where g++ is installed")
    headers = [path.read_text("utf-8") for path in sorted(FOLDER.glob("*.h"))]
    key = hashlib.sha256("\0".join([text, *headers, *FLAGS, *options]).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"tinyinfer-shim-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / f"{key}.{suffix}"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=folder) as own:
            made = Path(own) / target.name
            command = ["g++", *FLAGS, f"-I{FOLDER}", "-o", str(made), "-x", "c++", "-", *options]
            done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BuildError(f"g++ does not compile the kernel: {done.stderr}")
            os.replace(made, target)  # at once: another process sees all of the file, or none of it
    return target


@dataclass(frozen=True)
class Parameter:
    """One argument of a kernel, from a description such as "PCf4": a pointer to constant floats of 4 bytes."""

    pointer: bool
    constant: bool
    letter: str
    size: int

    @classmethod
    def parse(cls, text: str) -> Parameter:
        """Reads what shim.h's `describe` writes."""
        pointer, constant, letter, size = re.fullmatch(r"(P?)(C?)(\D)(\d+)", text).groups()  # type: ignore[union-attr]
        return cls(bool(pointer), bool(constant), letter, int(size))

    @property
    def dtype(self) -> np.dtype | None:
        """The NumPy type; None for void and for the kernels' own structures."""
        return np.dtype(LETTERS[self.letter]) if self.letter in LETTERS else None

    def address(self, value: Any, where: str) -> ctypes.c_void_p:
        """The address of an array that this pointer may point to."""
        if value is None or isinstance(value, np.uint64):  # CuPy takes an address as a number
            return ctypes.c_void_p(int(value or 0))
        if not isinstance(value, np.ndarray):
            raise KernelError(f"{where} is a pointer and needs an array or None, not {type(value).__name__}")
        if self.dtype is not None and self.dtype != value.dtype:
            raise KernelError(f"{where} points to {self.dtype}, not to {value.dtype}")
        if self.dtype is None and self.size and self.size != value.itemsize:
            raise KernelError(f"{where} points to elements of {self.size} bytes, not to {value.dtype}")
        if not value.flags.c_contiguous:
            raise KernelError(f"{where} is an array whose elements do not lie one after the other")
        if not self.constant and not value.flags.writeable:
            raise KernelError(f"{where} is written by the kernel, and the array is read-only")
        return ctypes.c_void_p(value.ctypes.data)

    def marshal(self, value: Any, where: str) -> Any:
        """The C object whose address the kernel reads the argument from."""
        if self.pointer:
            return self.address(value, where)
        if not isinstance(value, np.generic) or value.dtype != self.dtype:
            given = value.dtype if isinstance(value, np.generic | np.ndarray) else type(value).__name__
            raise KernelError(f"{where} is a scalar and needs np.{self.dtype}, not {given}")
        return (ctypes.c_char * self.size).from_buffer_copy(value.tobytes())


class ShimKernel:
    """A kernel of a ShimModule, called as CuPy's RawKernel is, with a seed for the order of its threads."""

    def __init__(self, module: ShimModule, name: str) -> None:
        self.module, self.name = module, name
        library = module.library
        self.launch = getattr(library, f"shim_launch_{name}")
        self.launch.restype = ctypes.c_char_p
        self.launch.argtypes = [ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_size_t, ctypes.c_uint64,
                                ctypes.c_uint]  # fmt: skip
        describe = getattr(library, f"shim_arguments_{name}")
        describe.restype = ctypes.c_char_p
        self.parameters = [Parameter.parse(text) for text in describe().decode().split()]
        self.max_threads = int(getattr(library, f"shim_bound_{name}")())
        self.shared_size_bytes = int(getattr(library, f"shim_statics_{name}")())
        self.max_dynamic_shared_size_bytes = DEFAULT_SHARED - self.shared_size_bytes

    def __call__(
        self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared_mem: int = 0,
        *, seed: int | None = None, resident: int = 16,
    ) -> None:  # fmt: skip
        """Runs all blocks, `resident` of them at a time. Seed 0: the plain order."""
        blocks, threads = self.one(grid, "grid"), self.one(block, "block")
        if threads > self.max_threads:
            raise KernelError(f"{self.name}: {threads} threads are more than its __launch_bounds__({self.max_threads})")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise KernelError(f"{self.name}: {shared_mem} bytes of dynamic shared memory are more than"
                              f" {self.max_dynamic_shared_size_bytes} (max_dynamic_shared_size_bytes)")  # fmt: skip
        if len(args) != len(self.parameters):
            raise KernelError(f"{self.name} has {len(self.parameters)} arguments, and {len(args)} are given")
        values = [
            parameter.marshal(value, f"{self.name}: argument {number}")
            for number, (parameter, value) in enumerate(zip(self.parameters, args, strict=True), 1)
        ]
        pointers = (ctypes.c_void_p * max(1, len(values)))(*(ctypes.addressof(value) for value in values))
        seed = self.module.seed if seed is None else seed
        wrong = self.launch(pointers, blocks, threads, shared_mem, seed, resident)
        if wrong is not None:
            raise KernelError(f"{self.name}, seed {seed}: {self.module.with_lines(wrong.decode())}")

    def one(self, sizes: Sequence[int], what: str) -> int:
        """The only size of a grid or a block: the kernels use no second dimension."""
        first, *others = sizes
        if first < 1 or any(size != 1 for size in others):
            raise KernelError(f"{self.name}: the {what} {tuple(sizes)} must have one dimension, of at least 1")
        return int(first)


class ShimModule:
    """A compiled source, in the place of CuPy's RawModule."""

    def __init__(self, code: str, seed: int = 0, races: bool = RACES) -> None:
        self.code, self.seed = code, seed
        self.names = [name for _, name in KERNEL.findall(code)]
        self.path = library(code, races)
        self.library = ctypes.PyDLL(str(self.path), mode=os.RTLD_LOCAL | os.RTLD_NOW)  # holds the interpreter's lock

    def get_function(self, name: str) -> ShimKernel:
        """One kernel of the source."""
        if name not in self.names:
            raise KernelError(f"the source has no kernel {name}: it has {', '.join(self.names) or 'none'}")
        return ShimKernel(self, name)

    def with_lines(self, message: str) -> str:
        """A message whose addresses of code are lines of the source."""
        return re.sub(r"\[code (\w+)\]", lambda found: f"({self.line(found[1])})", message)

    def line(self, address: str) -> str:
        """The line of the source that an address of the library belongs to."""
        command = ["addr2line", "-i", "-e", str(self.path), address]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        number = re.search(r"\bkernel:(\d+)", done.stdout)
        return f"line {number[1]}: {self.code.splitlines()[int(number[1]) - 1].strip()}" if number else "unknown"
