"""From canonical names to a model and back: what is fused in which order, and null objects for what a family lacks."""

from __future__ import annotations

import math
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from helpers import checkpoint_of, random_tensors, small_config
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import build_model, frequencies
from tinyinfer.loading.export import export
from tinyinfer.model.config import ModelConfig, MoEConfig, RopeConfig
from tinyinfer.model.weights import FullQKNorm, LayerNorm, NoNorm, RMSNorm

LOCAL, GLOBAL = RopeConfig(theta=100.0), RopeConfig(theta=1e6)
KINDS = {
    "llama": small_config(qkv_bias=True, o_bias=True, mlp_bias=True),
    "tied": small_config(tied_head=True, qk_norm="head", post_norms=True),
    "gpt2": small_config(norm="layer", gated=False, learned_positions=True, qkv_bias=True, mlp_bias=True),
    "olmoe": small_config(qk_norm="full", experts=MoEConfig(5, 2, 12)),
}


def build(config, dtype=np.float32, on_layer=lambda done, of: None):
    tensors = random_tensors(config)
    return build_model(checkpoint_of(config, tensors), NumpyOps(Ledger(), dtype), on_layer), tensors


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_held_once(kind):
    """Bytes of the model = bytes of its tensors, but that a q/k norm shared by heads is repeated for each of them.

    Catches: a tied head held or counted twice, a bias forgotten, float64.
    """
    config = KINDS[kind]
    model, tensors = build(config)
    expected = sum(array.size for array in tensors.values())
    if config.qk_norm == "head":
        repeats = config.num_heads + config.num_kv_heads - 2
        expected += config.num_layers * repeats * config.head_dim
    assert model.nbytes == 4 * expected
    assert (model.head.weight is model.embedding.table) == config.tied_head


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_halves_matrices_and_nothing_else(dtype):
    """Norms, biases and learned positions are small and stay float32."""
    for config in KINDS.values():
        model, tensors = build(config, dtype)
        matrices = sum(a.size for name, a in tensors.items() if a.ndim > 1 and name != "positions")
        assert build(config)[0].nbytes - model.nbytes == 2 * matrices


@st.composite
def families(draw: st.DrawFn) -> ModelConfig:
    """A family that may or may not exist: every choice of a ModelConfig that decides which tensors there are."""
    heads, shared = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    mixture = st.builds(MoEConfig, st.integers(1, 4), st.just(1), st.integers(1, 9))
    experts = draw(st.none() | mixture)
    return small_config(
        vocab_size=draw(st.integers(1, 9)),
        hidden_size=draw(st.integers(1, 9)),
        intermediate_size=draw(st.integers(1, 9)),
        head_dim=2 * draw(st.integers(1, 3)),
        num_layers=draw(st.integers(1, 3)),
        num_heads=heads * shared,
        num_kv_heads=heads,
        norm=draw(st.sampled_from(["rms", "layer"])),
        qk_norm=draw(st.sampled_from(["none", "head", "full"])),
        post_norms=draw(st.booleans()),
        learned_positions=draw(st.booleans()),
        tied_head=draw(st.booleans()),
        qkv_bias=draw(st.booleans()),
        o_bias=draw(st.booleans()),
        gated=experts is not None or draw(st.booleans()),
        mlp_bias=experts is None and draw(st.booleans()),
        experts=experts,
    )


@settings(max_examples=60)
@given(config=families())
def test_a_model_exported_is_its_checkpoint_bit_for_bit(config):
    """Catches a tensor forgotten or written twice, outputs cut in the wrong place, a bias or a norm of another part."""
    model, tensors = build(config)
    exported = list(export(model))
    assert sorted(tensor.name for tensor in exported) == sorted(tensors)
    for tensor in exported:
        [array] = tensor.arrays()
        assert [(tensor.name, array.dtype, array.shape)] == tensor.layout()
        assert array.dtype == np.float32
        assert np.array_equal(array, tensors[tensor.name]), tensor.name


def test_queries_keys_and_values_are_fused_in_this_order():
    """Their biases too; transformer.py splits the product in the same places."""
    model, t = build(KINDS["llama"])
    for i, layer in enumerate(model.layers):
        parts = [t[f"layers.{i}.{name}"] for name in "qkv"]
        assert np.array_equal(layer.mixer.qkv.weight.array, np.concatenate(parts).T)
        assert np.array_equal(layer.mixer.qkv.bias, np.concatenate([t[f"layers.{i}.{name}.bias"] for name in "qkv"]))
        gate_up = [t[f"layers.{i}.{name}"] for name in ("gate", "up")]
        assert np.array_equal(layer.mlp.gate_up.weight.array, np.concatenate(gate_up).T)


def test_experts_are_fused_within_each_expert():
    """Catches: gates of all experts before the ups of all experts."""
    model, t = build(KINDS["olmoe"])
    mlp = model.layers[1].mlp
    for e in range(5):
        parts = t["layers.1.gate"][e], t["layers.1.up"][e]
        assert np.array_equal(mlp.gate_up.matrices[e].array, np.concatenate(parts).T)
        assert np.array_equal(mlp.down.matrices[e].array, t["layers.1.down"][e].T)


def test_a_norm_shared_by_heads_is_repeated_for_queries_then_keys():
    """(H+K, E): one operation then norms both; swapped, queries would get the keys' weight."""
    model, t = build(KINDS["tied"])
    weight = model.layers[0].mixer.qk_norm.weight
    assert np.array_equal(weight, np.stack([t["layers.0.q_norm"]] * 4 + [t["layers.0.k_norm"]] * 2))


def test_what_a_family_lacks_is_a_norm_that_does_nothing():
    """The transformer has no branches because of these."""
    kinds = {kind: build(config)[0].layers[0] for kind, config in KINDS.items()}
    assert isinstance(kinds["llama"].mixer.qk_norm, NoNorm)
    assert isinstance(kinds["llama"].post_mlp_norm, NoNorm)
    assert isinstance(kinds["tied"].post_attention_norm, RMSNorm)
    assert isinstance(kinds["gpt2"].attention_norm, LayerNorm)
    assert isinstance(kinds["olmoe"].mixer.qk_norm, FullQKNorm)


def test_layers_of_one_rope_share_a_rotation():
    """Gemma's local and global layers: two rotations for any number of layers, each layer pointing at its own."""
    config = small_config(num_layers=4, rope=(LOCAL, LOCAL, GLOBAL, LOCAL), windows=(3, 3, None, 3))
    model, _ = build(config)
    assert [layer.mixer.rotation for layer in model.layers] == [0, 0, 1, 0]
    assert [layer.mixer.heads.window for layer in model.layers] == [3, 3, None, 3]
    assert len(model.rotations) == 2
    for rotation, rope in zip(model.rotations, (LOCAL, GLOBAL), strict=True):
        [found] = rotation.frequencies
        np.testing.assert_array_equal(rotation.amplitudes, np.ones((1, 3)))
        np.testing.assert_allclose(found, [rope.theta ** (-2 * i / 6) for i in range(3)], rtol=1e-6)


def test_progress_is_reported_layer_by_layer():
    """What the progress bar shows: it reaches the end, and counts what is done rather than what begins."""
    seen: list[tuple[int, int]] = []
    build(small_config(num_layers=3), on_layer=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_frequencies_without_rope_turn_nothing():
    """Cosine 1, sine 0: a family without rotary positions needs no branch."""
    assert np.array_equal(frequencies(None, 10), np.zeros(5))


@pytest.mark.parametrize("size", [2, 64, 128])
@pytest.mark.parametrize("theta", [10000.0, 5e5])
def test_frequencies_are_powers_of_theta(size, theta):
    """1 / theta^(2i/E), in float32: an error of the exponent grows with the position."""
    expected = [theta ** (-2 * i / size) for i in range(size // 2)]
    found = frequencies(RopeConfig(theta=theta), size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_linear_scaling_and_given_divisors_slow_the_rotation():
    """Divisors come one per frequency (GGUF's rope_freqs) and replace the scaling."""
    plain = frequencies(RopeConfig(), 8)
    np.testing.assert_allclose(frequencies(RopeConfig(scaling="linear", factor=4.0), 8), plain / 4)
    divided = frequencies(RopeConfig(divisors=(1.0, 2.0, 4.0, 8.0)), 8)
    assert divided.dtype == np.float32
    np.testing.assert_allclose(divided, plain / [1, 2, 4, 8])


def test_llama3_scaling_by_its_definition():
    """Wavelengths below 8192/4 stay, above 8192/1 are stretched 8 times, between them blend; in float64 here."""
    rope = RopeConfig(theta=5e5, scaling="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
    plain = frequencies(replace(rope, scaling="none"), 128).astype(np.float64)
    found = frequencies(rope, 128)
    for f, scaled in zip(plain, found, strict=True):
        wavelength = 2 * math.pi / f
        if wavelength < 8192 / 4.0:
            expected = f
        elif wavelength > 8192 / 1.0:
            expected = f / 8.0
        else:
            smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
            expected = (1 - smooth) * f / 8.0 + smooth * f
        assert scaled == pytest.approx(expected, rel=1e-5)
    assert found[0] == plain[0]
    assert found[-1] == pytest.approx(plain[-1] / 8)
    assert len({round(float(a / b), 3) for a, b in zip(plain, found, strict=True)}) > 3, "some frequencies blend"
