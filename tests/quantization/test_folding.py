"""Folding moves a scale from a layer's inputs to what makes them, and changes no logits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import ROUNDING, distance, forward, make_engine, request, small_config

from tinyinfer.backends.packed import GRID, W8A8, Quantized
from tinyinfer.model.weights import Dense, Grid, Linear, NoNorm
from tinyinfer.quantization.calibration import linears, with_linear
from tinyinfer.quantization.folding import divide_rows, fold, foldable, multiply_rows
from tinyinfer.quantization.rtn import round_to_nearest

FAMILIES = {
    "llama": {},
    "biases": {"qkv_bias": True, "o_bias": True, "mlp_bias": True},
    "gpt2": {"norm": "layer", "gated": False, "learned_positions": True, "activation": "gelu_tanh", "mlp_bias": True,
             "rope": (None, None)},
    "one key for each query": {"num_kv_heads": 4, "qkv_bias": True},
    "gemma3": {"post_norms": True, "qk_norm": "head", "activation": "gelu_tanh"},
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_folding_alone_changes_no_logits(family):
    """A bias forgotten, gate divided instead of up, queries instead of values, the wrong norm: all would show."""
    engine = make_engine(small_config(**FAMILIES[family]))
    tokens, rng = list(range(3, 20)), np.random.default_rng(0)
    [expected] = forward(engine, (request(tokens), 0, len(tokens)))
    layers, folded = [], set()
    for layer in engine.model.layers:
        scales = {}
        for name, linear in linears(layer):
            if not foldable(layer, name):
                continue
            scales[name] = rng.uniform(0.2, 5, linear.weight.shape[1]).astype(np.float32)
            weight = Dense(linear.weight.array * scales[name][:, None])
            layer = with_linear(layer, name, Linear(weight, linear.bias))
        layers.append(fold(layer, scales))
        folded |= scales.keys()
    engine.model = replace(engine.model, layers=tuple(layers))
    [found] = forward(engine, (request(tokens), 0, len(tokens)))
    assert distance(found, expected) <= ROUNDING
    known = {"gpt2": {"qkv", "up"}, "one key for each query": {"qkv", "gate_up", "down", "o"}}
    assert folded == known.get(family, {"qkv", "gate_up", "down"})


def test_what_cannot_be_divided_exactly_is_not():
    """A GELU between two linear layers, query heads that share values, a norm that is not there."""
    [layer, _] = make_engine(small_config(gated=False)).model.layers
    assert [name for name, _ in linears(layer) if foldable(layer, name)] == ["qkv", "up"]
    bare = replace(layer, attention_norm=NoNorm(), mlp_norm=NoNorm())
    assert not [name for name, _ in linears(bare) if foldable(bare, name)]


@pytest.mark.parametrize("grid", [Grid(4, 8, False), Grid(8, 8, True), GRID], ids=str)
def test_quantized_rows_keep_their_codes(grid):
    """Rounding again what was rounded would lose twice; only float16 steps may differ, in their last bit."""
    w = np.random.default_rng(1).standard_normal((70, 24)).astype(np.float32)
    codes, factors = round_to_nearest(w, grid), np.random.default_rng(2).uniform(0.1, 9, 70).astype(np.float32)
    kind = W8A8 if grid is GRID else Quantized
    weight = multiply_rows(kind.pack(codes, np), factors)
    assert type(weight) is kind
    np.testing.assert_array_equal(weight.unpack().q, codes.q)
    expected = (codes.dequantize() * factors[:, None]).T
    np.testing.assert_allclose(weight.dequantize(slice(0, 70)), expected, atol=2e-3 * np.abs(expected).max())


def test_only_the_last_outputs_are_divided():
    """Values stand last in qkv, up stands last in gate_up."""
    linear = Linear(Dense(np.ones((3, 5), dtype=np.float32)), np.full(5, 8, dtype=np.float32))
    divided = divide_rows(linear, np.array([2, 4], dtype=np.float32))
    np.testing.assert_array_equal(divided.weight.array[0], [1, 1, 1, 0.5, 0.25])
    np.testing.assert_array_equal(divided.bias, [8, 8, 8, 4, 2])
