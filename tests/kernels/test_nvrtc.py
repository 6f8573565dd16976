"""Every kernel compiles as CuPy compiles it, for two GPUs, and keeps its variables in registers."""

from __future__ import annotations

import pytest
from kernels.shapes_of_kernels import COMPILED

from tinyinfer.backends.kernels.nvrtc import ARCHITECTURES, CompileError, compile, report
from tinyinfer.backends.kernels.source import FOLDER, kernel_source

pytestmark = pytest.mark.cuda

HOG = """extern "C" __global__ void __launch_bounds__(1024) f(const float* x, float* y, int n) {
    float sums[100] = {};
    for (int j = 0; j < n; j++) {
        #pragma unroll
        for (int i = 0; i < 100; i++) sums[i] += x[j * 100 + i] * x[j + threadIdx.x];
    }
    #pragma unroll
    for (int i = 0; i < 100; i++) y[threadIdx.x * 100 + i] = sums[i];
}"""


def assert_no_spills(source: str, arch: str) -> None:
    """A spilled variable is read from memory each time, which is what the kernel was written to avoid."""
    spilled = {name: usage for name, usage in report(source, arch).items() if usage.spills}
    assert not spilled


def test_every_kernel_is_registered():
    """A kernel without a line in shapes_of_kernels.py would never be compiled."""
    assert sorted(COMPILED) == sorted(path.stem for path in FOLDER.glob("*.cu"))


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", COMPILED)
def test_every_kernel_compiles_without_a_spill(name, arch):
    """For all preludes of the kernel: two models' shapes, several kinds of weights."""
    for prelude in COMPILED[name]:
        assert_no_spills(kernel_source(name, prelude), arch)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_register_hog_is_found(arch):
    """100 sums in each of 1,024 threads do not fit the 64 registers that a thread can then have."""
    with pytest.raises(AssertionError, match="spills="):
        assert_no_spills(HOG, arch)


@pytest.mark.parametrize(
    "source",
    ["#include <cuda_fp16.h>", "#include <math.h>", "__device__ float f() { return INFINITY; }", "uint8_t x;"],
)
def test_what_only_a_host_has_is_refused(source):
    """nvcc takes all of these; CuPy compiles with NVRTC, which takes none."""
    with pytest.raises(CompileError, match=r"(?s)does not compile the kernel for sm_90.*error"):
        compile(source, "90")


def test_shared_memory_and_registers_are_read_from_the_report():
    """Of each kernel of a source, those with shared memory and those without."""
    source = """extern "C" __global__ void f(float* x) {
        __shared__ float s[256];
        s[threadIdx.x] = x[threadIdx.x];
        __syncthreads();
        x[threadIdx.x] = s[255 - threadIdx.x];
    }
    extern "C" __global__ void g(float* x) { x[0] = 1; }"""
    usages = report(source, "80")
    assert sorted(usages) == ["f", "g"]
    assert (usages["f"].shared, usages["g"].shared) == (1024, 0)
    assert 4 <= usages["g"].registers <= usages["f"].registers <= 32
