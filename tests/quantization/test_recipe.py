"""Recipes: which matrix gets which scheme, and what that costs, known before a weight is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from golden import FAMILIES
from helpers import checkpoint_of, random_tensors, request, small_config

from tinyinfer import LLM
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.backends.packed import W8A8, Packed
from tinyinfer.engine.clock import WallClock
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import build_engine
from tinyinfer.ledger import Ledger
from tinyinfer.loading import load
from tinyinfer.loading.build import build_model
from tinyinfer.loading.checkpoint import LazyTensor
from tinyinfer.measure.roofline import expected_step
from tinyinfer.model.config import MoEConfig, held_matrices
from tinyinfer.model.quantized_matrix import QuantScheme
from tinyinfer.model.visit import layer_matrices, weights
from tinyinfer.quantization.apply import rounding
from tinyinfer.quantization.recipe import Recipe, kept_recipe, make_recipe, packed_bytes, saved_bytes
from tinyinfer.quantization.rtn import round_to_nearest

INT4, INT8 = QuantScheme(4, 32, symmetric=False), QuantScheme(8, 32, symmetric=True)


def recipe(model: Any = None, **switches: Any) -> Recipe:
    return make_recipe(EngineConfig(**switches), model or small_config())


def refusal(rules: str, **changes: Any) -> str:
    with pytest.raises(ValueError, match="quantize_rules: ") as caught:
        recipe(small_config(**changes), quantize_rules=rules)
    return str(caught.value)


def test_without_rules_the_body_and_nothing_else():
    """Catches the head quantized without being asked for, and the router at any time: it decides, and is small."""
    moe = small_config(experts=MoEConfig(3, 2, 8))
    found = recipe(moe, quantize="int4")
    assert {name: found.scheme(name) for name in held_matrices(moe)} == {
        "embedding": None, "layers.0.qkv": INT4, "layers.0.o": INT4, "layers.0.router": None, "layers.0.gate_up": INT4,
        "layers.0.down": INT4, "layers.1.qkv": INT4, "layers.1.o": INT4, "layers.1.router": None,
        "layers.1.gate_up": INT4, "layers.1.down": INT4, "head": None,
    }  # fmt: skip


MIXED = small_config(num_layers=3, experts=MoEConfig(3, 2, 8, shared_size=10, dense_layers=(0,)))


def test_a_shared_expert_is_rounded_and_its_router_is_not():
    """Catches the shared expert left in floats, and its one row of weights, which decides like a router, rounded."""
    found = recipe(MIXED, quantize="int4")
    floats = [name for name in held_matrices(MIXED) if found.scheme(name) is None]
    routers = [f"layers.{i}.{name}" for i in (1, 2) for name in ("router", "shared_router")]
    assert floats == ["embedding", *routers, "head"]
    asked = recipe(MIXED, quantize="int4", quantize_rules="layers.*.shared_router int8")
    assert (asked.scheme("layers.1.shared_router"), asked.scheme("layers.1.router")) == (INT8, None)


def test_the_head_with_the_embedding_or_as_one():
    found = recipe(quantize="int4", quantize_head="int8")
    assert (found.scheme("embedding"), found.scheme("head"), found.scheme("layers.0.o")) == (INT8, INT8, INT4)
    tied = small_config(tied_head=True)
    assert "embedding" not in held_matrices(tied)
    assert recipe(tied, quantize_head="int8").scheme("head") == INT8
    assert recipe(tied, quantize_head="int8").scheme("layers.0.o") is None


def test_symmetric_only_at_8_bits_unless_asked():
    """Zero in the middle costs a bit's worth of range, which 8 bits can spare and 4 cannot."""
    schemes = [recipe(quantize=f"int{bits}").scheme("layers.0.o") for bits in (8, 4, 3, 2)]
    found = [(scheme.bits, scheme.symmetric) for scheme in schemes if scheme]
    assert found == [(8, True), (4, False), (3, False), (2, False)]
    assert recipe(quantize="int4", symmetric=True).scheme("layers.0.o") == QuantScheme(4, 32, symmetric=True)
    assert recipe(quantize="int8", symmetric=False).scheme("layers.0.o") == QuantScheme(8, 32, symmetric=False)


def test_group_sizes():
    assert recipe(quantize="int4", group_size=128).scheme("layers.0.o") == QuantScheme(4, 128, symmetric=False)
    assert recipe(quantize="int4", group_size="channel").scheme("layers.0.o") == QuantScheme(4, None, symmetric=False)
    per_tensor = QuantScheme(4, None, symmetric=False, per_tensor=True)
    assert recipe(quantize="int4", group_size="tensor").scheme("layers.0.o") == per_tensor


def test_the_first_rule_that_fits_wins():
    """Catches the last one winning, and a rule's group that leaks into others."""
    rules = "layers.0.* off, layers.*.down int8 g64, layers.*.down int2 gchannel, head int3"
    found = recipe(quantize="int4", quantize_rules=rules)
    assert found.scheme("layers.0.down") is None
    assert found.scheme("layers.1.down") == QuantScheme(8, 64, symmetric=True)
    assert found.scheme("layers.1.o") == INT4
    assert found.scheme("head") == QuantScheme(3, 32, symmetric=False)
    assert found.scheme("embedding") is None


def test_rules_alone_are_enough():
    found = recipe(quantize_rules="layers.1.qkv int4")
    assert [name for name in held_matrices(small_config()) if found.scheme(name)] == ["layers.1.qkv"]


@pytest.mark.parametrize("rule", ["head", "head int5", "head int4 32", "head int4 g31", "int4", "head int4 g32 g32"])
def test_a_rule_that_is_not_understood_is_refused(rule):
    assert f"{rule!r} is not understood; write a name" in refusal(f"layers.0.o int4, {rule}")


@pytest.mark.parametrize("name", ["layers.2.o", "layers.*.gate", "layer.*.o", "embedding", "norm", "positions"])
def test_a_rule_for_nothing_is_refused_with_the_names_that_exist(name):
    """A misspelt layer would be measured as if it had been changed. (A tied head's embedding is called head.)"""
    sentence = refusal(f"{name} int8", tied_head=True)
    assert sentence == (f"quantize_rules: no matrix is called {name!r}; this model's are layers.*.qkv, layers.*.o, "
                        "layers.*.gate_up, layers.*.down, head")  # fmt: skip


def test_the_names_that_exist_are_those_of_all_layers():
    """Catches those of the first layer alone, which has no mixture here and names no router."""
    sentence = refusal("layers.*.expert int8", num_layers=3, experts=MIXED.experts)
    assert sentence.endswith(
        "this model's are layers.*.qkv, layers.*.o, layers.*.gate_up, layers.*.down, layers.*.router, "
        "layers.*.shared_router, layers.*.shared_gate_up, layers.*.shared_down, embedding, head"
    )


@pytest.mark.parametrize("method", ["hqq", "combined"])
def test_a_rule_for_a_scheme_that_the_method_cannot_fit_is_refused(method):
    """Before the weights are read, and by the name of the switch that says it."""
    with pytest.raises(ValueError, match=f"quantize_rules: 'head int8 gtensor' has .* quantize_method={method} fits"):
        recipe(quantize="int4", quantize_method=method, quantize_rules="layers.0.o int8 g64, head int8 gtensor")
    assert recipe(quantize="int4", quantize_method=method, quantize_rules="head off gtensor").scheme("head") is None
    assert recipe(quantize="int4", quantize_method="gptq", quantize_rules="head int8 gtensor").scheme("head").per_tensor


@pytest.mark.parametrize(
    ("switches", "what"),
    [
        ({"quantize_rules": "head int8", "quantize_method": "gptq"}, "quantize_method=gptq"),
        ({"quantize": "int4", "quantize_rules": "layers.* off, head int8", "quantize_method": "awq"},
         "quantize_method=awq"),
        ({"quantize": "w8a8", "quantize_rules": "layers.* off"}, "quantize=w8a8"),
    ],
    ids=str,
)  # fmt: skip
def test_no_text_is_read_for_layers_that_stay_as_they_are(switches, what):
    """A minute's work for the same weights, under the name of a method that did nothing."""
    with pytest.raises(ValueError, match=f"quantize_rules leave every layer as it is, and {what} is only for layers"):
        recipe(**switches)
    some = switches | {"quantize_rules": "layers.0.o int8, " + switches["quantize_rules"]}
    assert recipe(**some).scheme("layers.0.o") == INT8


def test_under_w8a8_a_rule_means_what_it_says(golden_folder):
    """int8 gchannel is how w8a8 rounds weights, but its inputs stay floats. In memory, and foretold."""
    switches = {"quantize": "w8a8", "quantize_rules": "layers.1.o int8 gchannel", "calibration_tokens": 128}
    model = LLM(str(golden_folder("llama")), **switches).model
    assert [type(layer.mixer.o.weight) for layer in model.layers] == [W8A8, Packed, W8A8]
    made = recipe(model.config, **switches)
    held = held_matrices(model.config)["layers.1.o"]
    assert made.nbytes(held, 4) == model.layers[1].mixer.o.weight.nbytes > model.layers[0].mixer.o.weight.nbytes


# What it costs


SETTINGS: list[dict[str, Any]] = [
    {"quantize": "int4"},
    {"quantize": "int3", "group_size": 64, "quantize_head": "int8"},
    {"quantize": "int2", "symmetric": True, "quantize_rules": "layers.0.down int8 gchannel, layers.*.o off"},
    {"quantize": "int8", "group_size": "tensor", "symmetric": False},
]


CASES = [(name, SETTINGS[i % len(SETTINGS)]) for i, name in enumerate(FAMILIES)]
CASES += [("mixtral", switches) for switches in SETTINGS if ("mixtral", switches) not in CASES]


@pytest.mark.parametrize(("name", "switches"), CASES, ids=str)
def test_bytes_are_those_that_are_held(name, switches, golden_folder):
    """Every family, against the packed arrays. Catches blocks filled up and not counted, a fused part left out."""
    config = load(golden_folder(name)).config
    made, model = recipe(config, **switches), LLM(str(golden_folder(name)), **switches).model
    held = {name: made.nbytes(matrix, 4) for name, matrix in held_matrices(config).items()}
    for i, layer in enumerate(model.layers):
        for short, found in layer_matrices(layer).items():
            assert held.pop(f"layers.{i}.{short}") == sum(weight.nbytes for weight in weights(found))
    assert held.pop("head") == model.head.weight.nbytes
    assert held.pop("embedding", model.head.weight.nbytes) == model.embedding.table.nbytes
    assert not held


@pytest.mark.parametrize("switches", SETTINGS, ids=str)
@pytest.mark.parametrize("tied", [False, True])
def test_a_step_reads_what_is_foretold(switches, tied):
    """The counted ledger, prefill and decode, against the float model's formula less what the recipe saves."""
    config = small_config(tied_head=tied, experts=MoEConfig(1, 1, 12))
    ops, c = NumpyOps(Ledger()), EngineConfig(**switches)
    checkpoint = checkpoint_of(config, random_tensors(config))
    model = build_model(checkpoint, ops, conversion=rounding(c, config))
    engine = build_engine(model, ops, c, WallClock())
    first = 0
    for trace, rows in zip(engine.run([request(range(7), 3)]), (7, 1, 1), strict=True):
        expected = expected_step(config, first, rows)
        expected.weight_bytes -= saved_bytes(config, make_recipe(c, config), 4, rows, expected.experts_read)
        assert trace.ledger == expected
        first += rows


@pytest.mark.parametrize("switches", SETTINGS, ids=str)
def test_what_a_step_saves_in_layers_of_two_kinds(switches):
    """Catches experts that are spread over all layers, dense ones too: a step would read more than it holds."""
    made, held = recipe(MIXED, **switches), held_matrices(MIXED)
    saved = {name: matrix.numbers * 4 - made.nbytes(matrix, 4) for name, matrix in held.items()}
    all_of_them = saved_bytes(MIXED, made, 4, rows=0, experts_read=6)  # the 3 experts of both mixtures, no embedding
    assert all_of_them == sum(less for name, less in saved.items() if name != "embedding")


def test_keep_has_the_schemes_of_the_file():
    """Where fused parts disagree, each has its own. Catches the first part's scheme taken for all."""
    config = small_config()
    checkpoint = checkpoint_of(config, random_tensors(config))
    schemes = dict.fromkeys(["layers.0.q", "layers.0.k", "layers.0.v", "layers.1.q"], INT4) | {"head": INT8}
    tensors: dict[str, LazyTensor] = {}
    for name, tensor in checkpoint.tensors.items():
        scheme = schemes.get(name)
        matrix = round_to_nearest(np.ones((1, 32), np.float32), scheme) if scheme else None
        tensors[name] = replace(tensor, codes=matrix and (lambda start, stop, matrix=matrix: matrix))
    found = kept_recipe(config, tensors)
    assert {name: scheme for name, scheme in found.rules if scheme} == {"layers.0.qkv": INT4, "head": INT8}
    assert found.mixed == {"layers.1.qkv": (INT4, None, None)}
    held = held_matrices(config)["layers.1.qkv"]
    q, k, v = (outputs for _, outputs in held.parts)
    alone = kept_recipe(config, tensors).nbytes(held, 2)
    assert alone == packed_bytes(q, held.inputs, INT4, 2) + 2 * (k + v) * held.inputs
