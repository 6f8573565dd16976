"""How many operations a decode step without kernels of our own launches: counted by running it, not by reading it.

The arrays are NumPy's and count. Everything that makes new numbers is one launch on a device: arithmetic, a reduction,
a product, a change of type, a gather by an array of indices, a copy, a line of C for each element. A view (a slice, a
transpose, another shape) launches nothing. CuPy can need two launches where one is counted (a large reduction), so the
count is the least. What the products of cuBLAS would give is made up.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

from gpu_parts.cases import random_checkpoint
from gpu_parts.serving import open_engine, sequences
from tinyinfer.backends.cupy_ops import CupyOps
from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.engine.config import EngineConfig
from tinyinfer.ledger import Ledger
from tinyinfer.model.config import ModelConfig

VIEWS = {"reshape", "transpose", "swapaxes", "expand_dims", "broadcast_to", "shape", "ndim", "empty_like"}
MADE = {"zeros", "ones", "full", "arange", "asarray"}  # functions of the module that fill memory
METHODS = ("astype", "mean", "copy", "argmax", "fill", "take")  # of an array, that compute without a ufunc


class Launches:
    """A count that arrays share."""

    def __init__(self) -> None:
        self.count = 0


class CountingArray(np.ndarray):
    """An array of NumPy that counts the operations on it in `launches`."""

    launches: Launches

    def __array_finalize__(self, source: Any) -> None:
        self.launches = getattr(source, "launches", None) or Launches()

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        self.launches.count += 1
        result = getattr(ufunc, method)(*map(bare, inputs), **{name: bare(value) for name, value in options.items()})
        return options["out"][0] if options.get("out") else counting(result, self.launches)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        self.launches.count += function.__name__ not in VIEWS
        result = function(*map(bare, args), **{name: bare(value) for name, value in options.items()})
        return counting(result, self.launches)

    def __getitem__(self, key: Any) -> Any:
        keys = key if isinstance(key, tuple) else (key,)
        self.launches.count += any(isinstance(part, np.ndarray | list) for part in keys)
        return counting(super().__getitem__(bare(key)), self.launches)

    def __setitem__(self, key: Any, value: Any) -> None:
        if value is not self:  # else an operation in place, counted already
            self.launches.count += 1
            bare(self)[bare(key)] = bare(value)

    @property
    def data(self) -> Any:  # type: ignore[override]
        """An address, as CuPy gives it; no kernel reads it."""
        return SimpleNamespace(ptr=0)

    def get(self) -> np.ndarray:
        """The numbers in the host's memory."""
        return bare(self)


def method(name: str) -> Callable[..., Any]:
    """A method of an array that counts one launch."""

    def call(self: CountingArray, *args: Any, **options: Any) -> Any:
        self.launches.count += 1
        return counting(getattr(bare(self), name)(*args, **options), self.launches)

    return call


for _name in METHODS:
    setattr(CountingArray, _name, method(_name))


def counting(result: Any, launches: Launches) -> Any:
    """The result of an operation as an array with this count."""
    if not isinstance(result, np.ndarray | np.generic):
        return result
    array = np.asarray(result).view(CountingArray)
    array.launches = launches
    return array


def bare(value: Any) -> Any:
    """NumPy's own array of a counting one; containers too."""
    if isinstance(value, CountingArray):
        return value.view(np.ndarray)
    return type(value)(map(bare, value)) if isinstance(value, tuple | list) else value


class CountingModule(ModuleType):
    """CuPy as far as an eager step asks for it, on arrays of NumPy that count."""

    def __init__(self, launches: Launches) -> None:
        super().__init__("counting")
        sys.modules["counting"] = self  # operations that are copied find their module by its name
        self.launches = launches
        blas = SimpleNamespace(**dict.fromkeys(("gemmEx", "sgemmStridedBatched"), self._one))
        for name in ("OP_T", "OP_N", "COMPUTE_32F", "COMPUTE_32I", "GEMM_DEFAULT_TENSOR_OP"):
            setattr(blas, f"CUBLAS_{name}", 0)
        device = SimpleNamespace(use=lambda: None)
        self.cuda = SimpleNamespace(cublas=blas, get_cublas_handle=lambda: 0, Device=lambda: device)

    def _one(self, *args: Any) -> None:
        self.launches.count += 1

    def ElementwiseKernel(self, inputs: str, outputs: str, *rest: Any) -> Callable[..., Any]:
        """One launch; what it would compute is made up."""
        taken, given = inputs.count(",") + 1, outputs.count(",") + 1

        def call(*args: Any) -> Any:
            self.launches.count += 1
            shape = np.broadcast_shapes(*(np.shape(one) for one in args[:taken]))
            made = args[taken:] or tuple(self.empty(shape, np.float32) for _ in range(given))
            return made[0] if given == 1 else made

        return call

    def ReductionKernel(self, *text: str) -> Callable[..., Any]:
        """One launch over the last axis."""

        def call(x: Any, axis: int, keepdims: bool) -> Any:
            self.launches.count += 1
            return self.empty((*x.shape[:-1], 1), np.float32)

        return call

    def empty(self, shape: Any, dtype: Any = float) -> Any:
        """Memory that nothing fills; numbers from 1 to 2 here, since logits that are all equal are refused."""
        numbers = np.linspace(1, 2, math.prod(np.atleast_1d(shape))).astype(dtype)
        return counting(numbers.reshape(shape), self.launches)


    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found) or isinstance(found, np.ufunc):
            return found

        def call(*args: Any, **options: Any) -> Any:
            self.launches.count += name in MADE and not any(isinstance(one, CountingArray) for one in args)
            return counting(found(*args, **options), self.launches)

        return call


class Eager(CupyOps):
    """The operations of backend=cupy; of memory there is as much as a test needs."""

    def available_memory(self) -> int:
        return 1 << 30


def launches_of_a_step(config: ModelConfig, batch: int = 1, plain: bool = False) -> int:
    """Operations of one decode step of `batch` sequences by backend=cupy, eager. plain: by the reference's formulas.

    The count depends on the structure alone, so the step runs with matrices of a few numbers.
    """
    small = replace(config, vocab_size=16, hidden_size=8, intermediate_size=8, head_dim=2, num_heads=4, num_kv_heads=2)
    module = CountingModule(Launches())
    kind = {"xp": module} if plain else {"xp": module, "decode": "eager"}
    ops = (ReferenceOps if plain else Eager)(Ledger(), ml_dtypes.bfloat16, **kind)  # type: ignore[arg-type]
    switches = EngineConfig(max_model_len=8, max_num_seqs=batch, dtype="bfloat16")
    engine = open_engine(random_checkpoint(small, "bfloat16"), switches, ops)
    before = [module.launches.count for _ in engine.run(sequences([[1, 2]] * batch, 4))]
    return before[-1] - before[-2]
