"""What is predicted of a configuration is what a model of it holds and counts, for each kind of layer by itself.

Random weights of a few thousand numbers. tests/test_ledger.py and tests/cli/test_inspect.py hold the same of every
family's golden; here each part stands alone, so that a formula that forgets one part fails under its name.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import make_engine, random_tensors, request, small_config

from tinyinfer.engine.config import EngineConfig
from tinyinfer.kv_cache.memory import position_bytes
from tinyinfer.measure.inspect import bytes_by_part, matrices, parameters_by_part, steps, unused_experts
from tinyinfer.measure.roofline import expected_decode, expected_prefill, norm_weights
from tinyinfer.measure.tables import mixture_words
from tinyinfer.model.config import ModelConfig, MoEConfig, RopeConfig
from tinyinfer.quantization.recipe import Recipe, make_recipe

N, NEW = 11, 5
SPLIT = RopeConfig(
    scaling="longrope", original_max_position=40, amplitude=1.2, divisors=(1.0, 1.5, 2.0), long_divisors=(2.0, 4.0, 8.0)
)
KINDS = {
    "plain": small_config(),
    "shared expert": small_config(experts=MoEConfig(5, 2, 12, shared_size=18)),
    "dense layers among mixtures": small_config(num_layers=5, experts=MoEConfig(5, 2, 12, dense_layers=(0, 3))),
    "nothing but dense layers": small_config(experts=MoEConfig(5, 2, 12, dense_layers=(0, 1))),
    "biases of experts and router": small_config(
        num_layers=3, mlp_bias=True, activation="clamped", experts=MoEConfig(5, 2, 12, dense_layers=(1,))
    ),
    "sinks": small_config(sinks=True, windows=(5, None)),
    "norms after only": small_config(pre_norms=False, post_norms=True, qk_norm="full"),
    "norms before and after": small_config(post_norms=True, qk_norm="head"),
    "caps": small_config(score_cap=5.0, logit_cap=3.0, windows=(4, None)),
    "parallel layers": small_config(
        parallel=True, norm="layer", gated=False, activation="gelu", qkv_bias=True, o_bias=True, mlp_bias=True,
        rope=(RopeConfig(size=2),) * 2,
    ),
    "scales": small_config(embedding_scale=3.0, residual_scale=0.25, logit_scale=0.125, tied_head=True),
    "two sets of rotations": small_config(rope=(SPLIT,) * 2),
    "layers without rotation": small_config(num_layers=4, rope=(RopeConfig(), None) * 2),
    "yarn": small_config(rope=(RopeConfig(scaling="yarn", factor=4.0, amplitude=1.1, original_max_position=16),) * 2),
}  # fmt: skip
kinds = pytest.mark.parametrize("c", KINDS.values(), ids=KINDS)
MIXTURES = {name: c for name, c in KINDS.items() if c.experts}


@kinds
def test_every_counter_is_as_predicted(c: ModelConfig):
    """A prefill and decode steps that ran. Catches a product, a bias or a norm that only one of the two knows."""
    engine = make_engine(c)
    prefill, *decode = [trace.ledger for trace in engine.run([request(range(N), NEW)], watch=True)]
    assert prefill == expected_prefill(c, N, experts_read=prefill.experts_read)
    for position, step in enumerate(decode, N):
        assert step == expected_decode(c, position)
    assert len(decode) == NEW - 1


def test_a_sequence_that_crosses_to_the_other_rotations_costs_a_prefill():
    """Two sets, the second beyond 40 positions: the step that crosses computes all rows again, the others one."""
    c, first = KINDS["two sets of rotations"], 38
    ledgers = [trace.ledger for trace in make_engine(c).run([request([5] * first, 6)], watch=True)]
    crossing = expected_prefill(c, 41)
    crossing.tokens_recomputed = 40
    steps = [expected_prefill(c, first), *(expected_decode(c, position) for position in (38, 39, 40, 41, 42))]
    assert ledgers == [crossing if position == 3 else step for position, step in enumerate(steps)]
    [long] = make_engine(c).run([request([5] * 45, 1)], watch=True)
    assert long.ledger == expected_prefill(c, 45)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@kinds
def test_the_bytes_are_those_that_are_held(c: ModelConfig, dtype: type):
    """Catches sinks and biases of experts that no part holds, or that are thought to be stored in half precision."""
    parts = bytes_by_part(c, np.dtype(dtype).itemsize, Recipe(()))
    assert sum(parts.values()) == make_engine(c, dtype=dtype).model.nbytes
    assert sum(parameters_by_part(c).values()) == sum(array.size for array in random_tensors(c).values())
    assert parts["norms"] == 4 * norm_weights(c)
    assert position_bytes(c.memory) == c.num_layers * 2 * 2 * 6 * 4, "no part changes what a position takes"


@pytest.mark.parametrize("name", ["shared expert", "dense layers among mixtures", "biases of experts and router"])
def test_a_quantized_step_reads_what_is_predicted(name: str):
    """Catches the saving of experts spread over layers that have none."""
    c, switches = KINDS[name], {"quantize": "int4", "group_size": 32, "quantize_head": "int8"}
    config = EngineConfig(**switches)
    recipe, engine = make_recipe(config, c), make_engine(c, **switches)
    assert sum(bytes_by_part(c, 4, recipe).values()) == engine.model.nbytes
    held = sum(matrix["bytes"] for matrix in matrices(c, 4, recipe))
    assert held + 4 * sum(a.size for n, a in random_tensors(c).items() if a.ndim == 1 or n.endswith(".bias")) == (
        engine.model.nbytes
    )
    [_, decode, _] = steps(c, 20, 4, True, recipe)
    [trace] = engine.run([request([3], 1)], watch=True)
    assert trace.ledger.bytes_moved == decode[2].bytes_moved


def test_the_shared_expert_by_hand():
    """D 20, Fs 18, 2 layers: a router of one output, gate, up and down, for every row."""
    with_one = KINDS["shared expert"]
    without = small_config(experts=MoEConfig(5, 2, 12))
    a, b = expected_prefill(with_one, 7, experts_read=9), expected_prefill(without, 7, experts_read=9)
    weights = 2 * (20 + 3 * 20 * 18)
    assert (a.flops - b.flops, a.weight_bytes - b.weight_bytes) == (7 * 2 * weights, 4 * weights)
    assert (a.expert_rows, a.experts_read) == (b.expert_rows, b.experts_read) == (2 * 7 * 2, 9)
    assert unused_experts(with_one) == unused_experts(without) == 2 * 3 * 3 * 20 * 12


def test_dense_layers_among_mixtures_by_hand():
    """Five layers of which two are dense: D 20, F 28 there, experts of 12 in the others."""
    c = KINDS["dense layers among mixtures"]
    assert expected_decode(c, 4).experts_read == 3 * 2
    assert expected_prefill(c, 1000).experts_read == 3 * 5
    parts = parameters_by_part(c)
    assert parts["MLP"] == 2 * 3 * 20 * 28 + 3 * (5 * 20 + 5 * 3 * 20 * 12)
    assert unused_experts(c) == 3 * 3 * 3 * 20 * 12


def test_biases_and_sinks_by_hand():
    """A chosen expert reads 2F + D biases; a layer's sinks are H numbers, and belong to attention."""
    c = KINDS["biases of experts and router"]
    bare = replace(c, mlp_bias=False)
    dense, mixtures = 2 * 28 + 20, 5 + 2 * (2 * 12 + 20)
    assert expected_decode(c, 0).weight_bytes - expected_decode(bare, 0).weight_bytes == 4 * (dense + 2 * mixtures)
    assert unused_experts(c) - unused_experts(bare) == 2 * 3 * (2 * 12 + 20)
    sinks, none = parameters_by_part(KINDS["sinks"]), parameters_by_part(small_config())
    assert {part: sinks[part] - none[part] for part in sinks} == {**dict.fromkeys(sinks, 0), "attention": 2 * 4}
    assert expected_decode(KINDS["sinks"], 0).weight_bytes - expected_decode(small_config(), 0).weight_bytes == 4 * 8


def test_norms_by_hand():
    """Two a layer before, two after, or both; D 20, 2 layers, and one at the end. Catches a count of 2 or 4 for all."""
    assert norm_weights(small_config()) == 5 * 20
    assert norm_weights(small_config(pre_norms=False, post_norms=True)) == 5 * 20
    assert norm_weights(small_config(post_norms=True)) == 9 * 20
    assert norm_weights(KINDS["parallel layers"]) == 5 * 2 * 20, "a norm and its bias"


def test_words_about_mixtures():
    """Catches a shared expert or dense layers that a reader of `inspect` is not told of."""

    def words(**more: object) -> str:
        experts = {"num_experts": 60, "experts_per_token": 4, "shared_size": 0, "dense_layers": (), **more}
        return mixture_words({"num_layers": 24, "experts": experts})

    assert words() == "4 of 60 experts a token"
    assert words(shared_size=8) == "4 of 60 experts a token beside a shared one"
    assert words(dense_layers=(0, 1)) == "4 of 60 experts a token, in 22 of 24 layers"


@pytest.mark.parametrize("name", MIXTURES)
def test_parameters_a_token_are_those_that_are_read(name: str):
    """A decode step reads every parameter but the unused experts, and of the embedding only a row: read in bytes."""
    c = MIXTURES[name]
    table = c.vocab_size * c.hidden_size
    used = sum(parameters_by_part(c).values()) - unused_experts(c) - table + c.hidden_size
    assert expected_decode(c, 0).weight_bytes == 4 * used
    assert math.isclose(expected_decode(c, 0, itemsize=2).weight_bytes, 2 * used, rel_tol=0.15)
