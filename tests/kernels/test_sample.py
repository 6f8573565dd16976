"""sample.cu chooses what sampling.py chooses of the same logits, filters and noise."""

from __future__ import annotations

import numpy as np
import pytest
from kernels.harness import Counters, InOut, Out, run_source
from kernels.sampled import RING, Rows, check
from scipy.special import softmax
from scipy.stats import chisquare

from tinyinfer.backends.kernels.source import kernel_source
from tinyinfer.sampling_params import SamplingParams

FALSE_ALARM = 1e-4


def sampled(
    logits: np.ndarray, rows: Rows, step: int = 4, threads: int = 64, grid: tuple[int, ...] = (2,),
    seeds: tuple[int, ...] = (1,),
) -> np.ndarray:  # (T, V) -> (T,)
    """The tokens that the kernel chooses of (T, V) logits; all else that it writes is checked here."""
    count, size = logits.shape
    source = kernel_source("sample", {"T": count, "V": size, "RING": RING})
    source = source.replace("SAMPLE_THREADS = 1024", f"SAMPLE_THREADS = {threads}")  # far quicker on a CPU
    tokens = np.arange(100, 100 + count, dtype=np.int32)
    args = [
        logits, rows.numbers("temperature"), rows.seeds, rows.numbers("top_k", np.int32), rows.numbers("top_p"),
        rows.numbers("min_p"), InOut(tokens), InOut(rows.positions), InOut(np.array([step], np.int32)),
        Out((RING, count, 4), np.int32), Counters(np.zeros(1, np.int32)),
    ]  # fmt: skip
    outputs = run_source(source, "sample", args, grid=grid, seeds=seeds)
    found = np.where(rows.positions < 0, -1, outputs[0])
    assert ((found < size) & (found >= -1)).all()
    check(logits, rows, found.tolist(), outputs, step, tokens)
    return found


def positions_of(count: int, rng: np.random.Generator) -> np.ndarray:  # -> (count,)
    return rng.integers(0, 5000, count).astype(np.int32)


def mixed(count: int, size: int, rng: np.random.Generator) -> list[SamplingParams]:
    """Parameters at random, each filter off in a third of the rows and at its ends now and then."""

    def pick(*values: float) -> float:
        return values[rng.integers(len(values))]

    return [
        SamplingParams(
            temperature=pick(0.0, 0.1, 0.7, 1.0, 1.0, 5.0, 1e-300),
            top_k=int(pick(0, 0, 1, 2, 5, size - 1, size, size + 9)),
            top_p=pick(1.0, 1.0, 0.9, 0.5, 1e-9, 1 - 1e-12, rng.random()), min_p=pick(0.0, 0.0, 0.05, 0.5, 1.0),
        )
        for _ in range(count)
    ]  # fmt: skip


def agree(count: int, size: int, seed: int, threads: int = 64) -> None:
    """Of random rows and parameters, the kernel and the host choose the same token."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((count, size)) * rng.choice((0.1, 3, 20), (count, 1))).astype(np.float32)
    rows = Rows(mixed(count, size, rng), positions_of(count, rng))
    assert sampled(logits, rows, threads=threads).tolist() == rows.chosen(logits)


def test_it_chooses_what_the_host_chooses() -> None:
    """Catches a filter in another order or left out, noise of another position, a k-th largest off by one."""
    agree(60, 31, 0)
    agree(20, 700, 1)


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("count", "size", "threads", "times"), [(250, 31, 32, 8), (200, 1000, 64, 5), (3, 49152, 1024, 1)]
)
def test_it_chooses_what_the_host_chooses_of_thousands_of_rows(count: int, size: int, threads: int, times: int) -> None:
    """The same with SmolLM2's vocabulary and the kernel's own number of threads, too."""
    for seed in range(times):
        agree(count, size, 100 + seed, threads)


def test_any_grid_and_order_and_padded_rows() -> None:
    """Catches a row that is taken twice or never, a step that each block counts, a padded row that is sampled."""
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((7, 45)).astype(np.float32)
    rows = Rows(mixed(7, 45, rng), np.array([5, -1, 0, 131071, -1, 17, 4], np.int32))
    found = sampled(logits, rows, grid=(1, 3, 9), seeds=(0, 1, 2))
    real = rows.positions >= 0
    assert found[real].tolist() == np.array(rows.chosen(logits))[real].tolist()


def drawn(row: list[float], draws: int = 40, **params: float) -> set[int]:
    """The tokens that come up when one row is drawn from at many positions."""
    rows = Rows([SamplingParams(**params)] * draws, np.arange(draws, dtype=np.int32))
    return set(sampled(np.tile(np.array(row, np.float32), (draws, 1)), rows, threads=32).tolist())


def test_tokens_of_equal_scores() -> None:
    """Greedy takes the lowest id; top-k and top-p keep all that tie with the last one, -0 and 0 among them."""
    assert drawn([1, 3, 2, 3], temperature=0.0) == drawn([1, 3, 3, 3], temperature=0.0) == {1}
    assert drawn([2, 2, 5, 2, 1], temperature=20.0, top_k=2) == {0, 1, 2, 3}
    assert drawn([0, 0, 0, 0, -90], temperature=1.0, top_p=0.3) == {0, 1, 2, 3}
    for zeros in ([-0.0, 0.0, -9, -0.0], [0.0, -0.0, -9, 0.0]):
        assert drawn(zeros, temperature=9.0, top_k=1) == {0, 1, 3}
    assert drawn([7, 7, 7], temperature=1e-300) == {0, 1, 2}


def test_the_edges_of_the_filters() -> None:
    """Catches `<` for `<=` at each: the token that reaches the mass stays, one at min_p times the largest stays."""
    even = np.log([0.5, 0.25, 0.125, 0.125]).tolist()
    assert drawn(even, temperature=1.0, top_p=0.51, draws=60) == {0, 1}
    assert drawn(even, temperature=1.0, top_p=0.49, draws=60) == {0}
    assert drawn(even, temperature=1.0, top_p=1e-300) == {0}
    assert drawn([4, 4 - np.log(2) * 0.999, 4 - np.log(2) * 1.001], temperature=1.0, min_p=0.5, draws=60) == {0, 1}
    assert drawn([4, 3, 2], temperature=9.0, min_p=1.0) == {0}
    # top-p of what top-k has left: 0.5 / 0.75 lies before token 1.
    assert drawn(even, temperature=1.0, top_k=2, top_p=0.7, draws=60) == {0, 1}
    assert drawn(even, temperature=1.0, top_k=2, top_p=0.6, draws=60) == {0}


@pytest.mark.parametrize(
    "params", [{"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 0.5, "top_k": 2, "top_p": 0.9}]
)
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_reported(odd: float, params: dict[str, float]) -> None:
    """The host ends such a request. Catches a NaN that a comparison drops, and a token id outside the vocabulary."""
    for row in ([odd, 1, 2], [1, 2, odd], [1, odd, 0.5], [odd] * 3):
        found = drawn(row, draws=3, **params)  # the report is checked inside
        if odd == -np.inf and row != [odd] * 3:
            assert odd not in {row[t] for t in found}
        if odd == np.inf:
            assert {row[t] for t in found} == {odd}


@pytest.mark.cuda
@pytest.mark.parametrize("params", [{}, {"top_p": 0.8}])
def test_draws_have_the_distribution(params: dict[str, float]) -> None:
    """Catches noise that is used twice, of another law, or correlated between positions and seeds."""
    row = np.array([1.2, -0.4, 0.3, 2.0, -2.5, 0.0, 1.0], np.float32)
    p = softmax(row.astype(np.float64) / 0.8)  # (V,)
    counts = np.zeros(len(row))
    for times in range(12):
        rows = Rows([SamplingParams(temperature=0.8, **params)] * 250, np.arange(250, dtype=np.int32) + 250 * times)
        counts += np.bincount(sampled(np.tile(row, (250, 1)), rows, threads=32), minlength=len(row))
    before = np.array([p[p > one].sum() for one in p])  # (V,): the mass of likelier tokens
    kept = before < params.get("top_p", 1.0)
    assert not counts[~kept].any()
    assert chisquare(counts[kept], counts.sum() * p[kept] / p[kept].sum()).pvalue > FALSE_ALARM
