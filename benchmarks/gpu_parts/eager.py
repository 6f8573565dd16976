"""How many operations a decode step of the plain formulas launches: counted by running the step, not by reading it.

The arrays are NumPy's and count. Every operation that makes new numbers is one launch on a device: arithmetic, a
reduction, a product, a change of type, a gather by an array of indices, a copy. A view (a slice, a transpose, another
shape) launches nothing. CuPy can need two launches where one is counted (a large reduction), so the count is the least.
"""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

from gpu_parts.cases import random_checkpoint
from gpu_parts.serving import open_engine, sequences
from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.engine.config import EngineConfig
from tinyinfer.ledger import Ledger
from tinyinfer.model.config import ModelConfig

VIEWS = {"reshape", "transpose", "swapaxes", "expand_dims", "broadcast_to", "shape", "ndim", "empty_like"}
MADE = {"zeros", "ones", "full", "arange", "asarray", "ascontiguousarray"}  # functions of the module that fill memory


class Launches:
    """A count that arrays share; numbers of the host are not counted."""

    def __init__(self) -> None:
        self.count = 0


class CountingArray(np.ndarray):
    """An array of NumPy that counts the operations on it in `launches`."""

    launches: Launches

    def __array_finalize__(self, source: Any) -> None:
        self.launches = getattr(source, "launches", None) or Launches()

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        self.launches.count += 1
        if options.get("out"):
            options["out"] = tuple(map(bare, options["out"]))
        return self.counted(getattr(ufunc, method)(*map(bare, inputs), **{k: bare(v) for k, v in options.items()}))

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        self.launches.count += function.__name__ not in VIEWS
        return self.counted(function(*map(bare, args), **{key: bare(value) for key, value in options.items()}))

    def __getitem__(self, key: Any) -> Any:
        keys = key if isinstance(key, tuple) else (key,)
        self.launches.count += any(isinstance(part, np.ndarray | list) for part in keys)
        return self.counted(super().__getitem__(bare(key)))

    def __setitem__(self, key: Any, value: Any) -> None:
        self.launches.count += 1
        bare(self)[bare(key)] = bare(value)

    def astype(self, *args: Any, **options: Any) -> Any:
        self.launches.count += 1
        return self.counted(bare(self).astype(*args, **options))

    def mean(self, *args: Any, **options: Any) -> Any:
        self.launches.count += 1
        return self.counted(bare(self).mean(*args, **options))

    def copy(self, *args: Any, **options: Any) -> Any:
        self.launches.count += 1
        return self.counted(bare(self).copy(*args, **options))

    def get(self) -> np.ndarray:
        """The numbers in the host's memory."""
        return bare(self)

    def counted(self, result: Any) -> Any:
        """The result as an array with this one's count."""
        if not isinstance(result, np.ndarray | np.generic):
            return result
        array = np.asarray(result).view(CountingArray)
        array.launches = self.launches
        return array


def bare(value: Any) -> Any:
    """NumPy's own array of a counting one; containers too."""
    if isinstance(value, CountingArray):
        return value.view(np.ndarray)
    return type(value)(map(bare, value)) if isinstance(value, tuple | list) else value


class CountingModule(ModuleType):
    """NumPy as an array module whose arrays count."""

    def __init__(self, launches: Launches) -> None:
        super().__init__("counting")
        self._launches = launches

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found) or isinstance(found, np.ufunc):
            return found

        def call(*args: Any, **options: Any) -> Any:
            self._launches.count += name in MADE and not any(isinstance(one, CountingArray) for one in args)
            result = found(*args, **options)
            if isinstance(result, np.ndarray):
                result = result.view(CountingArray)
                result.launches = self._launches
            return result

        return call


def launches_of_a_step(config: ModelConfig, batch: int = 1) -> int:
    """Operations of one decode step of `batch` sequences by the plain formulas, for a model of so many layers.

    The count depends on the structure alone, so the step runs with matrices of a few numbers.
    """
    launches = Launches()
    small = replace(config, vocab_size=16, hidden_size=8, intermediate_size=8, head_dim=2, num_heads=4, num_kv_heads=2)
    ops = ReferenceOps(Ledger(), ml_dtypes.bfloat16, xp=CountingModule(launches))
    switches = EngineConfig(max_model_len=8, max_num_seqs=batch, dtype="bfloat16")
    engine = open_engine(random_checkpoint(small, "bfloat16"), switches, ops)
    before = []
    for _ in engine.run(sequences([[1, 2]] * batch, 4)):
        before.append(launches.count)
    return before[-1] - before[-2]
