"""Arrays: their types, and the letters of their shapes.

A backend chooses the array module; only `to_host` must know which one it is. A shape is written behind the line that
makes an array, and behind each `def`: `# (T, H, E), (S, K, E) -> (T, H, E)`. Each letter has one meaning in the whole
package, and is one length within a function:

    L  layers
    D  model width
    V  vocabulary
    H  query heads
    K  key/value heads; H/K query heads share one
    E  head size; Ek of keys and Ev of values where the two may differ
    F  MLP width
    X  experts of a layer
    k  experts that a row uses
    Z  sets of rotary frequencies
    T  rows computed together, one for each token: of a batch, or of one of its spans or tiles
    R  rows whose logits are wanted: of a batch, or of one of its spans
    S  cached positions that are read
    P  positions for which a cache's array has room
    B  blocks of a cache
    b  positions of a block
    N  outputs of a matrix
    M  inputs of a matrix
    G  groups of numbers that share a scale
    J  blocks of 64 outputs of a packed matrix
    C  bytes of packed codes
    W  windows of a calibration text

Any other length is a word, or a lower-case letter that the docstring of its function explains. (tests/test_shapes.py
holds the signatures to this list, and calls every function with a different length for each letter.)
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Array = Any  # an array of NumPy or CuPy
Xp = ModuleType  # the array module itself, for functions that make arrays
HALF_MAX = 65504.0  # the largest float16
FLOAT = 4  # bytes of a float32: norms, biases, learned positions, keys and values


def to_host(array: Array) -> np.ndarray:
    """The array in the host's memory: itself in NumPy, a copy that waits for the device in CuPy."""
    return array.get() if hasattr(array, "get") else array


class HoldsModule:
    """An object with an array module, `xp`, which copies and pickles by the module's name: a module has no pickle."""

    xp: Xp

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"xp": self.xp.__name__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"xp": import_module(state["xp"])})
