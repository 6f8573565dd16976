"""A CuPy that runs on the CPU, as strict as the real one: proof that `xp` is really passed and nothing slips to NumPy.

Arrays wrap NumPy's and refuse what a device array refuses, or what would make the host wait for the device unseen:
NumPy arrays as operands, indices or values; conversion to a NumPy array; `bool`, `int` and `float`; arrays of another
device. Only `get()` brings an array back, and only `asarray` and `set` take one in. The module has the names of `NAMES`
and no others. What `empty` gives is filled with NaN. Streams, graphs, kernels and memory are in fake_cuda.py.
That a test passes here does not mean that a GPU computes it; that a test fails here means that no GPU would.
"""

from __future__ import annotations

import sys
from math import prod
from types import ModuleType
from typing import Any

import numpy as np
from fake_cuda import (
    CURRENT,
    Cuda,
    ElementwiseKernel,
    Memory,
    MemoryPointer,
    RawModule,
    ReductionKernel,
    Stream,
    current_stream,
    is_pinned,
    poison,
    refuse_cublas,
)

CONSTANTS = {
    "float16", "float32", "float64", "int8", "uint8", "int16", "int32", "uint32", "int64", "uint64", "bool_", "inf",
    "nan", "newaxis", "finfo",
}  # fmt: skip
NAMES = CONSTANTS | {
    "abs", "add", "arange", "argmax", "argsort", "ascontiguousarray", "clip", "concatenate", "copysign", "copyto",
    "cos", "empty", "empty_like", "exp", "isfinite", "log", "matmul", "maximum", "minimum", "multiply", "negative",
    "nextafter", "nonzero", "ones",
    "repeat", "right_shift", "rint", "sin", "sqrt", "stack", "subtract", "take", "take_along_axis", "tanh", "vdot",
    "where", "zeros", "zeros_like",
}  # fmt: skip
METHODS = {
    "all", "argmax", "astype", "clip", "copy", "fill", "max", "mean", "min", "ravel", "reshape", "sum", "swapaxes",
    "take", "transpose", "view",
}  # fmt: skip
ATTRIBUTES = {"shape", "dtype", "ndim", "size", "nbytes", "itemsize", "flags", "strides"}
SCATTERED = {"add"}  # functions that have an `at`, as all have in NumPy
WRITES = {"fill", "copyto", "at", "__setitem__"}  # what changes its first argument
WAITS = {"nonzero"}  # the shape of the result depends on the data: the host waits for it
MASKED = {"__getitem__", "__setitem__"}  # a mask's shape depends on the data, too
LOOKUPS = {"__getitem__", "take", "take_along_axis"}  # indices may not have been computed yet
PRODUCTS = {"matmul", "__matmul__", "__rmatmul__"}  # cuBLAS


def inside(value: Any) -> Any:
    """NumPy's array of a device array; scalars and containers as they are. TypeError for an array of the host."""
    if isinstance(value, DeviceArray):
        if value.memory.device != CURRENT.devices[-1]:
            here, there = CURRENT.devices[-1], value.memory.device
            raise ValueError(f"Array device must be same as the current device: array device = {there} while {here}")
        return value.array
    if isinstance(value, np.ndarray):
        raise TypeError("a NumPy array meets a device array; pass it through asarray")
    if isinstance(value, tuple | list):
        if isinstance(value, list) and not any(isinstance(part, DeviceArray) for part in value):
            current_stream().refuse_under_capture()  # a list of numbers would be copied to the device
        return type(value)(inside(part) for part in value)
    return value


def outside(value: Any, sources: list[DeviceArray]) -> Any:
    """The result of an operation, on the device; a view lies in the memory of the array that it is a view of."""
    if isinstance(value, tuple):
        return tuple(outside(part, sources) for part in value)
    if not isinstance(value, np.ndarray | np.generic):
        return value
    array = np.asarray(value)
    whole = next((x for x in sources if root(x.array) is root(array)), None)
    return wrapped(array) if whole is None else wrapped(array, whole)


def root(array: np.ndarray) -> Any:
    """The array that owns the memory of a view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def arrays(value: Any) -> list[DeviceArray]:
    """The device arrays in an argument."""
    if isinstance(value, tuple | list):
        return [found for part in value for found in arrays(part)]
    return [value] if isinstance(value, DeviceArray) else []


def strict(name: str, function: Any) -> Any:
    """A NumPy function for device arrays only, whose work is done when the stream comes to it."""

    def call(*args: Any, **options: Any) -> Any:
        given = tuple(map(inside, args))
        named = {key: inside(value) for key, value in options.items()}
        out, stream = options.get("out"), current_stream()
        if name in PRODUCTS:
            refuse_cublas()
        if name in WAITS or (name in MASKED and any(array.dtype == bool for array in arrays(args[1]))):
            stream.refuse_under_capture()
        used = arrays((*args, *options.values()))
        if name in WRITES or out is not None:
            stream.do(lambda: function(*given, **named), [array.memory for array in used])
            return out
        if stream.at_once:
            stream.wait_for_others()
            result = function(*given, **named)
            for made in (result,) if name in ("empty", "empty_like") else ():
                poison(made)
            if result is NotImplemented:
                return result
            made = outside(result, used)
            if not isinstance(made, DeviceArray) or all(made.memory is not array.memory for array in used):
                stream.do(NOTHING)  # a launch; a view is none
            return made
        tried = (given[0], *map(zeroed, given[1:])) if name in LOOKUPS else given
        return later(stream, lambda: function(*given, **named), used, lambda: function(*tried, **named))

    call.__name__ = name
    return call


def wrapped(array: np.ndarray, whole: DeviceArray | None = None) -> DeviceArray:
    """A device array of NumPy's: a view in the memory of another one, or one with memory of its own."""
    made = DeviceArray.__new__(DeviceArray)
    if whole is None:
        made._hold(array, Memory(fake_cupy.cuda.pool, array.nbytes, CURRENT.devices[-1]), None)
        made.memory.array = array
    else:
        made._hold(array, whole.memory, whole if whole.base is None else whole.base)
    return made


def NOTHING() -> None:
    """Work that is done already."""


def zeroed(value: Any) -> Any:
    """Arrays of whole numbers as zeros: indices that every array has."""
    if isinstance(value, tuple):
        return tuple(map(zeroed, value))
    return np.zeros_like(value) if isinstance(value, np.ndarray) and value.dtype.kind in "iu" else value


def later(stream: Stream, function: Any, used: list[DeviceArray], trial: Any) -> Any:
    """The result of a function that a stream will compute; views are there at once, as they need no work.

    trial: the function as it can be called already, before what it reads has been computed.
    """
    with np.errstate(all="ignore"):
        example = trial()  # only for its shape and type
    if not isinstance(example, np.ndarray | np.generic):
        return NotImplemented if example is NotImplemented else example
    if any(root(array.array) is root(np.asarray(example)) for array in used):
        return outside(example, used)
    made = wrapped(np.array(example, copy=True))
    target = made.array
    poison(target)
    if stream.recording is not None:
        stream.born.append(target)
    stream.do(lambda: np.copyto(target, function(), casting="unsafe"), [a.memory for a in (*used, made)])
    return made


class DeviceArray:
    """An array on the device that is not there."""

    __array_ufunc__ = None  # NumPy's operators refuse it

    def __init__(
        self, shape: Any, dtype: Any = float, memptr: MemoryPointer | None = None, strides: Any = None, order: str = "C"
    ) -> None:
        """New memory, as `empty` gives it; with a pointer, the memory there. The array is no view of another one."""
        if memptr is None:
            new = fake_cupy.empty(shape, dtype, order)
            self._hold(new.array, new.memory, None)
        else:
            self._hold(memptr.array(shape, dtype, strides), memptr.mem, None)

    def _hold(self, array: np.ndarray, memory: Memory, base: DeviceArray | None) -> None:
        """base: the array with memory of its own that this is a view of."""
        self.array, self.memory, self.base = array, memory, base

    def get(
        self, stream: Any = None, order: str = "C", out: np.ndarray | None = None, blocking: bool = True
    ) -> np.ndarray:
        stream = stream or current_stream()
        stream.refuse_under_capture()
        if out is not None and (out.shape != self.shape or out.dtype != self.dtype or not out.flags.c_contiguous):
            raise ValueError("the array of the host has another shape, type or order")
        host = np.empty(self.shape, self.dtype) if out is None else out
        stream.do(lambda: np.copyto(host, self.array))
        if blocking or not is_pinned(host):
            stream.synchronize()
        return host

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        stream = stream or current_stream()
        stream.refuse_under_capture()
        if arr.shape != self.shape or arr.dtype != self.dtype:
            raise ValueError(f"{arr.shape} {arr.dtype} cannot be copied into {self.shape} {self.dtype}")
        source = arr if is_pinned(arr) else arr.copy()
        stream.do(lambda: np.copyto(self.array, source))

    @property
    def T(self) -> DeviceArray:
        return wrapped(self.array.T, self)

    @property
    def data(self) -> MemoryPointer:
        return MemoryPointer(self.memory, self.array.ctypes.data)

    @property
    def device(self) -> Any:
        return fake_cupy.cuda.Device(self.memory.device)

    def __getattr__(self, name: str) -> Any:
        if name in ATTRIBUTES:
            return getattr(self.array, name)
        if name in METHODS:
            method = getattr(np.ndarray, name)
            return lambda *args, **options: strict(name, method)(self, *args, **options)
        raise AttributeError(f"device arrays have no {name!r} here; add it to fake_cupy.py if CuPy's have")

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __len__(self) -> int:
        return len(self.array)

    def _refuse(self, *args: Any, **options: Any) -> Any:
        raise TypeError("the host would wait for the device; use get()")

    __array__ = __bool__ = __int__ = __float__ = __index__ = _refuse


OPERATORS = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift",
    "lt", "le", "eq", "ne", "gt", "ge", "neg", "invert",
)  # fmt: skip


def _operator(name: str) -> Any:
    function = strict(name, getattr(np.ndarray, name))
    if not name.startswith("__i") or name == "__invert__":
        return function

    def change(self: DeviceArray, other: Any) -> DeviceArray:
        if name == "__imatmul__":
            refuse_cublas()
        target, value = inside(self), inside(other)
        memories = [array.memory for array in arrays((self, other))]
        current_stream().do(lambda: getattr(np.ndarray, name)(target, value), memories)
        return self

    return change


for _name in OPERATORS:
    for _form in (f"__{_name}__", f"__r{_name}__", f"__i{_name}__"):
        if hasattr(np.ndarray, _form):
            setattr(DeviceArray, _form, _operator(_form))
for _form in ("__getitem__", "__setitem__"):
    setattr(DeviceArray, _form, strict(_form, getattr(np.ndarray, _form)))


class FakeCupy(ModuleType):
    """The module."""

    __version__ = "14.2.0"
    RawModule, ElementwiseKernel, ReductionKernel, ndarray = RawModule, ElementwiseKernel, ReductionKernel, DeviceArray

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.cuda = Cuda()

    def __getattr__(self, name: str) -> Any:
        if name not in NAMES:
            raise AttributeError(f"the fake CuPy has no {name!r}; add it to NAMES if CuPy has it")
        value = getattr(np, name)
        if name in CONSTANTS:
            return value
        function = strict(name, value)
        if name in SCATTERED:
            function.at = strict("at", value.at)
        return function

    def empty(self, shape: Any, dtype: Any = float, order: Any = "C") -> DeviceArray:
        """An array of NaN. Raises OutOfMemoryError before there is one."""
        return self._new(shape, dtype, poison, order)

    def zeros(self, shape: Any, dtype: Any = float) -> DeviceArray:
        """An array of zeros. Raises OutOfMemoryError before there is one."""
        return self._new(shape, dtype, lambda array: array.fill(0))

    def _new(self, shape: Any, dtype: Any, fill: Any, order: Any = "C") -> DeviceArray:
        whole, dtype, stream = shape if isinstance(shape, tuple) else (shape,), np.dtype(dtype), current_stream()
        memory = Memory(self.cuda.pool, prod(whole) * dtype.itemsize, CURRENT.devices[-1])
        made = DeviceArray.__new__(DeviceArray)
        made._hold(np.empty(whole, dtype, order), memory, None)
        target = memory.array = made.array
        poison(target)
        if stream.recording is not None:
            stream.born.append(target)
        if fill is not poison:
            stream.do(lambda: fill(target), [memory])
        return made

    @staticmethod
    def asarray(value: Any, dtype: Any = None) -> DeviceArray:
        """A copy of a host array, or a device array itself."""
        if isinstance(value, DeviceArray):
            return value if dtype is None or value.dtype == dtype else value.astype(dtype)
        current_stream().refuse_under_capture()
        return wrapped(np.array(value, dtype=dtype))

    def get_default_memory_pool(self) -> Any:
        return self.cuda.pool


ElementwiseKernel.array = staticmethod(wrapped)
fake_cupy = FakeCupy("fake_cupy_module")
sys.modules[fake_cupy.__name__] = fake_cupy  # found by its name, as CuPy is
