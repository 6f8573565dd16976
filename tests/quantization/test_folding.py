"""Folding moves a scale from a layer's inputs to what makes them, and changes no logits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import ROUNDING, distance, forward, make_engine, request, small_config

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.backends.packed import W8A8, Packed
from tinyinfer.ledger import Ledger
from tinyinfer.model.config import RopeConfig
from tinyinfer.model.quantized_matrix import W8A8_SCHEME, QuantScheme
from tinyinfer.model.visit import with_matrices
from tinyinfer.model.weights import Dense, Linear, NoNorm
from tinyinfer.quantization.calibration import named
from tinyinfer.quantization.folding import divide_rows, fold, foldable, multiply_rows
from tinyinfer.quantization.rtn import round_to_nearest

FAMILIES = {
    "llama": {},
    "biases": {"qkv_bias": True, "o_bias": True, "mlp_bias": True},
    "gpt2": {"norm": "layer", "gated": False, "learned_positions": True, "activation": "gelu_tanh", "mlp_bias": True,
             "rope": (None, None)},
    "one key for each query": {"num_kv_heads": 4, "qkv_bias": True},
    "gemma3": {"post_norms": True, "qk_norm": "head", "activation": "gelu_tanh"},
    "gemma2": {"post_norms": True, "activation": "gelu_tanh", "score_cap": 0.5, "logit_cap": 2.0, "num_kv_heads": 4},
    "olmo2": {"post_norms": True, "pre_norms": False, "qk_norm": "full"},
    "olmo2 with all key heads": {"post_norms": True, "pre_norms": False, "num_kv_heads": 4},
    "gpt_neox": {"parallel": True, "norm": "layer", "gated": False, "activation": "gelu", "qkv_bias": True,
                 "o_bias": True, "mlp_bias": True, "num_kv_heads": 4, "rope": (RopeConfig(size=2),) * 2},
    "granite": {"residual_scale": 0.3, "logit_scale": 0.2, "embedding_scale": 3.0},
    "sinks": {"sinks": True, "num_kv_heads": 4, "qkv_bias": True, "o_bias": True, "windows": (3, None)},
    "a clamped gate": {"activation": "clamped", "mlp_bias": True},
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_folding_alone_changes_no_logits(family):
    """A bias forgotten, gate divided instead of up, queries instead of values, the wrong norm: all would show.

    So would a scale folded into a norm that is not there (OLMo-2), into the other branch's norm (GPT-NeoX), or into an
    `up` that is clamped before it is a factor (gpt-oss).
    """
    engine = make_engine(small_config(**FAMILIES[family]))
    tokens, rng = list(range(3, 20)), np.random.default_rng(0)
    [expected] = forward(engine, (request(tokens), 0, len(tokens)))
    layers, folded = [], set()
    for layer in engine.model.layers:
        scales = {}
        for name, linear in named(layer):
            if not foldable(layer, name):
                continue
            scales[name] = rng.uniform(0.2, 5, linear.weight.shape[1]).astype(np.float32)
            weight = Dense(linear.weight.array * scales[name][:, None])
            layer = with_matrices(layer, {name: Linear(weight, linear.bias)})
        layers.append(fold(layer, scales, engine.ops))
        folded |= scales.keys()
    engine.model = replace(engine.model, layers=tuple(layers))
    [found] = forward(engine, (request(tokens), 0, len(tokens)))
    assert distance(found, expected) <= ROUNDING
    all_four = {"qkv", "gate_up", "down", "o"}
    known = {
        "gpt2": {"qkv", "up"}, "one key for each query": all_four, "gemma2": all_four, "sinks": all_four,
        "olmo2": {"down"}, "olmo2 with all key heads": {"down", "o"}, "gpt_neox": {"qkv", "up", "o"},
        "a clamped gate": {"qkv", "gate_up"},
    }  # fmt: skip
    assert folded == known.get(family, {"qkv", "gate_up", "down"})


def test_what_cannot_be_divided_exactly_is_not():
    """A GELU between two linear layers, query heads that share values, a norm that is not there, a clamped gate."""
    [layer, _] = make_engine(small_config(gated=False)).model.layers
    assert [name for name, _ in named(layer) if foldable(layer, name)] == ["qkv", "up"]
    bare = replace(layer, attention_norm=NoNorm(), mlp_norm=NoNorm())
    assert not [name for name, _ in named(bare) if foldable(bare, name)]


@pytest.mark.parametrize("scheme", [QuantScheme(4, 8, False), QuantScheme(8, 8, True), W8A8_SCHEME], ids=str)
def test_quantized_rows_keep_their_codes(scheme):
    """Rounding again what was rounded would lose twice; only float16 scales may differ, in their last bit."""
    w = np.random.default_rng(1).standard_normal((70, 24)).astype(np.float32)
    matrix, factors = round_to_nearest(w, scheme), np.random.default_rng(2).uniform(0.1, 9, 70).astype(np.float32)
    ops, kind = NumpyOps(Ledger()), W8A8 if scheme == W8A8_SCHEME else Packed
    weight = multiply_rows(kind.pack(matrix, np), factors, ops)
    assert type(weight) is kind
    np.testing.assert_array_equal(weight.matrix().codes, matrix.codes)
    expected = (matrix.dequantize() * factors[:, None]).T
    np.testing.assert_allclose(weight.dequantize(slice(0, 70)), expected, atol=2e-3 * np.abs(expected).max())


def test_only_the_last_outputs_are_divided():
    """Values are last in qkv, and up is last in gate_up."""
    linear = Linear(Dense(np.ones((3, 5), dtype=np.float32)), np.full(5, 8, dtype=np.float32))
    divided = divide_rows(linear, np.array([2, 4], dtype=np.float32), NumpyOps(Ledger()))
    np.testing.assert_array_equal(divided.weight.array[0], [1, 1, 1, 0.5, 0.25])
    np.testing.assert_array_equal(divided.bias, [8, 8, 8, 4, 2])
