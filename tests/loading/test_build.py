"""From canonical names to a model and back: what is fused in which order, and null objects for what a family lacks."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from helpers import checkpoint_of, random_tensors, small_config
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import build_model
from tinyinfer.loading.export import export
from tinyinfer.model.config import ModelConfig, MoEConfig, RopeConfig
from tinyinfer.model.layers import ParallelLayer
from tinyinfer.model.mlp import GatedMLP
from tinyinfer.model.moe import SharedMoE
from tinyinfer.model.weights import FullQKNorm, LayerNorm, NoNorm, RMSNorm

LOCAL, GLOBAL = RopeConfig(theta=100.0), RopeConfig(theta=1e6)
KINDS = {
    "llama": small_config(qkv_bias=True, o_bias=True, mlp_bias=True),
    "tied": small_config(tied_head=True, qk_norm="head", post_norms=True),
    "gpt2": small_config(norm="layer", gated=False, learned_positions=True, qkv_bias=True, mlp_bias=True),
    "olmoe": small_config(qk_norm="full", experts=MoEConfig(5, 2, 12)),
    "gpt_oss": small_config(mlp_bias=True, sinks=True, experts=MoEConfig(5, 2, 12)),
    "olmo2": small_config(pre_norms=False, post_norms=True, qk_norm="full"),
    "qwen2_moe": small_config(num_layers=3, experts=MoEConfig(4, 2, 10, shared_size=8, dense_layers=(1,))),
    "gpt_neox": small_config(norm="layer", gated=False, parallel=True, qkv_bias=True, o_bias=True, mlp_bias=True),
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
        small = {name for name, a in tensors.items() if a.ndim == 1 or name == "positions" or name.endswith(".bias")}
        matrices = sum(a.size for name, a in tensors.items() if name not in small)
        assert build(config)[0].nbytes - model.nbytes == 2 * matrices


@st.composite
def families(draw: st.DrawFn) -> ModelConfig:
    """A family that may or may not exist: every choice of a ModelConfig that decides which tensors there are."""
    heads, shared = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dense = st.sampled_from([(), (0,), (0, 1, 2)])
    width, shared_width = st.integers(1, 9), st.integers(0, 3)
    mixture = st.builds(MoEConfig, st.integers(1, 4), st.just(1), width, st.booleans(), shared_width, dense)
    experts, parallel = draw(st.none() | mixture), draw(st.booleans())
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
        pre_norms=draw(st.booleans()),
        post_norms=False if parallel else draw(st.booleans()),
        parallel=parallel,
        sinks=draw(st.booleans()),
        learned_positions=draw(st.booleans()),
        tied_head=draw(st.booleans()),
        qkv_bias=draw(st.booleans()),
        o_bias=draw(st.booleans()),
        gated=experts is not None or draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
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
        assert np.array_equal(mlp.gate_up.linears[e].weight.array, np.concatenate(parts).T)
        assert np.array_equal(mlp.down.linears[e].weight.array, t["layers.1.down"][e].T)


def test_biases_of_experts_are_fused_as_their_matrices_are():
    """The gate's above the up's, of each expert by itself; catches the biases of expert 0 for all."""
    model, t = build(KINDS["gpt_oss"])
    mlp = model.layers[1].mlp
    for e in range(5):
        gate_up = np.concatenate([t["layers.1.gate.bias"][e], t["layers.1.up.bias"][e]])
        assert np.array_equal(mlp.gate_up.linears[e].bias, gate_up)
        assert np.array_equal(mlp.down.linears[e].bias, t["layers.1.down.bias"][e])


def test_dense_layers_among_mixtures_have_an_mlp_of_their_own_width():
    """Layer 1 of three; catches a mixture where the file has none, or the experts' width for the dense MLP."""
    model, _ = build(KINDS["qwen2_moe"])
    assert [type(layer.mlp) for layer in model.layers] == [SharedMoE, GatedMLP, SharedMoE]
    assert model.layers[1].mlp.down.weight.shape == (20, 28)


def test_sinks_belong_to_their_query_heads():
    """(K, H/K, 1): the query heads that share a key head are neighbours."""
    model, t = build(KINDS["gpt_oss"])
    for i, layer in enumerate(model.layers):
        assert np.array_equal(layer.mixer.heads.sinks.scores, t[f"layers.{i}.sinks"].reshape(2, 2, 1))


def test_a_parallel_layer_has_both_norms_and_no_norm_after():
    """GPT-NeoX: two norms of the same rows, in the places of the file's names."""
    model, t = build(KINDS["gpt_neox"])
    layer = model.layers[1]
    assert isinstance(layer, ParallelLayer)
    assert np.array_equal(layer.attention_norm.weight, t["layers.1.attention_norm"])
    assert np.array_equal(layer.mlp_norm.weight, t["layers.1.mlp_norm"])


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
