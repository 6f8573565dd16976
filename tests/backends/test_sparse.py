"""Sparse weights: the same numbers as the dense matrix, in as many bytes as the formula says."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import ROUNDING, distance

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.backends.sparse import Bitmask, Sparse, TwoOfFour, pack_eights, unpack_eights
from tinyinfer.errors import ModelError
from tinyinfer.ledger import Ledger
from tinyinfer.model.quantized_matrix import QuantizedMatrix, QuantScheme
from tinyinfer.model.weights import MASK, TWO_OF_FOUR, Floats, Linear, SparseMatrix
from tinyinfer.quantization.rtn import round_to_nearest

OUTPUTS, INPUTS = 70, 44  # no multiples of 8: rows end inside bytes
LAYOUTS = [MASK, TWO_OF_FOUR]


def dense(layout: str, outputs: int = OUTPUTS, inputs: int = INPUTS) -> np.ndarray:
    """Random weights of which at most 2 of 4 neighbours, or (mask) three tenths of all, are not zero; one row is."""
    rng = np.random.default_rng(3)
    w = rng.standard_normal((outputs, inputs)).astype(np.float32)  # (N, M)
    if layout == TWO_OF_FOUR:
        order = np.argsort(rng.random((outputs, inputs // 4, 4)), axis=2)
        np.put_along_axis(w.reshape(outputs, -1, 4), order[..., :2], 0, axis=2)
    else:
        w[rng.random(w.shape) < 0.7] = 0
    w[5] = 0
    return w


def matrices(layout: str) -> list[tuple[SparseMatrix, np.ndarray]]:
    """Pairs (sparse matrix, its numbers): floats, and codes of every number of bits."""
    w = dense(layout)
    found = [(SparseMatrix(Floats("w", w), layout), w)]
    for bits in (8, 6, 5, 4, 3, 2):
        rounded = round_to_nearest(w, QuantScheme(bits, 32, symmetric=True))
        found.append((SparseMatrix(rounded, layout), rounded.dequantize()))
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_numbers_are_the_dense_ones(layout):
    """All, some and single outputs. Catches places counted from another output, and codes that begin inside a byte."""
    for matrix, w in matrices(layout):
        sparse = Sparse.pack(matrix, np.dtype(np.float32), np)
        for start, stop in ((0, OUTPUTS), (5, 6), (0, 1), (7, 50), (69, 90), (4, 4)):
            np.testing.assert_array_equal(sparse.dequantize(slice(start, stop)).T, w[start:stop])
        ids = np.array([69, 0, 5, 0])
        np.testing.assert_array_equal(sparse.rows(ids), w[ids])
        part = sparse.outputs(7, 50)
        assert part.shape == (43, INPUTS)
        np.testing.assert_array_equal(part.dequantize(slice(0, 43)).T, w[7:50])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_taken_apart_and_taken_again(layout):
    """`matrix` is what saving and changing read. Catches codes moved by the lowest one, and a layout forgotten."""
    for matrix, w in matrices(layout):
        again = Sparse.pack(Sparse.pack(matrix, np.dtype(np.float32), np).matrix(), np.dtype(np.float32), np)
        assert again.layout == layout
        np.testing.assert_array_equal(again.dequantize(slice(0, OUTPUTS)).T, w)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_backend_multiplies_a_sparse_matrix(ops, layout):
    """Whether it keeps zeros or not. Catches a backend without a product for the type."""
    x = np.random.default_rng(1).standard_normal((3, INPUTS)).astype(np.float32)  # (T, M)
    for matrix, w in matrices(layout):
        own = ops()
        weight = own.take(matrix)
        before = own.ledger.weight_bytes
        y = own.to_host(own.linear(own.xp.asarray(x), Linear(weight)))  # (T, N)
        assert distance(y, x @ w.T) < ROUNDING
        assert own.ledger.weight_bytes - before == weight.nbytes


def test_bytes_of_a_mask_by_hand():
    """A bit a weight, 8 bytes an output for where it begins and 8 more; kept floats, or codes 8 by 8 and scales."""
    w = dense(MASK)
    kept, places = int((w != 0).sum()), OUTPUTS * 6 + 8 * (OUTPUTS + 1)  # 44 bits are 6 bytes
    sparse = Sparse.pack(SparseMatrix(Floats("w", w), MASK), np.dtype(np.float16), np)
    assert sparse.nbytes == places + 2 * kept
    codes = round_to_nearest(w, QuantScheme(4, 32, symmetric=True))
    sparse = Sparse.pack(SparseMatrix(codes, MASK), np.dtype(np.float32), np)
    kept = int((codes.codes != 0).sum())
    assert sparse.nbytes == places + 4 * -(-kept // 8) + OUTPUTS * 2 * 2  # two groups of inputs, a float16 each


def test_bytes_of_two_of_four_by_hand():
    """Half of the weights, zeros or not, and two bits for each: 9 bits a weight in half precision instead of 16."""
    w = dense(TWO_OF_FOUR, 64, 64)
    sparse = Sparse.pack(SparseMatrix(Floats("w", w), TWO_OF_FOUR), np.dtype(np.float16), np)
    assert 8 * sparse.nbytes == 9 * w.size


def test_a_code_of_zero_is_kept_nowhere():
    """A weight that rounds to zero is as good as removed. Catches a mask made of the floats before they were rounded.

    Would cost bytes and nothing else, so no result would tell.
    """
    w = np.array([[1.0, 0.01, 0, 0, 0, 0, 0, 0]], dtype=np.float32)
    sparse = Sparse.pack(SparseMatrix(round_to_nearest(w, QuantScheme(4, 8, symmetric=True)), MASK), np.float32, np)
    assert isinstance(sparse.places, Bitmask)
    assert sparse.places.first(1) == 1


@pytest.mark.parametrize("bits", [8, 6, 5, 4, 3, 2])
def test_codes_from_anywhere(bits):
    """Codes are packed 8 by 8, so any run of them begins in a known byte. Catches planes packed over all codes."""
    codes = np.random.default_rng(0).integers(0, 1 << bits, 37).astype(np.uint8)
    packed = pack_eights(codes, bits, np)
    assert packed.shape == (5, bits)
    np.testing.assert_array_equal(unpack_eights(packed[2:], bits, 3, 12, np), codes[19:31])


def test_what_cannot_be_two_of_four():
    """Catches weights that are silently left out."""
    with pytest.raises(ValueError, match="two zeros among every four"):
        TwoOfFour.of(np.array([[True, True, True, False]]), np)
    with pytest.raises(ValueError, match="multiple of 4 inputs, not 6"):
        TwoOfFour.of(np.zeros((1, 6), dtype=bool), np)


def test_codes_without_a_zero_are_refused():
    """An asymmetric grid has no code for zero, so what is left out would come back as another number."""
    codes = round_to_nearest(dense(MASK), QuantScheme(4, 32, symmetric=False))
    with pytest.raises(ValueError, match="zero must stay zero"):
        Sparse.pack(SparseMatrix(codes, MASK), np.dtype(np.float32), np)


def test_a_number_too_large_for_the_type():
    w = np.array([[1e6, 0, 0, 0]], dtype=np.float32)
    with pytest.raises(ModelError, match="too large for float16"):
        NumpyOps(Ledger(), np.float16).take(SparseMatrix(Floats("w", w), MASK))


def test_no_weight_at_all():
    """A matrix that lost every weight still multiplies, to zeros."""
    for layout in LAYOUTS:
        weight = NumpyOps(Ledger()).take(SparseMatrix(Floats("w", np.zeros((3, 8), np.float32)), layout))
        np.testing.assert_array_equal(weight.dequantize(slice(0, 3)), np.zeros((8, 3)))
        assert isinstance(weight.matrix().matrix, Floats)
        assert not isinstance(weight.matrix().matrix, QuantizedMatrix)
