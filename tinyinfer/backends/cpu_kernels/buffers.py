"""The arrays of a plan: rows of activations, and scratch memory, at the beginning of cache lines.

A plan of T rows computes layer after layer in the same few arrays. A row takes a whole number of blocks of 64 numbers;
what lies behind its width stays zero, because weights are padded with zeros, so no kernel needs a special last vector.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

BLOCK = 64  # numbers: the outputs of a block of weights, and four vectors
ALIGNMENT = 64  # bytes of a cache line


class Rows(NamedTuple):
    """T rows of `width` numbers, each padded to whole blocks."""

    array: np.ndarray  # (T, stride) float32
    width: int

    @property
    def stride(self) -> int:
        """Numbers from the beginning of a row to the beginning of the next."""
        return self.array.strides[0] // self.array.itemsize

    def __len__(self) -> int:
        return len(self.array)

    def columns(self, first: int, width: int) -> Rows:
        """The numbers first ... first + width of each row, `first` a whole number of blocks."""
        return Rows(self.array[:, first:], width)


class Buffers:
    """The arrays of one plan, by name: who asks for a name again gets the same array."""

    def __init__(self, rows: int, threads: int) -> None:
        self.count, self.threads = rows, threads
        self._arrays: dict[tuple[object, ...], np.ndarray] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays."""
        return sum(array.nbytes for array in self._arrays.values())

    def rows(self, name: str, width: int) -> Rows:
        """T rows of so many numbers."""
        return Rows(self.array(name, (self.count, blocks(width) * BLOCK)), width)

    def array(self, name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:  # -> shape
        """An array of zeros; for scratch memory of each thread, the first axis is the threads'."""
        key = (name, shape, np.dtype(dtype))
        if key not in self._arrays:
            self._arrays[key] = aligned(shape, dtype)
        return self._arrays[key]


def blocks(width: int) -> int:
    """How many blocks of 64 so many numbers take."""
    return -(-width // BLOCK)


def aligned(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:  # -> shape
    """An array of zeros that begins at a cache line."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(nbytes + ALIGNMENT, dtype=np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + nbytes].view(dtype).reshape(shape)
