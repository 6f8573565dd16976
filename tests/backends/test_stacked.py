"""Stacked weights: parts of several types are one matrix to all that read, look up, multiply or take it apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packed_matrices import random_matrix, same_scales

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.backends.packed import Packed
from tinyinfer.backends.stacked import Stacked
from tinyinfer.ledger import Ledger
from tinyinfer.model.quantized_matrix import QuantScheme
from tinyinfer.model.weights import Floats, Linear, MixedMatrix

SCHEMES = [QuantScheme(4, 32, symmetric=False, nested=8), QuantScheme(6, 16, symmetric=True, nested=16)]
ROWS = (70, 5)  # outputs of the quantized parts; the float part has 9


def mixed() -> MixedMatrix:
    """Parts of 70, 5 and 9 outputs with 256 inputs: two kinds of codes, and floats."""
    floats = np.random.default_rng(2).standard_normal((9, 256)).astype(np.float32)
    codes = [random_matrix(n, 256, scheme) for n, scheme in zip(ROWS, SCHEMES, strict=True)]
    return MixedMatrix((*codes, Floats("w", floats)))


def numbers(matrix: MixedMatrix) -> np.ndarray:
    """All weights, outputs first."""
    first, second, floats = matrix.parts
    return np.concatenate((first.dequantize(), second.dequantize(), floats.array))


def test_each_part_is_held_by_its_own_type(ops):
    """Catches codes made floats on the way, and padding or bytes of one part counted for another."""
    weight = ops().take(mixed())
    assert weight.parts[2].scheme is None
    assert type(weight.parts[0]) is type(weight.parts[1]) is not type(weight.parts[2])
    assert weight.shape == (84, 256)
    assert weight.nbytes == sum(part.nbytes for part in weight.parts)
    assert weight.row_bytes == 4 * 256, "a row of floats is the longest"
    assert weight.scheme is None


@given(start=st.integers(0, 83), length=st.integers(1, 90))
def test_tiles_across_parts(start, length):
    """Catches a tile that begins or ends inside a part, or beyond the last one, and a part between two others lost."""
    matrix = mixed()
    weight = NumpyOps(Ledger()).take(matrix)
    tile = slice(start, start + length)
    np.testing.assert_array_equal(weight.dequantize(tile), numbers(matrix)[tile].T)


def test_rows_in_any_order():
    ids = np.array([83, 0, 69, 70, 74, 75, 0])
    rows = NumpyOps(Ledger()).take(mixed()).rows(ids)
    np.testing.assert_array_equal(rows, numbers(mixed())[ids])
    assert rows.flags.c_contiguous


@pytest.mark.parametrize("rows", [1, 9])
def test_a_product_joins_those_of_the_parts(ops, rows):
    """Catches outputs in another order, and a ledger that counts a part twice or never."""
    ops, matrix = ops(), mixed()
    weight, x = ops.take(matrix), np.random.default_rng(1).standard_normal((rows, 256)).astype(np.float32)
    y = ops.to_host(ops.linear(ops.xp.asarray(x), Linear(weight)))
    expected = x.astype(np.float64) @ numbers(matrix).T
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
    assert ops.ledger.weight_bytes == weight.nbytes
    assert ops.ledger.flops == 2 * rows * 84 * 256


def test_what_was_taken_can_be_given_back():
    """The parts come back as they were, to be saved or taken by another backend."""
    matrix, weight = mixed(), NumpyOps(Ledger()).take(mixed())
    assert isinstance(weight, Stacked)
    assert isinstance(weight.parts[0], Packed)
    again = weight.matrix()
    assert isinstance(again, MixedMatrix)
    for found, part in zip(again.parts[:2], matrix.parts[:2], strict=True):
        assert found.scheme == part.scheme
        np.testing.assert_array_equal(found.codes, part.codes)
        same_scales(found.scale, part.scale)
    np.testing.assert_array_equal(again.parts[2].array, matrix.parts[2].array)
