"""Quantized matrices as data: codes, scales, scales of scales, and what is left of them when rows are cut or joined."""

from __future__ import annotations

import numpy as np
import pytest
from packed_matrices import random_matrix, same_scales

from tinyinfer.model.quantized_matrix import Nested, QuantScheme, concatenate, expand, float_scales, map_scales

K_QUANT = QuantScheme(4, 4, symmetric=False, nested=2)  # groups of 4 inputs, of which 2 share a float16


def test_a_nested_scale_is_its_step_times_its_code():
    """By hand. Catches a step that is given to the groups in turn and not to neighbours."""
    nested = Nested(np.array([[0.5, 2.0]], np.float16), np.array([[1, -3, 63, 0]], np.int8))
    assert nested.floats().tolist() == [[0.5, -1.5, 126.0, 0.0]]
    assert nested.floats().dtype == np.float32
    assert nested.shape == (1, 4)
    assert nested.nbytes == 2 * 2 + 4
    assert expand(nested, K_QUANT, 14).tolist() == [[0.5] * 4 + [-1.5] * 4 + [126.0] * 4 + [0.0] * 2]


def test_the_product_is_exact_in_float32():
    """A float16 has 11 bits and a code 7: catches a product in float16, or a step that is rounded once more."""
    step = np.random.default_rng(0).uniform(-1, 1, (3, 400)).astype(np.float16)
    codes = np.random.default_rng(1).integers(-128, 128, (3, 800)).astype(np.int8)
    exact = np.repeat(step.astype(np.float64), 2, axis=1) * codes
    np.testing.assert_array_equal(Nested(step, codes).floats(), exact)


def test_plain_scales_are_themselves():
    scales = np.array([[0.5, 2.0]], np.float16)
    assert float_scales(scales).dtype == np.float32
    assert float_scales(scales).tolist() == scales.tolist()
    assert map_scales(scales, lambda array: array[:, :1]).tolist() == [[0.5]]


@pytest.mark.parametrize("scheme", [K_QUANT, QuantScheme(8, 4, True), QuantScheme(5, 4, False)])
def test_outputs_cut_and_joined(scheme):
    """Catches scales or minimums left with the rows of another output."""
    whole = random_matrix(7, 16, scheme)
    again = concatenate([whole.outputs(slice(0, 3)), whole.outputs(slice(3, 7))])
    assert again.scheme == scheme
    np.testing.assert_array_equal(again.dequantize(), whole.dequantize())
    same_scales(again.scale, whole.scale)
    assert concatenate([whole]) is whole, "a large table is not in memory twice"
    order = np.array([6, 0, 3])
    np.testing.assert_array_equal(whole.outputs(order).dequantize(), whole.dequantize()[order])


@pytest.mark.parametrize(
    ("scheme", "nbytes"),
    [
        (QuantScheme(8, 32, True), 8 * 2), (QuantScheme(4, 32, False), 8 * 2 * 2), (QuantScheme(4, None, False), 4),
        (QuantScheme(4, 32, False, nested=8), 2 * (8 + 2)), (QuantScheme(6, 16, True, nested=16), 16 + 2),
    ],
)  # fmt: skip
def test_bytes_of_scales_by_hand(scheme, nbytes):
    """Of 256 inputs; a K-quant has a byte for each group and a float16 for all of a block."""
    assert scheme.scale_bytes(256) == nbytes
