"""Folding: a layer's inputs divided by a scale at no cost, because what computes the inputs is divided instead.

(x / s) (W s)ᵀ = x Wᵀ for any scale s of the inputs, but after the change W s rounds differently, and so does x / s:
AWQ and SmoothQuant use that. The division is exact where the inputs come straight from a norm (the norm's weight is
divided), and where they come from a linear layer's outputs with nothing but products between (the rows of that layer
are divided): `up` to `down` in a gated MLP, and values to `o`, since attention only mixes values, with caps and with
sinks. Rows that are already quantized change their scales and minimums, not their codes. It is not exact, and not done,
where no norm stands before a matrix (OLMo-2), where a gate clamps `up` and adds 1 to it (gpt-oss), and where an
activation alone stands between two matrices (GPT-2).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.model.attention import GroupedQuery
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.layers import Layer
from tinyinfer.model.mlp import GatedMLP
from tinyinfer.model.quantized_matrix import QuantizedMatrix
from tinyinfer.model.visit import layer_matrices, with_matrices
from tinyinfer.model.weights import Floats, LayerNorm, Linear, NoNorm, Norm, RMSNorm, Weight
from tinyinfer.quantization.rtn import to_half

SOURCES = {"down": "gate_up", "o": "qkv"}  # linear layer -> the one whose last outputs are its inputs


def foldable(layer: Layer, name: str) -> bool:
    """Whether the inputs of the linear layer of that name can be divided at no cost."""
    if name in ("qkv", "gate_up", "up"):
        return not isinstance(layer.attention_norm if name == "qkv" else layer.mlp_norm, NoNorm)
    if name == "down":
        return isinstance(layer.mlp, GatedMLP) and layer.mlp.activation != "clamped"
    return isinstance(layer.mixer, GroupedQuery) and layer.mixer.heads.queries == layer.mixer.heads.keys


def fold(layer: Layer, scales: dict[str, Array], ops: Ops) -> Layer:
    """The layer with the inputs of its linear layers of these names divided by their scales."""
    for name, scale in scales.items():
        if name == "qkv":
            layer = replace(layer, attention_norm=divide_norm(layer.attention_norm, ops.take_array(scale)))
        elif name in ("gate_up", "up"):
            layer = replace(layer, mlp_norm=divide_norm(layer.mlp_norm, ops.take_array(scale)))
        else:
            source = layer_matrices(layer)[SOURCES[name]]
            assert isinstance(source, Linear)
            layer = with_matrices(layer, {SOURCES[name]: divide_rows(source, scale, ops)})
    return layer


def divide_norm(norm: Norm, scale: Array) -> Norm:  # (D,) ->
    """Returns the norm with its weights divided by the scale, so that its outputs are divided."""
    if isinstance(norm, LayerNorm):
        return replace(norm, weight=norm.weight / scale, bias=norm.bias / scale)
    assert isinstance(norm, RMSNorm)
    return replace(norm, weight=norm.weight / scale)


def divide_rows(linear: Linear, scale: Array, ops: Ops) -> Linear:  # (n,) ->
    """The linear layer whose last n outputs are divided by the scale: the values of qkv, the up of gate_up."""
    factors = np.ones(linear.weight.shape[0], dtype=np.float32)  # (N,)
    factors[-len(scale) :] /= scale
    bias = None if linear.bias is None else linear.bias * ops.take_array(factors)
    return Linear(multiply_rows(linear.weight, factors, ops), bias)


def multiply_rows(weight: Weight, factors: np.ndarray, ops: Ops) -> Weight:  # (N,) ->
    """The weight with each output's row times a factor; of a quantized one scales and minimums are multiplied."""
    matrix, column = weight.matrix(), factors[:, None]  # (N, 1)
    if isinstance(matrix, QuantizedMatrix):
        minimum = None if matrix.minimum is None else to_half(matrix.minimum * column)  # (N, G)
        return ops.take(replace(matrix, scale=to_half(matrix.scale * column), minimum=minimum))
    assert isinstance(matrix, Floats)
    return ops.take(replace(matrix, array=matrix.array * column))
