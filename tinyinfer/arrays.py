"""Arrays by type: of which module they are is the backend's choice, and only `to_host` has to know."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Array = Any  # an array of NumPy or CuPy
Xp = ModuleType  # the module itself; passed to whatever makes arrays
FLOAT = 4  # bytes of a float32: norms, biases, learned positions, keys and values


def to_host(array: Array) -> np.ndarray:
    """The array in the host's memory: itself in NumPy, a copy that waits for the device in CuPy."""
    return array.get() if hasattr(array, "get") else array
