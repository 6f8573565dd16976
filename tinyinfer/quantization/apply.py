"""How a model's matrices become quantized: one by one while they are loaded, or layer by layer with text to look at.

Methods without data (rtn, hqq) see one matrix at a time, so the float model is never in memory: the peak is the packed
weights and one float matrix for each thread that loads. The others (gptq, awq, SmoothQuant for w8a8) need the float
model, which reads some text while its linear layers are replaced, one after the other. The methods can be combined,
because each decides something else: awq which inputs are scaled up, hqq where a group's grid lies, gptq which codes.
The fewer the bits, the more the combination wins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tinyinfer.arrays import HALF_MAX, Array, to_host
from tinyinfer.errors import ModelError
from tinyinfer.model.config import ModelConfig
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.quantized_matrix import QuantizedMatrix, QuantScheme
from tinyinfer.model.transformer import Model
from tinyinfer.model.visit import map_matrices
from tinyinfer.model.weights import FloatMatrix, Linear, Matrix, Weight
from tinyinfer.quantization.awq import awq, search_scales
from tinyinfer.quantization.calibration import (
    DEFAULT_TOKENS,
    WINDOW,
    Encoder,
    Inputs,
    calibrate,
    calibration_text,
    calibration_windows,
    check_can_calibrate,
)
from tinyinfer.quantization.folding import foldable
from tinyinfer.quantization.gptq import gptq
from tinyinfer.quantization.hqq import hqq
from tinyinfer.quantization.recipe import make_recipe
from tinyinfer.quantization.rtn import HALF_MIN, round_to_nearest
from tinyinfer.quantization.switches import QUANTIZE_METHODS, QuantizationSwitches
from tinyinfer.quantization.w8a8 import search_scale
from tinyinfer.switches import resolve

Method = Callable[[np.ndarray, QuantScheme], QuantizedMatrix]
Calibrated = Callable[[np.ndarray, QuantScheme, Inputs, bool], tuple[QuantizedMatrix, np.ndarray | None]]

# While loading.


def rounding(c: QuantizationSwitches, model: ModelConfig) -> Callable[[str, FloatMatrix], Matrix]:
    """What becomes of a matrix of that name by a method that needs no data; floats where the recipe leaves floats.

    Raises ValueError as make_recipe does; the returned function raises ModelError as `in_range` does.
    """
    recipe = make_recipe(c, model)
    method: Method = resolve(QUANTIZE_METHODS, c.quantize_method)

    def convert(name: str, matrix: FloatMatrix) -> Matrix:
        scheme = recipe.scheme(name)
        return matrix if scheme is None else method(in_range(name, in_memory(matrix), scheme), scheme)

    return convert


def in_memory(matrix: FloatMatrix) -> np.ndarray:  # -> (N, M)
    """All rows of a matrix in float32."""
    w = np.empty(matrix.shape, dtype=np.float32)  # (N, M)
    for start, rows in matrix.tiles():
        w[start : start + len(rows)] = rows
    return w


def in_range(name: str, w: np.ndarray, scheme: QuantScheme) -> np.ndarray:  # (N, M) -> (N, M)
    """The same matrix. Raises ModelError if float16 cannot hold its scales: weights would be clipped, or all zero."""
    largest = max(float(w.max()), -float(w.min()))
    if largest > HALF_MAX or 0 < 2 * largest / (scheme.highest - scheme.lowest) < HALF_MIN:
        raise ModelError(
            f"{name}: weights of up to {largest:.3g} cannot be quantized, since scales are float16 ({HALF_MIN:.0e} to "
            f"{HALF_MAX:.0f}); if they are right, leave them as they are, by the rule '{name} off'"
        )
    return w


# With text.


def read_windows(c: QuantizationSwitches, model: ModelConfig, tokenizer: Encoder) -> np.ndarray:  # -> (W, n)
    """The calibration text as W windows of n token ids, beginning tokens included, at most the model's context.

    Raises ModelError for a file that cannot be read, ValueError for too short a text, for a mixture of experts and as
    make_recipe does: what cannot work is said before the weights are read.
    """
    check_can_calibrate(model, w8a8=c.quantize == "w8a8")
    make_recipe(c, model)
    return windows_of(c, model, tokenizer)


def windows_of(c: QuantizationSwitches, model: ModelConfig, tokenizer: Encoder) -> np.ndarray:  # -> (W, n)
    """W windows of n token ids as `read_windows` reads them, without a look at how the model will be quantized."""
    beginning = tokenizer.beginning if c.calibration_bos else []
    size = min(WINDOW, model.max_position - len(beginning))
    count = DEFAULT_TOKENS if c.calibration_tokens is None else c.calibration_tokens
    name = "the default calibration text" if c.calibration is None else f"{c.calibration}: the calibration text"
    return calibration_windows(calibration_text(c.calibration), tokenizer, count, size, name, beginning)


def quantize_model(
    model: Model,
    ops: Ops,
    c: QuantizationSwitches,
    windows: np.ndarray,
    on_layer: Callable[[int, int], None] = lambda done, of: None,
) -> Model:  # (W, n) ->
    """The float model with its matrices quantized while it reads W windows of n token ids.

    on_layer(done, total) is called as layers are done. Raises ValueError for a mixture of experts, and for a rule that
    fits no matrix.
    """
    recipe, total = make_recipe(c, model.config), model.config.num_layers
    method: Calibrated = by_smoothing if c.quantize == "w8a8" else resolve(QUANTIZE_METHODS, c.quantize_method)

    def convert(name: str, linear: Linear, inputs: Inputs) -> tuple[Linear, Array | None]:
        scheme = recipe.scheme(name)
        if scheme is None:
            return linear, None
        _, i, short = name.split(".")
        w = in_range(name, floats(linear.weight), scheme)
        matrix, scale = method(w, scheme, inputs, foldable(model.layers[int(i)], short))
        return Linear(ops.take(matrix), linear.bias), scale

    def round_ends(name: str, weight: Weight) -> Weight:
        scheme = None if name.startswith("layers.") else recipe.scheme(name)
        return weight if scheme is None else ops.take(round_to_nearest(floats(weight), scheme))

    return map_matrices(calibrate(model, windows, ops, convert, lambda done: on_layer(done, total)), round_ends)


def by_gptq(
    w: np.ndarray, scheme: QuantScheme, inputs: Inputs, foldable: bool
) -> tuple[QuantizedMatrix, np.ndarray | None]:  # (N, M) ->
    """Chooses the codes by GPTQ, on the grid of plain rounding; inputs are not scaled."""
    return gptq(w, inputs.hessian, round_to_nearest(w, scheme)), None


def by_awq(
    w: np.ndarray, scheme: QuantScheme, inputs: Inputs, foldable: bool
) -> tuple[QuantizedMatrix, np.ndarray | None]:  # (N, M) ->
    """Rounds by AWQ where its scale costs nothing, else by plain rounding."""
    return awq(w, inputs.hessian, inputs.mean, scheme) if foldable else (round_to_nearest(w, scheme), None)


def by_combination(
    w: np.ndarray, scheme: QuantScheme, inputs: Inputs, foldable: bool
) -> tuple[QuantizedMatrix, np.ndarray | None]:  # (N, M) ->
    """AWQ's scale where it costs nothing, then HQQ's grid, then GPTQ's codes: each improves what the others leave."""
    if not foldable:
        return gptq(w, inputs.hessian, hqq(w, scheme)), None
    scale = search_scales(w, inputs.hessian, inputs.mean, scheme)  # (M,)
    return gptq(w * scale, inputs.hessian / np.outer(scale, scale), hqq(w * scale, scheme)), scale


def by_smoothing(
    w: np.ndarray, scheme: QuantScheme, inputs: Inputs, foldable: bool
) -> tuple[QuantizedMatrix, np.ndarray | None]:  # (N, M) ->
    """Scales inputs by SmoothQuant where that costs nothing, then rounds plainly."""
    if not foldable:
        return round_to_nearest(w, scheme), None
    scale = search_scale(w, inputs.sample, inputs.largest)  # (M,)
    return round_to_nearest(w * scale, scheme), scale


# Once loaded.


def coarser_copy(model: Model, scheme: QuantScheme, head: QuantScheme, ops: Ops) -> Model:
    """A model whose layers and head are rounded, and that shares the rest: what drafts of the model itself come from.

    head: its scheme, unless the model's own is rounded already. (In a small model a head of floats would be most of
    what a draft reads.)
    """

    def change(name: str, weight: Weight) -> Weight:
        if name.startswith("layers."):
            return weight if name.endswith("router") else ops.take(round_to_nearest(floats(weight), scheme))
        keep = name == "embedding" or weight.scheme
        return weight if keep else ops.take(round_to_nearest(floats(weight), head))

    return replace(map_matrices(model, change), embedding=model.embedding)


def floats(weight: Weight) -> np.ndarray:  # -> (N, M)
    """All numbers of a weight in float32, outputs first, on the host."""
    return np.ascontiguousarray(to_host(weight.dequantize(slice(0, weight.shape[0]))).T)
