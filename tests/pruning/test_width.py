"""pruning/width.py: a narrower model is the one that sliced tensors make, and the inactive parts are what goes."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import ROUNDING, checkpoint_of, distance, random_tensors, small_config
from numpy.testing import assert_allclose, assert_array_equal

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import SwitchError
from tinyinfer.kv_cache.base import CacheSpec, NoCache
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import build_model, load_model
from tinyinfer.model.config import ModelConfig, MoEConfig
from tinyinfer.model.transformer import Model, transformer
from tinyinfer.pruning.width import activity, keep_heads, keep_hidden, keep_neurons, narrow, neurons
from tinyinfer.quantization.calibration import rows_of

WINDOWS = np.random.default_rng(0).integers(0, 31, (3, 12))
BIASES: dict[str, Any] = {"qkv_bias": True, "o_bias": True, "mlp_bias": True}
CONFIGS = {
    "llama": small_config(),
    "biases": small_config(num_heads=6, num_kv_heads=3, **BIASES),
    "qwen3": small_config(num_heads=6, num_kv_heads=3, qk_norm="head", tied_head=True),
    "gemma": small_config(
        num_heads=3, num_kv_heads=3, qk_norm="head", tied_head=True, post_norms=True, activation="gelu_tanh",
        embedding_scale=float(np.float32(20**0.5)),
    ),
    "gemma_untied": small_config(post_norms=True, embedding_scale=float(np.float32(20**0.5))),
    "sinks": small_config(num_heads=6, num_kv_heads=3, sinks=True, **BIASES),
    "gpt2": small_config(
        num_heads=3, num_kv_heads=3, norm="layer", gated=False, learned_positions=True, tied_head=True,
        activation="gelu_tanh", rope=(None, None), **BIASES,
    ),
    "gpt_neox": small_config(norm="layer", gated=False, parallel=True, activation="gelu", **BIASES),
    "olmo2": small_config(pre_norms=False, post_norms=True, qk_norm="full"),
    "granite": small_config(embedding_scale=3.0, residual_scale=0.4, logit_scale=0.3, tied_head=True),
}  # fmt: skip
NEURONS = [np.array([0, 3, 4, 5, 9, 20, 26, 27]), np.array([1, 2, 8, 11, 12, 13, 14, 25])]
WIDTH = np.array([0, 1, 2, 5, 6, 7, 8, 11, 13, 14, 15, 17, 19])


@pytest.fixture
def ops() -> NumpyOps:
    return NumpyOps(Ledger(), np.float32)


def built(config: ModelConfig, tensors: dict[str, np.ndarray], ops: Any) -> Model:
    return build_model(checkpoint_of(config, tensors), ops)


def logits(model: Model, ops: Any) -> np.ndarray:
    """The logits of all rows of the windows."""
    batch = replace(rows_of(WINDOWS, model.config.rotation_sets), logit_rows=np.arange(WINDOWS.size))
    cache = NoCache(CacheSpec(model.config.memory, WINDOWS.shape[1]), ops)
    return ops.to_host(transformer(model, batch, cache, ops))


def groups_of(c: ModelConfig) -> list[np.ndarray]:
    """Key/value heads that stay in each of two layers."""
    return [np.arange(c.num_kv_heads)[1:], np.arange(c.num_kv_heads)[:-1]]


def query_heads(groups: np.ndarray, c: ModelConfig) -> list[int]:
    share = c.num_heads // c.num_kv_heads
    return [share * group + i for group in groups for i in range(share)]


def only_neurons(tensors: dict[str, np.ndarray], kept: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Canonical tensors without the other neurons."""
    new = dict(tensors)
    for i, places in enumerate(kept):
        for name in ("gate", "up", "gate.bias", "up.bias"):
            if f"layers.{i}.{name}" in new:
                new[f"layers.{i}.{name}"] = tensors[f"layers.{i}.{name}"][places]
        new[f"layers.{i}.down"] = tensors[f"layers.{i}.down"][:, places]
    return new


def only_heads(c: ModelConfig, tensors: dict[str, np.ndarray], kept: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Canonical tensors without the other key/value heads and their query heads."""
    new = dict(tensors)
    for i, groups in enumerate(kept):
        queries = query_heads(groups, c)
        for part, heads in (("q", queries), ("k", groups), ("v", groups)):
            for name in (f"layers.{i}.{part}", f"layers.{i}.{part}.bias"):
                if name in new:
                    array = tensors[name]
                    new[name] = array.reshape(-1, c.head_dim, *array.shape[1:])[heads].reshape(-1, *array.shape[1:])
        o = tensors[f"layers.{i}.o"]
        new[f"layers.{i}.o"] = o.reshape(len(o), -1, c.head_dim)[:, queries].reshape(len(o), -1)
        if c.sinks:
            new[f"layers.{i}.sinks"] = tensors[f"layers.{i}.sinks"][queries]
    return new


def only_width(tensors: dict[str, np.ndarray], kept: np.ndarray) -> dict[str, np.ndarray]:
    """Canonical tensors without the other numbers of the model width."""
    new = {}
    for name, array in tensors.items():
        short = name.removesuffix(".bias").rpartition(".")[2]
        if array.ndim == 2 and short not in ("o", "down"):
            array = array[:, kept]
        elif short in ("o", "down") or (short.endswith("_norm") and short not in ("q_norm", "k_norm")):
            array = array[kept]
        new[name] = array
    return new


# What is left is the model of sliced tensors.


@pytest.mark.parametrize("name", CONFIGS)
def test_fewer_neurons_are_rows_of_gate_and_up_and_columns_of_down(name, ops):
    """Catches the up of another neuron than its gate's, a bias that stays, and down's bias cut."""
    config = CONFIGS[name]
    tensors = random_tensors(config)
    found = keep_neurons(built(config, tensors, ops), NEURONS, ops)
    assert found.config == replace(config, intermediate_size=8)
    assert_array_equal(logits(found, ops), logits(built(found.config, only_neurons(tensors, NEURONS), ops), ops))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "olmo2"])
def test_fewer_heads_are_those_of_queries_keys_values_and_output(name, ops):
    """Catches query heads of another key head, a norm of keys in a query's place, and a sink of another head."""
    config = CONFIGS[name]
    tensors, kept = random_tensors(config), groups_of(config)
    found = keep_heads(built(config, tensors, ops), kept, ops)
    left = config.num_kv_heads - 1
    heads = left * config.num_heads // config.num_kv_heads
    assert found.config == replace(config, num_heads=heads, num_kv_heads=left)
    assert_array_equal(logits(found, ops), logits(built(found.config, only_heads(config, tensors, kept), ops), ops))


@pytest.mark.parametrize("name", CONFIGS)
def test_less_width_is_the_same_numbers_everywhere(name, ops):
    """Catches a norm, a bias or the positions forgotten. Gemma's embedding is scaled by the root of its width."""
    config = CONFIGS[name]
    tensors = random_tensors(config)
    found = keep_hidden(built(config, tensors, ops), WIDTH, ops)
    sliced, scale = only_width(tensors, WIDTH), config.embedding_scale
    if name.startswith("gemma"):
        scale = float(np.float32(13**0.5))
        sliced["embedding"] = sliced["embedding"] * np.float32(config.embedding_scale / scale)
    if name == "gemma":
        sliced["final_norm"] = sliced["final_norm"] / np.float32(config.embedding_scale / scale)
    assert found.config == replace(config, hidden_size=13, embedding_scale=scale)
    assert (found.embedding.table is found.head.weight) == config.tied_head
    assert found.embedding.scale == scale
    assert_array_equal(logits(found, ops), logits(built(found.config, sliced, ops), ops))


# What may go without a change.


@pytest.mark.parametrize("name", CONFIGS)
def test_neurons_that_no_output_reads_change_no_logit(name, ops):
    """Mathematics: a neuron whose column of down is zero adds nothing."""
    config = CONFIGS[name]
    tensors = random_tensors(config)
    for i, kept in enumerate(NEURONS):
        tensors[f"layers.{i}.down"][:, np.setdiff1d(np.arange(28), kept)] = 0
    model = built(config, tensors, ops)
    assert distance(logits(keep_neurons(model, NEURONS, ops), ops), logits(model, ops)) < ROUNDING


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "olmo2"])
def test_heads_that_no_output_reads_change_no_logit(name, ops):
    """Mathematics: heads whose columns of o are zero add nothing."""
    config = CONFIGS[name]
    tensors, kept = random_tensors(config), groups_of(config)
    for i, groups in enumerate(kept):
        gone = np.setdiff1d(np.arange(config.num_heads), query_heads(groups, config))
        tensors[f"layers.{i}.o"].reshape(20, -1, 6)[:, gone] = 0
    model = built(config, tensors, ops)
    assert distance(logits(keep_heads(model, kept, ops), ops), logits(model, ops)) < ROUNDING


@pytest.mark.parametrize("name", ["llama", "qwen3", "granite"])
def test_width_that_is_always_zero_changes_only_the_mean_of_norms(name, ops):
    """x / sqrt(Σx²/d + ε) is sqrt(d/D) x / sqrt(Σx²/D + ε d/D): the whole model with such norms has the same logits."""
    config, d = CONFIGS[name], len(WIDTH)
    tensors, gone = random_tensors(config), np.setdiff1d(np.arange(20), WIDTH)
    tensors["embedding"][:, gone] = 0
    for i in range(2):
        for matrix in ("o", "down"):
            tensors[f"layers.{i}.{matrix}"][gone] = 0
    narrower = keep_hidden(built(config, tensors, ops), WIDTH, ops)
    share = d / config.hidden_size
    norms = {key: array * np.float32(share**0.5) for key, array in tensors.items()
             if key.endswith("norm") and key.rpartition(".")[2] not in ("q_norm", "k_norm")}  # fmt: skip
    whole = built(replace(config, norm_eps=config.norm_eps * share), tensors | norms, ops)
    if config.qk_norm == "head":  # over a head, which is as wide as before
        layers = [
            replace(layer, mixer=replace(layer.mixer, qk_norm=replace(layer.mixer.qk_norm, eps=config.norm_eps)))
            for layer in whole.layers
        ]
        whole = replace(whole, layers=tuple(layers))
    assert distance(logits(narrower, ops), logits(whole, ops)) < ROUNDING


# What goes.


def test_the_inactive_parts_go(ops):
    """Neurons without an up, values of zero, numbers that the norms put out as zero. Catches the most active gone."""
    config = small_config(num_heads=6, num_kv_heads=3)
    tensors = random_tensors(config)
    for i in range(2):
        tensors[f"layers.{i}.up"][np.setdiff1d(np.arange(28), NEURONS[i])] = 0
        tensors[f"layers.{i}.v"].reshape(3, 6, 20)[2 - i] = 0
        for norm in ("attention_norm", "mlp_norm"):
            tensors[f"layers.{i}.{norm}"][np.setdiff1d(np.arange(20), WIDTH)] = 0
    model, done = built(config, tensors, ops), []
    found = narrow(model, WINDOWS, ops, width=8 / 28, kv_heads=2, hidden=13, on_layer=done.append)
    expected = keep_neurons(model, NEURONS, ops)
    expected = keep_heads(expected, [np.array([0, 1]), np.array([0, 2])], ops)
    expected = keep_hidden(expected, WIDTH, ops)
    assert found.config == expected.config
    assert_array_equal(logits(found, ops), logits(expected, ops))
    assert done == [1, 2]


def test_activity_is_the_mean_size_of_the_inputs(ops):
    """Against the first layer's norm in plain NumPy. Catches a mean of x, which is near 0, and names mixed up."""
    config = small_config()
    tensors = random_tensors(config)
    x = tensors["embedding"][WINDOWS.reshape(-1)].astype(np.float64)
    x = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + config.norm_eps) * tensors["layers.0.attention_norm"]
    active = activity(built(config, tensors, ops), WINDOWS, ops)
    assert_allclose(active["qkv"][0], np.abs(x).mean(axis=0), rtol=1e-5)
    sizes = {"qkv": 20, "o": 24, "up": 20, "down": 28}
    assert {name: [len(row) for row in rows] for name, rows in active.items()} == {n: [m, m] for n, m in sizes.items()}


def test_a_group_is_judged_by_all_of_its_query_heads(ops):
    """Catches query heads counted by their own number: of 6, heads 2 and 3 are key head 1's."""
    config = small_config(num_heads=6, num_kv_heads=3, num_layers=1)
    tensors = random_tensors(config)
    tensors["layers.0.v"].reshape(3, 6, 20)[1] *= 50
    found = narrow(built(config, tensors, ops), WINDOWS, ops, kv_heads=1)
    expected = keep_heads(built(config, tensors, ops), [np.array([1])], ops)
    assert_array_equal(logits(found, ops), logits(expected, ops))


@pytest.mark.parametrize(
    ("total", "share", "kept"),
    [(1536, 0.75, 1152), (28, 1.0, 28), (33, 1.0, 33), (28, 0.01, 8), (6, 0.5, 6), (100, 0.6, 64), (100, 0.58, 56),
     (30, 0.99, 30)],
)  # fmt: skip
def test_neurons_are_a_multiple_of_eight(total, share, kept):
    """At least 8, at most all; a share of 1 removes none."""
    assert neurons(small_config(intermediate_size=total), share) == kept


# Refused.


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"width": 0.0}, "width=0.0 is no share above 0 and up to 1; give a share, as 0.75"),
        ({"width": 1.5}, "width=1.5 is no share"),
        ({"kv_heads": 3}, "keep_kv_heads=3 must leave some of the model's 2 key/value heads; choose a number"),
        ({"kv_heads": 0}, "keep_kv_heads=0 must leave some"),
        ({"hidden": 21}, "keep_hidden=21 must leave some of the model's 20 numbers of the model width; choose"),
        ({"hidden": -1}, "keep_hidden=-1 must leave some"),
    ],
)  # fmt: skip
def test_shares_and_numbers_that_leave_nothing_are_refused(asked, message, ops):
    """Before any text is read; catches numbers beyond what there is."""
    with pytest.raises(SwitchError, match="^" + re.escape(message)):
        narrow(built(CONFIGS["llama"], random_tensors(CONFIGS["llama"]), ops), WINDOWS[:, :0], ops, **asked)


def test_a_mixture_of_experts_is_refused_by_every_way(ops):
    """Catches an assertion, or experts of which some were cut."""
    config = small_config(experts=MoEConfig(num_experts=4, experts_per_token=2, expert_size=28))
    model = built(config, random_tensors(config), ops)
    with pytest.raises(SwitchError, match=r"^keep_hidden=8 is for dense layers, .*; choose a dense"):
        narrow(model, WINDOWS, ops, hidden=8)
    for refused in (
        lambda: keep_neurons(model, NEURONS, ops),
        lambda: keep_heads(model, [np.array([0])] * 2, ops),
        lambda: keep_hidden(model, WIDTH, ops),
    ):
        with pytest.raises(SwitchError, match="mixture of experts"):
            refused()


def test_one_norm_over_all_heads_is_refused(ops):
    """Catches a mean over fewer heads than the weight was made for."""
    model = built(CONFIGS["olmo2"], random_tensors(CONFIGS["olmo2"]), ops)
    with pytest.raises(SwitchError, match=r"^keep_kv_heads=1 cannot be done, as one norm of this model is over"):
        narrow(model, WINDOWS, ops, kv_heads=1)
    with pytest.raises(SwitchError, match="cannot be done"):
        keep_heads(model, groups_of(model.config), ops)


@pytest.mark.parametrize("name", ["neurons", "heads", "hidden"])
def test_weights_of_a_few_bits_are_refused(name, ops):
    """Catches a quantized model that grows: a part of it would become floats."""
    checkpoint = checkpoint_of(CONFIGS["llama"], random_tensors(CONFIGS["llama"]))
    model = load_model(checkpoint, ops, EngineConfig(quantize="int8"))
    keep = {
        "neurons": lambda: keep_neurons(model, NEURONS, ops),
        "heads": lambda: keep_heads(model, groups_of(model.config), ops),
        "hidden": lambda: keep_hidden(model, WIDTH, ops),
    }
    with pytest.raises(SwitchError, match=r"^layers\.0\.qkv is quantized, and a part of it would become floats; prune"):
        keep[name]()


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([[0, 1]], "kept has 1 entries, but the model has 2 layers"),
        ([[0, 1], [0]], "as many places for each layer"),
        ([[], []], "at least one"),
        ([[0, 1], [1, 0]], "in rising order"),
        ([[0, 0], [0, 1]], "in rising order"),
        ([[-1, 0], [0, 1]], "some of the places 0 to 27"),
        ([[0, 28], [0, 1]], "some of the places 0 to 27"),
    ],
)
def test_places_that_are_none_are_refused(places, message, ops):
    """Catches NumPy's negative places and layers of different sizes, for which there is no configuration."""
    model = built(CONFIGS["llama"], random_tensors(CONFIGS["llama"]), ops)
    with pytest.raises(ValueError, match=message):
        keep_neurons(model, [np.array(row, dtype=int) for row in places], ops)


def test_nothing_asked_is_the_same_model_and_needs_no_text(ops):
    """Catches a pass over the text for nothing."""
    model = built(CONFIGS["llama"], random_tensors(CONFIGS["llama"]), ops)
    assert narrow(model, WINDOWS[:, :0], ops) is model
