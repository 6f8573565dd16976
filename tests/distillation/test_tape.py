"""The tape: gradients of whole models, of every family's parts, against finite differences in double precision."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import pytest
from helpers import checkpoint_of, random_tensors, small_config

from tinyinfer.arrays import Array
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.backends.reference import Products, ReferenceOps
from tinyinfer.distillation.padding import PassCache
from tinyinfer.distillation.tape import Shadows, Tape
from tinyinfer.distillation.texts import reading
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import build_model
from tinyinfer.model.config import ModelConfig, MoEConfig, RopeConfig
from tinyinfer.model.transformer import Model, embed, head, run_layers, transformer
from tinyinfer.model.weights import Dense, Embedding
from tinyinfer.quantization.calibration import rows_of
from tinyinfer.sequence import Batch, Span

STEP = 1e-6  # of a finite difference
DIGITS = {"gpt2": 2e-5}  # of a family whose gelu is a polynomial, 2e-7 off, and its adjoint the true derivative
WINDOWS = np.random.default_rng(1).integers(0, 31, (2, 7))  # two sequences in one batch

FAMILIES = {
    "llama": small_config(),
    "tied": small_config(tied_head=True, embedding_scale=3.0),
    "gemma": small_config(qk_norm="head", post_norms=True, activation="gelu_tanh", windows=(3, None), logit_cap=2.0,
                          score_cap=1.5, rope=(RopeConfig(), RopeConfig(theta=300.0)), residual_scale=0.7),
    "gpt2": small_config(norm="layer", activation="gelu", gated=False, learned_positions=True, qkv_bias=True,
                         o_bias=True, mlp_bias=True, rope=(None, None), num_kv_heads=4),
    "olmo": small_config(qk_norm="full", pre_norms=False, post_norms=True, logit_scale=0.5),
    "neox": small_config(parallel=True, norm="layer", gated=False, rope=(RopeConfig(size=4),) * 2, qkv_bias=True),
}  # fmt: skip


class Doubles(ReferenceOps):
    """The reference in double precision, so that finite differences have many digits."""

    def __init__(self) -> None:
        super().__init__(Ledger(), np.float64)

    def take_array(self, *parts: np.ndarray) -> Array:  # -> (...,)
        return np.concatenate(parts).astype(np.float64)

    def embed(self, tokens: Array, positions: Array, embedding: Embedding) -> Array:  # (T,), (T,) -> (T, D)
        assert isinstance(embedding.table, Dense)
        x = embedding.table.array[:, tokens].T * embedding.scale  # (T, D)
        return x if embedding.positions is None else x + embedding.positions[positions]

    def double_product(self, x: Array, weight: Dense) -> Array:  # (T, M) -> (T, N)
        return x @ weight.array

    products: ClassVar[Products] = MappingProxyType({Dense: double_product})


def model_of(config: ModelConfig, ops: Any) -> Model:
    return build_model(checkpoint_of(config, random_tensors(config)), ops)


def logits(model: Model, ops: Any) -> np.ndarray:  # -> (T, V)
    """The logits of every row of the two sequences."""
    batch = rows_of(WINDOWS, model.config.rotation_sets)
    batch = replace(batch, logit_rows=np.arange(WINDOWS.size))
    return transformer(model, batch, PassCache(), ops)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_of_a_model_are_its_finite_differences(name):
    """Along a random direction d of every parameter p: (L(p + hd) - L(p - hd)) / 2h = gradient · d.

    Catches an adjoint that is wrong, a view whose gradient is lost, a use of a parameter that is not counted (a tied
    table has two), and a sequence that sees another.
    """
    ops = Doubles()
    model, rng = model_of(FAMILIES[name], ops), np.random.default_rng(2)
    weights = rng.standard_normal((WINDOWS.size, FAMILIES[name].vocab_size))  # (T, V)
    tape = Tape(ops, model.config)
    tape.backward(logits(model, tape), weights)
    assert not tape.notes
    assert len(tape.weights) == count_parameters(FAMILIES[name])
    for parameter, gradient in tape.weights.values():
        array = parameter.array if isinstance(parameter, Dense) else parameter
        direction, before = rng.standard_normal(array.shape), array.copy()
        values = []
        for sign in (1, -1):
            array[...] = before + sign * STEP * direction
            values.append(float((logits(model, ops) * weights).sum()))
        array[...] = before
        right = (values[0] - values[1]) / (2 * STEP)
        assert float((gradient * direction).sum()) == pytest.approx(right, rel=DIGITS.get(name, 1e-6), abs=1e-8)


def count_parameters(c: ModelConfig) -> int:
    """Arrays that are trained: fused matrices, biases, norms, positions; a table that is the head once."""
    norms = 2 * c.pre_norms + 2 * c.post_norms
    matrices = 4 + c.qkv_bias + c.o_bias + 2 * c.mlp_bias
    layer = matrices + norms * (2 if c.norm == "layer" else 1) + {"none": 0, "head": 1, "full": 2}[c.qk_norm]
    ends = 1 + (not c.tied_head) + (2 if c.norm == "layer" else 1) + c.learned_positions
    return c.num_layers * layer + ends


@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2"])
def test_the_fast_backend_has_the_same_gradients(name):
    """NumPy's overrides work in place and by tiles. Catches an x that is changed before its adjoint reads it."""
    config, grads = FAMILIES[name], []
    weights = np.random.default_rng(2).standard_normal((WINDOWS.size, config.vocab_size))  # (T, V)
    for ops in (Doubles(), NumpyOps(Ledger())):
        tape = Tape(ops, config)
        y = logits(model_of(config, ops), tape)
        tape.backward(y, weights.astype(y.dtype))
        grads.append([gradient for _, gradient in tape.weights.values()])
    for right, found in zip(*grads, strict=True):
        assert np.linalg.norm(found - right) < 1e-5 * np.linalg.norm(right)


def test_two_passes_add_up():
    """As in gradient accumulation; `clear` forgets a pass that was not run backward, and no gradient."""
    ops = Doubles()
    model, tape = model_of(FAMILIES["llama"], ops), Tape(ops, FAMILIES["llama"])
    weights = np.ones((WINDOWS.size, 31))
    tape.backward(logits(model, tape), weights)
    once = [gradient.copy() for _, gradient in tape.weights.values()]
    tape.clear()
    logits(model, tape)
    tape.clear()
    tape.backward(logits(model, tape), weights)
    for gradient, right in zip(tape.weights.values(), once, strict=True):
        np.testing.assert_allclose(gradient[1], 2 * right, rtol=1e-12)


def batch_of(sizes: list[int], config: ModelConfig) -> Batch:
    """Sequences of so many tokens in one batch, every row's logits wanted."""
    rng = np.random.default_rng(8)
    return reading([rng.integers(0, 31, size + 1) for size in sizes], range(len(sizes)), config.rotation_sets).batch


def alone(batch: Batch, span: Span) -> Batch:
    """One of a batch's sequences as a batch."""
    rows = slice(span.start, span.stop)
    moved = Span(span.seq, 0, span.rows, 0, wanted=0, rotation_set=span.rotation_set)
    return Batch(batch.tokens[rows], batch.positions[rows], np.arange(span.rows), (moved,))


@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2", "neox"])
def test_a_batch_of_mixed_lengths_has_the_gradients_of_each_document_alone(name):
    """Each document's logits and gradients are those that it has by itself. Catches a leak between documents.

    Its rows are also as finite differences say, since those of a document alone are (above).
    """
    ops, rng, config = Doubles(), np.random.default_rng(2), FAMILIES[name]
    model, batch = model_of(config, ops), batch_of([5, 1, 8, 3, 8], config)
    weights = rng.standard_normal((len(batch), config.vocab_size))  # (T, V)
    tape, single = Tape(ops, config), Tape(ops, config)
    together = transformer(model, batch, PassCache(), tape)
    for span in batch.spans:
        y, rows = transformer(model, alone(batch, span), PassCache(), single), slice(span.start, span.stop)
        np.testing.assert_allclose(together[rows], y, rtol=1e-10, atol=1e-12)
        single.backward(y, weights[rows])
    tape.backward(together, weights)
    for (_, found), (_, right) in zip(tape.weights.values(), single.weights.values(), strict=True):
        assert np.linalg.norm(found - right) < 1e-12 * max(1, np.linalg.norm(right))


def recomputed(model: Model, batch: Batch, tape: Tape) -> np.ndarray:  # -> (T, V)
    """The logits, of whose layers only the inputs are kept."""
    x = embed(model, batch, tape)
    for i in range(len(model.layers)):
        x = tape.recompute(lambda ops, x, i=i: run_layers(model, i, i + 1, x, batch, PassCache(), ops), x)
    return head(model, x, batch, tape)


@pytest.mark.parametrize("name", FAMILIES)
def test_recomputing_a_layer_at_a_time_gives_the_same_gradients(name):
    """In every family. Catches an input that a layer has changed in place before it is run again."""
    ops, config = Doubles(), FAMILIES[name]
    model, batch = model_of(config, ops), batch_of([5, 8, 3], config)
    weights = np.random.default_rng(2).standard_normal((len(batch), config.vocab_size))  # (T, V)
    tape, again = Tape(ops, config), Tape(ops, config)
    y = transformer(model, batch, PassCache(), tape)
    tape.backward(y, weights)
    x = recomputed(model, batch, again)
    np.testing.assert_allclose(x, y, rtol=1e-12)
    again.backward(x, weights)
    found = dict(again.weights)
    assert found.keys() == tape.weights.keys()
    for key, (_, right) in tape.weights.items():
        np.testing.assert_allclose(found[key][1], right, rtol=1e-10, atol=1e-11)


def test_recomputing_keeps_fewer_arrays():
    """With eight layers: at the end of the forward pass, and at its peak. Catches a layer's notes that stay."""
    config = small_config(num_layers=8)
    model = model_of(config, NumpyOps(Ledger()))
    batch, held, peaks = batch_of([60, 40], config), [], []
    tape = Tape(NumpyOps(Ledger()), config)
    for forward in (lambda: transformer(model, batch, PassCache(), tape), lambda: recomputed(model, batch, tape)):
        y = forward()
        tape.backward(y, np.ones_like(y))  # once before: the parameters' gradients are no part of what is compared
        tape.clear()
        tracemalloc.start()
        y = forward()
        held.append(tracemalloc.get_traced_memory()[0])
        tape.backward(y, np.ones_like(y))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        tape.clear()
    assert held[1] < 0.25 * held[0]
    assert peaks[1] < 0.5 * peaks[0]


def test_gradients_of_results_are_dropped_when_they_were_passed_on():
    """Catches shadows of all activations, as much memory again as the forward pass."""
    config = FAMILIES["llama"]
    model, tape = model_of(config, NumpyOps(Ledger())), Tape(NumpyOps(Ledger()), config)
    y = transformer(model, batch_of([5, 8], config), PassCache(), tape)
    tape.backward(y, np.ones_like(y))
    [(array, _)] = tape.shadows.held.values()
    assert array.shape == (13, 20)  # the embedding's rows, to which nothing is passed on


def test_the_shadow_of_a_view_is_a_view_of_the_shadow():
    """Catches gradients of a part that do not reach the whole: transposed, sliced, reshaped."""
    shadows, x = Shadows(np), np.zeros((4, 6, 2))
    part = x[1:3, ::2].transpose(1, 0, 2)[1]
    shadows.of(part)[...] += 5.0
    right = np.zeros((4, 6, 2))
    right[1:3, 2] = 5.0
    np.testing.assert_array_equal(shadows.of(x), right)
    np.testing.assert_array_equal(shadows.of(x.reshape(8, 6)), right.reshape(8, 6))


def test_what_cannot_be_trained():
    """A mixture, and weights that are no plain floats: a sentence each."""
    with pytest.raises(ValueError, match="a mixture of experts has no gradients here"):
        Tape(NumpyOps(Ledger()), small_config(experts=MoEConfig(3, 2, 12)))
    half = NumpyOps(Ledger(), np.float16)
    with pytest.raises(ValueError, match="only float32 weights in plain arrays have gradients"):
        logits(model_of(FAMILIES["llama"], half), Tape(half, FAMILIES["llama"]))
