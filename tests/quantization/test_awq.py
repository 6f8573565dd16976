"""AWQ: the search is never worse than plain rounding, and finds what it is for."""

from __future__ import annotations

import numpy as np
import pytest

from tinyinfer.model.quantized_matrix import QuantScheme
from tinyinfer.quantization.awq import STEPS, awq, input_scale, scaled_error, search_scales
from tinyinfer.quantization.rtn import round_to_nearest

SCHEMES = [QuantScheme(4, 16, False), QuantScheme(3, 16, True), QuantScheme(3, None, False)]


def problem(seed: int, loud: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Weights (N, M), and inputs (T, M) of which a few are a hundred times larger than the others."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((200, 48)).astype(np.float32)
    x[:, rng.choice(48, loud, replace=False)] *= 100
    return rng.standard_normal((30, 48)).astype(np.float32), x


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_the_output_is_never_worse_than_plain_rounding(scheme, seed):
    """‖(W - Q) X‖² from X itself: inputs multiplied instead of divided, an error measured in scaled weights."""
    w, x = problem(seed)
    matrix, scale = awq(w, x.T @ x, np.abs(x).mean(axis=0), scheme)
    found = (x / scale) @ matrix.dequantize().T - x @ w.T
    plain = x @ (round_to_nearest(w, scheme).dequantize() - w).T
    assert np.square(found).sum() < 0.6 * np.square(plain).sum()


def test_the_best_of_all_exponents_is_taken():
    """Every exponent's error by hand; a search that stops early or sorts the wrong way."""
    w, x = problem(7)
    mean, scheme = np.abs(x).mean(axis=0), QuantScheme(4, 16, False)
    errors = []
    for i in range(STEPS):
        s = mean ** (i / STEPS)
        s = s / np.sqrt(s.max() * s.min())
        q = round_to_nearest((w * s).astype(np.float32), scheme).dequantize() / s
        errors.append(np.square((q - w) @ x.T).sum())
    best = int(np.argmin(errors))
    assert best > 0
    np.testing.assert_allclose(search_scales(w, x.T @ x, mean, scheme), input_scale(mean, best / STEPS), rtol=1e-6)
    np.testing.assert_allclose(scaled_error(w, input_scale(mean, 0.5), x.T @ x, scheme), errors[STEPS // 2], rtol=1e-3)


def test_where_no_scale_helps_there_is_none():
    """Weights that lie on the grid already: any scale could only push them off it."""
    scheme = QuantScheme(4, 16, False)
    w = round_to_nearest(problem(1)[0], scheme).dequantize()
    _, x = problem(2)
    matrix, scale = awq(w, x.T @ x, np.abs(x).mean(axis=0), scheme)
    np.testing.assert_array_equal(scale, 1)
    np.testing.assert_array_equal(matrix.codes, round_to_nearest(w, scheme).codes)


def test_inputs_that_are_always_zero():
    """0 to the power of a would divide by zero, in the input_scale and in every logit."""
    w, x = problem(3)
    x[:, 5] = 0
    _, scale = awq(w, x.T @ x, np.abs(x).mean(axis=0), QuantScheme(4, 16, False))
    assert np.isfinite(scale).all()
    assert (scale > 0).all()
    np.testing.assert_array_equal(input_scale(np.zeros(4, dtype=np.float32), 0.5), 1)


def test_candidates_lie_around_one():
    """Scales far from 1 would leave float16's range in scales and norms."""
    scale = input_scale(np.array([1e-3, 1e3, 1.0], dtype=np.float32), 1.0)
    np.testing.assert_allclose(scale, [1e-3, 1e3, 1], rtol=1e-5)
    np.testing.assert_allclose(input_scale(np.array([100, 400], dtype=np.float32), 0.5), [2**-0.5, 2**0.5], rtol=1e-5)
