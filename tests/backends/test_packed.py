"""Packed weights: nothing lost between codes and bytes, no byte wasted, rows and tiles as a dense matrix gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_matrices import gives_back, nested_at_times, random_matrix

from tinyinfer.backends.packed import Packed
from tinyinfer.backends.packing import pack, packed_size, pick, unpack
from tinyinfer.model.quantized_matrix import QuantizedMatrix, QuantScheme
from tinyinfer.model.weights import Embedding, Experts, Linear
from tinyinfer.quantization.rtn import round_to_nearest

BITS = [2, 3, 4, 5, 6, 8]


def by_formula(matrix: QuantizedMatrix) -> np.ndarray:
    """scale · code + minimum, one weight at a time."""

    def number(scales: Any, n: int, g: int) -> np.float32:
        if matrix.scheme.nested is None:
            return np.float32(scales[n, g])
        return np.float32(scales.step[n, g // matrix.scheme.nested]) * np.float32(scales.codes[n, g])

    w = np.empty(matrix.codes.shape, np.float32)
    for (n, m), code in np.ndenumerate(matrix.codes):
        g = m // (matrix.scheme.group_size or matrix.codes.shape[1])
        w[n, m] = number(matrix.scale, n, g) * np.float32(code)
        w[n, m] += np.float32(0) if matrix.minimum is None else number(matrix.minimum, n, g)
    return w


# Bits


@pytest.mark.parametrize("bits", [1, *BITS])
@given(n=st.integers(1, 70), seed=st.integers(0, 99))
def test_packing_round_trips_at_odd_sizes(bits, n, seed):
    """Catches a code that spills into its neighbour, and padding that is read as codes."""
    codes = np.random.default_rng(seed).integers(0, 2**bits, (3, n)).astype(np.uint8)
    packed = pack(codes, bits, np)
    assert packed.shape == (3, packed_size(n, bits))
    np.testing.assert_array_equal(unpack(packed, bits, n, np), codes)
    blocks, places = np.array([2, 0, 1]), np.array([n - 1, 0, n // 2])
    found = pick(np.stack([packed] * 3), bits, n, (blocks, places), np)
    np.testing.assert_array_equal(found, codes[:, places].T)


@pytest.mark.parametrize(("bits", "size"), [(8, 64), (6, 48), (5, 40), (4, 32), (3, 24), (2, 16)])
def test_a_block_of_64_codes_wastes_no_bit(bits, size):
    """Catches three bits kept in four, and five or six in eight."""
    assert pack(np.zeros(64, np.uint8), bits, np).nbytes == packed_size(64, bits) == size


def test_where_bits_lie():
    """The layout is a promise to saved folders and to kernels. 2 bits: byte c has codes c, c + C, c + 2C, c + 3C."""
    assert pack(np.array([1, 2, 3, 0, 2, 1, 0, 3], np.uint8), 2, np).tolist() == [0b00_10_11_01, 0b11_01_00_10]
    assert pack(np.array([0b101, 0b010, 0b111, 0b000], np.uint8), 3, np).tolist() == [0b00_11_10_01, 0b0101]
    assert pack(np.array([0b1_0110, 0b0_0011], np.uint8), 5, np).tolist() == [0b0011_0110, 0b01]
    assert pack(np.array([0b11_0110, 0b01_0011], np.uint8), 6, np).tolist() == [0b0011_0110, 0b0111]


# Matrices


@settings(max_examples=40)
@given(
    bits=st.sampled_from(BITS), group=st.sampled_from([None, 1, 5, 32]), symmetric=st.booleans(),
    n=st.integers(1, 150), m=st.integers(1, 40), data=st.data(),
)  # fmt: skip
def test_a_packed_matrix_is_its_codes(bits, group, symmetric, n, m, data):
    """Rows in any order, tiles that begin and end inside blocks, and all codes, equal the formula bit for bit."""
    matrix = random_matrix(n, m, nested_at_times(QuantScheme(bits, group, symmetric), m, data))
    weight, w = Packed.pack(matrix, np), by_formula(matrix)
    gives_back(weight, matrix, w, data)


@pytest.mark.parametrize(
    ("bits", "symmetric", "nbytes", "row_bytes"),
    [  # 3 blocks of 64 outputs, 70 inputs, 3 groups; a row: 70 codes and 3 groups
        (8, True, 3 * (70 * 64 + 3 * 64 * 2), 70 + 3 * 2),
        (4, False, 3 * (70 * 32 + 3 * 64 * 4), 35 + 3 * 4),
        (3, False, 3 * (70 * 24 + 3 * 64 * 4), 18 + 9 + 3 * 4),
        (2, True, 3 * (70 * 16 + 3 * 64 * 2), 18 + 3 * 2),
        (6, True, 3 * (70 * 48 + 3 * 64 * 2), 35 + 18 + 3 * 2),
    ],
)
def test_bytes_by_formula(bits, symmetric, nbytes, row_bytes):
    """Packed for real: the arrays' own bytes are those of the formula. Catches codes that only look small."""
    weight = Packed.pack(random_matrix(130, 70, QuantScheme(bits, 32, symmetric)), np)
    arrays = [weight.codes, weight.scale, *([] if weight.minimum is None else [weight.minimum])]
    assert weight.nbytes == sum(array.nbytes for array in arrays) == nbytes
    assert all(array.base is None or array.base.nbytes == array.nbytes for array in arrays), "nothing larger is held"
    assert weight.row_bytes == row_bytes
    assert weight.shape == (130, 70)


def test_nested_scales_take_a_byte_for_each_group():
    """70 inputs, 4 groups of 20, of which 2 share a float16. Catches scales that are floats in memory."""
    weight = Packed.pack(random_matrix(130, 70, QuantScheme(4, 20, symmetric=False, nested=2)), np)
    assert weight.nbytes == 3 * (70 * 32 + 2 * 64 * (4 + 2 * 2))
    assert weight.row_bytes == 35 + 2 * (4 + 2 * 2)
    assert (weight.scale.step.shape, weight.scale.codes.shape) == ((3, 2, 64), (3, 4, 64))


def test_outputs_lie_side_by_side():
    """The layout that kernels read: codes[block, input, byte of 64 outputs], scale[block, group, output]."""
    matrix = random_matrix(130, 70, QuantScheme(8, 32, symmetric=True))
    weight = Packed.pack(matrix, np)
    assert (weight.codes.shape, weight.scale.shape) == ((3, 70, 64), (3, 3, 64))
    assert weight.codes[1, 5, 7] == matrix.codes[64 + 7, 5] + 128
    assert weight.scale[2, 1, 1] == matrix.scale[129, 1]
    assert weight.codes.flags.c_contiguous


# Operations


@pytest.mark.parametrize("rows", [1, 2, 9])
@pytest.mark.parametrize("shape", [(130, 70), (1000, 600), (5, 300)])
def test_a_product_is_that_of_the_dequantized_matrix(ops, rows, shape):
    """Over more than one tile. Catches a tile's rest left out and a bias forgotten; the ledger counts packed bytes."""
    matrix = random_matrix(*shape, QuantScheme(4, 32, symmetric=False))
    ops, bias = ops(), np.arange(shape[0], dtype=np.float32)
    weight = ops.take(matrix)
    x = np.random.default_rng(1).standard_normal((rows, shape[1])).astype(np.float32)
    y = ops.to_host(ops.linear(ops.xp.asarray(x), Linear(weight, ops.take_array(bias))))
    expected = x.astype(np.float64) @ matrix.dequantize().T + bias
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    assert ops.ledger.weight_bytes == weight.nbytes + bias.nbytes
    assert ops.ledger.flops == 2 * rows * shape[0] * shape[1]


def test_an_embedding_reads_only_its_rows(ops):
    """Two tokens are two rows of bytes. Catches the whole table counted, or floats counted as read."""
    ops = ops()
    weight = ops.take(random_matrix(130, 70, QuantScheme(8, 32, symmetric=True)))
    x = ops.to_host(ops.embed(np.array([129, 3]), np.array([0, 1]), Embedding(weight, None, 2.0)))
    np.testing.assert_array_equal(x, 2 * ops.to_host(weight.dequantize(slice(0, 130))).T[[129, 3]])
    assert ops.ledger.weight_bytes == 2 * (70 + 3 * 2)


def test_experts_are_multiplied_one_by_one(ops):
    """Rows go to their expert, and only experts with rows are read."""
    ops, scheme = ops(), QuantScheme(4, 32, False)
    gate_up = Experts(tuple(Linear(ops.take(random_matrix(70, 40, scheme, seed))) for seed in range(3)))
    down = Experts(tuple(Linear(ops.take(random_matrix(40, 35, scheme, 3 + seed))) for seed in range(3)))
    assert (len(gate_up.linears), gate_up.nbytes) == (3, 3 * 2 * (40 * 32 + 2 * 64 * 4))
    assert (len(down.linears), down.nbytes) == (3, 3 * (35 * 32 + 2 * 64 * 4))
    x = 0.01 * np.random.default_rng(1).standard_normal((5, 40)).astype(np.float32)
    weights = np.linspace(0.2, 1, 5, dtype=np.float32)[:, None]
    chosen = ops.xp.asarray([[0], [0], [2], [2], [2]])
    y = ops.to_host(ops.experts(ops.xp.asarray(x), chosen, ops.xp.asarray(weights), gate_up, down, "silu"))
    for rows, e in ((slice(0, 2), 0), (slice(2, 5), 2)):
        gate, up = np.split(x[rows] @ ops.to_host(gate_up.linears[e].weight.dequantize(slice(0, 70))), 2, axis=1)
        h = gate / (1 + np.exp(-gate)) * up
        expected = h @ ops.to_host(down.linears[e].weight.dequantize(slice(0, 40))) * weights[rows]
        np.testing.assert_allclose(y[rows], expected, rtol=1e-5, atol=1e-5)
    assert ops.ledger.weight_bytes == 2 * (gate_up.linears[0].nbytes + down.linears[0].nbytes)
    assert (ops.ledger.experts_read, ops.ledger.expert_rows) == (2, 5)


def test_round_to_nearest_then_pack_loses_nothing():
    """The whole way that a matrix goes while it is loaded."""
    w = np.random.default_rng(2).standard_normal((67, 33)).astype(np.float32)
    matrix = round_to_nearest(w, QuantScheme(3, 32, symmetric=False))
    np.testing.assert_array_equal(Packed.pack(matrix, np).dequantize(slice(0, 67)).T, matrix.dequantize())
