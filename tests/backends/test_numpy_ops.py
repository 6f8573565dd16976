"""What the NumPy backend does in another way than the reference: tiles, few rows, memory, what is done in place."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from helpers import ROUNDING, distance

from tinyinfer.backends import numpy_ops
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.ledger import Ledger
from tinyinfer.loading.checkpoint import Joined, LazyTensor
from tinyinfer.model.weights import Dense, LayerNorm, Linear, RMSNorm, Rotation

HALVES = [np.float16, ml_dtypes.bfloat16]


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ops(dtype=np.float32) -> NumpyOps:
    return NumpyOps(Ledger(), dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_taking_a_weight_needs_no_second_copy_of_it(dtype):
    """The promise of loading: weights plus a tile, not twice the weights."""
    rows, columns = 3000, 4000

    def read(start: int, stop: int) -> np.ndarray:
        return np.ones((stop - start, columns), np.float32)

    tensor = LazyTensor("large", (rows, columns), 4 * rows * columns, read)
    tracemalloc.start()
    weight = ops(dtype).take(Joined((tensor,)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < weight.nbytes + 12_000_000, "a tile is a million numbers; a few may live at once"
    assert weight.array.min() == weight.array.max() == 1


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("outputs", [1, 31, 32, 33, 100])
def test_half_precision_is_widened_tile_by_tile(dtype, outputs):
    """Widths around a tile of 32 outputs: catches a tile forgotten or read twice, a product in half precision."""
    inputs = numpy_ops.WIDE_TILE // 32
    x, w = rand(3, inputs), rand(inputs, outputs, seed=1).astype(dtype)
    o = ops(dtype)
    y = o.linear(x, Linear(Dense(w)))
    assert y.dtype == np.float32
    assert distance(y, x.astype(np.float64) @ w.astype(np.float64)) < ROUNDING
    assert o.ledger.weight_bytes == 2 * inputs * outputs


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_never_widens_the_whole_weight(dtype):
    """Else `--dtype bfloat16` would need more memory than float32, not half."""
    weight = Linear(Dense(np.ones((2000, 1000), dtype)))
    o, x = ops(dtype), rand(1, 2000)
    tracemalloc.start()
    o.linear(x, weight)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 4 * numpy_ops.WIDE_TILE < 4 * 2000 * 1000


def test_half_precision_writes_each_result_once():
    """A vocabulary of 100,000 in tiles of inputs adds up 80 MB of logits 64 times: a minute for a second."""
    x, w = rand(200, 64), np.ones((64, 100_000), ml_dtypes.bfloat16)
    products = []

    class Counting(np.ndarray):
        def __matmul__(self, other):
            products.append(other.shape)
            return np.asarray(self) @ other

    ops(ml_dtypes.bfloat16).dense_product(x.view(Counting), Dense(w))
    assert len(products) == -(-100_000 * 64 // numpy_ops.WIDE_TILE)
    assert sum(outputs for _, outputs in products) == 100_000


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 9])
def test_few_rows_are_multiplied_one_by_one_with_the_same_result(rows):
    """Catches: a row left out or multiplied into its neighbour's place; and rows that a knee makes differ."""
    x, w = rand(rows, 40), rand(40, 50, seed=1)
    y = numpy_ops.multiply(x, w)
    assert y.shape == (rows, 50)
    assert distance(y, x.astype(np.float64) @ w.astype(np.float64)) < ROUNDING
    if rows <= numpy_ops.FEW_ROWS:
        assert all(np.array_equal(y[i], x[i] @ w) for i in range(rows))


def test_add_changes_the_residual_stream_in_place():
    """A new array per addition costs a prefill a tenth of its time."""
    x, change = rand(3, 4), rand(3, 4, seed=1)
    expected = x + change
    assert ops().add(x, change, 1.0) is x
    assert np.array_equal(x, expected)


def by_each_row(operation, *arrays: np.ndarray) -> np.ndarray:
    """The operation on one row after another."""
    return np.concatenate([operation(*(array[i : i + 1] for array in arrays)) for i in range(len(arrays[0]))])


WIDE = numpy_ops.TILE // 2  # numbers in a row, so that few rows are worked on at a time


OPERATIONS = {
    "rms": lambda x: ops().norm(x, RMSNorm(np.linspace(1, 2, WIDE, dtype=np.float32), 1e-5)),
    "layer": lambda x: ops().norm(x, LayerNorm(np.linspace(1, 2, WIDE, dtype=np.float32), np.float32(3), 1e-5)),
    "silu": lambda x: ops().activate(x, "silu"),
    "gelu_tanh": lambda x: ops().activate(x, "gelu_tanh"),
    "gate": lambda x: ops().gate(np.concatenate([x, 2 * x], axis=1), "silu"),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_row_does_not_depend_on_the_rows_beside_it(name):
    """Rows are worked on in tiles that fit the processor's cache: catches a tile left out, or the last, shorter one."""
    x = rand(5, WIDE)
    assert distance(OPERATIONS[name](x), by_each_row(OPERATIONS[name], x)) < ROUNDING


def test_rope_turns_every_row_by_its_own_position():
    """The same for rotations, whose angles must be cut into the same tiles as the rows."""
    x, frequencies = rand(5, 4, WIDE // 4), np.linspace(1, 0, WIDE // 8, dtype=np.float32)
    rotation = Rotation(frequencies[None], np.ones_like(frequencies)[None])
    cos, sin = ops().rotation(np.array([5, 1, 4, 2, 3]), np.zeros(5, int), rotation)
    alone = by_each_row(lambda x, cos, sin: ops().rope(x, (cos, sin)), x, cos, sin)
    assert distance(ops().rope(x, (cos, sin)), alone) < ROUNDING


def test_the_cost_of_a_pass_grows_with_its_rows_but_a_row_becomes_cheaper():
    """What speculation trusts: points with straight lines between. Catches rows and times swapped, or a wrong unit."""
    costs = [ops().relative_cost(rows) for rows in range(1, 513)]
    assert costs[0] == 1.0
    assert costs[2] == pytest.approx((costs[1] + costs[3]) / 2)
    assert costs[23] == pytest.approx((costs[15] + costs[31]) / 2)
    assert all(more > fewer for fewer, more in pairwise(costs))
    assert all(2 * costs[n - 1] > costs[2 * n - 1] for n in range(1, 65))
    assert all(isinstance(cost, float) for cost in costs)
