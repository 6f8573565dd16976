"""A plan: the launches of a pass in their order, as a table of whole numbers that compiled code walks through.

Each row of the table is a launch: the kernel's address, the address of its arguments, and how many items it has. The
plan keeps the arrays alive whose addresses it holds.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np

from tinyinfer.backends.cpu_kernels.kernel import Count, Launch

KERNEL, ARGUMENTS, ITEMS, COLUMNS = 0, 1, 2, 3  # of a row of the table


class Plan:
    """Launches that can be run again and again; `refresh` looks up how many items those with a Count have."""

    def __init__(self, launches: Seq[Launch]) -> None:
        self.launches = tuple(launches)
        addresses = Addresses()
        numbers = [[addresses.as_number(value) for value in launch.arguments] for launch in self.launches]
        self.arguments = np.array([n for some in numbers for n in some] or [0], dtype=np.int64)
        self.table = np.zeros((len(self.launches), COLUMNS), dtype=np.int64)  # (launches, 3)
        self.counts: dict[Count, list[int]] = {}
        start = self.arguments.ctypes.data
        for n, (launch, some) in enumerate(zip(self.launches, numbers, strict=True)):
            items = launch.items
            if isinstance(items, Count):
                self.counts.setdefault(items, []).append(n)
                items = 0
            self.table[n] = launch.kernel.address, start, items
            start += 8 * len(some)

    def refresh(self) -> None:
        """Gives the launches that have a Count as many items as it says now."""
        for count, rows in self.counts.items():
            self.table[rows, ITEMS] = count.number


class Addresses:
    """Where arrays begin. NumPy takes 3 us to say so, and a plan names an array of its rows a hundred times."""

    def __init__(self) -> None:
        self._found: dict[int, int] = {}  # by the array's id: a plan keeps its arrays

    def as_number(self, value: int | np.ndarray) -> int:
        """What a kernel gets of an argument: the number, or where the array's memory begins."""
        if not isinstance(value, np.ndarray):
            return int(value)
        if id(value) not in self._found:
            self._found[id(value)] = int(value.ctypes.data)
        return self._found[id(value)]
