"""How a model is pruned: whole parts first, then single weights, layer by layer with text to look at.

A method that reads text sees what the pruned layers before it put out, as in Wanda's and SparseGPT's own code: so each
layer is fitted to its real inputs. Embedding and head stay as they are. They are looked up, and every logit needs all
of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.errors import SwitchError
from tinyinfer.model.config import ModelConfig, held_matrices
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.transformer import Model
from tinyinfer.model.visit import map_matrices
from tinyinfer.model.weights import MASK, TWO_OF_FOUR, Floats, Linear, MixedMatrix, SparseMatrix, Weight
from tinyinfer.pruning.layers import check_can_drop, keep_layers, most_influential
from tinyinfer.pruning.magnitude import magnitude
from tinyinfer.pruning.patterns import Pattern, read_pattern
from tinyinfer.pruning.refit import check_can_refit, refit
from tinyinfer.pruning.sparsegpt import sparsegpt
from tinyinfer.pruning.switches import PRUNE_METHODS, READING, PruningSwitches, WeightSwitches
from tinyinfer.pruning.wanda import wanda
from tinyinfer.pruning.width import check_can_narrow, narrow
from tinyinfer.quantization.apply import floats, rounding, windows_of
from tinyinfer.quantization.calibration import Encoder, Inputs, calibrate
from tinyinfer.quantization.recipe import make_recipe
from tinyinfer.switches import resolve

Method = Callable[[np.ndarray, "Inputs | None", Pattern], np.ndarray]
Progress = Callable[[int, int], None]


def check_can_prune(c: PruningSwitches, model: ModelConfig) -> None:
    """Refuses what a model of this configuration cannot have, before its weights are read. Raises SwitchError.

    The pattern of single weights is looked at when whole parts are gone, since it must divide what is left.
    """
    check_can_drop(model, c.drop_layers or 0)
    check_can_narrow(model, c.width, c.keep_kv_heads, c.keep_hidden)
    if c.refit:
        check_can_refit(model)
    if not c.narrows:
        check_pattern(c, model)


def check_pattern(c: PruningSwitches, model: ModelConfig) -> None:
    """Raises SwitchError, naming the matrix, for a pattern that does not divide the inputs of a layer's matrix."""
    if c.prune == "off":
        return
    pattern = read_pattern(c.sparsity)
    for name, held in held_matrices(model).items():
        if is_pruned(name) and not pattern.divides(held.inputs):
            reason = "{field}={value} does not divide the {inputs} inputs of {matrix}"
            cure = "choose a pattern that does, or a share, as 0.5"
            raise SwitchError("sparsity", c.sparsity, reason, cure, inputs=held.inputs, matrix=name)


def read_windows(c: WeightSwitches, model: ModelConfig, tokenizer: Encoder) -> np.ndarray:  # -> (W, n)
    """The text that chooses what goes, W windows of n token ids, read and refused as quantization/apply.py does.

    Raises SwitchError for a mixture of experts where the inputs of single matrices are asked for.
    """
    what = [*(["prune"] if c.prune in READING else []), *c.given("width", "keep_kv_heads", "keep_hidden")]
    if model.experts and what:
        reason = "{field}={value} looks at the inputs of each matrix, and an expert sees too few rows"
        cure = "choose {prune}=magnitude"
        raise SwitchError(what[0], getattr(c, what[0]), reason, cure)
    if c.quantizes:
        make_recipe(c, model)  # before the weights are read
    return windows_of(c, model, tokenizer)


def is_pruned(name: str) -> bool:
    """Whether single weights of the matrix of that name go: of the layers' matrices, but for routers."""
    return name.startswith("layers.") and not name.endswith("router")


def prune_model(
    model: Model, ops: Ops, c: PruningSwitches, windows: np.ndarray | None, on_layer: Progress
) -> Model:  # (W, n) ->
    """The float model without layers, then without neurons, heads and width, fitted, then without single weights.

    windows: W windows of n token ids, where text is read; one pass over them for each of the four, and one more of the
    whole model for the fit. on_layer(done, total): called as layers are done. Raises ValueError as check_pattern,
    most_influential, narrow, refit and calibrate do.
    """
    whole, size = model, model.config.num_layers
    narrows, single = bool(c.width or c.keep_kv_heads or c.keep_hidden), c.prune != "off"
    left = size - (c.drop_layers or 0)
    passes = [size * bool(c.drop_layers), left * narrows, left * c.refit, left * single]  # layers of each pass

    def passed(before: int) -> Callable[[int], None]:
        return lambda done: on_layer(sum(passes[:before]) + done, sum(passes))

    kept = list(range(size))
    if c.drop_layers and windows is not None:
        kept = most_influential(whole, windows, ops, c.drop_layers, passed(0))
        model = keep_layers(whole, kept)
    if narrows and windows is not None:
        model = narrow(model, windows, ops, c.width, c.keep_kv_heads, c.keep_hidden, passed(1))
    if c.refit and windows is not None:
        model = refit(model, whole, kept, windows, ops, passed(2))
    check_pattern(c, model.config)
    return prune_weights(model, ops, c, windows, passed(3)) if single else model


def prune_weights(
    model: Model, ops: Ops, c: PruningSwitches, windows: np.ndarray | None, on_layer: Callable[[int], None]
) -> Model:  # (W, n) ->
    """The model with single weights of its layers' matrices set to zero; each part of a fused matrix by itself.

    windows: W windows of n token ids, for a method that reads text.
    """
    pattern, held = read_pattern(c.sparsity), held_matrices(model.config)
    layout = TWO_OF_FOUR if pattern.kept_of == (2, 4) else MASK
    method: Method = resolve(PRUNE_METHODS, c.prune)

    def sparse(name: str, weight: Weight, inputs: Inputs | None) -> Weight:
        w, first, parts = floats(weight), 0, []
        for _, outputs in held[name].parts:
            parts.append(method(w[first : first + outputs], inputs, pattern))
            first += outputs
        return ops.take(SparseMatrix(Floats(name, np.concatenate(parts)), layout))

    def convert(name: str, linear: Linear, inputs: Inputs) -> tuple[Linear, Array | None]:
        return Linear(sparse(name, linear.weight, inputs), linear.bias), None

    if c.prune not in READING:
        pruned = map_matrices(model, lambda name, weight: sparse(name, weight, None) if is_pruned(name) else weight)
        on_layer(model.config.num_layers)
        return pruned
    assert windows is not None
    return calibrate(model, windows, ops, convert, on_layer)


def round_pruned(model: Model, ops: Ops, c: WeightSwitches) -> Model:
    """A pruned model's weights in the bits that the switches say, by a method that needs no data; zero stays zero."""
    convert = rounding(replace(c, symmetric=True) if c.prune != "off" else c, model.config)

    def change(name: str, weight: Weight) -> Weight:
        matrix = weight.matrix()
        if isinstance(matrix, SparseMatrix) and isinstance(matrix.matrix, Floats):
            new = convert(name, matrix.matrix)
            assert not isinstance(new, MixedMatrix | SparseMatrix)
            return ops.take(replace(matrix, matrix=new))
        return ops.take(convert(name, matrix)) if isinstance(matrix, Floats) else weight

    return map_matrices(model, change)


# Methods by name: (weights of one tensor, statistics of their inputs, pattern) -> the weights with zeros.


def by_magnitude(w: np.ndarray, inputs: Inputs | None, pattern: Pattern) -> np.ndarray:  # (N, M) -> (N, M)
    """Removes the smallest weights; looks at no text."""
    return magnitude(w, pattern)


def by_wanda(w: np.ndarray, inputs: Inputs, pattern: Pattern) -> np.ndarray:  # (N, M) -> (N, M)
    """Removes the weights whose size times the norm of their input is smallest."""
    return wanda(w, inputs.hessian, pattern)


def by_sparsegpt(w: np.ndarray, inputs: Inputs, pattern: Pattern) -> np.ndarray:  # (N, M) -> (N, M)
    """Removes the cheapest weights, and changes the others to make up for them."""
    return sparsegpt(w, inputs.hessian, pattern)
