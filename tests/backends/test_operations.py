"""The operations of every installed backend against their formulas in float64, and what each operation counts."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import scipy.special
import scipy.stats
from helpers import ROUNDING, distance, flat_batch, forward, lazy, make_engine, request, small_config, taken

from tinyinfer.loading.checkpoint import Joined
from tinyinfer.model.attention import visible_pairs
from tinyinfer.model.heads import NoCap, SoftCap
from tinyinfer.model.weights import (
    Dense,
    Embedding,
    Experts,
    FullQKNorm,
    LayerNorm,
    Linear,
    NoNorm,
    RMSNorm,
    Rotation,
)

HALVES = [np.float16, ml_dtypes.bfloat16]


def one_set(frequencies: np.ndarray) -> Rotation:
    """A rotation of one set with amplitude 1."""
    return Rotation(frequencies[None], np.ones_like(frequencies)[None])


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, *HALVES])
def test_take_joins_outputs_and_puts_inputs_first(ops, dtype):
    """Parts are read tile by tile; catches a tile written to another part's columns, or left out at the end."""
    parts = rand(7, 5), rand(3, 5, seed=1), rand(11, 5, seed=2)
    tensors = [lazy("part", array) for array in parts]
    weight = ops(dtype).take(Joined(tuple(tensors)))
    assert weight.array.dtype == dtype
    assert np.array_equal(weight.dequantize(slice(0, 21)), np.concatenate(parts).T.astype(dtype).astype(np.float32))
    if isinstance(weight, Dense):
        assert weight.array.flags.c_contiguous, "x @ W streams W in the order of memory"


def test_experts_are_joined_each_by_itself(ops):
    """Gate and up of one expert lie side by side, in a weight of the expert's own."""
    gate, up = rand(4, 6, 5), rand(4, 6, 5, seed=1)
    parts = lazy("gate", gate), lazy("up", up)
    for e in range(4):
        weight = ops().take(Joined(parts, e))
        assert np.array_equal(weight.dequantize(slice(0, 12)), np.concatenate([gate[e], up[e]]).T)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_the_product_and_counts_it(ops, bias):
    """2·T·N·M operations, and the weight's bytes once, however many rows there are."""
    x, w, b = rand(6, 5), rand(5, 7, seed=1), rand(7, seed=2) if bias else None
    o = ops()
    y = o.linear(x, taken(Linear(Dense(w), b), o))
    np.testing.assert_allclose(y, x.astype(float) @ w + (b if bias else 0), atol=1e-5)
    assert o.ledger.flops == 2 * 6 * 7 * 5
    assert o.ledger.weight_bytes == 4 * (5 * 7 + 7 * bias)


def test_experts_multiply_each_row_with_its_own_experts(ops):
    """Experts that no row chose, first, in the middle and last, hold NaN and must not be read."""
    gate_up, down, x = rand(5, 4, 6), rand(5, 3, 4, seed=2), rand(6, 4, seed=1)
    gate_up[[0, 2, 4]] = np.nan
    chosen, weights = np.array([[1, 3], [3, 1]] * 3), rand(6, 2, seed=3)
    held = (Experts(tuple(Linear(Dense(w)) for w in stack)) for stack in (gate_up, down))
    o = ops()
    y = o.experts(x, chosen, weights, *(taken(part, o) for part in held), "silu")
    expected = np.zeros((6, 4))
    for t, k in np.ndindex(6, 2):
        gate, up = np.split(x[t].astype(np.float64) @ gate_up[chosen[t, k]], 2)
        expected[t] += weights[t, k] * ((gate * scipy.special.expit(gate) * up) @ down[chosen[t, k]])
    np.testing.assert_allclose(y, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, *HALVES])
def test_embed_scales_adds_positions_and_leaves_the_table_alone(ops, dtype):
    """Scaling in place on a view would grow the embedding with every step."""
    table, positions = rand(5, 9).astype(dtype), rand(8, 5, seed=1)
    o, before = ops(dtype), table.copy()
    tokens, where = np.array([3, 8, 3]), np.array([0, 7, 2])
    x = o.embed(tokens, where, Embedding(Dense(table), positions, 2.5))
    assert x.dtype == np.float32
    assert distance(x, 2.5 * table.T[tokens].astype(float) + positions[where]) < ROUNDING
    assert np.array_equal(table, before)
    assert o.ledger.weight_bytes == 3 * 5 * np.dtype(dtype).itemsize + 3 * 5 * 4


def test_rms_norm_by_its_formula(ops):
    """The mean of squares, not the variance; epsilon inside the root; a weight of each head's own if it has one."""
    x, eps = 3 + rand(4, 6, 5), 0.25
    weight = rand(6, 5, seed=1)
    expected = x / np.sqrt(np.mean(x.astype(np.float64) ** 2, axis=-1, keepdims=True) + eps) * weight
    found = ops().norm(x, RMSNorm(weight, eps))
    assert found.dtype == np.float32
    assert distance(found, expected) < ROUNDING


def test_layer_norm_by_its_formula(ops):
    """SciPy's z-score is the norm without epsilon, weight and bias; its variance divides by n."""
    x, weight, bias = 5 + rand(4, 7), rand(7, seed=1), rand(7, seed=2)
    found = ops().norm(x, LayerNorm(weight, bias, 0.0))
    assert distance(found, scipy.stats.zscore(x.astype(np.float64), axis=-1) * weight + bias) < ROUNDING
    flat = ops().norm(np.full((1, 7), 2, np.float32), LayerNorm(weight, bias, 1e-5))
    np.testing.assert_allclose(flat, [bias], atol=1e-6)


def test_full_qk_norm_takes_all_heads_together_queries_and_keys_apart(ops):
    """OLMoE: one root over all query heads, another over all key heads."""
    x, q, k = 2 + rand(3, 6, 5), rand(20, seed=1), rand(10, seed=2)
    found = ops().norm(x, FullQKNorm(RMSNorm(q, 0.5), RMSNorm(k, 0.25)))
    flat = x.reshape(3, 30).astype(np.float64)
    parts = [part / np.sqrt(np.mean(part**2, axis=1, keepdims=True) + eps) * weight
             for part, weight, eps in ((flat[:, :20], q, 0.5), (flat[:, 20:], k, 0.25))]  # fmt: skip
    assert distance(found, np.concatenate(parts, axis=1).reshape(x.shape)) < ROUNDING


@pytest.mark.parametrize("norm", [RMSNorm(rand(5), 1e-6), LayerNorm(rand(5), rand(5), 1e-6), NoNorm()])
def test_norms_leave_their_input_alone_and_count_their_bytes(ops, norm):
    """The residual stream goes on behind the norm: a norm in place would change the model."""
    x, o = rand(3, 5), ops()
    before = x.copy()
    o.norm(x, norm)
    assert np.array_equal(x, before)
    assert o.ledger.weight_bytes == norm.nbytes


def test_rope_turns_pairs_half_a_head_apart(ops):
    """As complex numbers: (x[e] + i·x[e + E/2]) · exp(i·position·frequency)."""
    x, positions, frequencies = rand(4, 3, 10), np.array([0, 1, 7, 1000]), rand(5, seed=1) ** 2
    found = ops().rope(x, ops().rotation(positions, np.zeros(4, int), one_set(frequencies)))
    turned = (x[..., :5] + 1j * x[..., 5:]) * np.exp(1j * positions[:, None, None] * frequencies.astype(np.float64))
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    assert found.dtype == np.float32
    assert distance(found, expected) < 1e-4, "float32 angles of 1000 radians are good to 6e-5"
    assert np.array_equal(found[0], x[0]), "position 0 is not turned"


def test_each_row_turns_by_its_own_set_of_frequencies_and_amplitudes(ops):
    """Two sets, as a family has whose frequencies depend on the sequence's length. Catches rows of the wrong set.

    Frequency 0 with amplitude 1 leaves a pair as it is; an amplitude multiplies cosine and sine alike.
    """
    frequencies = np.array([[1, 0.3, 0], [0.5, 0.1, 0]], np.float32)
    amplitudes = np.array([[1, 1, 1], [2, 3, 1]], np.float32)
    x, positions, sets = rand(4, 3, 6), np.array([5, 5, 9, 9]), np.array([0, 1, 1, 0])
    found = ops().rope(x, ops().rotation(positions, sets, Rotation(frequencies, amplitudes)))
    for t in range(4):
        alone = Rotation(frequencies[sets[t]][None], np.ones((1, 3), np.float32))
        turned = ops().rope(x[t : t + 1], ops().rotation(positions[t : t + 1], np.zeros(1, int), alone))
        assert distance(found[t], turned[0] * np.tile(amplitudes[sets[t]], 2)) < ROUNDING
        np.testing.assert_array_equal(found[t][:, [2, 5]], x[t][:, [2, 5]])


def test_scores_of_rotated_heads_depend_on_the_distance_only(ops):
    """What rotary positions are for; it fails when queries and keys are turned in opposite directions."""
    q, k = rand(1, 1, 8), rand(1, 1, 8, seed=1)
    frequencies = np.array([1, 0.3, 0.1, 0.01], np.float32)

    def score(at: int, of: int) -> float:
        places, one = np.array([at, of]), np.zeros(2, int)
        cos, sin = ops().rotation(places, one, one_set(frequencies))
        turn = [ops().rope(x, (cos[i : i + 1], sin[i : i + 1])) for i, x in enumerate((q, k))]
        return float((turn[0] * turn[1]).sum())

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert abs(score(9, 4) - score(4, 9)) > 0.1


@pytest.mark.parametrize("scale", [1, 1e4])
def test_silu_is_x_times_sigmoid_without_overflow(ops, scale):
    """exp(-x) overflows float32 below -88."""
    x = rand(4, 50) * np.float32(scale)
    with np.errstate(over="raise", invalid="raise"):
        found = ops().activate(x, "silu")
    assert distance(found, x * scipy.special.expit(x.astype(np.float64))) < ROUNDING


def test_gelu_is_the_tanh_form(ops):
    """Within the form's known error of the exact GELU (0.0005), and much closer to its own formula."""
    x = rand(4, 200) * 3
    found, wide = ops().activate(x, "gelu_tanh"), x.astype(np.float64)
    inner = np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
    assert distance(found, wide / 2 * (1 + np.tanh(inner))) < ROUNDING
    assert np.abs(found - wide * scipy.special.ndtr(wide)).max() < 6e-4


def test_gelu_is_the_exact_form(ops):
    """x · Φ(x) by SciPy, over all sizes. The tanh form is 5e-4 off, which a model of 16 layers shows in its logits."""
    x = np.concatenate([rand(2000) * 3, [-1e4, -30, -1e-3, 0, 1e-3, 30, 1e4]]).astype(np.float32)[None]
    with np.errstate(over="raise", invalid="raise"):
        found = ops().activate(x, "gelu")
    wide = x.astype(np.float64)
    np.testing.assert_allclose(found, wide * scipy.special.ndtr(wide), atol=1e-6, rtol=3e-7)
    assert found.dtype == np.float32


def test_the_clamped_gate_by_its_formula(ops):
    """(up + 1) · gate · sigmoid(1.702 gate); the gate is clamped above only, up on both sides (gpt-oss)."""
    x = rand(5, 14) * 9
    gate, up = x[:, :7].astype(np.float64), x[:, 7:].astype(np.float64)
    assert gate.max() > 7
    assert gate.min() < -7, "the test needs numbers beyond all clamps"
    assert up.max() > 7
    assert up.min() < -7
    gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)
    expected = (up + 1) * gate * scipy.special.expit(1.702 * gate)
    before = x.copy()
    found = ops().gate(x, "clamped")
    assert distance(found, expected) < ROUNDING
    assert found.dtype == np.float32
    assert np.array_equal(x, before)


def test_add_scales_the_change_and_not_the_row(ops):
    """Granite's residual multiplier; scaled with the row, each layer would shrink all that came before."""
    x, change = rand(3, 4), rand(3, 4, seed=1)
    expected = x + 0.25 * change.astype(np.float64)
    assert distance(ops().add(x.copy(), change, 0.25), expected) < ROUNDING


def test_logits_are_scaled_and_then_capped(ops):
    """cap(scale · logits): Granite's and Gemma 2's order. A cap of scaled logits is not a scaled cap."""
    x = rand(3, 4) * 50
    o = ops()
    found = o.cap(o.scale(x, 0.5), SoftCap(30.0))
    assert distance(found, 30 * np.tanh(0.5 * x.astype(np.float64) / 30)) < ROUNDING
    assert found.dtype == np.float32
    assert np.array_equal(o.cap(x, NoCap()), x)


def test_gate_activates_the_first_half_only(ops):
    """gate_up holds the gates first; the other way round gives a model that talks nonsense."""
    x = rand(3, 14)
    before = x.copy()
    gate, up = x[:, :7].astype(np.float64), x[:, 7:]
    assert distance(ops().gate(x, "silu"), gate * scipy.special.expit(gate) * up) < ROUNDING
    assert np.array_equal(x, before)


def test_attention_counts_every_visible_pair_exactly(ops):
    """4·H·E for each position that a query sees: causal, in a window, in a chunk behind a cached part, in two spans."""
    config = small_config(windows=(None, 4))
    engine = make_engine(config, ops=ops())
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


def test_attention_of_a_batch_is_that_of_its_sequences_in_order(ops):
    """Catches: rows of one span over another's keys, or results joined in another order."""
    engine = make_engine(small_config(), ops=ops())
    heads, o, cache = engine.model.layers[0].mixer.heads, engine.ops, engine.cache
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


def test_no_rows_are_no_work(ops):
    """The end of a step whose logits are not wanted: the first piece of a long prompt."""
    x = np.empty((0, 5), np.float32)
    o = ops()
    assert o.norm(x, RMSNorm(rand(5), 1e-5)).shape == (0, 5)
    assert o.linear(x, taken(Linear(Dense(rand(5, 7))), o)).shape == (0, 7)
    assert o.ledger.flops == 0
