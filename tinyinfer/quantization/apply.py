"""How a model's matrices become quantized: one by one while they are loaded, or layer by layer with text to look at.

Methods without data (rtn, hqq) see nothing but a matrix, so the float model is never in memory: the peak is the packed
weights and one float matrix. The others (gptq, awq, SmoothQuant for w8a8) need the float model, which reads some text
while its linear layers are replaced, one after the other. They can be combined, as each decides something else: awq
which inputs are scaled up, hqq where a group's grid lies, gptq which codes; the fewer the bits, the more that wins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.backends.packed import GRID as W8A8_GRID
from tinyinfer.backends.packed import W8A8, Quantized, QuantizedExperts, w8a8_product
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import ModelError
from tinyinfer.model.weights import Codes, Experts, Grid, Linear, Weight
from tinyinfer.quantization.awq import awq, search_scales
from tinyinfer.quantization.calibration import (
    DEFAULT_TOKENS,
    WINDOW,
    Inputs,
    calibrate,
    calibration_text,
    calibration_windows,
    check_can_calibrate,
)
from tinyinfer.quantization.folding import foldable
from tinyinfer.quantization.gptq import gptq
from tinyinfer.quantization.hqq import hqq
from tinyinfer.quantization.recipe import make_grid, make_recipe
from tinyinfer.quantization.rtn import HALF_MAX, HALF_MIN, round_to_nearest
from tinyinfer.quantization.switches import QUANTIZE_METHODS
from tinyinfer.quantization.w8a8 import search_scale
from tinyinfer.switches import resolve

if TYPE_CHECKING:
    from tinyinfer.loading.checkpoint import Checkpoint
    from tinyinfer.model.interfaces import Ops
    from tinyinfer.model.transformer import Model

Method = Callable[[Array, Grid], Codes]
Calibrated = Callable[[Array, Grid, Inputs, bool], tuple[Codes, Array | None]]

# While loading.


def in_range(name: str, w: np.ndarray, grid: Grid) -> np.ndarray:  # (N, M) -> (N, M)
    """The same matrix. Raises ModelError if float16 cannot hold its steps: it would come out changed, or all zero."""
    largest = max(float(w.max()), -float(w.min()))
    if largest > HALF_MAX or 0 < 2 * largest / (grid.high - grid.low) < HALF_MIN:
        raise ModelError(
            f"{name}: weights of up to {largest:.3g} cannot be quantized, since steps are float16 ({HALF_MIN:.0e} to "
            f"{HALF_MAX:.0f}); if they are right, leave them as they are: quantize_rules='{name} off'"
        )
    return w


# With text.


def read_windows(c: EngineConfig, checkpoint: Checkpoint) -> np.ndarray:  # -> (B, S)
    """The calibration text as windows of token ids, no longer than the model's context.

    Raises ModelError for a file that cannot be read, ValueError for too short a text, for a mixture of experts and as
    make_recipe does: what cannot work is said before the weights are read.
    """
    check_can_calibrate(checkpoint.config, w8a8=c.quantize == "w8a8")
    make_recipe(c, checkpoint.config)
    size = min(WINDOW, checkpoint.config.max_position)
    count = DEFAULT_TOKENS if c.calibration_tokens is None else c.calibration_tokens
    name = "the default calibration text" if c.calibration is None else f"{c.calibration}: the calibration text"
    return calibration_windows(calibration_text(c.calibration), checkpoint.tokenizer, count, size, name)


def quantize_model(
    model: Model,
    ops: Ops,
    c: EngineConfig,
    windows: np.ndarray,
    on_layer: Callable[[int, int], None] = lambda done, of: None,
) -> Model:  # (B, S) ->
    """The float model with its matrices quantized while it reads the windows of token ids.

    on_layer(done, total) is called as layers are done. Raises ValueError for a mixture of experts, and for a rule that
    fits no matrix.
    """
    recipe, total = make_recipe(c, model.config), model.config.num_layers
    w8a8 = c.quantize == "w8a8"
    method: Calibrated = by_smoothing if w8a8 else resolve(QUANTIZE_METHODS, c.quantize_method)
    if w8a8:
        ops.products[W8A8] = w8a8_product

    def convert(name: str, linear: Linear, inputs: Inputs) -> tuple[Linear, Array | None]:
        grid = recipe.grid(name)
        if grid is None:
            return linear, None
        _, i, short = name.split(".")
        w = in_range(name, floats(linear.weight), grid)
        codes, scale = method(w, grid, inputs, foldable(model.layers[int(i)], short))
        kind = W8A8 if grid is W8A8_GRID else Quantized
        return Linear(kind.pack(codes, ops.xp), linear.bias), scale

    quantized = calibrate(model, windows, ops, convert, lambda done: on_layer(done, total))
    grids = {name: recipe.grid(name) for name in ("embedding", "head")}
    return round_ends(quantized, grids, ops)


def by_gptq(w: Array, grid: Grid, inputs: Inputs, foldable: bool) -> tuple[Codes, Array | None]:  # (N, M) ->
    """GPTQ on the grid of plain rounding; it needs no scale."""
    return gptq(w, inputs.hessian, round_to_nearest(w, grid)), None


def by_awq(w: Array, grid: Grid, inputs: Inputs, foldable: bool) -> tuple[Codes, Array | None]:  # (N, M) ->
    """AWQ where its scale costs nothing, else plain rounding."""
    return awq(w, inputs.hessian, inputs.mean, grid) if foldable else (round_to_nearest(w, grid), None)


def by_combination(w: Array, grid: Grid, inputs: Inputs, foldable: bool) -> tuple[Codes, Array | None]:  # (N, M) ->
    """AWQ's scale where it costs nothing, then HQQ's grid, then GPTQ's codes: each improves what the others leave."""
    if not foldable:
        return gptq(w, inputs.hessian, hqq(w, grid)), None
    scale = search_scales(w, inputs.hessian, inputs.mean, grid)
    return gptq(w * scale, inputs.hessian / np.outer(scale, scale), hqq(w * scale, grid)), scale


def by_smoothing(w: Array, grid: Grid, inputs: Inputs, foldable: bool) -> tuple[Codes, Array | None]:  # (N, M) ->
    """SmoothQuant's migration where it costs nothing, then plain rounding."""
    if not foldable:
        return round_to_nearest(w, grid), None
    scale = search_scale(w, inputs.sample, inputs.largest)
    return round_to_nearest(w * scale, grid), scale


# Once loaded.


def round_layers(model: Model, c: EngineConfig, ops: Ops) -> Model:
    """A copy of a model whose layers are rounded to draft_quantize; it shares all else. For drafts of the model itself.

    Raises ValueError for a group that is not supported.
    """
    grid = make_grid(c.draft_quantize, c.group_size, c.symmetric)
    assert grid is not None

    def rounded(part: object) -> object:
        if isinstance(part, Linear):
            return replace(part, weight=Quantized.pack(round_to_nearest(floats(part.weight), grid), ops.xp))
        if isinstance(part, Experts | QuantizedExperts):
            each = (floats(part.expert(e)) for e in range(len(part)))
            return QuantizedExperts(tuple(Quantized.pack(round_to_nearest(w, grid), ops.xp) for w in each))
        return part

    layers = []
    for layer in model.layers:
        parts = {f.name: rounded(getattr(layer.mlp, f.name)) for f in fields(layer.mlp) if f.name != "router"}  # type: ignore[arg-type]
        mlp = replace(layer.mlp, **parts)  # type: ignore[type-var]
        layers.append(replace(layer, qkv=rounded(layer.qkv), o=rounded(layer.o), mlp=mlp))  # type: ignore[arg-type]
    return replace(model, layers=tuple(layers))


def round_ends(model: Model, grids: dict[str, Grid | None], ops: Ops) -> Model:
    """The model with embedding and head (one matrix, called head, where they are tied) rounded to nearest."""
    table, head = model.embedding.table, model.head.weight

    def rounded(weight: Weight, grid: Grid | None) -> Weight:
        return weight if grid is None else Quantized.pack(round_to_nearest(floats(weight), grid), ops.xp)

    new_head = rounded(head, grids["head"])
    new_table = new_head if head is table else rounded(table, grids["embedding"])
    return replace(
        model, embedding=replace(model.embedding, table=new_table), head=replace(model.head, weight=new_head)
    )


def floats(weight: Weight) -> np.ndarray:  # -> (N, M)
    """All weights in float32, outputs first."""
    return np.ascontiguousarray(weight.dequantize(slice(0, weight.shape[0])).T)
