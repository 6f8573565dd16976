"""Packed weights in the GPU's layout: no code is lost, and rows and tiles are those of a dense matrix."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_matrices import gives_back, nested_at_times, random_matrix

from tinyinfer.backends.packed_rows import PackedRows
from tinyinfer.model.quantized_matrix import QuantScheme


@settings(max_examples=40)
@given(
    bits=st.sampled_from([2, 3, 4, 5, 6, 8]), group=st.sampled_from([None, 1, 5, 32]), symmetric=st.booleans(),
    n=st.integers(1, 20), m=st.integers(1, 40), data=st.data(),
)  # fmt: skip
def test_packed_rows_are_their_codes(bits, group, symmetric, n, m, data):
    """Rows in any order, tiles, and all codes, equal scale · code + minimum bit for bit. Catches the codes that fill a
    row up read as inputs, and a last short group with the scale of the group before."""
    matrix = random_matrix(n, m, nested_at_times(QuantScheme(bits, group, symmetric), m, data))
    weight, w = PackedRows.pack(matrix, np), matrix.dequantize()
    gives_back(weight, matrix, w, data)


@pytest.mark.parametrize(
    ("bits", "symmetric", "row_bytes"),
    [  # 70 inputs are filled up to 72; 3 groups
        (8, True, 72 + 3 * 2), (4, False, 36 + 3 * 4), (3, False, 18 + 9 + 3 * 4), (2, True, 18 + 3 * 2),
        (6, True, 36 + 18 + 3 * 2),
    ],
)  # fmt: skip
def test_bytes_by_formula(bits, symmetric, row_bytes):
    """The arrays' own bytes are those of the formula. Catches codes that only look small."""
    weight = PackedRows.pack(random_matrix(130, 70, QuantScheme(bits, 32, symmetric)), np)
    arrays = [weight.codes, weight.scale, *([] if weight.minimum is None else [weight.minimum])]
    assert weight.row_bytes == row_bytes
    assert weight.nbytes == sum(array.nbytes for array in arrays) == 130 * row_bytes
    assert weight.shape == (130, 70)


def test_where_the_codes_of_a_row_lie():
    """The layout that kernels read. 4 bits of 10 inputs, filled up to 16: byte c of 8 holds the codes of c and c + 8;
    3 bits: two low bits in 4 bytes, then the high bits in 2."""
    matrix = random_matrix(3, 10, QuantScheme(4, None, symmetric=False))
    codes = PackedRows.pack(matrix, np).codes
    assert codes.shape == (3, 8)
    assert codes[2, 1] == matrix.codes[2, 1] | matrix.codes[2, 9] << 4
    assert codes[2, 7] == matrix.codes[2, 7], "the codes behind the last input are 0"
    matrix = random_matrix(3, 10, QuantScheme(3, None, symmetric=True))
    codes, stored = PackedRows.pack(matrix, np).codes, matrix.codes[1] + 4
    assert codes.shape == (3, 6)
    assert codes[1, 1] == stored[1] % 4 | stored[5] % 4 << 2 | stored[9] % 4 << 4
    assert codes[1, 4] == sum((stored[i] // 4) << i // 2 for i in (0, 2, 4, 6, 8))
    assert codes.flags.c_contiguous


def test_a_weight_travels_to_another_process():
    """Pickled and back, the weight is the same, its array module by name. Catches a module in a pickle."""
    weight = PackedRows.pack(random_matrix(5, 40, QuantScheme(4, 32, symmetric=False)), np)
    again = pickle.loads(pickle.dumps(weight))
    assert again.xp is np
    np.testing.assert_array_equal(again.dequantize(slice(0, 5)), weight.dequantize(slice(0, 5)))
