"""The detector of races: two accesses that nothing orders are found in every order, even in the plain one."""

from __future__ import annotations

import numpy as np
import pytest
from kernels.harness import Counters, Out, Scratch, run_source
from kernels.shim import KernelError
from kernels.test_planted_faults import GRID, KERNEL, LENGTH, planted

EXCHANGE = """extern "C" __global__ void __launch_bounds__(32) exchange(float* y) {
    __shared__ float s[32];
    s[threadIdx.x] = threadIdx.x;
    ORDER;
    y[threadIdx.x] = s[31 - threadIdx.x];
}"""
HANDED_ON = """extern "C" __global__ void __launch_bounds__(64) handed_on(float* y, float* z, int* flag) {
    if (blockIdx.x == 0) {
        y[threadIdx.x] = threadIdx.x;
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            *(volatile int*)flag = 1;
        }
    } else {
        if (threadIdx.x == 0) while (*(volatile int*)flag != 1) SPIN();
        __threadfence();
        __syncthreads();
        z[threadIdx.x] = y[63 - threadIdx.x];
    }
}"""


def total(kernel: str) -> None:
    """Runs a variant of the kernel of the planted faults in the plain order."""
    args = [np.ones(LENGTH, np.float32), Out((LENGTH,)), Out((1,)), Scratch((4 * GRID,)),
            Counters(np.zeros(1, np.int32)), np.int32(LENGTH)]  # fmt: skip
    run_source(kernel, "total", args, grid=GRID, seeds=(0,), races=True)


def exchange(order: str) -> None:
    """Lanes of a warp read what other lanes wrote to shared memory."""
    run_source(EXCHANGE.replace("ORDER", order), "exchange", [Out((32,))], grid=1, seeds=(0, 1, 2), races=True)


def handed_on(kernel: str) -> np.ndarray:
    """One block waits for another one, as in a persistent kernel."""
    args = [Scratch((64,)), Out((64,)), Out((1,), np.int32)]
    return run_source(kernel, "handed_on", args, grid=2, seeds=(1, 2), races=True)[0]


def test_a_right_kernel_has_no_race():
    """Shared memory between barriers, partial sums behind a fence and a counter."""
    total(KERNEL)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("__threadfence();  // the partial", "//"), ("__threadfence();  // what other", "//"),
     ("if (threadIdx.x == 0) {\n            sum", "{ sum"),
     ("__threadfence();  // the partial", "if (threadIdx.x == 99) __threadfence();  //")],
    ids=["no fence before the atomic", "no fence after it", "all reset the counter", "the fence of another thread"],
)  # fmt: skip
def test_what_no_order_shows_is_a_race(right, wrong):
    """On a CPU every write is seen at once, and the same value may be written twice; not so on a device."""
    assert right in KERNEL
    with pytest.raises(KernelError, match=r"race: thread \d+ of block \d (reads|writes) \(line \d+: .*\) what thread"):
        total(KERNEL.replace(right, wrong))


def test_a_missing_barrier_is_named_by_both_lines():
    """The sentence shows where to look."""
    with pytest.raises(KernelError, match=r"reads \(line 17: .*\) what thread .* writes \(line 15: .*\)"):
        total(planted("no barrier before shared partial sums are read"))


def test_lanes_are_ordered_by_syncwarp_and_not_by_a_shuffle():
    """Since Volta the lanes of a warp run apart, and a shuffle exchanges registers only."""
    exchange("__syncwarp()")
    exchange("__syncthreads()")
    for nothing in ("", "__shfl_xor_sync(0xffffffffu, s[threadIdx.x], 1)"):
        with pytest.raises(KernelError, match="race: "):
            exchange(nothing)


def test_a_flag_hands_over_what_lies_before_its_fence():
    """A volatile flag and a fence order two blocks; without the fence they do not."""
    assert handed_on(HANDED_ON).tolist() == list(range(63, -1, -1))
    with pytest.raises(KernelError, match="race: "):
        handed_on(HANDED_ON.replace("__threadfence();", "", 1))
    with pytest.raises(KernelError, match="race: "):
        handed_on(HANDED_ON.replace("if (threadIdx.x == 0) while", "while").replace("__syncthreads();", "", 1))
