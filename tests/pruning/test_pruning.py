"""Whole models pruned, while they are loaded and by text: what is removed, what is fitted to what, what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
from helpers import checkpoint_of, random_tensors, small_config

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.backends.sparse import Sparse
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import SwitchError
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import build_model, load_model
from tinyinfer.model.config import MoEConfig, held_matrices
from tinyinfer.model.transformer import Model
from tinyinfer.model.visit import matrices, weights
from tinyinfer.model.weights import Linear
from tinyinfer.pruning.apply import check_pattern, prune_weights, read_windows, round_pruned
from tinyinfer.pruning.magnitude import magnitude
from tinyinfer.pruning.patterns import read_pattern
from tinyinfer.pruning.sparsegpt import sparsegpt
from tinyinfer.pruning.switches import PruningSwitches, WeightSwitches
from tinyinfer.pruning.wanda import wanda
from tinyinfer.quantization.apply import floats
from tinyinfer.quantization.calibration import Inputs, calibrate

CONFIG = small_config()
MOE = small_config(experts=MoEConfig(3, 2, 12))
WINDOWS = np.random.default_rng(4).integers(0, CONFIG.vocab_size, (6, 16))


class Words:
    """An encoder of random tokens: any text is 99 of them."""

    beginning: ClassVar[list[int]] = []

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return np.random.default_rng(0).integers(0, 31, 99).tolist()


def silent(done: int) -> None:
    """Shows no progress."""


def float_model(config: Any = CONFIG) -> Model:
    return build_model(checkpoint_of(config, random_tensors(config)), NumpyOps(Ledger()))


def pruned(**switches: Any) -> Model:
    return prune_weights(float_model(), NumpyOps(Ledger()), PruningSwitches(**switches), WINDOWS, silent)


def of_layers(model: Model) -> dict[str, np.ndarray]:
    """The layers' matrices by name, in floats."""
    return {name: floats(held.weight) for name, held in matrices(model)
            if isinstance(held, Linear) and name.startswith("layers.")}  # fmt: skip


def parts(name: str) -> list[slice]:
    """The outputs of each tensor that lies in a held matrix."""
    ends = np.cumsum([0, *(outputs for _, outputs in held_matrices(CONFIG)[name].parts)])
    return [slice(a, b) for a, b in pairwise(ends)]


def test_magnitude_prunes_every_tensor_by_itself():
    """q, k and v lie in one matrix. Catches their weights compared with each other; embedding and head stay."""
    before, after = float_model(), pruned(prune="magnitude", sparsity="0.5")
    for name, w in of_layers(before).items():
        right = np.concatenate([magnitude(w[rows], read_pattern("0.5")) for rows in parts(name)])
        np.testing.assert_array_equal(of_layers(after)[name], right)
    assert after.embedding.table.scheme is None
    assert not isinstance(after.head.weight, Sparse)
    assert after.nbytes < 0.7 * before.nbytes


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_each_layer_is_fitted_to_what_the_pruned_ones_before_put_out(method):
    """The statistics are those of the pruned model itself. Catches the float model's, which are other inputs."""
    before, after = of_layers(float_model()), pruned(prune=method, sparsity="2:4")
    function = {"wanda": wanda, "sparsegpt": sparsegpt}[method]
    seen = {}

    def look(name: str, linear: Linear, inputs: Inputs) -> tuple[Linear, None]:
        seen[name] = inputs.hessian
        return linear, None

    calibrate(after, WINDOWS, NumpyOps(Ledger()), look)
    for name, w in before.items():
        right = np.concatenate([function(w[rows], seen[name], read_pattern("2:4")) for rows in parts(name)])
        found = of_layers(after)[name]
        np.testing.assert_array_equal(found == 0, right == 0)
        np.testing.assert_allclose(found, right, atol=1e-4 * np.abs(right).max())


def test_two_of_four_is_kept_as_such():
    """A kernel may rely on it. Catches 2:4 stored under a mask, and 4:8, which is none, stored as 2:4."""
    for sparsity, layout in {"2:4": "2:4", "1:4": "mask", "0.5": "mask"}.items():
        model = pruned(prune="magnitude", sparsity=sparsity)
        found = {weight.layout for name, held in matrices(model) if name.startswith("layers.")
                 for weight in weights(held) if isinstance(weight, Sparse)}  # fmt: skip
        assert found == {layout}


def test_experts_are_pruned_one_by_one():
    """And routers are not. Catches experts that share a threshold."""
    config = small_config(experts=MoEConfig(3, 2, 12))
    before = float_model(config)
    model = prune_weights(before, NumpyOps(Ledger()), PruningSwitches(prune="magnitude"), None, silent)
    for (name, held), (_, old) in zip(matrices(model), matrices(before), strict=True):
        for weight, dense in zip(weights(held), weights(old), strict=True):
            share = (floats(weight) == 0).mean()
            assert share == (0 if name.endswith("router") or not name.startswith("layers.") else 0.5)
            if "gate_up" in name:
                half = len(floats(dense)) // 2
                for rows in (slice(half), slice(half, None)):
                    right = magnitude(floats(dense)[rows], read_pattern("0.5"))
                    np.testing.assert_array_equal(floats(weight)[rows], right)


def test_a_pruned_weight_stays_zero_when_it_is_rounded():
    """And the others are rounded as plain rounding does. Catches a grid without zero, which 4 bits have by default."""
    model = pruned(prune="wanda", sparsity="2:4")
    c = WeightSwitches(prune="wanda", quantize="int4", quantize_head="int8")
    small = round_pruned(model, NumpyOps(Ledger()), c)
    for name, w in of_layers(model).items():
        found = of_layers(small)[name]
        assert (found[w == 0] == 0).all()
        assert 0 < np.abs(found - w).max() < 0.08 * np.abs(w).max()
    assert small.nbytes < 0.4 * model.nbytes
    assert small.head.weight.scheme.bits == 8


def test_loading_prunes_and_rounds():
    """The switches alone, from a checkpoint. Catches a step that is forgotten or done in the other order."""
    checkpoint = checkpoint_of(CONFIG, random_tensors(CONFIG))
    c = EngineConfig(prune="magnitude", sparsity="2:4", quantize="int8", group_size=32)
    done = []
    found = load_model(checkpoint, NumpyOps(Ledger()), c, lambda i, of: done.append((i, of)))
    by_hand = round_pruned(pruned(prune="magnitude", sparsity="2:4"), NumpyOps(Ledger()), c)
    for name, w in of_layers(by_hand).items():
        np.testing.assert_array_equal(of_layers(found)[name], w)
    assert done[0] == (1, 4)


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"prune": "obs"}, "prune='obs' is not known"),
        ({"prune": "wanda", "sparsity": "1"}, "sparsity=1 must lie between 0"),
        ({"prune": "wanda", "sparsity": "2:2"}, "keeps 2 of 2"),
        ({"prune": "wanda", "sparsity": "much"}, "sparsity=much is neither a share"),
        ({"sparsity": "0.3"}, "prune=off removes no single weight"),
        ({"width": 1.5}, "width=1.5 must lie between 0"),
        ({"width": 0.0}, "width=0.0 must lie between 0"),
        ({"drop_layers": 0}, "drop_layers=0 must be a whole number of at least 1"),
        ({"prune": "wanda", "quantize": "w8a8"}, "quantize=w8a8 moves weights that prune=wanda has set to zero"),
        ({"prune": "wanda", "quantize": "int4", "quantize_method": "gptq"}, "quantize_method=gptq moves weights"),
        ({"prune": "wanda", "quantize": "int4", "symmetric": False}, "rounds zero to another number"),
        ({"prune": "wanda", "quantize": "int8", "activations": "int8"}, "no product with sparse weights"),
        ({"prune": "magnitude", "calibration": "x.txt"}, "calibration"),
    ],
)
def test_what_is_refused(switches, message):
    """One sentence each, in the words of Python."""
    with pytest.raises(SwitchError) as refused:
        EngineConfig(**switches)
    assert message in str(refused.value)


def test_calibration_is_no_switch_without_effect_where_text_prunes():
    """Catches a refusal of quantization, which alone used to read text."""
    for switches in ({"prune": "wanda"}, {"drop_layers": 1}, {"width": 0.5}):
        assert EngineConfig(**switches, calibration_tokens=1024).reads_text


def test_a_pattern_must_divide_the_inputs():
    """Named before any weight is read: 6 and 28 are widths of the small model."""
    with pytest.raises(SwitchError, match=r"sparsity=2:3 does not divide the 20 inputs of layers\.0\.qkv"):
        check_pattern(EngineConfig(prune="magnitude", sparsity="2:3"), CONFIG)
    check_pattern(EngineConfig(prune="magnitude", sparsity="2:4"), CONFIG)


def test_experts_see_too_few_rows():
    """To be weighed by their inputs."""
    nothing: Any = None
    with pytest.raises(SwitchError, match="prune=wanda looks at the inputs of each matrix"):
        read_windows(EngineConfig(prune="wanda"), small_config(experts=MoEConfig(3, 2, 12)), nothing)


def test_layers_of_a_mixture_can_go_beside_its_smallest_weights():
    """Neither looks at the inputs of an expert. Catches a refusal of magnitude in the words of Wanda."""
    checkpoint = checkpoint_of(MOE, random_tensors(MOE))
    words = Words()
    c = EngineConfig(prune="magnitude", drop_layers=1, calibration_tokens=64)
    model = load_model(replace(checkpoint, tokenizer=words), NumpyOps(Ledger()), c)
    assert len(model.layers) == MOE.num_layers - 1
