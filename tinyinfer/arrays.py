"""The types of arrays and of the modules that make them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

Array = Any  # of whichever array module the backend runs on: NumPy, CuPy
Xp = ModuleType  # that module
FLOAT = 4  # bytes of a float32: norms, biases, learned positions, keys and values
