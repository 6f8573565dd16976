"""From a model in memory back to canonical tensors: what assemble.py joined is taken apart again, to be saved.

Weights stay in the form that they have: codes, steps and minimums of a quantized matrix, floats of a dense one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tinyinfer.backends.packed import GRID, W8A8, Quantized, QuantizedExperts
from tinyinfer.backends.packing import pack, packed_size
from tinyinfer.loading.keep import cut, join
from tinyinfer.model.mlp import MLP, GatedMLP, PlainMLP
from tinyinfer.model.moe import MoE
from tinyinfer.model.transformer import Layer, Model
from tinyinfer.model.weights import Codes, Dense, Experts, FullQKNorm, Grid, LayerNorm, Linear, NoNorm, Norm


@dataclass(frozen=True)
class Piece:
    """One canonical tensor: some outputs of a weight, beginning with `first`, or an array.

    source: Dense, Quantized, W8A8, Experts, QuantizedExperts or an array of that shape.
    """

    name: str
    shape: tuple[int, ...]
    source: Any
    first: int = 0

    @property
    def grid(self) -> Grid | None:
        """What it is rounded to; None for floats."""
        if isinstance(self.source, W8A8):
            return GRID
        one = self.source.expert(0) if isinstance(self.source, QuantizedExperts) else self.source
        return one.grid if isinstance(one, Quantized) else None

    @property
    def integer_inputs(self) -> bool:
        """Whether its inputs are rounded to 8 bits, too."""
        return isinstance(self.source, W8A8)

    def layout(self) -> list[tuple[str, np.dtype, tuple[int, ...]]]:
        """Name, type and shape of the arrays that it is saved as."""
        grid, (*_, inputs) = self.grid, self.shape
        if grid is None:
            array = self.source.array if isinstance(self.source, Dense | Experts) else self.source
            return [(self.name, array.dtype, self.shape)]
        rows, groups = prod(self.shape[:-1]), -(-inputs // (grid.group or inputs))
        codes = f"{self.name}.codes", np.dtype(np.uint8), (rows, packed_size(inputs, grid.bits))
        scales = ["d"] if grid.symmetric else ["d", "m"]
        return [codes, *((f"{self.name}.{scale}", np.dtype(np.float16), (rows, groups)) for scale in scales)]

    def arrays(self) -> Iterator[np.ndarray]:
        """Those arrays."""
        if self.grid is None:
            yield self._floats()
            return
        codes = self._codes()
        yield pack((codes.q - codes.grid.low).astype(np.uint8), codes.grid.bits, np)
        yield codes.d
        if codes.m is not None:
            yield codes.m

    def _floats(self) -> np.ndarray:
        rows = slice(self.first, self.first + self.shape[-2]) if len(self.shape) > 1 else slice(None)
        if isinstance(self.source, Dense):
            return self.source.array[:, rows].T
        return self.source.array[:, :, rows].swapaxes(1, 2) if isinstance(self.source, Experts) else self.source

    def _codes(self) -> Codes:
        rows = slice(self.first, self.first + self.shape[-2])
        if isinstance(self.source, QuantizedExperts):
            return join([cut(matrix.unpack(), rows) for matrix in self.source.matrices])
        return cut(self.source.unpack(), rows)


def pieces(model: Model) -> Iterator[Piece]:
    """Every canonical tensor of a model, in the order of its layers."""
    c, table = model.config, model.embedding.table
    yield Piece("embedding", table.shape, table)
    if model.embedding.positions is not None:
        yield Piece("positions", model.embedding.positions.shape, model.embedding.positions)
    for i, layer in enumerate(model.layers):
        yield from layer_pieces(f"layers.{i}.", layer)
    yield from norm_pieces("final_norm", model.final_norm)
    if not c.tied_head:
        yield from linear_pieces("", {"head": c.vocab_size}, model.head)


def layer_pieces(n: str, layer: Layer) -> Iterator[Piece]:
    """The canonical tensors of one layer, whose names begin with n."""
    heads = layer.heads
    queries, keys = heads.queries * heads.size, heads.keys * heads.size
    yield from norm_pieces(n + "attention_norm", layer.attention_norm)
    yield from linear_pieces(n, {"q": queries, "k": keys, "v": keys}, layer.qkv)
    yield from qk_norm_pieces(n, layer.qk_norm)
    yield from linear_pieces(n, {"o": layer.o.weight.shape[0]}, layer.o)
    yield from norm_pieces(n + "post_attention_norm", layer.post_attention_norm)
    yield from norm_pieces(n + "mlp_norm", layer.mlp_norm)
    yield from mlp_pieces(n, layer.mlp)
    yield from norm_pieces(n + "post_mlp_norm", layer.post_mlp_norm)


def mlp_pieces(n: str, mlp: MLP | MoE) -> Iterator[Piece]:
    """The canonical tensors of an MLP of any kind."""
    if isinstance(mlp, MoE):
        yield from linear_pieces(n, {"router": mlp.router.weight.shape[0]}, mlp.router)
        count, (width, inputs) = len(mlp.down), mlp.down.expert(0).shape
        yield Piece(n + "gate", (count, inputs, width), mlp.gate_up)
        yield Piece(n + "up", (count, inputs, width), mlp.gate_up, inputs)
        yield Piece(n + "down", (count, width, inputs), mlp.down)
        return
    assert isinstance(mlp, GatedMLP | PlainMLP)
    width, inputs = mlp.down.weight.shape
    if isinstance(mlp, GatedMLP):
        yield from linear_pieces(n, {"gate": inputs, "up": inputs}, mlp.gate_up)
    else:
        yield from linear_pieces(n, {"up": inputs}, mlp.up)
    yield from linear_pieces(n, {"down": width}, mlp.down)


def linear_pieces(n: str, outputs: dict[str, int], linear: Linear) -> Iterator[Piece]:
    """The matrices that a linear layer was joined of (name -> number of outputs), and their biases."""
    first = 0
    for name, count in outputs.items():
        yield Piece(n + name, (count, linear.weight.shape[1]), linear.weight, first)
        if linear.bias is not None:
            yield Piece(f"{n}{name}.bias", (count,), linear.bias[first : first + count])
        first += count


def norm_pieces(name: str, norm: Norm) -> Iterator[Piece]:
    """The weight of a norm, and its bias if it has one."""
    if isinstance(norm, NoNorm):
        return
    assert not isinstance(norm, FullQKNorm)
    yield Piece(name, norm.weight.shape, norm.weight)
    if isinstance(norm, LayerNorm):
        yield Piece(f"{name}.bias", norm.bias.shape, norm.bias)


def qk_norm_pieces(n: str, norm: Norm) -> Iterator[Piece]:
    """The norms of queries and of keys; of a weight that heads share, one copy."""
    if isinstance(norm, NoNorm):
        return
    if isinstance(norm, FullQKNorm):
        query, key = norm.query.weight, norm.key.weight
    else:
        query, key = norm.weight[0], norm.weight[-1]
    yield Piece(n + "q_norm", query.shape, query)
    yield Piece(n + "k_norm", key.shape, key)
