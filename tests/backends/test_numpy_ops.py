"""The reference operations against their formulas in float64 (SciPy where it has them), and what each one counts."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
import scipy.special
import scipy.stats
from helpers import ROUNDING, distance, flat_batch, forward, lazy, make_engine, request, small_config

from tinyinfer.backends import numpy_ops
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.ledger import Ledger
from tinyinfer.loading.checkpoint import LazyTensor
from tinyinfer.model.attention import visible_pairs
from tinyinfer.model.weights import Dense, Embedding, Experts, FullQKNorm, LayerNorm, Linear, NoNorm, RMSNorm

HALVES = [np.float16, ml_dtypes.bfloat16]


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ops(dtype=np.float32) -> NumpyOps:
    return NumpyOps(Ledger(), dtype)


# Taking weights


@pytest.mark.parametrize("dtype", [np.float32, *HALVES])
def test_take_joins_outputs_and_puts_inputs_first(dtype):
    """Parts are read tile by tile; catches a tile written to another part's columns, or left out at the end."""
    parts = rand(7, 5), rand(3, 5, seed=1), rand(11, 5, seed=2)
    tensors = [lazy("part", array) for array in parts]
    weight = ops(dtype).take(*tensors)
    assert weight.array.dtype == dtype
    assert np.array_equal(weight.array, np.concatenate(parts).T.astype(dtype))
    assert weight.array.flags.c_contiguous, "x @ W streams W in the order of memory"


def test_take_experts_joins_within_each_expert():
    """Gate and up of one expert lie side by side, expert after expert."""
    gate, up = rand(4, 6, 5), rand(4, 6, 5, seed=1)
    taken = ops().take_experts(lazy("gate", gate), lazy("up", up))
    assert np.array_equal(taken.array, np.concatenate([gate, up], axis=1).transpose(0, 2, 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_taking_a_weight_needs_no_second_copy_of_it(dtype):
    """The promise of loading: weights plus a tile, not twice the weights."""
    rows, columns = 3000, 4000

    def read(start: int, stop: int) -> np.ndarray:
        return np.ones((stop - start, columns), np.float32)

    tensor = LazyTensor("large", (rows, columns), 4 * rows * columns, read)
    tracemalloc.start()
    weight = ops(dtype).take(tensor)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < weight.nbytes + 12_000_000, "a tile is a million numbers; a few may live at once"
    assert weight.array.min() == weight.array.max() == 1


# Products


@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_the_product_and_counts_it(bias):
    """2·T·N·M operations, and the weight's bytes once, however many rows there are."""
    x, w, b = rand(6, 5), rand(5, 7, seed=1), rand(7, seed=2) if bias else None
    o = ops()
    y = o.linear(x, Linear(Dense(w), b))
    np.testing.assert_allclose(y, x.astype(float) @ w + (b if bias else 0), atol=1e-5)
    assert o.ledger.flops == 2 * 6 * 7 * 5
    assert o.ledger.weight_bytes == 4 * (5 * 7 + 7 * bias)


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


def test_expert_linear_multiplies_each_expert_with_its_own_rows():
    """Empty experts at the start, in the middle and at the end; their weights are NaN and must not be read."""
    w, x = rand(5, 4, 3), rand(6, 4, seed=1)
    w[[0, 2, 4]] = np.nan
    y = ops().expert_linear(x, Experts(w), np.array([0, 0, 2, 2, 6, 6]))
    np.testing.assert_allclose(y, np.concatenate([x[:2] @ w[1], x[2:] @ w[3]]), atol=1e-5)


# Embedding


@pytest.mark.parametrize("dtype", [np.float32, *HALVES])
def test_embed_scales_adds_positions_and_leaves_the_table_alone(dtype):
    """Scaling in place on a view would grow the embedding with every step."""
    table, positions = rand(5, 9).astype(dtype), rand(8, 5, seed=1)
    o, before = ops(dtype), table.copy()
    tokens, where = np.array([3, 8, 3]), np.array([0, 7, 2])
    x = o.embed(tokens, where, Embedding(Dense(table), positions, 2.5))
    assert x.dtype == np.float32
    assert distance(x, 2.5 * table.T[tokens].astype(float) + positions[where]) < ROUNDING
    assert np.array_equal(table, before)
    assert o.ledger.weight_bytes == 3 * 5 * np.dtype(dtype).itemsize + 3 * 5 * 4


# Norms


def test_rms_norm_by_its_formula():
    """The mean of squares, not the variance; epsilon inside the root; a weight of each head's own if it has one."""
    x, eps = 3 + rand(4, 6, 5), 0.25
    weight = rand(6, 5, seed=1)
    expected = x / np.sqrt(np.mean(x.astype(np.float64) ** 2, axis=-1, keepdims=True) + eps) * weight
    found = ops().norm(x, RMSNorm(weight, eps))
    assert found.dtype == np.float32
    assert distance(found, expected) < ROUNDING


def test_layer_norm_by_its_formula():
    """SciPy's z-score is the norm without epsilon, weight and bias; its variance divides by n."""
    x, weight, bias = 5 + rand(4, 7), rand(7, seed=1), rand(7, seed=2)
    found = ops().norm(x, LayerNorm(weight, bias, 0.0))
    assert distance(found, scipy.stats.zscore(x.astype(np.float64), axis=-1) * weight + bias) < ROUNDING
    flat = ops().norm(np.full((1, 7), 2, np.float32), LayerNorm(weight, bias, 1e-5))
    np.testing.assert_allclose(flat, [bias], atol=1e-6)


def test_full_qk_norm_takes_all_heads_together_queries_and_keys_apart():
    """OLMoE: one root over all query heads, another over all key heads."""
    x, q, k = 2 + rand(3, 6, 5), rand(20, seed=1), rand(10, seed=2)
    found = ops().norm(x, FullQKNorm(RMSNorm(q, 0.5), RMSNorm(k, 0.25)))
    flat = x.reshape(3, 30).astype(np.float64)
    parts = [part / np.sqrt(np.mean(part**2, axis=1, keepdims=True) + eps) * weight
             for part, weight, eps in ((flat[:, :20], q, 0.5), (flat[:, 20:], k, 0.25))]  # fmt: skip
    assert distance(found, np.concatenate(parts, axis=1).reshape(x.shape)) < ROUNDING


@pytest.mark.parametrize("norm", [RMSNorm(rand(5), 1e-6), LayerNorm(rand(5), rand(5), 1e-6), NoNorm()])
def test_norms_leave_their_input_alone_and_count_their_bytes(norm):
    """The residual stream goes on behind the norm: a norm in place would change the model."""
    x, o = rand(3, 5), ops()
    before = x.copy()
    o.norm(x, norm)
    assert np.array_equal(x, before)
    assert o.ledger.weight_bytes == norm.nbytes


# Rotation


def test_rope_turns_pairs_half_a_head_apart():
    """As complex numbers: (x[e] + i·x[e + E/2]) · exp(i·position·frequency)."""
    x, positions, frequencies = rand(4, 3, 10), np.array([0, 1, 7, 1000]), rand(5, seed=1) ** 2
    found = ops().rope(x, ops().rotation(positions, frequencies))
    turned = (x[..., :5] + 1j * x[..., 5:]) * np.exp(1j * positions[:, None, None] * frequencies.astype(np.float64))
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    assert found.dtype == np.float32
    assert distance(found, expected) < 1e-4, "float32 angles of 1000 radians are good to 6e-5"
    assert np.array_equal(found[0], x[0]), "position 0 is not turned"


def test_scores_of_rotated_heads_depend_on_the_distance_only():
    """What rotary positions are for; it fails when queries and keys are turned in opposite directions."""
    q, k = rand(1, 1, 8), rand(1, 1, 8, seed=1)
    frequencies = np.array([1, 0.3, 0.1, 0.01], np.float32)

    def score(at: int, of: int) -> float:
        turn = [ops().rope(x, ops().rotation(np.array([p]), frequencies)) for x, p in ((q, at), (k, of))]
        return float((turn[0] * turn[1]).sum())

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert abs(score(9, 4) - score(4, 9)) > 0.1


# Activations


@pytest.mark.parametrize("scale", [1, 1e4])
def test_silu_is_x_times_sigmoid_without_overflow(scale):
    """exp(-x) overflows float32 below -88."""
    x = rand(4, 50) * np.float32(scale)
    with np.errstate(over="raise", invalid="raise"):
        found = ops().activate(x, "silu")
    assert distance(found, x * scipy.special.expit(x.astype(np.float64))) < ROUNDING


def test_gelu_is_the_tanh_form():
    """Within the form's known error of the exact GELU (0.0005), and much closer to its own formula."""
    x = rand(4, 200) * 3
    found, wide = ops().activate(x, "gelu_tanh"), x.astype(np.float64)
    inner = np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
    assert distance(found, wide / 2 * (1 + np.tanh(inner))) < ROUNDING
    assert np.abs(found - wide * scipy.special.ndtr(wide)).max() < 6e-4


def test_gate_activates_the_first_half_only():
    """gate_up holds the gates first; the other way round gives a model that talks nonsense."""
    x = rand(3, 14)
    before = x.copy()
    gate, up = x[:, :7].astype(np.float64), x[:, 7:]
    assert distance(ops().gate(x, "silu"), gate * scipy.special.expit(gate) * up) < ROUNDING
    assert np.array_equal(x, before)


# Attention


def test_attention_counts_every_visible_pair_exactly():
    """4·H·E for each position that a query sees: causal, in a window, in a chunk behind a cached part, in two spans."""
    config = small_config(windows=(None, 4))
    engine = make_engine(config)
    a, b = request(range(12)), request(range(12))
    forward(engine, (a, 0, 7))
    start = engine.ledger.copy()
    forward(engine, (b, 0, 5), (a, 7, 12))
    counted = engine.ledger - start
    pairs = sum(visible_pairs(5, first, window) for first in (0, 7) for window in (None, 4))
    assert counted.attention_flops == 4 * 4 * 6 * pairs
    heads_bytes = 2 * 2 * 6 * 4
    assert counted.kv_read_bytes == heads_bytes * ((5 + 12) + (5 + 12 - (7 - 4 + 1)))
    assert counted.kv_written_bytes == 2 * heads_bytes * 10


def test_attention_of_a_batch_is_that_of_its_sequences_in_order():
    """Catches: rows of one span over another's keys, or results joined in another order."""
    engine = make_engine(small_config())
    heads, o, cache = engine.model.layers[0].heads, engine.ops, engine.cache
    a, b = request(range(9)), request(range(9))
    batch = flat_batch([(a, 0, 4), (b, 0, 9)])
    q, k, v = rand(13, 4, 6), rand(13, 2, 6, seed=1), rand(13, 2, 6, seed=2)
    for seq in (a, b):
        cache.reserve(seq, 9)
    cache.append(0, k, v, batch)
    both = o.attention(q, 0, batch, cache, heads)
    for rows, seq in ((slice(0, 4), a), (slice(4, 13), b)):
        alone = flat_batch([(seq, 0, rows.stop - rows.start)])
        assert np.array_equal(o.attention(q[rows], 0, alone, cache, heads), both[rows])


def test_add_changes_the_residual_stream_in_place():
    """A new array per addition costs a prefill a tenth of its time."""
    x, change = rand(3, 4), rand(3, 4, seed=1)
    expected = x + change
    assert ops().add(x, change) is x
    assert np.array_equal(x, expected)


# Rows are worked on some at a time


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
    cos, sin = ops().rotation(np.array([5, 1, 4, 2, 3]), frequencies)
    alone = by_each_row(lambda x, cos, sin: ops().rope(x, (cos, sin)), x, cos, sin)
    assert distance(ops().rope(x, (cos, sin)), alone) < ROUNDING


def test_no_rows_are_no_work():
    """The end of a step whose logits nobody wants: the first piece of a long prompt."""
    x = np.empty((0, 5), np.float32)
    o = ops()
    assert o.norm(x, RMSNorm(rand(5), 1e-5)).shape == (0, 5)
    assert o.linear(x, Linear(Dense(rand(5, 7)))).shape == (0, 7)
    assert o.ledger.flops == 0


def test_the_cost_of_a_pass_grows_with_its_rows_but_a_row_becomes_cheaper():
    """What speculation trusts: points with straight lines between. Catches rows and times swapped, or a wrong unit."""
    costs = [ops().relative_cost(rows) for rows in range(1, 513)]
    assert costs[0] == 1.0
    assert costs[2] == pytest.approx((costs[1] + costs[3]) / 2)
    assert costs[23] == pytest.approx((costs[15] + costs[31]) / 2)
    assert all(more > fewer for fewer, more in pairwise(costs))
    assert all(2 * costs[n - 1] > costs[2 * n - 1] for n in range(1, 65))
    assert all(isinstance(cost, float) for cost in costs)
