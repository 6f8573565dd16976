"""No method is worse than round-to-nearest in what it minimizes, whatever the weights, the groups and the inputs."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tinyinfer.model.quantized_matrix import QuantScheme
from tinyinfer.quantization.awq import awq
from tinyinfer.quantization.gptq import gptq
from tinyinfer.quantization.hqq import P, hqq
from tinyinfer.quantization.rtn import round_to_nearest

FLOAT32 = 1e-5  # how far float32 may misjudge ‖E X‖², as a share of ‖E‖² ‖X‖², from which it cancels
MATRICES = arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 20)), elements=st.floats(-100, 100, width=32))
BITS, GROUPS = st.sampled_from([2, 3, 4, 8]), st.sampled_from([None, 1, 3, 8])
SCHEMES = st.builds(QuantScheme, BITS, GROUPS, st.booleans())
PER_TENSOR = st.builds(QuantScheme, BITS, GROUPS, st.booleans(), st.just(True))
QUICK = settings(max_examples=80)


def dependent_inputs(rows: int, inputs: int, seed: int) -> np.ndarray:
    """X (T, M) whose columns depend on one another and differ in size; with few rows, XᵀX has no inverse."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, inputs)) @ rng.standard_normal((inputs, inputs)) * rng.lognormal(0, 1.5, inputs)
    return x.astype(np.float32)


def output_errors(error: np.ndarray, x: np.ndarray) -> np.ndarray:
    """‖e X‖² of each row of an error (N, M), from X itself, in double precision."""
    return np.square(error.astype(np.float64) @ x.T.astype(np.float64)).sum(axis=1)


def allowed(error: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The most by which float32 may misjudge each of them."""
    return FLOAT32 * np.square(error.astype(np.float64)).sum(axis=1) * np.square(x.astype(np.float64)).sum()


@QUICK
@given(w=MATRICES, scheme=SCHEMES | PER_TENSOR, rows=st.integers(0, 30), seed=st.integers(0, 99), order=st.booleans())
def test_gptq_is_never_worse_than_round_to_nearest(w, scheme, rows, seed, order):
    """‖(w - q) X‖² of every row. Catches a greedy choice that is kept where the start was better."""
    x, start = dependent_inputs(rows, w.shape[1], seed), round_to_nearest(w, scheme)
    found = w - gptq(w, x.T @ x, start, act_order=order).dequantize()
    plain = w - start.dequantize()
    assert (output_errors(found, x) <= output_errors(plain, x) + allowed(found, x) + allowed(plain, x)).all()


@QUICK
@given(w=MATRICES, scheme=SCHEMES | PER_TENSOR, rows=st.integers(1, 30), seed=st.integers(0, 99))
def test_awq_is_never_worse_than_round_to_nearest(w, scheme, rows, seed):
    """‖(W - Q) X‖² of the whole layer. Catches a search without the scale that leaves all inputs as they are."""
    x = dependent_inputs(rows, w.shape[1], seed)
    matrix, scale = awq(w, x.T @ x, np.abs(x).mean(axis=0), scheme)
    found, plain = w - matrix.dequantize() / scale, w - round_to_nearest(w, scheme).dequantize()
    most = output_errors(plain, x).sum() + allowed(found, x).sum() + allowed(plain, x).sum()
    assert output_errors(found, x).sum() <= most


@QUICK
@given(w=MATRICES, scheme=SCHEMES)
def test_hqq_is_never_worse_than_round_to_nearest(w, scheme):
    """Σ |error|^p of every group. Catches a refit that is kept where the range of the weights was better."""
    starts = np.arange(0, w.shape[1], scheme.group_size or w.shape[1])
    found, plain = (
        np.add.reduceat(np.abs(w.astype(np.float64) - matrix.dequantize()) ** P, starts, axis=1)
        for matrix in (hqq(w, scheme), round_to_nearest(w, scheme))
    )
    assert (found <= plain * (1 + 1e-5) + 1e-30).all()
