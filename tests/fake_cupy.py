"""A CuPy that runs on the CPU, as strict as the real one: proof that `xp` is really passed and nothing slips to NumPy.

Arrays wrap NumPy's and refuse what a device array refuses, or what would make the host wait for the device unseen:
NumPy arrays as operands, indices or values; conversion to a NumPy array; `bool`, `int` and `float`. Only
`get()` brings an array back, and only `asarray` takes one in. The module has the names of `NAMES` and no others.
That a test passes here does not mean that a GPU computes it; that a test fails here means that no GPU would.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

CONSTANTS = {
    "float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "uint64", "bool_", "inf", "newaxis",
}  # fmt: skip
NAMES = CONSTANTS | {
    "abs", "add", "arange", "argsort", "ascontiguousarray", "clip", "concatenate", "copysign", "copyto", "cos", "empty",
    "empty_like", "exp", "isfinite", "log", "matmul", "maximum", "minimum", "multiply", "negative", "nextafter",
    "nonzero", "ones",
    "repeat", "right_shift", "rint", "sin", "sqrt", "stack", "subtract", "take", "take_along_axis", "tanh", "where",
    "zeros", "zeros_like",
}  # fmt: skip
METHODS = {
    "all", "argmax", "astype", "clip", "copy", "fill", "max", "mean", "min", "ravel", "reshape", "sum", "swapaxes",
    "take", "transpose", "view",
}  # fmt: skip
ATTRIBUTES = {"shape", "dtype", "ndim", "size", "nbytes", "itemsize", "flags"}


def inside(value: Any) -> Any:
    """NumPy's array of a device array; scalars and containers as they are. TypeError for an array of the host."""
    if isinstance(value, DeviceArray):
        return value.array
    if isinstance(value, np.ndarray):
        raise TypeError("a NumPy array meets a device array; pass it through asarray")
    if isinstance(value, tuple | list):
        return type(value)(inside(part) for part in value)
    return value


def outside(value: Any) -> Any:
    """The result of an operation, on the device."""
    if isinstance(value, tuple):
        return tuple(outside(part) for part in value)
    return DeviceArray(np.asarray(value)) if isinstance(value, np.ndarray | np.generic) else value


def strict(name: str, function: Any) -> Any:
    """A NumPy function for device arrays only."""

    def call(*args: Any, **options: Any) -> Any:
        result = function(*map(inside, args), **{key: inside(value) for key, value in options.items()})
        return options["out"] if options.get("out") is not None else outside(result)

    call.__name__ = name
    return call


class DeviceArray:
    """An array on the device that is not there."""

    __array_ufunc__ = None  # NumPy's operators refuse it

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def get(self) -> np.ndarray:
        return self.array.copy()

    @property
    def T(self) -> DeviceArray:
        return DeviceArray(self.array.T)

    @property
    def base(self) -> Any:
        return self.array.base

    def __getattr__(self, name: str) -> Any:
        if name in ATTRIBUTES:
            return getattr(self.array, name)
        if name in METHODS:
            return strict(name, getattr(self.array, name))
        raise AttributeError(f"device arrays have no {name!r} here; add it to fake_cupy.py if CuPy's have")

    def __getitem__(self, key: Any) -> DeviceArray:
        return outside(self.array[inside(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.array[inside(key)] = inside(value)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __len__(self) -> int:
        return len(self.array)

    def _refuse(self, *args: Any, **options: Any) -> Any:
        raise TypeError("the host would wait for the device; use get()")

    __array__ = __bool__ = __int__ = __float__ = __index__ = _refuse


def _operator(name: str) -> Any:
    def call(self: DeviceArray, *others: Any) -> Any:
        result = getattr(self.array, name)(*map(inside, others))
        if result is NotImplemented:
            return result
        return self if name.startswith("__i") and name != "__invert__" else outside(result)

    return call


OPERATORS = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift",
    "lt", "le", "eq", "ne", "gt", "ge", "neg", "invert",
)  # fmt: skip
for _name in OPERATORS:
    for _form in (f"__{_name}__", f"__r{_name}__", f"__i{_name}__"):
        if hasattr(np.ndarray, _form):
            setattr(DeviceArray, _form, _operator(_form))


class FakeCupy(ModuleType):
    """The module."""

    def __getattr__(self, name: str) -> Any:
        if name not in NAMES:
            raise AttributeError(f"the fake CuPy has no {name!r}; add it to NAMES if CuPy has it")
        value = getattr(np, name)
        return value if name in CONSTANTS else strict(name, value)

    @staticmethod
    def asarray(value: Any, dtype: Any = None) -> DeviceArray:
        """A copy of a host array, or a device array itself."""
        if isinstance(value, DeviceArray):
            return value if dtype is None or value.dtype == dtype else DeviceArray(value.array.astype(dtype))
        return DeviceArray(np.array(value, dtype=dtype))


fake_cupy = FakeCupy("fake_cupy_module")
sys.modules[fake_cupy.__name__] = fake_cupy  # found by its name, as CuPy is
