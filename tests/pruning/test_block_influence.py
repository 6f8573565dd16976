"""pruning/layers.py: the influence of a layer is its formula, and a model without some layers is that model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import INSTALLED, checkpoint_of, random_tensors, small_config
from numpy.testing import assert_allclose, assert_array_equal

from tinyinfer.backends.switches import BACKENDS
from tinyinfer.errors import SwitchError
from tinyinfer.kv_cache.base import CacheSpec, NoCache
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import build_model
from tinyinfer.model.config import ModelConfig, MoEConfig, RopeConfig
from tinyinfer.model.transformer import Model, embed, run_layers, transformer
from tinyinfer.pruning.layers import block_influence, cosines, keep_layers, most_influential
from tinyinfer.quantization.calibration import rows_of
from tinyinfer.switches import resolve

WINDOWS = np.random.default_rng(0).integers(0, 31, (3, 12))
LOCAL, GLOBAL = RopeConfig(theta=100.0), RopeConfig(theta=1e6, scaling="linear", factor=4.0)
GEMMA: dict[str, Any] = {  # layers of two kinds, and one without rotation
    "architecture": "gemma3", "num_layers": 5, "rope": (LOCAL, GLOBAL, LOCAL, None, GLOBAL), "tied_head": True,
    "windows": (3, None, 5, None, None), "post_norms": True, "qk_norm": "head", "activation": "gelu_tanh",
}  # fmt: skip
MOE = MoEConfig(num_experts=4, experts_per_token=2, expert_size=8, dense_layers=(1, 3))


def ops_of(name: str = "numpy") -> Any:
    return resolve(BACKENDS, name)(Ledger())


def made(config: ModelConfig, ops: Any, **changed: np.ndarray) -> Model:
    """A model of random weights, but for these; in their names __ stands for a dot."""
    tensors = random_tensors(config) | {name.replace("__", "."): array for name, array in changed.items()}
    return build_model(checkpoint_of(config, tensors), ops)


def silent(config: ModelConfig, layer: int) -> dict[str, np.ndarray]:
    """The weights with which a layer changes nothing."""
    tensors = random_tensors(config)
    return {f"layers__{layer}__{name}": np.zeros_like(tensors[f"layers.{layer}.{name}"]) for name in ("o", "down")}


def logits(model: Model, ops: Any) -> np.ndarray:
    """The logits of all rows of the windows."""
    batch = replace(rows_of(WINDOWS, model.config.rotation_sets), logit_rows=np.arange(WINDOWS.size))
    cache = NoCache(CacheSpec(model.config.memory, WINDOWS.shape[1]), ops)
    return ops.to_host(transformer(model, batch, cache, ops))


@pytest.mark.parametrize("backend", INSTALLED)
def test_influence_is_one_minus_the_mean_cosine(backend):
    """Catches a copy that is missing where a backend adds in place (all 0), and a mean of the wrong axis or sign."""
    ops, config = ops_of(backend), small_config(num_layers=3, windows=(None, 4, None))
    model, expected = made(config, ops), []
    batch = rows_of(WINDOWS, config.rotation_sets)
    for i in range(3):
        rows = []
        for stop in (i, i + 1):  # each computed from the tokens on
            cache = NoCache(CacheSpec(config.memory, WINDOWS.shape[1]), ops)
            x = run_layers(model, 0, stop, embed(model, batch, ops), batch, cache, ops)
            rows.append(np.array(ops.to_host(x), dtype=np.float64))
        cos = [a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(*rows, strict=True)]
        expected.append(1 - np.mean(cos))
    found = block_influence(model, WINDOWS, ops)
    assert min(expected) > 0.01
    assert_allclose(found, expected, rtol=1e-4)


def test_a_layer_that_changes_nothing_has_no_influence_and_is_the_one_that_goes():
    """Exactly 0, and no logit changes by a bit. Catches the layers of most influence dropped, or those of another."""
    config, ops = small_config(num_layers=4), ops_of()
    model = made(config, ops, **silent(config, 2))
    influence = block_influence(model, WINDOWS, ops)
    assert influence[2] == 0
    assert (np.delete(influence, 2) > 0.01).all()
    fewer = keep_layers(model, most_influential(model, WINDOWS, ops, 1))
    assert [id(layer) for layer in fewer.layers] == [id(model.layers[i]) for i in (0, 1, 3)], "a weight was copied"
    assert fewer.config.num_layers == 3
    assert_array_equal(logits(fewer, ops), logits(model, ops))


def test_the_layers_that_stay_keep_their_order():
    """Catches layers sorted by influence."""
    config, ops = small_config(num_layers=5), ops_of()
    model = made(config, ops)
    order = np.argsort(block_influence(model, WINDOWS, ops))
    assert most_influential(model, WINDOWS, ops, 2) == sorted(order[2:])


def test_the_ledger_of_the_model_does_not_count_it_and_progress_is_told():
    """Catches a bench whose first numbers are those of pruning."""
    config, ops, done = small_config(num_layers=3), ops_of(), []
    model = made(config, ops)
    before = vars(ops.ledger).copy()
    block_influence(model, WINDOWS, ops, done.append)
    assert vars(ops.ledger) == before
    assert done == [1, 2, 3]


def test_rows_that_are_not_finite_are_refused_by_layer():
    """Catches layers chosen by NaN, which sorts as the largest influence of all."""
    config, ops = small_config(num_layers=3), ops_of()
    huge = np.full((20, 28), 3e38, dtype=np.float32)
    model = made(config, ops, layers__1__down=huge)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"^layers\.1: its rows hold NaN or infinity"):
        block_influence(model, WINDOWS, ops)


def test_rows_without_a_direction():
    """Catches 0 / 0: one row of zeros is like another, and unlike any other row."""
    a = np.array([[0, 0], [0, 0], [3, 4], [1, 0], [1, 0]], dtype=np.float32)
    b = np.array([[0, 0], [1, 2], [3, 4], [0, 2], [-5, 0]], dtype=np.float32)
    assert_array_equal(cosines(a, b), [1, 0, 1, 0, -1])


KEPT = [(0, 1, 2, 3, 4), (0, 2), (1, 3, 4), (3,), (4,), (0, 2, 3)]


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("experts", [None, MOE], ids=["dense", "experts"])
def test_the_kept_layers_are_a_model_of_their_own(kept, experts):
    """Against one that is built of only their weights: windows, rotations, and which layers are dense, follow them."""
    ops, changes = ops_of(), GEMMA | {"experts": experts}
    config = small_config(**changes)
    tensors = random_tensors(config)
    apart = {name: array for name, array in tensors.items() if not name.startswith("layers.")}
    for new, old in enumerate(kept):
        own = {name: array for name, array in tensors.items() if name.startswith(f"layers.{old}.")}
        apart |= {name.replace(f"layers.{old}.", f"layers.{new}.", 1): array for name, array in own.items()}
    moe = experts and replace(experts, dense_layers=tuple(i for i, old in enumerate(kept) if old in (1, 3)))
    listed = {name: tuple(changes[name][i] for i in kept) for name in ("rope", "windows")}
    expected = replace(config, num_layers=len(kept), experts=moe, **listed)
    found = keep_layers(build_model(checkpoint_of(config, tensors), ops), kept)
    assert found.config == expected
    assert_array_equal(logits(found, ops), logits(build_model(checkpoint_of(expected, apart), ops), ops))


@pytest.mark.parametrize("kept", [(), (2, 0), (1, 1), (0, 3), (-1, 0)])
def test_numbers_that_are_no_layers_are_refused(kept):
    """Catches Python's negative places, and a layer that would come twice."""
    with pytest.raises(ValueError, match="must be some of the layers 0 to 2, in rising order"):
        keep_layers(made(small_config(num_layers=3), ops_of()), kept)


@pytest.mark.parametrize("count", [-1, 3, 4])
def test_at_least_one_layer_stays(count):
    """Catches a model of no layers, and a negative count, which would drop all but a few."""
    ops = ops_of()
    with pytest.raises(SwitchError, match=f"^drop_layers={count} must leave at least one of the model's 3 layers; ch"):
        most_influential(made(small_config(num_layers=3), ops), WINDOWS, ops, count)


def test_none_dropped_is_all_of_them():
    """Catches a slice that ends at -0."""
    ops = ops_of()
    model = made(small_config(num_layers=3), ops)
    assert most_influential(model, WINDOWS, ops, 0) == [0, 1, 2]
