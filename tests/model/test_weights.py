"""Weights as data: what they hold, what they take in memory and how they give their numbers back."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tinyinfer.model.weights import Dense, Embedding, Experts, FullQKNorm, LayerNorm, Linear, NoNorm, RMSNorm

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]
NUMBERS = np.arange(12).reshape(3, 4) / 8  # exact in every dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_is_inputs_first_but_speaks_of_outputs(dtype):
    """Catches: shape or rows taken along the wrong axis, half precision let out of the weight."""
    weight = Dense(NUMBERS.astype(dtype))
    assert weight.shape == (4, 3)
    assert weight.nbytes == 12 * np.dtype(dtype).itemsize
    rows = weight.rows(np.array([3, 0, 3]))
    assert rows.dtype == np.float32
    assert np.array_equal(rows, NUMBERS.T[[3, 0, 3]])
    tile = weight.dequantize(slice(1, 3))
    assert tile.dtype == np.float32
    assert np.array_equal(tile, NUMBERS[:, 1:3])


def test_float32_is_not_copied_for_a_product():
    """A copy of every weight in every product would halve decoding."""
    weight = Dense(NUMBERS.astype(np.float32))
    assert np.shares_memory(weight.dequantize(slice(0, 3)), weight.array)


def test_rows_are_a_copy_that_may_be_written_to():
    """Embeddings are scaled and added to in place; a view would change the model at every step."""
    weight = Dense(NUMBERS.astype(np.float32))
    rows = weight.rows(np.array([1]))
    rows += 1
    assert rows.flags.c_contiguous
    assert np.array_equal(weight.array, NUMBERS)


def test_experts_are_weights_one_by_one():
    """Choosing an expert must not copy it: that would read and write what a mixture of experts saves."""
    held = tuple(Linear(Dense(array.astype(np.float32))) for array in (NUMBERS, -NUMBERS))
    experts = Experts(held)
    assert experts.nbytes == 2 * 4 * NUMBERS.size
    assert experts.linears[1] is held[1]



def test_bytes_are_those_of_every_array_held():
    """The sums behind `inspect` and the ledger: nothing forgotten, nothing counted twice."""
    vector, matrix = np.zeros(4, np.float32), Dense(np.zeros((3, 4), np.float16))
    assert Linear(matrix).nbytes == 24
    assert Linear(matrix, vector).nbytes == 24 + 16
    assert RMSNorm(vector, 1e-5).nbytes == 16
    assert LayerNorm(vector, vector[:2].copy(), 1e-5).nbytes == 16 + 8
    assert FullQKNorm(RMSNorm(vector, 0.1), RMSNorm(vector[:1].copy(), 0.1)).nbytes == 16 + 4
    assert NoNorm().nbytes == 0
    assert Embedding(matrix, None, 1.0).nbytes == 24
    assert Embedding(matrix, np.zeros((5, 4), np.float32), 1.0).nbytes == 24 + 80
