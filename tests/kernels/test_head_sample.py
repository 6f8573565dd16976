"""rms_head_sample.cu: the last norm, the head and the choice are those of the reference; philox.cuh is noise.py."""

from __future__ import annotations

import json

import numpy as np
import pytest
from kernels.harness import Counters, InOut, Out, Scratch, run, run_source
from kernels.products import KernelWeight, make_weight, shared_bytes
from kernels.sampled import RING, Rows, check
from make_noise_goldens import FILE

from tinyinfer.backends.kernels.source import kernel_source
from tinyinfer.noise import gumbel
from tinyinfer.sampling_params import SamplingParams

EPS = 1e-5
UNIT = 2.0**-24  # half the distance of 1 to the next float32
NUMBERS = """
extern "C" __global__ void __launch_bounds__(64) numbers(const unsigned long long* seeds, const int* positions,
    const int* tokens, const int* streams, int count, double* u, double* g) {
    for (int i = blockIdx.x * 64 + threadIdx.x; i < count; i += gridDim.x * 64) {
        u[i] = uniform(word_of(seeds[i], positions[i], tokens[i], streams[i]));
        g[i] = gumbel(word_of(seeds[i], positions[i], tokens[i], streams[i]));
    }
}
"""


def noise(keys: list[tuple[int, int, int, int]]) -> tuple[np.ndarray, np.ndarray]:  # -> (n,), (n,)
    """u and g of (seed, position, token, stream), by philox.cuh."""
    source = kernel_source("sample", {"T": 1, "V": 1, "RING": 1}) + NUMBERS
    seeds, positions, tokens, streams = (np.array(column, np.uint64) for column in zip(*keys, strict=True))
    ints = [column.astype(np.uint32).view(np.int32) for column in (positions, tokens, streams)]
    out = [Out((len(keys),), np.float64), Out((len(keys),), np.float64)]
    u, g = run_source(source, "numbers", [seeds, *ints, np.int32(len(keys)), *out], grid=3, seeds=(1,))
    return u, g


def test_the_noise_is_that_of_the_table() -> None:
    """u exactly, for the vectors to which every backend is held. Catches halves of the seed swapped, a signed shift."""
    rows = json.loads(FILE.read_text())
    keys = [(row["seed"], row["position"], token, row["stream"]) for row in rows for token in row["tokens"]]
    u, _ = noise(keys)
    assert [float(one).hex() for one in u] == [text for row in rows for text in row["u"]]


def test_the_noise_is_that_of_the_host() -> None:
    """g to the last bits of two logarithms in float64. Catches float32 anywhere between u and g."""
    keys = [(2**64 - 3, 77, 0), (0, 2**32 - 1, 1), (123456789012, 4000, 2)]
    expected = np.concatenate([gumbel(seed, position, 999, stream) for seed, position, stream in keys])
    _, g = noise([(seed, position, token, stream) for seed, position, stream in keys for token in range(999)])
    np.testing.assert_allclose(g, expected, rtol=1e-13, atol=1e-14)


def head(
    x: np.ndarray, norm: np.ndarray | None, weight: KernelWeight, rows: Rows, factors: tuple[float, float] = (1.0, 0.0),
    grid: tuple[int, ...] = (3,), seeds: tuple[int, ...] = (1,), step: int = 7,
) -> np.ndarray:  # (T, D), (D,) -> (T, V)
    """The kernel's logits; that it chose of them what the host chooses, is checked here."""
    count, size = len(x), len(weight.floats)
    constants = {"T": count, "D": x.shape[1], "V": size, "EPS": EPS, "RING": RING, "Weight": weight.kind}
    tokens = np.arange(100, 100 + count, dtype=np.int32)
    args = [
        x, norm, *weight.pointers, *np.float32(factors), rows.numbers("temperature"), rows.seeds, InOut(tokens),
        InOut(rows.positions), Scratch((max(grid) * count * 4,), np.float64), Counters(np.zeros(1, np.int32)),
        InOut(np.array([step], np.int32)), Out((RING, count, 4), np.int32), Out((count, size)),
    ]  # fmt: skip
    shared = shared_bytes(count, x.shape[1])
    *outputs, logits = run("rms_head_sample", constants, args, grid=grid, shared=shared, seeds=seeds)
    check(logits, rows, rows.chosen(logits), outputs, step, tokens)
    return logits


def bounded(
    logits: np.ndarray, x: np.ndarray, norm: np.ndarray | None, weight: KernelWeight
) -> None:  # (T, V), (T, D), (D,)
    """The logits are the sums in float64 but for what float32 may lose: D additions, half as many below the root."""
    normed, exact = x.astype(np.float64), weight.floats.astype(np.float64)  # (T, D), (V, D)
    if norm is not None:
        normed = normed / np.sqrt((normed**2).mean(axis=1, keepdims=True) + EPS) * norm
    right, size = normed @ exact.T, np.abs(normed) @ np.abs(exact).T  # (T, V), (T, V)
    assert (np.abs(logits - right) <= (1.5 * x.shape[1] + 16) * UNIT * size).all()


def params_of(count: int, *temperatures: float) -> list[SamplingParams]:
    return [SamplingParams(temperature=temperatures[i % len(temperatures)]) for i in range(count)]


SMALL = ["Dense<bfloat16>", "Packed<4, 32, false>"]
MORE = ["Dense<float16>", "Dense<float32>", "Packed<8, 0, true>", "Packed<3, 32, false>", "Packed<2, 32, true>"]


def compare(kind: str, count: int, inputs: int, size: int, grid: tuple[int, ...], seeds: tuple[int, ...]) -> None:
    """Logits and tokens of random rows, one of them padded when there are several."""
    rng = np.random.default_rng(count * inputs + size)
    x = (3 * rng.standard_normal((count, inputs))).astype(np.float32)
    norm = rng.uniform(0.5, 2, inputs).astype(np.float32)
    weight = make_weight(kind, size, inputs)
    positions = rng.integers(0, 9000, count).astype(np.int32)
    positions[2:3] = -1
    rows = Rows(params_of(count, 0.0, 1.0, 5.0, 0.1, 1e-300), positions)
    bounded(head(x, norm, weight, rows, grid=grid, seeds=seeds), x, norm, weight)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize(("count", "inputs", "size"), [(1, 64, 50), (5, 40, 37)])
def test_logits_and_tokens_are_the_reference_s(kind: str, count: int, inputs: int, size: int) -> None:
    """Catches a token that no block looks at, a candidate of another row, a counter that stays, a padded row drawn."""
    compare(kind, count, inputs, size, (1, 2, 9), (1, 2))


@pytest.mark.cuda
@pytest.mark.parametrize("kind", SMALL + MORE)
@pytest.mark.parametrize(
    ("count", "inputs", "size"), [(1, 576, 500), (2, 72, 301), (4, 64, 130), (8, 48, 64), (3, 9, 17)]
)
def test_logits_and_tokens_of_more_shapes(kind: str, count: int, inputs: int, size: int) -> None:
    """Every number of rows that shares weights another way, and vocabularies that fill no warp."""
    compare(kind, count, inputs, size, (1, 9), (0, 1))


def test_scale_and_cap_come_before_the_choice() -> None:
    """cap * tanh(scale * s / cap), as heads.py has it. Catches a cap before the scale, and noise below the cap."""
    rng = np.random.default_rng(5)
    x, weight = (9 * rng.standard_normal((2, 64))).astype(np.float32), make_weight("Dense<float16>", 33, 64)
    rows = Rows(params_of(2, 0.0, 1.0), np.array([3, 4], np.int32))
    plain = head(x, None, weight, rows)
    bounded(plain, x, None, weight)
    capped = head(x, None, weight, rows, (0.25, 2.0))
    np.testing.assert_allclose(capped, 2 * np.tanh(0.25 * plain.astype(np.float64) / 2), rtol=1e-6)
    np.testing.assert_allclose(head(x, None, weight, rows, (0.25, 0.0)), 0.25 * plain, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 1e-300])
def test_of_equal_logits_greedy_takes_the_first_and_noise_decides_between_the_others(temperature: float) -> None:
    """In other blocks than the first, too: the host's choice in every order. Catches a NaN of 0 / 0 or inf - inf."""
    numbers = np.tile(np.eye(1, 8, dtype=np.float16), (40, 1))  # (V, D): all logits are x[0]
    numbers[:7] *= 0.5
    weight = KernelWeight("Dense<float16>", (numbers.view(np.uint16), None, None), numbers.astype(np.float32))
    x = np.full((2, 8), 4, np.float32)
    rows = Rows(params_of(2, temperature), np.array([11, 900], np.int32))
    logits = head(x, None, weight, rows, grid=(1, 5), seeds=(1, 2))
    assert (logits[:, 7:] == 4).all()
    assert all(token >= 7 for token in rows.chosen(logits))
    assert temperature or rows.chosen(logits) == [7, 7]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_number_that_is_not_finite_is_reported(temperature: float) -> None:
    """Of one row of three; the other rows go on. Catches fminf and fmaxf, which drop a NaN."""
    rng = np.random.default_rng(6)
    weight = make_weight("Dense<float16>", 40, 16)
    for odd in (np.nan, np.inf, -np.inf):
        x = rng.standard_normal((3, 16)).astype(np.float32)
        x[1, 3] = odd
        rows = Rows(params_of(3, temperature), np.array([0, 1, 2], np.int32))
        constants = {"T": 3, "D": 16, "V": 40, "EPS": EPS, "RING": 1, "Weight": "Dense<float16>"}
        args = [
            x, None, *weight.pointers, np.float32(1), np.float32(0), rows.numbers("temperature"), rows.seeds,
            InOut(np.zeros(3, np.int32)), InOut(rows.positions), Scratch((4 * 3 * 4,), np.float64),
            Counters(np.zeros(1, np.int32)), InOut(np.zeros(1, np.int32)), Out((1, 3, 4), np.int32), Out((3, 40)),
        ]  # fmt: skip
        tokens, _, _, results, logits = run("rms_head_sample", constants, args, grid=4, shared=4 * 3 * 16)
        ends = results[0, :, 1:3].copy().view(np.float32)  # (3, 2)
        np.testing.assert_array_equal(ends, np.stack((logits.min(axis=1), logits.max(axis=1)), axis=1))
        assert np.isfinite(ends[[0, 2]]).all()
        assert not np.isfinite(ends[1]).all()
        assert ((tokens >= 0) & (tokens < 40)).all()
