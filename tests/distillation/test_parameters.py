"""Parameters: a model made anew with views of one flat array as its weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from distilling import OPS, model_of, reading_of
from helpers import small_config

from tinyinfer.distillation.padding import PassCache
from tinyinfer.distillation.parameters import Parameters, parameters
from tinyinfer.distillation.tape import Tape
from tinyinfer.model.config import ModelConfig, expected_tensors
from tinyinfer.model.transformer import Model, transformer
from tinyinfer.model.weights import Dense, Linear

CONFIGS = {
    "llama": small_config(),
    "tied": small_config(tied_head=True),
    "gpt2": small_config(norm="layer", activation="gelu", gated=False, learned_positions=True, qkv_bias=True,
                         o_bias=True, mlp_bias=True, rope=(None, None), num_kv_heads=4),
    "olmo": small_config(qk_norm="full", pre_norms=False, post_norms=True),
}  # fmt: skip


def logits(model: Model, tape: Tape | None = None) -> np.ndarray:  # -> (R, V)
    return transformer(model, reading_of([7, 5]).batch, PassCache(), tape or OPS)


def trained(config: ModelConfig) -> tuple[Model, Parameters, Tape]:
    model, tape = model_of(config), Tape(OPS, config)
    return model, Parameters.of(model, tape), tape


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_the_same_model_of_the_same_numbers(name: str) -> None:
    """Every number once, a tied table once; vectors behind matrices. Catches a weight that is lost or counted twice."""
    model, p, _ = trained(CONFIGS[name])
    np.testing.assert_array_equal(logits(p.model), logits(model))
    sizes = [shape for one, shape in expected_tensors(CONFIGS[name]).items()]
    assert len(p.values) == len(p.gradients) == sum(int(np.prod(shape)) for shape in sizes)
    assert p.decayed == sum(int(np.prod(shape)) for shape in sizes if len(shape) > 1)
    assert p.model.config is model.config


@pytest.mark.parametrize("name", CONFIGS)
def test_a_change_of_the_flat_array_is_a_change_of_the_model(name: str) -> None:
    """And not of the model that it was made of. Catches a copy in the place of a view."""
    model, p, _ = trained(CONFIGS[name])
    before = logits(model)
    p.values[...] = 0
    assert not any(array.any() for array in parameters(p.model))
    np.testing.assert_array_equal(logits(model), before)


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_arrive_where_their_parameters_lie(name: str) -> None:
    """Each array's, as a tape has them without the flat array. Catches rows for columns: both have as many numbers."""
    model, p, tape = trained(CONFIGS[name])
    alone = Tape(OPS, model.config)
    for one, its in ((model, alone), (p.model, tape)):
        y = logits(one, its)
        its.backward(y, np.ones_like(y))
    right = [gradient for _, gradient in alone.weights.values()]
    held = {id(array): gradient for array, gradient in pairs(tape)}
    found = [held[id(array)] for array, _ in pairs_of(p, alone, model)]
    for one, other in zip(found, right, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        assert np.shares_memory(one, p.gradients)
    assert len(tape.weights) == len(right)


def pairs(tape: Tape) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each parameter's array, and its gradient."""
    return [(one.array if isinstance(one, Dense) else one, gradient) for one, gradient in tape.weights.values()]


def pairs_of(p: Parameters, alone: Tape, model: Model) -> list[tuple[np.ndarray, np.ndarray]]:
    """The new model's arrays in the order in which the other tape met the old ones."""
    new = {id(old): array for old, array in zip(parameters(model), parameters(p.model), strict=True)}
    return [(new[id(array)], gradient) for array, gradient in pairs(alone)]


def test_the_layout_of_a_matrix_stays() -> None:
    """A backend chooses it for its products. Catches a matrix that is turned and then multiplied far more slowly."""
    model, p, _ = trained(CONFIGS["llama"])
    for old, new in zip(parameters(model), parameters(p.model), strict=True):
        assert [n > old.itemsize for n in old.strides] == [n > new.itemsize for n in new.strides]


def test_the_mask_is_of_matrices_alone() -> None:
    """A bias of zero is no pruned weight. Catches biases that never move."""
    _, p, _ = trained(CONFIGS["gpt2"])
    p.values[:] = 1
    p.values[[3, p.decayed, len(p.values) - 1]] = 0
    assert np.flatnonzero(p.mask(np) == 0).tolist() == [3]
    assert p.mask(np).dtype == np.float32


def test_what_is_no_plain_array_is_refused() -> None:
    """Catches half precision that becomes single without a word."""
    model = model_of()
    odd = replace(model, head=Linear(Dense(np.ones((20, 31), np.float16))))
    with pytest.raises(ValueError, match="only float32 weights in plain arrays have gradients"):
        Parameters.of(odd, Tape(OPS, model.config))
