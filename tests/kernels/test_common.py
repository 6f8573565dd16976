"""What every kernel uses: half-precision numbers by their bits, loads of every width, sums and maxima over threads."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from kernels.harness import Out, run_source

from tinyinfer.backends.kernels.source import FOLDER

COMMON = (FOLDER / "common.cuh").read_text(encoding="utf-8")
HALVES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def kernel(arguments: str, body: str) -> str:
    """A kernel `f` behind common.cuh."""
    return f'{COMMON}\nextern "C" __global__ void __launch_bounds__(128) f({arguments}) {{\n{body}\n}}\n'


def numbers(name: str) -> np.ndarray:
    """Every number of a half type, and float32 numbers between each two neighbours: ties, and a bit to both sides."""
    halves = np.arange(65536, dtype=np.uint16).view(HALVES[name]).astype(np.float32)
    finite = np.sort(halves[np.isfinite(halves)])
    ties = ((finite[1:].astype(np.float64) + finite[:-1]) / 2).astype(np.float32)
    above, below = (np.nextafter(ties, np.float32(end)) for end in (np.inf, -np.inf))
    return np.concatenate((halves, ties, above, below))


@pytest.mark.parametrize("name", HALVES)
def test_half_precision_numbers_are_rounded_as_numpy_rounds_them(name):
    """All 65,536 and what lies between. Catches ties rounded away from even, and a NaN that becomes infinite."""
    x = numbers(name)
    source = kernel(
        "const float* x, unsigned short* y, float* z, int n",
        f"""for (int i = blockIdx.x * 128 + threadIdx.x; i < n; i += gridDim.x * 128) {{
            const {name} half = from_float<{name}>(x[i]);
            y[i] = half.bits, z[i] = to_float(half);
        }}""",
    )
    args = [x, Out(x.shape, np.uint16), Out(x.shape), np.int32(x.size)]
    y, z = run_source(source, "f", args, grid=3, seeds=(0,))
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(HALVES[name])
    np.testing.assert_array_equal(z, expected.astype(np.float32))
    number = ~np.isnan(x)
    np.testing.assert_array_equal(y[number], expected.view(np.uint16)[number])


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_a_load_brings_its_bytes_and_no_others(size):
    """In words whose rest is 0; a load that is not aligned, at which a GPU stops, brings all ones."""
    source = kernel(
        "const unsigned char* x, unsigned* y",
        f"""const Bytes<{size}> right = stream<{size}>(x + {size}), wrong = stream<{size}>(x + 1);
        for (int i = 0; i < ({size} + 3) / 4; i++) y[i] = right.words[i], y[4 + i] = wrong.words[i];""",
    )
    x = np.arange(1, 33, dtype=np.uint8)
    [y] = run_source(source, "f", [x, Out((8,), np.uint32)], grid=1, block=1, seeds=(0,))
    words = -(-size // 4)
    assert y[:words].tobytes() == (x[size : 2 * size].tobytes() + bytes(4))[: 4 * words]
    assert y[4 : 4 + words].tobytes() == ((b"\xff" if size > 1 else x[1:2].tobytes()) * size + bytes(4))[: 4 * words]


def test_sums_and_maxima_over_lanes_and_over_a_block():
    """In sections of a warp, in a warp and in a block, one after the other. Catches a warp's number that is overwritten
    before all have read it."""
    source = kernel(
        "const float* x, float* y",
        """const float mine = x[threadIdx.x], sections = warp_sum<8>(mine), warp = warp_max(mine);
        float* to = y + threadIdx.x * 4;
        to[0] = sections, to[1] = warp, to[2] = block_sum(mine), to[3] = block_sum(-mine);""",
    )
    x = np.random.default_rng(0).permutation(128).astype(np.float32) - 200
    [y] = run_source(source, "f", [x, Out((128, 4))], grid=1, seeds=range(6))
    np.testing.assert_array_equal(y[:, 0], np.repeat(x.reshape(-1, 8).sum(1), 8))
    np.testing.assert_array_equal(y[:, 1], np.repeat(x.reshape(-1, 32).max(1), 32))
    np.testing.assert_array_equal(y[:, 2:], np.tile([x.sum(), -x.sum()], (128, 1)))
