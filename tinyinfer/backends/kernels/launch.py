"""A launch: one kernel with all that starting it needs, made once and started many times.

To start a kernel from Python costs the host 5 to 10 microseconds, most of it spent on looking at the arguments; the GPU
needs 1 to 3 microseconds between two kernels that depend on each other, and for a small model little more for the work
itself. A step of 30 layers is 150 launches. So everything that can be known before is known before: the compiled
function, the grid, the arguments. What remains to be done in a step is a call.

A kernel is compiled for its model: sizes are constants of the text (source.py). `Kernels` compiles each once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np

from tinyinfer.arrays import Xp
from tinyinfer.backends.cupy_device import kernel_error
from tinyinfer.backends.kernels.source import NAME, Constant, kernel_source

NULL = np.uint64(0)  # a null pointer: CuPy knows no other
BOUNDS = re.compile(r"__launch_bounds__\((\w+)")


@dataclass(frozen=True)
class Cost:
    """What launches cost: bytes read and written, FLOPs, how many launches.

    position_bytes, position_flops: what attention reads and computes more for each position that a row sees.
    """

    read: int = 0
    written: int = 0
    flops: int = 0
    position_bytes: int = 0
    position_flops: int = 0
    launches: int = 1

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(mine + others for mine, others in zip(vars(self).values(), vars(other).values(), strict=True)))

    def at(self, positions: int) -> Cost:
        """The cost where every row sees so many positions."""
        read, flops = self.read + positions * self.position_bytes, self.flops + positions * self.position_flops
        return replace(self, read=read, flops=flops, position_bytes=0, position_flops=0)


@dataclass(frozen=True)
class Launch:
    """One kernel, how many blocks of how many threads, its arguments and its bytes of dynamic shared memory."""

    name: str
    constants: Mapping[str, Constant]
    grid: int
    block: int
    args: tuple[Any, ...]
    shared: int = 0
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True)
class Plan:
    """The launches of a pass over so many rows, in order. Each may begin when the one before has ended."""

    rows: int
    launches: tuple[Launch, ...]

    @property
    def cost(self) -> Cost:
        """The cost of all launches together."""
        return sum((launch.cost for launch in self.launches), Cost(launches=0))


class Kernels:
    """The kernels of a device, each compiled when it is first asked for."""

    def __init__(self, xp: Xp) -> None:
        self.xp = xp
        self._functions: dict[tuple[str, frozenset[tuple[str, Constant]]], Any] = {}  # by name and constants

    def bind(self, launch: Launch) -> Callable[[], None]:
        """The call that starts a launch. Raises ModelError for a kernel that does not compile."""
        kernel = self.function(launch.name, launch.constants)
        kernel.max_dynamic_shared_size_bytes = max(kernel.max_dynamic_shared_size_bytes, launch.shared)
        return partial(kernel, (launch.grid,), (launch.block,), launch.args, shared_mem=launch.shared)

    def function(self, name: str, constants: Mapping[str, Constant]) -> Any:
        """The compiled kernel of that name for these constants; a prompt asks for three in each layer."""
        values = used(name, constants)
        key = name, frozenset(values.items())
        if key not in self._functions:
            self._functions[key] = self.compiled(name, kernel_source(name, values))
        return self._functions[key]

    def compiled(self, name: str, text: str) -> Any:
        """The function of a kernel's text, compiled by NVRTC."""
        try:
            return self.xp.RawModule(code=text, options=("-std=c++17",)).get_function(name)
        except self.xp.cuda.compiler.CompileException as error:
            raise kernel_error(name, error) from error


def used(name: str, constants: Mapping[str, Constant]) -> dict[str, Constant]:
    """Those constants that a kernel's text names: two models that differ in others share the compiled kernel."""
    return {key: value for key, value in constants.items() if key in names_in(name)}


@cache
def names_in(name: str) -> frozenset[str]:
    """All names in a kernel's text and in its headers, their comments left out."""
    return frozenset(NAME.findall(re.sub("//.*", "", kernel_source(name, {}))))


@cache
def threads_of(name: str) -> int:
    """How many threads a block of a kernel has, as its file says."""
    text = kernel_source(name, {})
    [bounds] = BOUNDS.findall(text)
    return int(re.findall(rf"\b{bounds} = (\d+)", text)[0])
