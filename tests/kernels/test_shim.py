"""The shim runs CUDA C++ as a device does, and names what a device would silently do wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest
from kernels.harness import Counters, InOut, Out, Scratch, run_source
from kernels.shim import KernelError, ShimModule

SEEDS = range(6)


def kernel(arguments: str, body: str, before: str = "", bound: int = 128) -> str:
    """The source of one kernel `f`."""
    return f'{before}\nextern "C" __global__ void __launch_bounds__({bound}) f({arguments}) {{\n{body}\n}}\n'


def ints(*values: int) -> np.ndarray:
    """An array of C's int."""
    return np.array(values, np.int32)


def test_shuffles_barriers_and_shared_memory_sum_the_rows_of_a_matrix():
    """A template's shared array, dynamic shared memory, a warp's and a block's reduction, in every order."""
    source = kernel(
        "const float* x, float* y, int rows, int columns",
        """DYNAMIC_SHARED(float, row_of_x);
        for (int row = blockIdx.x; row < rows; row += gridDim.x) {
            for (int i = threadIdx.x; i < columns; i += blockDim.x) row_of_x[i] = x[row * columns + i];
            __syncthreads();
            float sum = 0;
            for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += row_of_x[columns - 1 - i];
            sum = block_sum<4>(sum);
            if (threadIdx.x == 0) y[row] = sum;
        }""",
        """template <int WARPS> __device__ float block_sum(float x) {
            __shared__ float parts[WARPS];
            for (int d = 16; d; d /= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
            if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
            __syncthreads();
            x = 0;
            for (int i = 0; i < WARPS; i++) x += parts[i];
            __syncthreads();
            return x;
        }""",
    )
    x = np.arange(5 * 300, dtype=np.float32).reshape(5, 300) % 17
    args = [x, Out((5,)), np.int32(5), np.int32(300)]
    [y] = run_source(source, "f", args, grid=(1, 3, 8), shared=1200, seeds=SEEDS)
    np.testing.assert_array_equal(y, x.sum(1))


def test_blocks_wait_for_each_other_at_a_barrier_of_the_grid():
    """What a persistent kernel needs: resident blocks take turns while they spin."""
    body = """if (threadIdx.x == 0) y[blockIdx.x] = 1;
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            atomicAdd(count, 1);
            while (*(volatile int*)count < (int)gridDim.x) SPIN();
            __threadfence();
        }
        __syncthreads();
        int sum = 0;
        for (int i = 0; i < (int)gridDim.x; i++) sum += y[i];
        if (threadIdx.x == 0) z[blockIdx.x] = sum;"""
    source = kernel("int* count, int* y, int* z", body)
    args = [InOut(ints(0)), Scratch((8,), np.int32), Out((8,), np.int32)]
    _, z = run_source(source, "f", args, grid=8, seeds=SEEDS)
    assert z.tolist() == [8] * 8
    with pytest.raises(KernelError, match=r"endless wait: .* of the 4 resident blocks"):
        run_source(source, "f", args, grid=8, resident=4)


def test_lanes_exchange_floats_doubles_and_integers():
    """Down, up, from a lane, in sections of a warp; the votes; a warp that is not full."""
    body = """int t = threadIdx.x;
        double d = __shfl_down_sync(0xffffffffu, 0.5 + t, 1);
        int up = __shfl_up_sync(0xffffffffu, t, 2);
        unsigned from = __shfl_sync(0xffffffffu, (unsigned)t, 3, 8);
        long long wide = __shfl_xor_sync(0xffffffffu, 1ll << t, 1);
        unsigned odd = __ballot_sync(0xffffffffu, t % 2);
        __syncwarp();
        y[t * 6] = d; y[t * 6 + 1] = up; y[t * 6 + 2] = from; y[t * 6 + 3] = wide; y[t * 6 + 4] = odd;
        y[t * 6 + 5] = 2 * __any_sync(0xffffffffu, t == 5) + __all_sync(0xffffffffu, t < 5);"""
    [y] = run_source(kernel("double* y", body), "f", [Out((24, 6), np.float64)], grid=1, block=24, seeds=SEEDS)
    t = np.arange(24)
    assert y[:-1, 0].tolist() == (t[:-1] + 1.5).tolist()
    assert y[:, 1].tolist() == np.where(t < 2, t, t - 2).tolist()
    assert y[:, 2].tolist() == (t // 8 * 8 + 3).tolist()
    assert y[:, 3].tolist() == (2.0 ** (t ^ 1)).tolist()
    assert set(y[:, 4]) == {0xAAAAAA}
    assert set(y[:, 5]) == {2}


def test_a_divergent_barrier_is_named():
    """A device hangs, or goes on with what was not yet written."""
    with pytest.raises(KernelError, match=re.escape("divergent barrier: 32 of 128 wait, 96 ended (line 4, block 0)")):
        run_source(kernel("int* y", "if (threadIdx.x < 32)\n__syncthreads();"), "f", [Out((1,), np.int32)], grid=1)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([ints(1)], "f has 2 arguments, and 1 are given"),
        ([np.zeros(1), np.int32(1)], "f: argument 1 points to int32, not to float64"),
        ([ints(1), 1], "f: argument 2 is a scalar and needs np.int32, not int"),
        ([ints(1), np.int64(1)], "f: argument 2 is a scalar and needs np.int32, not int64"),
        ([np.int32(1), np.int32(1)], "f: argument 1 is a pointer and needs an array or None, not int32"),
        ([ints(1, 2, 3)[::2], np.int32(1)], "f: argument 1 is an array whose elements do not lie one after the other"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(args, words):
    """CuPy passes whatever it is given: a Python int becomes 8 bytes, and the kernel reads another number."""
    module = ShimModule(kernel("int* y, int n", "y[0] = n;"))
    with pytest.raises(KernelError, match=re.escape(words)):
        module.get_function("f")((1,), (1,), args)


def test_counters_keep_their_value_between_the_launches():
    """Catches a harness that hides a counter which is never reset."""
    source = kernel("int* count", "if (threadIdx.x == 0) atomicAdd(count, 1);")
    with pytest.raises(KernelError, match=r"first launch.* a counter is \[1\], and was \[0\] before"):
        run_source(source, "f", [Counters(ints(0))], grid=1)
