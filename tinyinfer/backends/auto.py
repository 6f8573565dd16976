"""`--backend auto`: a GPU if there is one that CuPy can use, else NumPy; a note says which, and why not the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyinfer.arrays import Xp
from tinyinfer.backends.cupy_device import find_cupy
from tinyinfer.backends.switches import BACKENDS
from tinyinfer.errors import SwitchError, note
from tinyinfer.ledger import Ledger
from tinyinfer.model.interfaces import Ops
from tinyinfer.switches import resolve


def auto_ops(
    ledger: Ledger, dtype: Any = np.float32, threads: int | None = None, find: Callable[[], Xp] = find_cupy,
    activations: str = "float",
) -> Ops:  # fmt: skip
    """The operations of cupy where `find` gives CuPy with a device, else those of numpy; both with a note."""
    ops: Ops
    try:
        xp = find()
    except SwitchError as error:
        note(f"backend=auto takes numpy: {error.sentence(str).partition('; ')[0]}")
        ops = resolve(BACKENDS, "numpy")(ledger, dtype, threads, activations=activations)
    else:
        note("backend=auto takes cupy, since there is a GPU")
        ops = resolve(BACKENDS, "cupy")(ledger, dtype, threads, xp=xp, activations=activations)
    return ops
