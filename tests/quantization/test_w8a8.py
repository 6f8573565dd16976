"""W8A8: its arithmetic is exact in whole numbers, and SmoothQuant's migration is what the paper says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyinfer.backends.numpy_ops import SLICE, NumpyOps, integer_product
from tinyinfer.backends.packed import LARGEST, SMALLEST, W8A8, round_rows
from tinyinfer.ledger import Ledger
from tinyinfer.model.quantized_matrix import W8A8_SCHEME, QuantScheme
from tinyinfer.quantization.rtn import round_to_nearest
from tinyinfer.quantization.w8a8 import migrate, search_scale

OPS = NumpyOps(Ledger())


def weights(seed: int, outputs: int, inputs: int) -> np.ndarray:
    """Weights of a usual size."""
    return (0.05 * np.random.default_rng(seed).standard_normal((outputs, inputs))).astype(np.float32)


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 2 * SLICE + 3), st.integers(1, 300), st.integers(0, 1000))
def test_products_equal_int32_exactly(rows, inputs, outputs, seed):
    """A sum beyond 2^24, a slice or tile forgotten or counted twice: any bit that differs from whole numbers."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-LARGEST, LARGEST + 1, (rows, inputs))
    codes = rng.integers(-LARGEST, LARGEST + 1, (inputs, outputs))
    found = integer_product(x.astype(np.float32), codes.astype(np.int8))
    np.testing.assert_array_equal(found, x.astype(np.int32) @ codes.astype(np.int32))


@pytest.mark.parametrize("inputs", [SLICE, SLICE + 1, 3 * SLICE + 1])
def test_the_largest_sums_are_exact(inputs):
    """Every product as large as can be, and one odd one, which float32 would lose above 2^24."""
    x = np.full((1, inputs), LARGEST, dtype=np.float32)
    codes = np.full((inputs, 2), LARGEST, dtype=np.int8)
    codes[-1, 1] = 126
    expected = [LARGEST * LARGEST * inputs, LARGEST * LARGEST * inputs - LARGEST]
    np.testing.assert_array_equal(integer_product(x, codes), [expected])


def test_a_slice_is_as_long_as_float32_allows():
    """Longer, and sums are no longer exact; much shorter, and small products waste time."""
    assert LARGEST**2 * SLICE < 2**24 < LARGEST**2 * (SLICE + 1)


def test_the_product_is_the_formula():
    """y = (code_x · code_w) · scale_x · scale_w: a scale on the wrong axis, or rounding to another number of bits."""
    w, x = weights(1, 7, 1500), np.random.default_rng(2).standard_normal((3, 1500)).astype(np.float32)
    weight = W8A8.pack(round_to_nearest(w, W8A8_SCHEME), np)
    scale_x = np.abs(x).max(axis=1) / 127
    codes_x = np.rint(x / scale_x[:, None]).astype(np.int64)
    scale_w = (np.abs(w).max(axis=1) / 127).astype(np.float16).astype(np.float64)
    codes_w = np.rint(w / scale_w[:, None]).astype(np.int64)
    expected = (codes_x @ codes_w.T) * scale_x[:, None] * scale_w
    np.testing.assert_allclose(OPS.w8a8_product(x, weight), expected, rtol=1e-5, atol=1e-6)
    assert OPS.w8a8_product(x, weight).dtype == np.float32
    assert np.abs(OPS.w8a8_product(x, weight) - x @ w.T).max() < 0.02 * np.abs(x @ w.T).max()


def test_rows_are_rounded_by_themselves():
    """One token's outlier must not cost another token its precision; a row of zeros stays zero."""
    x = np.array([[1.0, -0.5, 0.25], [1000.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    codes, scale = round_rows(x, np)
    np.testing.assert_array_equal(codes, [[127, -64, 32], [127, 0, 0], [0, 0, 0]])  # 63.5 is rounded to even
    np.testing.assert_allclose(scale[:, 0], [1 / 127, 1000 / 127, SMALLEST / 127], rtol=1e-6)


def test_last_bits_of_an_activation_matter_only_at_an_edge_and_there_by_one_code():
    """W8A8's promise about company, as kv_bits has one (the kind of bugs B16 and M7), and that such edges do occur.

    Catches codes that depend on other rows, and an activation that moves by more than a step.
    """
    rng, flipped = np.random.default_rng(5), 0
    for n in range(100):
        x = rng.standard_normal((3, 32)).astype(np.float32)
        x[0, 5] = (n % 7 + 0.5) * np.abs(np.delete(x[0], 5)).max() / LARGEST  # on an edge
        noisy = x * (1 + 4e-7 * rng.uniform(-1, 1, x.shape)).astype(np.float32)
        (codes, scale), (moved, _) = round_rows(x, np), round_rows(noisy, np)
        np.testing.assert_array_equal(round_rows(x[:1], np)[0], codes[:1])
        to_edge = np.abs(np.abs(x / scale - np.rint(x / scale)) - 0.5)
        assert (to_edge[codes != moved] < 1e-3).all()
        assert np.abs(codes - moved).max() <= 1
        flipped += (codes != moved).any()
    assert flipped > 4


def test_no_rows_are_no_problem():
    """A batch that wants no logits."""
    weight = W8A8.pack(round_to_nearest(weights(0, 4, 6), W8A8_SCHEME), np)
    assert OPS.w8a8_product(np.empty((0, 6), dtype=np.float32), weight).shape == (0, 4)


def test_it_is_a_weight_like_others():
    """Shape, bytes, rows and tiles, as Dense has them; codes survive packing."""
    w = weights(3, 10, 33)
    matrix = round_to_nearest(w, W8A8_SCHEME)
    weight = W8A8.pack(matrix, np)
    assert (weight.shape, weight.nbytes, weight.row_bytes) == ((10, 33), 10 * 33 + 2 * 10, 33 + 2)
    np.testing.assert_array_equal(weight.dequantize(slice(2, 5)), matrix.dequantize()[2:5].T)
    np.testing.assert_array_equal(weight.rows(np.array([9, 0])), matrix.dequantize()[[9, 0]])
    np.testing.assert_array_equal(weight.matrix().codes, matrix.codes)
    np.testing.assert_array_equal(weight.matrix().scale, matrix.scale)


def test_tiny_weights_never_reach_code_minus_128():
    """A scale below float16's normal numbers is so coarse that -128 would come out, and sums would not be exact."""
    w = np.linspace(-7.55e-6, 7.5e-6, 64, dtype=np.float32)[None]  # a scale of 5.94e-8, which is kept as 5.96e-8 or 0
    w = np.concatenate([w, -w * 1.49])
    assert np.abs(W8A8.pack(round_to_nearest(w, W8A8_SCHEME), np).codes.astype(int)).max() <= LARGEST


@pytest.mark.parametrize(
    "scheme", [QuantScheme(8, 32, True), QuantScheme(8, None, False), QuantScheme(4, None, True)], ids=str
)
def test_another_scheme_is_refused(scheme):
    """With a scale for each group, or a minimum, the sum over an output's inputs would not be one of whole numbers."""
    with pytest.raises(ValueError, match="one scale for each output"):
        W8A8.pack(round_to_nearest(weights(0, 4, 64), scheme), np)


def test_migration_equals_the_papers_example():
    """Figure 5 of Xiao et al. 2023: X = [[1, -16, 2, 6], [-2, 8, -1, -9]], and s = sqrt(max|X| / max|W|)."""
    x = np.array([[1, -16, 2, 6], [-2, 8, -1, -9]], dtype=np.float32)
    w = np.array([[2, 1, -2], [1, -1, -1], [2, -1, -2], [-1, -1, 1]], dtype=np.float32).T
    np.testing.assert_allclose(migrate(w, np.abs(x).max(axis=0), 0.5), [1, 4, 1, 3])


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_the_share_decides_what_gets_the_size(share):
    """Of an input's and its weights' sizes together, inputs keep 1 - share and weights get it: 1 leaves inputs all 1.

    Catches exponents that are only right for a half.
    """
    rng = np.random.default_rng(6)
    x, w = rng.lognormal(0, 2, (20, 16)).astype(np.float32), weights(7, 10, 16)
    x_size, w_size = x.max(axis=0), np.abs(w).max(axis=0)
    scale = migrate(w, x_size, share)
    np.testing.assert_allclose((x / scale).max(axis=0), (x_size * w_size) ** (1 - share), rtol=1e-5)
    np.testing.assert_allclose(np.abs(w * scale).max(axis=0), (x_size * w_size) ** share, rtol=1e-5)


def test_migration_helps_where_a_channel_is_large():
    """The reason for it all: with one input a hundred times larger, the others keep their resolution."""
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((40, 64)).astype(np.float32), weights(5, 30, 64)
    x[:, 11] *= 100
    scale = search_scale(w, x[:10], np.abs(x).max(axis=0))
    plain = OPS.w8a8_product(x, W8A8.pack(round_to_nearest(w, W8A8_SCHEME), np))
    smooth = OPS.w8a8_product(x / scale, W8A8.pack(round_to_nearest(w * scale, W8A8_SCHEME), np))
    assert np.square(smooth - x @ w.T).sum() < 0.2 * np.square(plain - x @ w.T).sum()


def test_channels_that_are_always_zero_keep_their_scale():
    """Zero to any power is a division by zero somewhere."""
    scale = migrate(np.array([[1.0, 0.0, 2.0]], dtype=np.float32), np.array([0.0, 3.0, 2.0], dtype=np.float32), 0.5)
    np.testing.assert_array_equal(scale, [1, 1, 1])


def test_the_search_is_never_worse_than_no_migration():
    """Where nothing is large, or all is, dividing can only lose; rows count alike, however large."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        x, w = rng.standard_normal((30, 32)).astype(np.float32), weights(seed, 20, 32)
        x *= rng.uniform(1, 50, 32).astype(np.float32) ** (seed % 3)
        scale = search_scale(w, x, np.abs(x).max(axis=0))
        errors = []
        for s in (scale, np.ones(32, dtype=np.float32)):
            y = OPS.w8a8_product(x / s, W8A8.pack(round_to_nearest(w * s, W8A8_SCHEME), np))
            errors.append((np.square(y - x @ w.T).sum(axis=1) / np.square(x @ w.T).sum(axis=1)).sum())
        assert errors[0] <= errors[1] * (1 + 1e-6)
