"""The uniform grid: how far rounding may move a weight, what it must not move, and where it breaks."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyinfer.model.quantized_matrix import QuantizedMatrix, QuantScheme, expand
from tinyinfer.quantization.rtn import fit, round_to_nearest

BITS = [2, 3, 4, 8]
HALF = np.float64(2.0**-11)  # the largest relative error of a float16
TINY = np.float64(2.0**-25)  # and the absolute one of its smallest numbers


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def random(n: int, m: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal((n, m))).astype(np.float32)


def bound(w: np.ndarray, matrix: QuantizedMatrix) -> np.ndarray:
    """Half the scale, plus what storing scale and minimum in float16 may move the outermost codes."""
    scheme, inputs = matrix.scheme, w.shape[1]
    scale = np.abs(expand(matrix.scale, scheme, inputs)).astype(np.float64)
    most = max(scheme.highest, -scheme.lowest)
    moved = most * (HALF * scale / (1 - HALF) + TINY)
    if matrix.minimum is not None:
        moved += HALF * np.abs(expand(matrix.minimum, scheme, inputs)) / (1 - HALF) + TINY
    return scale / 2 + moved + 1e-6 * np.abs(w)  # the last: float32


@given(
    bits=st.sampled_from(BITS), group=st.sampled_from([None, 1, 5, 32, 64]), symmetric=st.booleans(),
    n=st.integers(1, 7), m=st.integers(1, 70), seed=st.integers(0, 99), power=st.integers(-6, 3),
    per_tensor=st.booleans(),
)  # fmt: skip
def test_no_weight_moves_by_more_than_half_the_scale(bits, group, symmetric, n, m, seed, power, per_tensor):
    """At odd sizes, with a last group that is shorter. Catches truncation, a code too few, groups of the wrong row."""
    w = random(n, m, seed, 10.0**power)
    matrix = round_to_nearest(w, QuantScheme(bits, group, symmetric, per_tensor))
    assert matrix.codes.min() >= matrix.scheme.lowest
    assert matrix.codes.max() <= matrix.scheme.highest
    assert matrix.scale.shape == (n, -(-m // (group or m)))
    assert (np.abs(matrix.dequantize().astype(np.float64) - w) <= bound(w, matrix)).all()


@pytest.mark.parametrize("bits", BITS)
def test_the_scale_by_hand(bits):
    """-1 ... 2 in one group and 0 ... 6 in the other. Catches 2^bits scales to a range, an off-by-one."""
    w = np.array([[-1, 2, 0, 6, 3]], np.float32)
    most = 2**bits - 1
    matrix = round_to_nearest(w, QuantScheme(bits, 2, symmetric=False))
    assert matrix.codes[0, :4].tolist() == [0, most, 0, most]
    np.testing.assert_array_equal(matrix.scale, np.float16([[3 / most, 6 / most, 0]]))
    np.testing.assert_array_equal(matrix.minimum, np.float16([[-1, 0, 3]]))
    symmetric = round_to_nearest(w, QuantScheme(bits, 2, symmetric=True))
    high = 2 ** (bits - 1) - 1
    np.testing.assert_array_equal(symmetric.scale, np.float16([[2 / high, 6 / high, 3 / high]]))
    assert symmetric.codes[0, [1, 3, 4]].tolist() == [high] * 3
    assert symmetric.minimum is None


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group", [None, 4])
def test_zero_stays_zero_when_symmetric(bits, group):
    """What was pruned stays pruned."""
    w = random(5, 12)
    w[:, ::3] = 0
    assert (round_to_nearest(w, QuantScheme(bits, group, symmetric=True)).dequantize()[:, ::3] == 0).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("value", [0.0, 0.1, -0.1, 3.0, 1e-9])
def test_constant_groups(bits, value):
    """A range of zero divides by nothing; the value comes back as well as float16 holds it."""
    w = np.full((3, 10), value, np.float32)
    for symmetric in (True, False):
        found = round_to_nearest(w, QuantScheme(bits, 4, symmetric)).dequantize()
        # a symmetric grid's largest code times a rounded scale; both ends of an asymmetric one are minimums
        np.testing.assert_allclose(found, w, rtol=float(2 * HALF), atol=128 * float(TINY))


def test_what_lies_on_a_grid_comes_back_exactly():
    """A GGUF's weights were rounded before: their scales and minimums are found again. Catches any widened range."""
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 16, (40, 96)).astype(np.int16)
    codes.reshape(40, 3, 32)[..., :2] = 0, 15  # each group uses both ends
    scheme = QuantScheme(4, 32, symmetric=False)
    ranges = (0.01, 0.1), (-0.9, 0.1)
    scale, minimum = (rng.uniform(low, high, (40, 3)).astype(np.float16) for low, high in ranges)
    matrix = QuantizedMatrix(scheme, codes, scale, minimum)
    again = round_to_nearest(matrix.dequantize(), scheme)
    np.testing.assert_array_equal(again.codes, codes)
    np.testing.assert_array_equal(again.dequantize(), matrix.dequantize())


def test_groups_channels_and_tensor_share_what_they_should():
    """One outlier widens the scale of its group, of its output, of all. Catches axes taken for each other."""
    w = np.tile(np.array([-1, 1, -1, 1], np.float32), (3, 4))
    w[1, 5] = 9
    grouped, _ = fit(w, QuantScheme(4, 4, symmetric=True))
    assert np.argwhere(grouped != grouped[0, 0]).tolist() == [[1, 1]]
    channel, _ = fit(w, QuantScheme(4, None, symmetric=True))
    np.testing.assert_array_equal(channel, np.float16([[1 / 7], [9 / 7], [1 / 7]]))
    scale, minimum = fit(w, QuantScheme(4, None, symmetric=False, per_tensor=True))
    np.testing.assert_array_equal(scale, np.full((3, 1), 10 / 15, np.float16))
    np.testing.assert_array_equal(minimum, np.full((3, 1), -1, np.float16))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_huge_weights_are_cut_off_and_stay_finite(bits, symmetric):
    """Beyond what float16 holds there is nothing; infinity or NaN would spread to every output."""
    for w in (random(2, 8, scale=3e38 / 4), np.array([[-3e38, 3e38, 0, 1]], np.float32), random(2, 8, scale=3e5)):
        matrix = round_to_nearest(w, QuantScheme(bits, 4, symmetric))
        assert np.isfinite(matrix.dequantize()).all()
        assert np.isfinite(matrix.scale).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_tiny_weights_become_almost_zero(bits, symmetric):
    """Scales below float16's smallest number are 0, and nothing is divided by them."""
    w = random(2, 8, scale=1e-12)
    assert (np.abs(round_to_nearest(w, QuantScheme(bits, 4, symmetric)).dequantize()) <= 1e-7).all()
