"""Folding: a layer's inputs divided by a scale at no cost, because what made them is divided instead.

(x / s) (W s)ᵀ = x Wᵀ for any scale s of the inputs, but after the change W s rounds differently, and so does x / s:
that is what AWQ and SmoothQuant use. The division is exact where the inputs come straight from a norm (its weight is
divided), and where they come from a linear layer's outputs with nothing but products between (its rows are divided):
`up` to `down` in a gated MLP, and values to `o`, since attention only mixes them. Rows that are already quantized
change their steps and minimums, not their codes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.model.mlp import GatedMLP
from tinyinfer.model.transformer import Layer
from tinyinfer.model.weights import Codes, Dense, LayerNorm, Linear, NoNorm, Norm, RMSNorm
from tinyinfer.quantization.rtn import half


def foldable(layer: Layer, name: str) -> bool:
    """Whether the inputs of the linear layer of that name can be divided for nothing."""
    if name in ("qkv", "gate_up", "up"):
        return not isinstance(layer.attention_norm if name == "qkv" else layer.mlp_norm, NoNorm)
    return isinstance(layer.mlp, GatedMLP) if name == "down" else layer.heads.queries == layer.heads.keys


def fold(layer: Layer, scales: dict[str, Array]) -> Layer:
    """The layer with the inputs of its linear layers of these names divided by their scales, by what makes them."""
    for name, scale in scales.items():
        if name == "qkv":
            layer = replace(layer, attention_norm=divide_norm(layer.attention_norm, scale))
        elif name in ("gate_up", "up"):
            layer = replace(layer, mlp_norm=divide_norm(layer.mlp_norm, scale))
        elif name == "down":
            assert isinstance(layer.mlp, GatedMLP)
            layer = replace(layer, mlp=replace(layer.mlp, gate_up=divide_rows(layer.mlp.gate_up, scale)))
        else:
            layer = replace(layer, qkv=divide_rows(layer.qkv, scale))
    return layer


def divide_norm(norm: Norm, scale: Array) -> Norm:  # (D,) ->
    """The norm whose outputs are divided by the scale."""
    if isinstance(norm, LayerNorm):
        return replace(norm, weight=norm.weight / scale, bias=norm.bias / scale)
    assert isinstance(norm, RMSNorm)
    return replace(norm, weight=norm.weight / scale)


def divide_rows(linear: Linear, scale: Array) -> Linear:  # (n,) ->
    """The linear layer whose last n outputs are divided by the scale: the values of qkv, the up of gate_up."""
    factors = np.ones(linear.weight.shape[0], dtype=np.float32)
    factors[-len(scale) :] /= scale
    bias = None if linear.bias is None else linear.bias * factors
    return Linear(multiply_rows(linear.weight, factors), bias)


def multiply_rows(weight: Any, factors: Array) -> Any:  # (N,) ->
    """The weight with each output's row times a factor; of a quantized one the steps and minimums are multiplied."""
    if isinstance(weight, Dense):
        return Dense((weight.array * factors).astype(weight.array.dtype, copy=False))
    codes, column = weight.unpack(), factors[:, None]
    m = None if codes.m is None else half(codes.m * column)
    return type(weight).pack(Codes(codes.grid, codes.q, half(codes.d * column), m), np)
