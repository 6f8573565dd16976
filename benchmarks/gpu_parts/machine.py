"""What the device can do: the figures that decide how fast a token can be, measured before anything else.

Two bandwidths, a matrix product, and the four ways to begin work, each of which costs time although it does nothing:

    an operation of CuPy     the host finds types and shapes, allocates the result, launches
    a launch                 the host launches a compiled kernel
    a node of a graph        the device itself begins the next kernel
    a barrier                all blocks of one kernel wait for each other

A decode step of a small model is some 150 phases, each of which needs all of the one before: it takes at least 150
times one of these.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 5
BLOCK = 256  # threads of a block in the kernels below
SOURCE = Path(__file__).with_name("machine.cu")


def measure(cp: Any, small: bool = False) -> dict[str, Any]:
    """Every figure by its name: bytes and FLOPs a second, microseconds. small: a rehearsal that measures nothing real.

    cp: CuPy.
    """
    size, times = (1 << 12, 3) if small else (1 << 30, 2000)
    module = cp.RawModule(code=SOURCE.read_text(encoding="utf-8"), options=("-std=c++17",))
    device = cp.cuda.runtime.getDeviceProperties(0)
    blocks = 1 if small else device["multiProcessorCount"]
    name = device["name"]
    return {
        "device": name.decode() if isinstance(name, bytes) else name,
        "multiprocessors": device["multiProcessorCount"],
        "memory_bytes": device["totalGlobalMem"],
        "driver": cp.cuda.runtime.driverGetVersion(),
        "cupy": cp.__version__,
        **bandwidths(cp, module, size, blocks),
        "matrix_speed": matrix_speed(cp, 64 if small else 8192),
        **beginnings(cp, module, times, blocks),
    }


def bandwidths(cp: Any, module: Any, size: int, blocks: int) -> dict[str, float]:
    """Bytes a second of a copy (read and written bytes together), and of a kernel that only reads."""
    source, target = cp.ones(size // 4, dtype="float32"), cp.empty(size // 4, dtype="float32")
    out = cp.zeros(1, dtype="uint32")
    read, count = module.get_function("read_all"), size // 16
    seconds = device_seconds(cp, lambda: cp.copyto(target, source))
    reading = device_seconds(cp, lambda: read((16 * blocks,), (BLOCK,), (source, np.int64(count), out)))
    return {"copy_bandwidth": 2 * size / seconds, "read_bandwidth": size / reading}


def matrix_speed(cp: Any, n: int) -> float:
    """FLOPs a second of a square product in float16, whose units compute bfloat16 at the same speed."""
    random = np.random.default_rng(0).standard_normal((n, n), dtype=np.float32)  # ones would run faster than any model
    a = cp.asarray(random.astype(np.float16))
    return 2 * n**3 / device_seconds(cp, lambda: cp.matmul(a, a))


def beginnings(cp: Any, module: Any, times: int, blocks: int) -> dict[str, float]:
    """Microseconds of an operation, a launch, a node and a barrier that do nothing, each after the other."""
    nothing, barriers = module.get_function("nothing"), module.get_function("barriers")
    out, x, arrived = cp.zeros(1, dtype="uint32"), cp.zeros(576, dtype="float32"), cp.zeros(1, dtype="int32")

    def repeat(work: Callable[[], object]) -> float:
        return host_seconds(cp, lambda: [work() for _ in range(times)]) / times * 1e6

    def wait() -> None:
        arrived.fill(0)
        barriers((blocks,), (BLOCK,), (arrived, np.int32(times)))

    return {
        "operation_us": repeat(lambda: cp.add(x, x)),
        "launch_us": repeat(lambda: nothing((1,), (BLOCK,), (out,))),
        "node_us": node_seconds(cp, lambda: nothing((blocks,), (BLOCK,), (out,)), min(times, 200)) * 1e6,
        "barrier_us": device_seconds(cp, wait) / times * 1e6,
    }


def node_seconds(cp: Any, launch: Callable[[], object], nodes: int) -> float:
    """Seconds of a node in a captured graph of so many launches, one after another."""
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        launch()
        stream.begin_capture()
        for _ in range(nodes):
            launch()
        graph = stream.end_capture()
        return device_seconds(cp, lambda: graph.launch(stream)) / nodes


def device_seconds(cp: Any, work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The median time between two events around the work, on the current stream, after a round that warms up."""
    times = []
    for _ in range(rounds + 1):
        begun, ended, stream = cp.cuda.Event(), cp.cuda.Event(), cp.cuda.get_current_stream()
        begun.record(stream)
        work()
        ended.record(stream)
        ended.synchronize()
        times.append(cp.cuda.get_elapsed_time(begun, ended) / 1e3)
    return statistics.median(times[1:])


def host_seconds(cp: Any, work: Callable[[], object]) -> float:
    """The median time by the host's clock until the device has done the work, after a round that warms up."""
    times = []
    for _ in range(ROUNDS + 1):
        cp.cuda.get_current_stream().synchronize()
        begun = time.perf_counter()
        work()
        cp.cuda.get_current_stream().synchronize()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])
