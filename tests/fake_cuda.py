"""The device of the fake CuPy: memory, streams, events, graphs, kernels and cuBLAS, with the names of `cupy.cuda`.

Work on the default stream is done at once. Work on any other stream waits in the stream's queue until the host waits
for the stream, so that a result which is read too early is not there, and a host buffer which is overwritten too early
spoils a copy. A capture records work and does none of it; a graph does it, in order, each time that it is launched.

What the real one refuses is refused: cuBLAS, copies to or from the host and waiting while a stream captures, a capture
of the default stream, more shared memory than was asked for, memory above the pool's limit. So is what the real one
does wrong without a word: a graph whose buffers are gone, a kernel's argument whose strides the kernel would not see, a
plain Python number as an argument (passed in 8 bytes), None as one (a null pointer is np.uint64(0)).
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from math import prod
from time import perf_counter
from types import SimpleNamespace
from typing import Any, ClassVar
from weakref import WeakSet, ref

import ml_dtypes
import numpy as np

BLOCK = 512  # bytes by which the pool counts
STATIC_SHARED, MOST_SHARED = 48 << 10, 227 << 10  # bytes of shared memory: without being asked for, and at most
ERRORS = {
    1: "cudaErrorInvalidValue: invalid argument",
    2: "cudaErrorMemoryAllocation: out of memory",
    35: "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version",
    100: "cudaErrorNoDevice: no CUDA-capable device is detected",
    101: "cudaErrorInvalidDevice: invalid device ordinal",
    900: "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing",
    901: "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error during capture",
}
TYPES = {0: np.float32, 1: np.float64, 2: np.float16, 3: np.int8, 10: np.int32, 14: ml_dtypes.bfloat16}


class CUDARuntimeError(RuntimeError):
    """An error of the runtime, by its number."""

    def __init__(self, status: int) -> None:
        super().__init__(ERRORS[status])
        self.status = status


class OutOfMemoryError(MemoryError):
    """The pool has no room: CuPy's own, which is a MemoryError."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        rest = f", limit set to: {limit:,} bytes" if limit else ""
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes{rest}).")


class CompileException(Exception):
    """NVRTC refuses a source; the message is its own."""

    def __init__(self, msg: str, source: str, name: str, options: tuple[str, ...], backend: str = "nvrtc") -> None:
        super().__init__()
        self._msg, self.source, self.name, self.options, self.backend = msg, source, name, options, backend

    def __str__(self) -> str:
        return self._msg


class CUBLASError(RuntimeError):
    """An error of cuBLAS, by its name."""


class CUDADriverError(RuntimeError):
    """An error of the driver, by its name."""


# Memory.


class Pool:
    """The memory of all devices. capacity: bytes of a device. limit: what may be used of it; 0: all."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.limit, self.used, self.peak = capacity, 0, 0, 0

    def take(self, nbytes: int) -> None:
        """Counts an allocation. Raises OutOfMemoryError."""
        if self.used + nbytes > (self.limit or self.capacity):
            raise OutOfMemoryError(nbytes, self.used, self.limit)
        self.used += nbytes
        self.peak = max(self.peak, self.used)

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        self.limit = int(fraction * self.capacity) if fraction is not None else size or 0

    def get_limit(self) -> int:
        return self.limit

    def used_bytes(self) -> int:
        return self.used

    total_bytes = used_bytes

    def free_bytes(self) -> int:
        return 0

    def free_all_blocks(self, stream: Any = None) -> None:
        """Nothing is kept after it is freed."""


class Memory:
    """What an array and its views lie in. The pool counts it until the last of them is gone.

    A kernel that was launched before may still write there, by an address that it read from a table. The real pool
    gives the memory only to work that is behind that kernel; so here the array stays until every stream is done.
    """

    __slots__ = ("__weakref__", "array", "device", "nbytes", "pool")
    everything: ClassVar[WeakSet[Memory]] = WeakSet()

    def __init__(self, pool: Pool, nbytes: int, device: int) -> None:
        self.nbytes, self.array = 0, None
        self.everything.add(self)
        pool.take(-(-nbytes // BLOCK) * BLOCK)
        self.pool, self.nbytes, self.device = pool, -(-nbytes // BLOCK) * BLOCK, device

    def __del__(self) -> None:
        if self.nbytes:
            self.pool.used -= self.nbytes
            for stream in list(Stream.everything):
                if stream.queue:
                    stream.freed.append(self.array)


class MemoryPointer:
    """An address in some memory, from which an array can be made."""

    def __init__(self, mem: Memory, ptr: int) -> None:
        self.mem, self.ptr, self.device_id = mem, ptr, mem.device

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self.ptr + offset)

    def array(self, shape: Any, dtype: Any, strides: Any) -> np.ndarray:
        """The memory from here on. Raises ValueError where the real one would read another array's."""
        whole: Any = self.mem.array
        flat = whole.ravel("K").view(np.uint8)
        assert np.shares_memory(flat, whole), "the array of this memory has gaps"
        return np.ndarray(shape, dtype, flat, self.ptr - flat.ctypes.data, strides)


class PinnedMemory(bytearray):
    """Memory of the host that the device reads and writes itself, while the host goes on."""


def poison(array: np.ndarray) -> None:
    """Fills an array with what no computation survives: NaN; in integers a large number."""
    flat = array.reshape(-1) if array.flags.c_contiguous else array
    if array.dtype.kind in "fcV":  # V: ml_dtypes
        flat[...] = np.nan
    else:
        flat[...] = True if array.dtype == bool else np.iinfo(array.dtype).max // 3


def is_pinned(array: np.ndarray) -> bool:
    base: Any = array
    while base is not None and not isinstance(base, PinnedMemory):
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    return base is not None


# Streams and graphs.

Work = Callable[[], Any]


class Graph:
    """Captured work, done again by each launch. What it reads and writes must still be there."""

    def __init__(self, work: list[Work], memories: Iterable[Memory], born: Iterable[np.ndarray]) -> None:
        self._work, self._memories = tuple(work), [ref(memory) for memory in set(memories)]
        self.uploads = self.launches = 0
        for array in born:  # what a capture makes holds nothing until the graph is launched
            poison(array)

    def upload(self, stream: Stream | None = None) -> None:
        self.uploads += 1

    def launch(self, stream: Stream | None = None) -> None:
        stream = stream or current_stream()
        stream.refuse_under_capture()
        if any(memory() is None for memory in self._memories):
            raise AssertionError("a graph uses memory that was freed after the capture; keep its arrays as long as it")
        self.launches += 1
        stream.do(lambda: [work() for work in self._work])


class Stream:
    """A queue of work. The default stream (ptr 0) does its work at once, after that of all blocking streams."""

    null: Stream
    everything: ClassVar[WeakSet[Stream]] = WeakSet()
    numbers = count(1000)

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None
    ) -> None:
        self.ptr, self.is_non_blocking, self.device_id = 0 if null else next(self.numbers), non_blocking, 0
        self.queue: deque[Work] = deque()
        self.freed: list[Any] = []  # arrays that were freed while there was work in the queue
        self.done_count = self.asked_count = 0
        self.recording: list[Work] | None = None
        self.memories: list[Memory] = []
        self.born: list[np.ndarray] = []
        self.broken = False
        self.everything.add(self)

    def __enter__(self) -> Stream:
        CURRENT.streams.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        CURRENT.streams.pop()

    def use(self) -> Stream:
        CURRENT.streams[-1] = self
        return self

    @property
    def at_once(self) -> bool:
        """Whether work is done when it is asked for."""
        return self.ptr == 0

    def do(self, work: Work, memories: Iterable[Memory] = ()) -> None:
        """Does the work at once, queues it, or records it."""
        if self.recording is not None:
            self.recording.append(work)
            self.memories.extend(memories)
            return
        self.asked_count += 1
        self.queue.append(work)
        if self.at_once:
            self.wait_for_others()
            self.catch_up()

    def wait_for_others(self) -> None:
        """Does the work of all blocking streams, as the default stream does before its own."""
        for other in list(self.everything):
            if other.queue and not other.is_non_blocking and other is not self:
                other.catch_up()

    def catch_up(self, until: int | None = None) -> None:
        """Does what is queued, up to the piece of work of that number."""
        while self.queue and (until is None or self.done_count < until):
            work = self.queue.popleft()
            self.done_count += 1
            with np.errstate(all="ignore"):
                work()
        if not self.queue:
            self.freed.clear()

    def refuse_under_capture(self) -> None:
        """Raises CUDARuntimeError, after which the capture is of no use."""
        if self.recording is not None:
            self.broken = True
            raise CUDARuntimeError(900)

    def synchronize(self) -> None:
        self.refuse_under_capture()
        if self.at_once:
            self.do(lambda: None)
        self.catch_up()

    @property
    def done(self) -> bool:
        self.catch_up(self.done_count + 1)  # asked again and again, it comes to an end
        return not self.queue

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        self.do(event.catch_up)

    def begin_capture(self, mode: int | None = None) -> None:
        if self.at_once:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self.recording is not None:
            raise CUDARuntimeError(1)
        self.recording, self.memories, self.born, self.broken = [], [], [], False

    def end_capture(self) -> Graph:
        if self.recording is None:
            raise CUDARuntimeError(1)
        work, memories, born = self.recording, self.memories, self.born
        self.recording, self.memories, self.born = None, [], []
        if self.broken:
            raise CUDARuntimeError(901)
        return Graph(work, memories, born)

    def is_capturing(self) -> bool:
        return self.recording is not None


Stream.null = Stream(null=True)


class Event:
    """A point in a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.stream, self.number, self.time = Stream.null, 0, 0.0
        self.timed = not disable_timing

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or current_stream()
        stream.do(self._stamp)
        self.stream, self.number = stream, stream.asked_count

    def _stamp(self) -> None:
        self.time = perf_counter()

    def catch_up(self) -> None:
        """Does the work before this point."""
        self.stream.catch_up(self.number)

    def synchronize(self) -> None:
        self.stream.refuse_under_capture()
        self.catch_up()

    @property
    def done(self) -> bool:
        self.stream.catch_up(min(self.number, self.stream.done_count + 1))
        return self.stream.done_count >= self.number


def get_elapsed_time(start: Event, end: Event) -> float:
    """Milliseconds between two events, both of them done."""
    if not (start.timed and end.timed and start.done and end.done):
        raise CUDARuntimeError(1)
    return (end.time - start.time) * 1e3


class Current(threading.local):
    """The current stream and device of a thread."""

    def __init__(self) -> None:
        self.streams, self.devices = [Stream.null], [0]


CURRENT = Current()


def current_stream() -> Stream:
    return CURRENT.streams[-1]


# Devices.


class Runtime(SimpleNamespace):
    """`cupy.cuda.runtime`. status: the error that every call meets, as without a driver; 0: none."""

    CUDARuntimeError = CUDARuntimeError
    CUDA_R_32F, CUDA_R_64F, CUDA_R_16F, CUDA_R_8I, CUDA_R_16BF = 0, 1, 2, 3, 14
    streamCaptureModeGlobal, streamCaptureModeThreadLocal, streamCaptureModeRelaxed = 0, 1, 2

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool=pool, devices=1, driver=13000, version=12090, status=0, processors=4)

    def _check(self) -> None:
        if self.status:
            raise CUDARuntimeError(self.status)

    def getDeviceCount(self) -> int:
        self._check()
        return self.devices

    def getDevice(self) -> int:
        self._check()
        return CURRENT.devices[-1]

    def driverGetVersion(self) -> int:
        return 0 if self.status == 35 else self.driver

    def runtimeGetVersion(self) -> int:
        return self.version

    def memGetInfo(self) -> tuple[int, int]:
        self._check()
        return self.pool.capacity - self.pool.used, self.pool.capacity

    def deviceSynchronize(self) -> None:
        if any(stream.recording is not None for stream in Stream.everything):
            current_stream().broken = True
            raise CUDARuntimeError(900)
        for stream in list(Stream.everything):
            stream.catch_up()

    def getDeviceProperties(self, device: int) -> dict[str, Any]:
        self._check()
        if device >= self.devices:
            raise CUDARuntimeError(101)
        return {
            "name": b"a device that is not there", "major": 9, "minor": 0, "multiProcessorCount": self.processors,
            "totalGlobalMem": self.pool.capacity, "sharedMemPerBlock": STATIC_SHARED, "warpSize": 32,
            "sharedMemPerBlockOptin": MOST_SHARED, "sharedMemPerMultiprocessor": 228 << 10, "l2CacheSize": 50 << 20,
            "regsPerMultiprocessor": 65536, "maxThreadsPerMultiProcessor": 2048, "memoryBusWidth": 5120,
            "memoryClockRate": 2619000, "clockRate": 1980000, "cooperativeLaunch": 1,
        }  # fmt: skip


class Device:
    """A device by its number."""

    runtime: Runtime

    def __init__(self, device: int | None = None) -> None:
        self.id = CURRENT.devices[-1] if device is None else int(device)

    def __enter__(self) -> Device:
        if self.id >= self.runtime.devices:
            raise CUDARuntimeError(101)
        CURRENT.devices.append(self.id)
        return self

    def __exit__(self, *error: object) -> None:
        CURRENT.devices.pop()

    def use(self) -> None:
        if self.id >= self.runtime.devices:
            raise CUDARuntimeError(101)
        CURRENT.devices[-1] = self.id

    def synchronize(self) -> None:
        self.runtime.deviceSynchronize()

    @property
    def pci_bus_id(self) -> str:
        return f"0000:{self.id:02X}:00.0"

    compute_capability = "90"

    @property
    def mem_info(self) -> tuple[int, int]:
        return self.runtime.memGetInfo()

    @property
    def attributes(self) -> dict[str, int]:
        return {
            "MultiProcessorCount": self.runtime.processors, "MaxSharedMemoryPerBlockOptin": MOST_SHARED,
            "CooperativeLaunch": 1, "ClockRate": 1980000, "MemoryClockRate": 2619000, "GlobalMemoryBusWidth": 5120,
            "L2CacheSize": 50 << 20,
        }  # fmt: skip


# Kernels.


class RawModule:
    """CUDA C++ as text. Its functions are executed on the CPU (kernels/shim.py), after the text is compiled.

    broken: kernel -> what the compiler says of it, for tests.
    """

    broken: ClassVar[dict[str, str]] = {}

    def __init__(
        self, code: str, *, options: tuple[str, ...] = (), backend: str = "nvrtc",
        enable_cooperative_groups: bool = False,
    ) -> None:  # fmt: skip
        if not isinstance(options, tuple):
            raise TypeError("Argument 'options' has incorrect type (expected tuple)")
        self.code, self.options, self.backend = code, options, backend
        self.cooperative = enable_cooperative_groups
        self._module: Any = None

    def compile(self, log_stream: Any = None) -> None:
        from kernels.shim import KernelError, ShimModule

        for name, words in self.broken.items():
            if f" {name}(" in self.code:
                raise CompileException(words, self.code, f"{name}.cu", self.options)
        try:
            self._module = self._module or ShimModule(self.code)
        except KernelError as error:
            raise CompileException(str(error), self.code, "kernel.cu", self.options) from error

    def get_function(self, name: str) -> RawKernel:
        self.compile()
        return RawKernel(name, self._module.get_function(name))


class RawKernel:
    """A kernel that can be launched."""

    num_regs, local_size_bytes, max_threads_per_block = 32, 0, 1024

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name, self.function = name, function
        self.shared_size_bytes = getattr(function, "shared_size_bytes", 0)
        self.max_dynamic_shared_size_bytes = STATIC_SHARED - self.shared_size_bytes

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int = 0
    ) -> None:
        if shared_mem > min(self.max_dynamic_shared_size_bytes, MOST_SHARED) or not all(grid):
            raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        memories = [arg.memory for arg in args if hasattr(arg, "memory")]
        self.function.max_dynamic_shared_size_bytes = self.max_dynamic_shared_size_bytes
        held = tuple(self._argument(i, arg) for i, arg in enumerate(args))
        shape = tuple(grid), tuple(block)
        current_stream().do(lambda: self.function(*shape, held, shared_mem=shared_mem), memories)

    def _argument(self, i: int, value: Any) -> Any:
        """What the shim takes in the place of a device array, a number or a null pointer, which is np.uint64(0)."""
        if hasattr(value, "memory"):
            if not value.array.flags.c_contiguous:
                raise TypeError(f"{self.name}: a kernel does not see the strides of an array; pass a contiguous one")
            return value.array
        parameters = getattr(self.function, "parameters", ())
        if isinstance(value, np.uint64) and value == 0 and i < len(parameters) and parameters[i].pointer:
            return None
        if isinstance(value, np.generic):
            return value
        raise TypeError(f"{self.name}: {type(value).__name__} is no argument of a kernel; pass an array or np.int32")


class ElementwiseKernel:
    """A line of C for each element, over arrays that are broadcast; i is the number of the element."""

    TYPES: ClassVar[dict[str, str]] = {"float32": "float", "int64": "long long", "int32": "int"}
    array: ClassVar[Any]  # fake_cupy's `wrapped`

    def __init__(self, in_params: str, out_params: str, operation: str, name: str = "kernel") -> None:
        self.inputs, self.outputs = ([pair.split() for pair in text.split(", ")] for text in (in_params, out_params))
        both = [(*pair, "const ") for pair in self.inputs] + [(*pair, "") for pair in self.outputs]
        signature = ", ".join(f"{const}{self.TYPES[kind]}* {name}_" for kind, name, const in both)
        taken = " ".join(f"{const}{self.TYPES[kind]}& {name} = {name}_[i];" for kind, name, const in both)
        self.code = f"""extern "C" __global__ void {name}({signature}, long long n) {{
            for (long long i = blockIdx.x; i < n; i += gridDim.x) {{ {taken} {operation}; }} }}"""
        self.name, self.module = name, None

    def __call__(self, *args: Any) -> Any:
        kinds = [kind for kind, _ in (*self.inputs, *self.outputs)]
        if any(arg.dtype.name != kind for arg, kind in zip(args, kinds, strict=False)):
            raise TypeError(f"{self.name}: {[arg.dtype.name for arg in args]} are given, {kinds} are declared")
        self.module = self.module or RawModule(self.code)
        kernel = self.module.get_function(self.name)
        given = [arg.array if hasattr(arg, "memory") else np.asarray(arg) for arg in args]
        shape = np.broadcast_shapes(*(one.shape for one in given))
        made = [self.array(np.empty(shape, kind)) for kind, _ in self.outputs[len(args) - len(self.inputs) :]]
        outs = [*given[len(self.inputs) :], *(one.array for one in made)]

        def work() -> None:
            sources = [np.ascontiguousarray(np.broadcast_to(one, shape)) for one in given[: len(self.inputs)]]
            targets = [np.ascontiguousarray(out).copy() for out in outs]
            if prod(shape):
                kernel.function((1,), (1,), (*sources, *targets, np.int64(prod(shape))))
            for out, target in zip(outs, targets, strict=True):
                out[...] = target

        if any(out.shape != shape for out in outs):
            raise ValueError(f"{self.name}: an output is smaller than {shape}")
        current_stream().do(work, [arg.memory for arg in (*args, *made) if hasattr(arg, "memory")])
        return made[0] if len(made) == 1 else tuple(made) or args[-1]


class ReductionKernel:
    """A sum over the last axis of what a line of C makes of each element."""

    def __init__(
        self, in_params: str, out_params: str, map_expr: str, reduce_expr: str, post_map_expr: str, identity: str,
        name: str = "reduce_kernel",
    ) -> None:  # fmt: skip
        (_, x), (_, y) = in_params.split(), out_params.split()
        self.name, self.module = name, None
        parameters = f"const float* {x}_, float* {y}_, long long rows, long long n"
        self.code = f"""extern "C" __global__ void {name}({parameters}) {{
            for (long long row = blockIdx.x; row < rows; row += gridDim.x) {{
                float total = {identity};
                for (long long j = 0; j < n; j++) {{
                    float {x} = {x}_[row * n + j], a = total, b = {map_expr}; total = {reduce_expr};
                }}
                float& {y} = {y}_[row]; float a = total; {post_map_expr};
            }} }}"""

    def __call__(self, x: Any, axis: int, keepdims: bool) -> Any:
        if axis != -1 or not keepdims or x.dtype != np.float32:
            raise TypeError(f"{self.name}: only the last axis of float32 is summed here")
        self.module = self.module or RawModule(self.code)
        kernel, given = self.module.get_function(self.name), x.array
        made = ElementwiseKernel.array(np.empty((*given.shape[:-1], 1), np.float32))
        target, rows = made.array, np.int64(prod(given.shape[:-1]))

        def work() -> None:
            if rows:
                kernel.function((1,), (1,), (np.ascontiguousarray(given), target, rows, np.int64(given.shape[-1])))

        current_stream().do(work, [x.memory, made.memory])
        return made


# cuBLAS.


class Cublas(SimpleNamespace):
    """`cupy.cuda.cublas`: the product of matrices of which the types are said one by one."""

    CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_GEMM_DEFAULT, CUBLAS_GEMM_DEFAULT_TENSOR_OP = 0, 1, -1, 99
    CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_64F, CUBLAS_COMPUTE_32I = 68, 70, 72
    CUBLASError = CUBLASError

    @staticmethod
    def sgemmStridedBatched(
        handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, a: int, lda: int, step_a: int,
        b: int, ldb: int, step_b: int, beta: int, c: int, ldc: int, step_c: int, count: int,
    ) -> None:  # fmt: skip
        """`count` products in float32, whose matrices lie so many numbers apart."""
        refuse_cublas()
        products = []
        for i in range(count):
            at = [address + 4 * i * step for address, step in ((a, step_a), (b, step_b), (c, step_c))]
            matrices = at[0], 0, lda, at[1], 0, ldb, beta, at[2], 0, ldc
            products.append(Cublas.product(transa, transb, m, n, k, alpha, *matrices, Cublas.CUBLAS_COMPUTE_32F))
        current_stream().do(lambda: [product() for product in products])

    @staticmethod
    def gemmEx(
        handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, a: int, a_type: int, lda: int,
        b: int, b_type: int, ldb: int, beta: int, c: int, c_type: int, ldc: int, compute: int, algo: int,
    ) -> None:  # fmt: skip
        """c = alpha · op(a) op(b) + beta · c, all of them column by column, at addresses of the device."""
        refuse_cublas()
        types = transa, transb, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c, c_type, ldc, compute
        current_stream().do(Cublas.product(*types))

    @staticmethod
    def product(
        transa: int, transb: int, m: int, n: int, k: int, alpha: int, a: int, a_type: int, lda: int,
        b: int, b_type: int, ldb: int, beta: int, c: int, c_type: int, ldc: int, compute: int,
    ) -> Work:  # fmt: skip
        """The work of one product. Raises CUBLASError for types and sizes that cuBLAS does not multiply."""
        whole = compute == Cublas.CUBLAS_COMPUTE_32I
        types = {(t, t, o) for t in (0, 2, 14) for o in (0, t)} if not whole else {(3, 3, 10)}
        uneven = whole and (lda % 4 or ldb % 4 or k % 4 or a % 4 or b % 4)
        if (a_type, b_type, c_type) not in types or uneven or compute not in (68, 72):
            raise CUBLASError("CUBLAS_STATUS_NOT_SUPPORTED")
        scale = ctypes.c_int32 if whole else ctypes.c_float
        factors = scale.from_address(alpha).value, scale.from_address(beta).value
        exact = np.int64 if whole else np.float32

        def work() -> None:
            left = matrix_at(a, a_type, *((k, m) if transa else (m, k)), lda).astype(exact)
            right = matrix_at(b, b_type, *((n, k) if transb else (k, n)), ldb).astype(exact)
            out = matrix_at(c, c_type, m, n, ldc)
            product = (left.T if transa else left) @ (right.T if transb else right) * exact(factors[0])
            out[...] = (product + out.astype(exact) * exact(factors[1]) if factors[1] else product).astype(out.dtype)

        return work


def matrix_at(address: int, kind: int, rows: int, columns: int, stride: int) -> np.ndarray:
    """The matrix that lies column by column at an address."""
    if stride < rows:
        raise CUBLASError("CUBLAS_STATUS_INVALID_VALUE")
    dtype = np.dtype(TYPES[kind])
    numbers = (columns - 1) * stride + rows
    flat = np.frombuffer((ctypes.c_char * (numbers * dtype.itemsize)).from_address(address), dtype)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (dtype.itemsize, stride * dtype.itemsize))


def refuse_cublas() -> None:
    """Raises the error of the real one while the current stream captures."""
    if current_stream().recording is not None:
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")


class Cuda(SimpleNamespace):
    """`cupy.cuda`. pool: the memory of its devices."""

    Stream, Event, Graph, Device = Stream, Event, Graph, Device
    memory = SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
    compiler = SimpleNamespace(CompileException=CompileException)
    cublas = Cublas()
    driver = SimpleNamespace(CUDADriverError=CUDADriverError)
    get_current_stream = staticmethod(lambda device_id=-1: current_stream())
    get_elapsed_time = staticmethod(get_elapsed_time)
    get_cublas_handle = staticmethod(lambda: 1)
    alloc_pinned_memory = staticmethod(PinnedMemory)

    def __init__(self, capacity: int = 80 << 30) -> None:
        self.pool = Pool(capacity)
        self.runtime = Runtime(self.pool)
        Device.runtime = self.runtime

    def is_available(self) -> bool:
        return not self.runtime.status and self.runtime.devices > 0
