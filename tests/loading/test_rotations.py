"""Frequencies and amplitudes of rotary positions: each way of stretching them by its own definition."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.ledger import Ledger
from tinyinfer.loading.rotations import build_rotation, frequencies
from tinyinfer.model.config import RopeConfig


def one_set(rope: RopeConfig, size: int) -> np.ndarray:
    """The frequencies of a rotation that has one set."""
    [found] = frequencies(rope, size)
    return found


def test_frequencies_without_rope_turn_nothing():
    """Cosine 1, sine 0: a family without rotary positions needs no branch."""
    rotation = build_rotation(None, 10, NumpyOps(Ledger()))
    assert np.array_equal(rotation.frequencies, np.zeros((1, 5)))
    assert np.array_equal(rotation.amplitudes, np.ones((1, 5)))


@pytest.mark.parametrize("size", [2, 64, 128])
@pytest.mark.parametrize("theta", [10000.0, 5e5])
def test_frequencies_are_powers_of_theta(size, theta):
    """1 / theta^(2i/E), in float32: an error of the exponent grows with the position."""
    expected = [theta ** (-2 * i / size) for i in range(size // 2)]
    found = one_set(RopeConfig(theta=theta), size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=2e-6)


@pytest.mark.parametrize("theta", [500.0, 10000.0, 150000.0, 500000.0, 1000000.0])
@pytest.mark.parametrize("size", [64, 96, 128])
def test_frequencies_are_as_exact_as_a_float32_holds_them(size, theta):
    """Catches the power of a float32, of which a fifth of the frequencies were not those of transformers.

    Two units in the last place turn a pair by 0.02 too far at position 100,000. Exponents are rounded to float32 first,
    as in transformers; after that only the power and its inverse are, each by half a unit at most.
    """
    exponents = (np.arange(0, size, 2, dtype=np.float32) / np.float32(size)).astype(np.float64)
    found = one_set(RopeConfig(theta), size).astype(np.float64)
    assert np.abs(found * theta**exponents - 1).max() < 2**-23


def test_linear_scaling_and_given_divisors_slow_the_rotation():
    """Divisors come one per frequency (GGUF's rope_freqs) and replace the scaling."""
    plain = one_set(RopeConfig(), 8)
    np.testing.assert_allclose(one_set(RopeConfig(scaling="linear", factor=4.0), 8), plain / 4)
    divided = one_set(RopeConfig(divisors=(1.0, 2.0, 4.0, 8.0)), 8)
    assert divided.dtype == np.float32
    np.testing.assert_allclose(divided, plain / [1, 2, 4, 8])


def test_llama3_scaling_by_its_definition():
    """Wavelengths below 8192/4 stay, above 8192/1 are stretched 8 times, between them blend; in float64 here."""
    rope = RopeConfig(theta=5e5, scaling="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
    plain = one_set(replace(rope, scaling="none"), 128).astype(np.float64)
    found = one_set(rope, 128)
    for f, scaled in zip(plain, found, strict=True):
        wavelength = 2 * math.pi / f
        if wavelength < 8192 / 4.0:
            expected = f
        elif wavelength > 8192 / 1.0:
            expected = f / 8.0
        else:
            smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
            expected = (1 - smooth) * f / 8.0 + smooth * f
        assert scaled == pytest.approx(expected, rel=1e-5)
    assert found[0] == plain[0]
    assert found[-1] == pytest.approx(plain[-1] / 8)
    assert len({round(float(a / b), 3) for a, b in zip(plain, found, strict=True)}) > 3, "some frequencies blend"


def yarn_by_definition(rope: RopeConfig, size: int) -> list[float]:
    """Pair by pair in float64, after the paper: by how often a pair turns within the original context."""
    found = []

    def pair(turns: float) -> float:
        return size * math.log(rope.original_max_position / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair(rope.beta_fast), pair(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    for i in range(size // 2):
        f = rope.theta ** (-2 * i / size)
        kept = 1 - min(1.0, max(0.0, (i - max(low, 0)) / (min(high, size - 1) - max(low, 0))))
        found.append(kept * f + (1 - kept) * f / rope.factor)
    return found


@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize(("beta_fast", "beta_slow"), [(32.0, 1.0), (8.0, 2.0)])
def test_yarn_scaling_by_its_definition(truncate, beta_fast, beta_slow):
    """Fast pairs stay, slow ones are divided, between them a blend; bounds are whole pairs unless the file says no."""
    rope = RopeConfig(1e4, "yarn", 8.0, original_max_position=4096, beta_fast=beta_fast, beta_slow=beta_slow,
                      truncate=truncate)  # fmt: skip
    plain, found = one_set(replace(rope, scaling="none"), 128), one_set(rope, 128)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, yarn_by_definition(rope, 128), rtol=1e-5)
    assert found[0] == plain[0]
    assert found[-1] == pytest.approx(plain[-1] / 8)
    blended = np.flatnonzero((found < 0.999 * plain) & (found > 1.001 * plain / 8))
    assert 5 < len(blended) < 60


@pytest.mark.parametrize("truncate", [True, False])
def test_yarns_bounds_end_with_the_numbers_of_a_head(truncate):
    """A base so small that one bound lies before the first pair and the other far behind the last one. Catches a blend
    that is as wide as the bounds were apart, and one that ends with the last pair: the published code ends at size - 1.
    """
    rope = RopeConfig(4.0, "yarn", 8.0, original_max_position=1024, beta_fast=200.0, truncate=truncate)
    found, plain = one_set(rope, 8), one_set(replace(rope, scaling="none"), 8)
    np.testing.assert_allclose(found, yarn_by_definition(rope, 8), rtol=1e-5)
    np.testing.assert_allclose(found / plain, 1 - np.arange(4) / 7 * (1 - 1 / 8), rtol=1e-5)


def test_yarn_with_both_bounds_at_one_pair_is_a_step():
    """Equal bounds would divide by zero."""
    rope = RopeConfig(1e4, "yarn", 4.0, original_max_position=4096, beta_fast=2.0, beta_slow=2.0, truncate=False)
    with np.errstate(all="raise"):
        found = one_set(rope, 64)
    ratio = one_set(replace(rope, scaling="none"), 64) / found
    assert set(np.round(ratio, 5).tolist()) == {1.0, 4.0}


def test_longrope_has_a_set_for_short_and_one_for_long_sequences():
    """In this order; swapped, every short text would be read by the long one's frequencies."""
    rope = RopeConfig(scaling="longrope", divisors=(1.0, 2.0, 3.0), long_divisors=(4.0, 5.0, 8.0))
    plain = one_set(RopeConfig(), 6)
    np.testing.assert_allclose(frequencies(rope, 6), [plain / [1, 2, 3], plain / [4, 5, 8]], rtol=1e-6)


def test_pairs_that_are_not_turned_keep_their_numbers():
    """Frequency 0 and amplitude 1 from size/2 on: an amplitude there would scale numbers that have no position."""
    rope = RopeConfig(size=6, amplitude=1.5, divisors=(1.0, 1.0, 1.0), long_divisors=(2.0, 2.0, 2.0))
    rotation = build_rotation(rope, 16, NumpyOps(Ledger()))
    assert rotation.frequencies.shape == rotation.amplitudes.shape == (2, 8)
    assert np.array_equal(rotation.frequencies[:, 3:], np.zeros((2, 5)))
    assert np.array_equal(rotation.amplitudes, [[1.5] * 3 + [1.0] * 5] * 2)
    np.testing.assert_allclose(rotation.frequencies[0, :3], one_set(RopeConfig(), 6), rtol=1e-6)


@pytest.mark.parametrize("rope", [None, RopeConfig(size=6)])
def test_a_single_set_is_there_for_every_set_of_other_layers(rope):
    """A row names its set once, for all layers: a long sequence must find its second set in every layer."""
    one, two = (build_rotation(rope, 16, NumpyOps(Ledger()), sets) for sets in (1, 2))
    assert one.frequencies.shape == (1, 8)
    assert np.array_equal(two.frequencies, np.repeat(one.frequencies, 2, axis=0))
    assert np.array_equal(two.amplitudes, np.repeat(one.amplitudes, 2, axis=0))


def test_the_amplitude_multiplies_cosine_and_sine():
    """So scores grow by its square. Catches an amplitude applied to one of the two, or to scores."""
    ops = NumpyOps(Ledger())
    rotation = build_rotation(RopeConfig(amplitude=1.25), 4, ops)
    cos, sin = ops.cos_sin(np.array([0, 7]), np.array([0, 0]), rotation)
    np.testing.assert_allclose(cos[..., :2] ** 2 + sin[..., :2] ** 2, np.full((2, 1, 2), 1.25**2), rtol=1e-5)
