"""Runs one kernel in many orders on poisoned buffers, and finds what a single run would not show.

    (x,) = run("embed", constants, [tokens, codes, None, None, np.float32(1), Out((T, D))], grid=(1, 3, 8))

Every order of threads (a seed) and every grid launches the kernel twice on the same buffers and must give the same
bits. Outputs and scratch are full of NaN before; inputs must be the same after; counters must have returned to where
they were; and around every array lie bytes that must stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from kernels.shim import RACES, KernelError, ShimModule

from tinyinfer.backends.kernels.source import Constant, kernel_source

SEEDS = (1, 2, 3)
MARGIN = 4096  # bytes before and after an array that a kernel must leave alone


@dataclass
class Out:
    """An output: poisoned before every launch, and returned."""

    shape: tuple[int, ...]
    dtype: Any = np.float32

    def first(self) -> np.ndarray:
        """What the array holds before a launch."""
        return poison(self.shape, self.dtype)


@dataclass
class Scratch(Out):
    """Memory in which a kernel keeps what it needs for itself: poisoned before the first launch, never looked at."""


@dataclass
class InOut:
    """An array that the kernel changes: as given before every launch, and returned."""

    array: np.ndarray

    def first(self) -> np.ndarray:
        """What the array holds before a launch."""
        return self.array


@dataclass
class Counters(InOut):
    """Counters of blocks: as given before the first launch only, and the kernel leaves them as it found them."""


@dataclass
class Buffer:
    """An argument's memory between two margins."""

    given: Any
    memory: np.ndarray = field(init=False)
    array: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        first = self.first()
        self.memory = np.full(first.nbytes + 2 * MARGIN, 255, np.uint8)
        inner = self.memory[MARGIN : MARGIN + first.nbytes]
        self.array = inner.view(first.dtype).reshape(first.shape)
        self.array[...] = first

    def first(self) -> np.ndarray:
        """What the array holds before the first launch."""
        return self.given if isinstance(self.given, np.ndarray) else self.given.first()

    def again(self) -> None:
        """Before the second launch: outputs are poisoned once more, what is kept between launches stays."""
        if not isinstance(self.given, Scratch | Counters):
            self.array[...] = self.first()

    def check(self, where: str) -> None:
        """After a launch: what must be unchanged is."""
        if not (self.memory[:MARGIN] == 255).all() or not (self.memory[-MARGIN:] == 255).all():
            raise KernelError(f"{where}: the kernel writes outside of the array")
        if isinstance(self.given, Counters) and not same(self.array, self.given.array):
            raise KernelError(f"{where}: a counter is {self.array}, and was {self.given.array} before the launch")
        if isinstance(self.given, np.ndarray) and not same(self.array, self.given):
            raise KernelError(f"{where}: the kernel writes to an input")


def poison(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """NaN for floats, -1 for integers: every bit set."""
    array = np.empty(shape, dtype)
    array.view(np.uint8)[...] = 255
    return array


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bit by bit: NaN equals itself."""
    return a.shape == b.shape and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def run(
    name: str, constants: Mapping[str, Constant], args: Sequence[Any], *, grid: int | Sequence[int],
    shared: int = 0, block: int | None = None, seeds: Sequence[int] = SEEDS, resident: int = 16,
    races: bool = RACES,
) -> list[np.ndarray]:  # fmt: skip
    """The outputs (Out and InOut, in the order of the arguments) of a kernel of tinyinfer/backends/kernels."""
    return run_source(kernel_source(name, constants), name, args, grid=grid, shared=shared, block=block, seeds=seeds,
                      resident=resident, races=races)  # fmt: skip


def run_source(
    source: str, name: str, args: Sequence[Any], *, grid: int | Sequence[int], shared: int = 0,
    block: int | None = None, seeds: Sequence[int] = SEEDS, resident: int = 16, races: bool = RACES,
) -> list[np.ndarray]:  # fmt: skip
    """The same for any source; a block has as many threads as the kernel's __launch_bounds__ unless told."""
    kernel = ShimModule(source, races=races).get_function(name)
    kernel.max_dynamic_shared_size_bytes = max(shared, kernel.max_dynamic_shared_size_bytes)
    expected: list[np.ndarray] | None = None
    for blocks in (grid,) if isinstance(grid, int) else grid:
        for seed in seeds:
            buffers = [arg if arg is None or isinstance(arg, np.generic) else Buffer(arg) for arg in args]
            for launch in ("first", "second"):
                where = f"{name}, {launch} launch, grid {blocks}, seed {seed}"
                kernel((blocks,), (block or kernel.max_threads,), [getattr(b, "array", b) for b in buffers], shared,
                       seed=seed, resident=resident)  # fmt: skip
                found = outputs(buffers, where)
                expected = found if expected is None else expected
                if not all(map(same, found, expected)):
                    raise KernelError(f"{where}: the result differs from the first launch's")
    assert expected is not None
    return expected


def outputs(buffers: Sequence[Any], where: str) -> list[np.ndarray]:
    """Copies of what a launch wrote; makes the buffers ready for the next one."""
    found = []
    for number, buffer in enumerate(buffers, 1):
        if isinstance(buffer, Buffer):
            buffer.check(f"{where}, argument {number}")
            if isinstance(buffer.given, Out | InOut) and not isinstance(buffer.given, Scratch | Counters):
                found.append(buffer.array.copy())
            buffer.again()
    return found
