"""The fake device is as strict as a real one: else the tests that run on it would prove nothing.

Streams, captures, graphs, memory and cuBLAS of fake_cuda.py, by what would go wrong on a GPU.
"""

from __future__ import annotations

import ctypes
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from fake_cuda import CUBLASError, CUDADriverError, CUDARuntimeError, OutOfMemoryError, RawKernel
from fake_cupy import fake_cupy

cuda = fake_cupy.cuda


@pytest.fixture
def stream() -> Any:
    """A stream of its own, as captures need one."""
    return cuda.Stream(non_blocking=True)


def ones(*shape: int) -> Any:
    return fake_cupy.asarray(np.ones(shape, np.float32))


def captured(stream: Any, work: Any) -> Any:
    """The graph of some work."""
    with stream:
        stream.begin_capture()
        try:
            work()
        finally:
            graph = stream.end_capture()
    return graph


# Streams


def test_a_stream_does_its_work_when_the_host_waits_for_it(stream):
    """Catches a result that is read on another stream before its own was waited for."""
    x = ones(3)
    with stream:
        x += 1
    assert x.get().tolist() == [1] * 3
    stream.synchronize()
    assert x.get().tolist() == [2] * 3


def test_an_event_lets_the_host_wait_for_a_part_of_a_stream(stream):
    x, event = ones(1), cuda.Event()
    with stream:
        x += 1
        event.record()
        x *= 10
    event.synchronize()
    assert x.get().tolist() == [2]
    stream.synchronize()
    assert x.get().tolist() == [20]


def test_a_copy_into_pinned_memory_is_there_only_after_the_stream_was_waited_for(stream):
    """Catches a step's tokens that the host reads while they are still on their way."""
    x, host = ones(2), np.frombuffer(cuda.alloc_pinned_memory(8), np.float32)
    x.get(stream=stream, out=host, blocking=False)
    assert host.tolist() == [0, 0]
    stream.synchronize()
    assert host.tolist() == [1, 1]


def test_a_copy_out_of_pinned_memory_reads_it_late(stream):
    """Catches a host that fills its buffer again while the device still reads it."""
    x, host = ones(1), np.frombuffer(cuda.alloc_pinned_memory(4), np.float32)
    host[:] = 5
    x.set(host, stream=stream)
    host[:] = 6
    stream.synchronize()
    assert x.get().tolist() == [6]
    x.set(np.full(1, 7, np.float32), stream=stream)
    stream.synchronize()
    assert x.get().tolist() == [7]


# Graphs


def test_a_graph_does_its_work_at_each_launch_and_none_at_the_capture(stream):
    x, y = ones(3), ones(3)
    graph = captured(stream, lambda: fake_cupy.add(x, y, out=y))
    assert y.get().tolist() == [1] * 3
    for _ in range(2):
        graph.launch(stream)
    x.set(np.zeros(3, np.float32), stream=stream)
    graph.launch(stream)
    stream.synchronize()
    assert y.get().tolist() == [3] * 3


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (lambda x: x.get(), CUDARuntimeError),
        (lambda x: x.set(np.ones((3, 3), np.float32)), CUDARuntimeError),
        (lambda x: fake_cupy.asarray(np.ones(3)), CUDARuntimeError),
        (lambda x: cuda.get_current_stream().synchronize(), CUDARuntimeError),
        (lambda x: cuda.Device().synchronize(), CUDARuntimeError),
        (lambda x: x[[0, 1]], CUDARuntimeError),
        (lambda x: x[x > 0], CUDARuntimeError),
        (lambda x: fake_cupy.nonzero(x), CUDARuntimeError),
        (lambda x: x @ x, NotImplementedError),
        (lambda x: fake_cupy.matmul(x, x), NotImplementedError),
        (lambda x: cuda.cublas.gemmEx(*[0] * 19), NotImplementedError),
    ],
)
def test_what_a_capture_refuses_is_refused(work, error, stream):
    """Copies, waiting, shapes that depend on data, lists of numbers, and all of cuBLAS."""
    x = ones(3, 3)
    with stream:
        stream.begin_capture()
        with pytest.raises(error):
            work(x)
        if error is CUDARuntimeError:  # such a capture is of no use any longer
            with pytest.raises(CUDARuntimeError, match="cudaErrorStreamCaptureInvalidated"):
                stream.end_capture()
        else:
            stream.end_capture()


def test_the_default_stream_cannot_capture():
    with pytest.raises(RuntimeError, match="default"):
        cuda.Stream.null.begin_capture()


def test_an_array_born_in_a_capture_holds_nothing_before_the_graph_was_launched(stream):
    x, kept = ones(3), []
    graph = captured(stream, lambda: kept.append(x + 1))
    assert np.isnan(kept[0].get()).all()
    graph.launch(stream)
    stream.synchronize()
    assert kept[0].get().tolist() == [2] * 3


@pytest.mark.parametrize("work", [lambda x, y: fake_cupy.add(x + 1, y, out=y), lambda x, y: fake_cupy.add(x, y, out=y)])
def test_a_graph_whose_arrays_are_gone_is_refused(work, stream):
    """Temporaries of a capture go back to the pool, and the graph would write into whatever lies there next."""
    buffers = [ones(3), ones(3)]
    graph = captured(stream, lambda: work(*buffers))
    del buffers[0]
    with pytest.raises(AssertionError, match="freed after the capture"):
        graph.launch(stream)


# Memory


def test_memory_is_counted_and_limited(monkeypatch):
    pool = fake_cupy.get_default_memory_pool()
    used = pool.used_bytes()
    monkeypatch.setattr(pool, "limit", used + 4096)
    x = fake_cupy.empty(1024, np.float32)
    assert pool.used_bytes() == used + 4096
    for allocate in (lambda a: a + 1, lambda a: a.copy(), lambda a: fake_cupy.zeros(1 << 50)):
        with pytest.raises(OutOfMemoryError, match="Out of memory allocating") as caught:
            allocate(x)
        assert isinstance(caught.value, MemoryError)
    del caught
    x = x[:10]
    assert pool.used_bytes() == used + 4096, "a view holds the memory"
    x = None
    assert pool.used_bytes() == used


def test_what_empty_gives_is_poisoned():
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16, np.float64):
        assert np.isnan(fake_cupy.empty((2, 3), dtype).get().astype(np.float64)).all()
    assert (fake_cupy.empty(3, np.int32).get() > 10**8).all()
    assert np.isnan(fake_cupy.empty_like(ones(2)).get()).all()


def test_arrays_of_two_devices_do_not_mix(monkeypatch):
    monkeypatch.setattr(cuda.runtime, "devices", 2)
    x = ones(3)
    with cuda.Device(1):
        with pytest.raises(ValueError, match="device"):
            x + 1
        y = ones(3)
    with pytest.raises(ValueError, match="device"):
        x + y


# Kernels and cuBLAS


def test_a_kernel_takes_arrays_and_numbers_of_a_known_size(stream):
    calls: list[Any] = []
    kernel = RawKernel("k", lambda grid, block, args, shared_mem: calls.append((grid, block, len(args), shared_mem)))
    x = ones(3, 4)
    for wrong in (3, 1.5, None, np.ones(3), x.T):  # CuPy would pass 8 bytes of a number, and no bytes at all of None
        with pytest.raises(TypeError):
            kernel((1,), (32,), (x, wrong))
    with pytest.raises(CUDADriverError):
        kernel((1,), (32,), (x,), shared_mem=50 << 10)
    kernel.max_dynamic_shared_size_bytes = 60 << 10
    kernel((1,), (32,), (x, np.int32(3)), shared_mem=50 << 10)
    graph = captured(stream, lambda: kernel((2,), (64,), (x,)))
    graph.launch(stream)
    assert calls == [((1,), (32,), 2, 50 << 10)]
    stream.synchronize()
    assert calls[1:] == [((2,), (64,), 1, 0)]


@pytest.mark.parametrize(("dtype", "kind"), [(np.float16, 2), (ml_dtypes.bfloat16, 14), (np.float32, 0)])
def test_cublas_multiplies_what_lies_column_by_column(dtype, kind):
    """y = x Wᵀ of row-major arrays, as backends/cupy_ops.py asks for it."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(dtype) for shape in ((3, 8), (5, 8)))
    a, b, y = fake_cupy.asarray(x), fake_cupy.asarray(w), fake_cupy.empty((3, 5), np.float32)
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    cuda.cublas.gemmEx(1, 1, 0, 5, 3, 8, ctypes.addressof(one), b.data.ptr, kind, 8, a.data.ptr, kind, 8,
                       ctypes.addressof(zero), y.data.ptr, 0, 5, 68, 99)  # fmt: skip
    np.testing.assert_allclose(y.get(), x.astype(np.float32) @ w.astype(np.float32).T, rtol=1e-5, atol=1e-5)


def test_cublas_refuses_types_that_it_does_not_multiply():
    x = ones(4, 4)
    for kinds in ((0, 14, 0), (3, 3, 0), (2, 2, 1)):
        with pytest.raises(CUBLASError, match="NOT_SUPPORTED"):
            cuda.cublas.gemmEx(1, 1, 0, 4, 4, 4, 0, x.data.ptr, kinds[0], 4, x.data.ptr, kinds[1], 4, 0, x.data.ptr,
                               kinds[2], 4, 68, 99)  # fmt: skip
