"""What goes wrong in kernels, planted one by one into a right one: the harness must find each.

The kernel has what the engine's kernels have: a grid-stride loop, a guarded tail, warps that reduce and meet in shared
memory, partial sums of blocks that the last block adds, found by a counter. A fault of order is not seen in every
order. So 100 orders are measured, and a fault must be seen in so many of them that three orders, as `run` takes, miss
it once in a thousand times or less.
"""

from __future__ import annotations

import numpy as np
import pytest
from kernels.harness import SEEDS, Counters, Out, Scratch, run_source
from kernels.shim import KernelError

KERNEL = """
extern "C" __global__ void __launch_bounds__(128) total(
        const float* x, float* twice, float* sum, float* partial, int* counter, int n) {
    __shared__ float parts[4];
    __shared__ bool last;
    float own = 0;
    for (int start = blockIdx.x * blockDim.x; start < n; start += gridDim.x * blockDim.x) {
        int i = start + threadIdx.x;
        if (i < n) {
            twice[i] = 2 * x[i];
            own += x[i];
        }
    }
    for (int d = 16; d > 0; d /= 2) own += __shfl_xor_sync(0xffffffffu, own, d);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = own;
    __syncthreads();  // parts are complete
    if (threadIdx.x < 4) partial[blockIdx.x * 4 + threadIdx.x] = parts[threadIdx.x] + parts[3 - threadIdx.x];
    __threadfence();  // the partial sums are in memory before the counter says so
    __syncthreads();  // the block's partial sums are written
    if (threadIdx.x == 0) last = atomicAdd(counter, 1) == (int)gridDim.x - 1;
    __syncthreads();  // all threads see the flag
    if (last) {
        __threadfence();  // what other blocks wrote is read anew
        float all = threadIdx.x < 4 * gridDim.x ? partial[threadIdx.x] : 0;
        for (int d = 16; d; d /= 2) all += __shfl_xor_sync(0xffffffffu, all, d);
        if (threadIdx.x == 0) {
            sum[0] = all / 2;
            *counter = 0;
        }
    }
}
"""
FAULTS = {
    "off by one in the stride": ("start += gridDim.x * blockDim.x", "start += gridDim.x * blockDim.x + 1"),
    "off by one in the end": ("start < n;", "start < n - 1;"),
    "unguarded tail": ("if (i < n) {", "{"),
    "no barrier before shared partial sums are read": ("__syncthreads();  // parts are complete", ""),
    "no barrier after the flag is set": ("__syncthreads();  // all threads see the flag", ""),
    "no barrier before the counter": ("__syncthreads();  // the block's partial sums are written", ""),
    "counter not reset": ("*counter = 0;", ""),
    "divergent barrier": ("__syncthreads();  // parts are complete", "if (threadIdx.x > 0) __syncthreads();"),
    "divergent shuffle": ("for (int d = 16; d > 0", "if (threadIdx.x % 32 != 5) for (int d = 16; d > 0"),
    "race between blocks": ("partial[blockIdx.x * 4 + threadIdx.x] =", "partial[threadIdx.x] ="),
    "blocks that read what others write": ("own += x[i];", "own += (i < 128 ? 2 * x[i] : twice[i - 128]) / 2;"),
}
GRID, LENGTH = 4, 1025  # two strides, and one number more


def total(kernel: str, seeds: range | tuple[int, ...] = SEEDS) -> None:
    """Runs a variant; raises if the harness or the result shows a fault."""
    x = np.arange(LENGTH, dtype=np.float32)
    args = [x, Out((LENGTH,)), Out((1,)), Scratch((4 * GRID,)), Counters(np.zeros(1, np.int32)), np.int32(LENGTH)]
    twice, added = run_source(kernel, "total", args, grid=GRID, seeds=seeds)
    np.testing.assert_array_equal(twice, 2 * x)
    assert added == x.sum()


def planted(fault: str) -> str:
    """The kernel with a fault."""
    right, wrong = FAULTS[fault]
    assert KERNEL.count(right) == 1
    return KERNEL.replace(right, wrong)


def is_found(kernel: str, seed: int) -> bool:
    """Whether one order of threads shows that a kernel is wrong."""
    try:
        total(kernel, (seed,))
    except (AssertionError, KernelError):
        return True
    return False


def test_the_right_kernel_is_right_in_100_orders():
    """Or what the planted faults show would mean nothing."""
    total(KERNEL, range(100))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault):
    """By the orders that every kernel is tested with."""
    with pytest.raises((AssertionError, KernelError)):
        total(planted(fault))


@pytest.mark.cuda
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_in_nearly_every_order(fault):
    """Three orders that find it nine times of ten miss it once in a thousand times."""
    kernel = planted(fault)
    assert sum(is_found(kernel, seed) for seed in range(1, 101)) >= 90
