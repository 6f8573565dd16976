"""pruning/refit.py: `down` is fitted to the whole model's rows, by the formula, and makes up for what is gone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import INSTALLED, checkpoint_of, longrope, random_tensors, small_config
from numpy.testing import assert_allclose, assert_array_equal

from tinyinfer.backends.switches import BACKENDS
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import SwitchError
from tinyinfer.kv_cache.base import CacheSpec, NoCache
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import build_model, load_model
from tinyinfer.model.config import ModelConfig, MoEConfig, RopeConfig
from tinyinfer.model.transformer import Model, embed, run_layers
from tinyinfer.model.visit import layer_matrices, with_matrices
from tinyinfer.pruning import refit as page
from tinyinfer.pruning.apply import check_can_prune, prune_model
from tinyinfer.pruning.layers import keep_layers
from tinyinfer.pruning.refit import LeastSquares, Seen, refit, rows_after
from tinyinfer.pruning.width import keep_heads, keep_neurons, take_floats
from tinyinfer.quantization.apply import floats
from tinyinfer.quantization.calibration import rows_of
from tinyinfer.switches import resolve

WINDOWS = np.random.default_rng(0).integers(0, 31, (40, 12))
CONFIGS = {
    "serial": small_config(num_layers=4),
    "scaled": small_config(num_layers=4, residual_scale=0.3),
    "parallel": small_config(
        num_layers=4, norm="layer", parallel=True, gated=False, mlp_bias=True, residual_scale=0.5),
    "longrope": small_config(num_layers=4, rope=(RopeConfig(), longrope(8), RopeConfig(), RopeConfig())),
}  # fmt: skip


def ops_of(name: str = "numpy") -> Any:
    return resolve(BACKENDS, name)(Ledger())


def made(config: ModelConfig, ops: Any) -> Model:
    return build_model(checkpoint_of(config, random_tensors(config)), ops)


@pytest.fixture(autouse=True)
def little_trust(monkeypatch):
    """The old weights are worth one row: the text here has fewer rows than they are worth by default."""
    monkeypatch.setattr(page, "OLD_WEIGHTS", 1)


def rows(model: Model, ops: Any) -> np.ndarray:  # -> (T, D)
    """The rows that leave the last layer, all windows at once."""
    batch = rows_of(WINDOWS, model.config.rotation_sets)
    return rows_after(model, 0, len(model.layers), ops.to_host(embed(model, batch, ops)), batch, ops)


def downs(model: Model) -> list[np.ndarray]:
    found: list[Any] = [layer_matrices(layer)["down"] for layer in model.layers]
    return [floats(linear.weight) for linear in found]


def test_the_change_is_that_of_ridge_regression():
    """Against lstsq of the stacked system, in which sqrt(ridge) · I stands for the old weights; rows of all sizes."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((50, 7)), rng.standard_normal((50, 3))
    counts = rng.uniform(0.1, 3, (50, 1))
    fit = LeastSquares()
    fit.add(a[:20], b[:20], 1 / counts[:20])
    fit.add(a[20:], b[20:], 1 / counts[20:])
    ridge = 5 / 50 * ((a * counts) ** 2).sum() / 7
    expected, *_ = np.linalg.lstsq(
        np.vstack((a * counts, np.sqrt(ridge) * np.eye(7))), np.vstack((b * counts, np.zeros((7, 3))))
    )
    assert_allclose(fit.solve(5), expected, rtol=1e-5)


def test_inputs_that_are_all_zero_change_nothing():
    """Catches a system without a solution: neurons that no text reaches."""
    fit = LeastSquares()
    fit.add(np.zeros((4, 3)), np.ones((4, 2)), np.ones((4, 1)))
    assert_array_equal(fit.solve(5), np.zeros((3, 2)))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("backend", INSTALLED)
def test_what_a_removed_layer_added_is_made_up_for(backend, name):
    """Rows come nearer to the whole model's, in a layer with a scale, with a bias, and with both parts side by side.

    Catches a fit to the layer's own rows instead of those behind the removed one, a scale or a bias that is counted
    twice, and a sign. With as many free weights as there are here, nearly all that is linear in the inputs comes back.
    """
    ops = ops_of(backend)
    whole = made(CONFIGS[name], ops)
    kept = [0, 1, 3]
    pruned = keep_layers(whole, kept)
    found = refit(pruned, whole, kept, WINDOWS, ops)
    wanted = rows(whole, ops)
    before, after = (np.linalg.norm(rows(model, ops) - wanted) for model in (pruned, found))
    assert after < 0.75 * before
    for old, new in zip(pruned.layers, found.layers, strict=True):
        changed = {part for part, held in layer_matrices(old).items() if layer_matrices(new)[part] is not held}
        assert changed == {"down"}


def by_hand(pruned: Model, whole: Model, kept: list[int], ops: Any) -> Model:
    """The same fit in float64, all windows at once, and each layer's rows computed from the tokens on."""
    batch = rows_of(WINDOWS, whole.config.rotation_sets)

    def after(model: Model, stop: int, ops: Any) -> np.ndarray:
        cache = NoCache(CacheSpec(model.config.memory, WINDOWS.shape[1]), ops)
        x = run_layers(model, 0, stop, embed(model, batch, ops), batch, cache, ops)
        return np.array(ops.to_host(x), dtype=np.float64)

    for i, stop in enumerate([*kept[1:], len(whole.layers)]):
        old: Any = layer_matrices(pruned.layers[i])["down"]
        seen = Seen(ops, old)
        wanted, found = after(whole, stop, ops), after(pruned, i + 1, seen)
        size = np.sqrt((wanted**2).mean(axis=1, keepdims=True))
        a, b = seen.inputs[0] / size, (wanted - found) / pruned.layers[i].scale / size
        ridge = (a**2).mean()  # of one row
        change = np.linalg.solve(a.T @ a + ridge * np.eye(a.shape[1]), a.T @ b)
        new = replace(old, weight=take_floats(np.float32(floats(old.weight) + change.T), ops))
        layers = [*pruned.layers[:i], with_matrices(pruned.layers[i], {"down": new}), *pruned.layers[i + 1 :]]
        pruned = replace(pruned, layers=tuple(layers))
    return pruned


@pytest.mark.parametrize("kept", [[0, 1, 3], [0, 3], [2, 3]], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_weight_is_that_of_the_formula(name, kept):
    """Catches rows that count by another size, a lost bias, positions of the pruned model in the whole one, layers
    removed in front of the first one that stays, and old weights that are worth nothing.
    """
    ops = ops_of()
    whole = made(CONFIGS[name], ops)
    pruned = keep_layers(whole, kept)
    found, expected = refit(pruned, whole, kept, WINDOWS, ops), by_hand(pruned, whole, kept, ops)
    for one, other in zip(found.layers, expected.layers, strict=True):
        new: Any = layer_matrices(one)["down"]
        right: Any = layer_matrices(other)["down"]
        largest = np.abs(floats(right.weight)).max()
        assert_allclose(floats(new.weight), floats(right.weight), rtol=0, atol=1e-3 * largest)
        assert new.bias is right.bias


def test_codes_and_other_numbers_of_layers_are_refused():
    """Catches codes that become floats without a word, and layers that zip leaves out."""
    ops = ops_of()
    whole = made(CONFIGS["serial"], ops)
    with pytest.raises(ValueError, match="zip"):
        refit(keep_layers(whole, [0, 1, 3]), whole, [0, 1], WINDOWS, ops)
    c = EngineConfig(quantize="int8")
    codes = load_model(checkpoint_of(CONFIGS["serial"], random_tensors(CONFIGS["serial"])), ops, c)
    with pytest.raises(SwitchError, match="is quantized"):
        refit(keep_layers(codes, [0, 1, 3]), codes, [0, 1, 3], WINDOWS, ops)


def test_the_last_layer_is_fitted_to_what_came_behind_it():
    """Catches removed layers at the end that are not made up for, and an order of layers that is off by one."""
    ops = ops_of()
    whole = made(CONFIGS["serial"], ops)
    pruned = keep_layers(whole, [0, 1])
    found = refit(pruned, whole, [0, 1], WINDOWS, ops)
    near = np.linalg.norm(rows(found, ops) - rows(whole, ops))
    assert near < 0.95 * np.linalg.norm(rows(pruned, ops) - rows(whole, ops))


@pytest.mark.parametrize("part", ["neurons", "heads"])
def test_narrower_layers_are_fitted_too(part):
    """Catches a fit that only looks behind removed layers."""
    ops = ops_of()
    whole = made(CONFIGS["serial"], ops)
    if part == "neurons":
        pruned = keep_neurons(whole, [np.arange(16)] * 4, ops)
    else:
        pruned = keep_heads(whole, [np.array([1])] * 4, ops)
    found = refit(pruned, whole, range(4), WINDOWS, ops)
    near = np.linalg.norm(rows(found, ops) - rows(whole, ops))
    assert near < 0.95 * np.linalg.norm(rows(pruned, ops) - rows(whole, ops))


def test_nothing_removed_changes_nothing():
    """There is nothing to make up for, and so no weight moves. Catches a text that pulls at weights by itself."""
    ops = ops_of()
    whole = made(CONFIGS["serial"], ops)
    found = refit(whole, whole, range(4), WINDOWS, ops)
    for old, new in zip(downs(whole), downs(found), strict=True):
        assert_array_equal(new, old)


def test_windows_that_are_read_together_make_no_difference(monkeypatch):
    """Catches rows of one part that are compared with those of another."""
    ops = ops_of()
    whole = made(CONFIGS["serial"], ops)
    pruned, found = keep_layers(whole, [0, 1, 3]), []
    for together in (3, 40):
        monkeypatch.setattr(page, "TOGETHER", together)
        found.append(downs(refit(pruned, whole, [0, 1, 3], WINDOWS, ops)))
    for one, other in zip(*found, strict=True):
        assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_the_ledger_of_the_model_does_not_count_it_and_progress_is_told():
    """Catches a bench whose first numbers are those of pruning, and a bar that stands still."""
    ops, done = ops_of(), []
    whole = made(CONFIGS["serial"], ops)
    before = vars(ops.ledger).copy()
    refit(keep_layers(whole, [0, 2]), whole, [0, 2], WINDOWS, ops, done.append)
    assert vars(ops.ledger) == before
    assert done == [1, 2]


def test_the_switch_fits_what_the_others_remove():
    """All of it in one call, and told as one row of progress. Catches layers that are fitted to others' rows."""
    ops, told = ops_of(), []
    whole = made(CONFIGS["serial"], ops)
    switches: dict[str, Any] = {"drop_layers": 1, "width": 0.6}
    plain = prune_model(whole, ops, EngineConfig(**switches), WINDOWS, lambda done, of: None)
    c = EngineConfig(**switches, refit=True, prune="magnitude")
    found = prune_model(whole, ops, replace(c, prune="off"), WINDOWS, lambda done, of: None)
    wanted = rows(whole, ops)
    assert np.linalg.norm(rows(found, ops) - wanted) < 0.95 * np.linalg.norm(rows(plain, ops) - wanted)
    sparse = prune_model(whole, ops, c, WINDOWS, lambda done, of: told.append((done, of)))
    assert_array_equal(downs(sparse)[0], np.where(downs(sparse)[0], downs(found)[0], 0), "fitted first, then pruned")
    assert told[-1] == (13, 13)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_rows_that_are_not_finite_are_refused_by_layer():
    """By their numbers in the whole model, one of which may be at fault. Catches weights that become NaN."""
    ops, config = ops_of(), CONFIGS["serial"]
    tensors = random_tensors(config)
    tensors["layers.2.down"] = np.full((20, 28), 3e38, dtype=np.float32)
    whole = build_model(checkpoint_of(config, tensors), ops)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"^layers\.2: rows hold NaN or infinity"):
        refit(keep_layers(whole, [0, 2, 3]), whole, [0, 2, 3], WINDOWS, ops)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"^layers\.1 to 2: rows hold NaN or infinity"):
        refit(keep_layers(whole, [0, 1, 3]), whole, [0, 1, 3], WINDOWS, ops)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": MoEConfig(3, 2, 12)}, "refit=on is for dense layers"),
        ({"post_norms": True}, "refit=on has no formula for this model, in which a norm stands behind each MLP"),
    ],
)
def test_what_has_no_formula_is_refused_before_weights_are_read(changes, message):
    """Catches rows fitted through a norm that comes after."""
    with pytest.raises(SwitchError) as refused:
        check_can_prune(EngineConfig(drop_layers=1, refit=True), small_config(**changes))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({}, "no whole part is removed"),
        ({"prune": "wanda"}, "no whole part is removed"),
        ({"keep_hidden": 8}, "keep_hidden=8 cuts them"),
    ],
)
def test_where_there_is_nothing_to_fit(switches, message):
    """Catches a switch without effect."""
    with pytest.raises(SwitchError) as refused:
        EngineConfig(**switches, refit=True)
    assert message in str(refused.value)
