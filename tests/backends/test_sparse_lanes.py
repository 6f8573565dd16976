"""2:4 in lanes: the numbers and bytes of the NumPy backend's sparse matrix, in the order that kernels read."""

from __future__ import annotations

from itertools import combinations

import ml_dtypes
import numpy as np
import pytest
from sparse_matrices import packed, two_of_four

from tinyinfer.backends.sparse import Sparse
from tinyinfer.errors import ModelError
from tinyinfer.model.weights import TWO_OF_FOUR, Floats, SparseMatrix

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]
SHAPES = [(150, 68), (64, 32), (5, 4), (130, 100)]  # M is a multiple of 4, but not of 8 and of 32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_matrix_comes_back(shape, dtype):
    """Rows, tiles and outputs as files have them. Catches a place or a weight of a neighbour's, and a layout lost."""
    n, w = shape[0], two_of_four(*shape).astype(dtype)
    weight, floats = packed(w, dtype), w.astype(np.float32)
    again = weight.matrix()
    assert again.layout == weight.layout == TWO_OF_FOUR
    np.testing.assert_array_equal(again.matrix.array, w)
    ids = np.array([n - 1, 0, n // 2, 0])
    np.testing.assert_array_equal(weight.rows(ids), floats[ids])
    for start, stop in ((0, n), (n // 3, n - 1), (2, 2)):
        np.testing.assert_array_equal(weight.dequantize(slice(start, stop)), floats[start:stop].T)
        part = weight.outputs(start, stop).dequantize(slice(0, stop - start))
        np.testing.assert_array_equal(part, floats[start:stop].T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_counts_and_keeps_what_the_other_backends_do(shape, dtype):
    """Catches padding that the ledger counts, and a file that depends on the backend that wrote it."""
    w = two_of_four(*shape)
    weight, other = packed(w, dtype), Sparse.pack(SparseMatrix(Floats("w", w), TWO_OF_FOUR), np.dtype(dtype), np)
    assert (weight.shape, weight.nbytes, weight.row_bytes) == (other.shape, other.nbytes, other.row_bytes)
    part, same = weight.outputs(1, shape[0]), other.outputs(1, shape[0])
    np.testing.assert_array_equal(part.values, same.values)
    np.testing.assert_array_equal(part.places.places, same.places.places)


def test_bits_of_a_weight_by_hand():
    """Half of the weights and two bits for each. Catches places that take a byte each."""
    w = two_of_four(64, 64)
    assert [8 * packed(w, dtype).nbytes / w.size for dtype in DTYPES] == [17, 9, 9]


def test_where_kept_weights_and_places_lie():
    """Kept weight i of a word's 16 has bits 2·i and 2·i + 1. Catches another order than the one that kernels read."""
    w = np.zeros((70, 68), np.float32)
    for i, pair in enumerate(combinations(range(4), 2)):  # the fours 5 ... 10 of output 66
        w[66, [4 * (5 + i) + place for place in pair]] = 2 * i + 1, 2 * i + 2
    weight = packed(w)
    assert weight.values.shape == (2, 48, 64)
    assert weight.places.shape == (2, 3, 64)
    np.testing.assert_array_equal(weight.values[1, 10:22, 2], np.arange(1, 13))
    for i, pair in enumerate(combinations(range(4), 2)):
        for n, place in enumerate(pair):
            word, at = divmod(2 * (5 + i) + n, 16)
            assert int(weight.places[1, word, 2]) >> 2 * at & 3 == place
    assert not weight.values[1, :, 3:].any()
    assert not weight.values[:, 34:].any()


def test_what_is_refused():
    """Three of four, inputs that 4 does not divide, and a number too large: silently, each would be other weights."""
    with pytest.raises(ValueError, match="two zeros among every four"):
        packed(np.array([[0, 0, 0, 0, 1, 1, 0, 1]], np.float32))
    with pytest.raises(ValueError, match="multiple of 4 inputs, not 6"):
        packed(np.zeros((1, 6), np.float32))
    with pytest.raises(ModelError, match="w holds 100000, too large for float16"):
        packed(np.array([[0, 1e5, 0, 0]], np.float32), np.float16)
