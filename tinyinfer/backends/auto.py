"""`--backend auto`: the fastest backend that is installed and can be used; a note says which, and why not the others.

A GPU if CuPy finds one, else compiled kernels if numba is there, else NumPy, which always is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from tinyinfer.backends.cupy_device import find_cupy
from tinyinfer.backends.numba_device import find_numba
from tinyinfer.backends.switches import BACKENDS
from tinyinfer.errors import SwitchError, note
from tinyinfer.ledger import Ledger
from tinyinfer.model.interfaces import Ops
from tinyinfer.switches import resolve

# The fastest first: what finds a backend or raises SwitchError, and what it passes on to it.
Find = Callable[[], Any]
FIND: Mapping[str, Find] = MappingProxyType({"cupy": find_cupy, "numba": find_numba})


def auto_ops(
    ledger: Ledger, dtype: Any = np.float32, threads: int | None = None, find: Mapping[str, Find] = FIND,
    activations: str = "float",
) -> Ops:  # fmt: skip
    """The operations of the first backend that is found; numpy where none is. find: what finds each of the others."""
    missing: list[str] = []
    name, own = next(found(find, missing), ("numpy", {}))
    note(f"backend=auto takes {name}" + (f": {', and '.join(missing)}" if missing else ""))
    ops: Ops = resolve(BACKENDS, name)(ledger, dtype, threads, activations=activations, **own)
    return ops


def found(find: Mapping[str, Find], missing: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each backend that is there, and what it is told; why another is not goes to `missing`."""
    for name, finder in find.items():
        try:
            xp = finder()
        except SwitchError as error:
            missing.append(error.sentence(str).partition("; ")[0])
        else:
            yield name, {} if xp is None else {"xp": xp}  # the array module of a GPU
