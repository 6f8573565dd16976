"""The fake CuPy has no name that the real one lacks: else a test on the fake could pass where a GPU would fail."""

from __future__ import annotations

import fake_cuda
import fake_cupy
import pytest
from parity import Device

PARTS = {
    "Stream": ("begin_capture", "end_capture", "is_capturing", "record", "wait_event", "synchronize", "done", "use"),
    "Event": ("record", "synchronize", "done"),
    "Device": ("attributes", "compute_capability", "mem_info", "synchronize", "use", "pci_bus_id"),
    "runtime": ("getDeviceCount", "getDeviceProperties", "memGetInfo", "driverGetVersion", "runtimeGetVersion",
                "deviceSynchronize", "CUDARuntimeError"),
    "driver": ("CUDADriverError",), "compiler": ("CompileException",), "memory": ("OutOfMemoryError",),
}  # fmt: skip


@pytest.mark.gpu
def test_every_name_of_the_fake_is_one_of_cupys() -> None:
    """Functions, methods and attributes of arrays, and those of the device's parts."""
    cupy = Device("gpu").xp
    assert not [name for name in fake_cupy.NAMES if not hasattr(cupy, name)]
    members = fake_cupy.METHODS | fake_cupy.ATTRIBUTES | {"get", "set", "data", "device", "T", "base"}
    assert not [name for name in members if not hasattr(cupy.ndarray, name)]
    for part, names in PARTS.items():
        assert not [name for name in names if not hasattr(getattr(cupy.cuda, part), name)], part
    for name in ("CUBLAS_OP_N", "CUBLAS_OP_T", "CUBLAS_COMPUTE_32F", "CUBLAS_COMPUTE_32I", "gemmEx",
                 "CUBLAS_GEMM_DEFAULT_TENSOR_OP", "sgemmStridedBatched"):  # fmt: skip
        real, fake = getattr(cupy.cuda.cublas, name), getattr(fake_cuda.Cublas, name)
        assert callable(fake) or real == fake
    for name in ("CUDA_R_32F", "CUDA_R_64F", "CUDA_R_16F", "CUDA_R_8I", "CUDA_R_16BF"):
        assert getattr(cupy.cuda.runtime, name) == getattr(fake_cuda.Runtime, name)
