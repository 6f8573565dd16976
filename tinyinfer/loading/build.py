"""From a checkpoint to a model: which weights are fused, and what stands where a family has nothing.

All that differs between families is decided here, once, while loading, so that transformer.py has no branches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.backends.packed import QuantizedExperts
from tinyinfer.model.config import ModelConfig, RopeConfig
from tinyinfer.model.mlp import MLP, GatedMLP, PlainMLP
from tinyinfer.model.moe import MoE
from tinyinfer.model.transformer import Layer, Model
from tinyinfer.model.weights import Embedding, Experts, FullQKNorm, Heads, LayerNorm, Linear, NoNorm, Norm, RMSNorm

if TYPE_CHECKING:
    from tinyinfer.backends.packed import QuantizedExperts
    from tinyinfer.loading.checkpoint import LazyTensor
    from tinyinfer.model.interfaces import Ops
    from tinyinfer.model.weights import Dense, Experts, Weight


if TYPE_CHECKING:
    from tinyinfer.loading.checkpoint import Checkpoint
    from tinyinfer.model.interfaces import Ops


def assemble(
    checkpoint: Checkpoint,
    ops: Ops,
    on_layer: Callable[[int, int], None] = lambda done, of: None,
    weights: WeightTaker | None = None,
) -> Model:
    """The model of a checkpoint, its matrices taken by `weights` (None: as floats), the rest by `ops`.

    on_layer(done, total) is called as layers are loaded.
    """
    c, tensors = checkpoint.config, Taker(checkpoint, ops, weights or FloatTaker(ops))
    positions = tensors.array("positions") if c.learned_positions else None
    table = tensors.weights.matrix("head" if c.tied_head else "embedding", checkpoint.tensors["embedding"])
    ropes = list(dict.fromkeys(c.rope))
    layers = []
    for i in range(c.num_layers):
        layers.append(build_layer(i, c, tensors, ropes.index(c.rope[i])))
        on_layer(i + 1, c.num_layers)
    return Model(
        config=c,
        embedding=Embedding(table, positions, c.embedding_scale),
        frequencies=tuple(ops.take_array(frequencies(rope, c.head_dim)) for rope in ropes),
        layers=tuple(layers),
        final_norm=tensors.norm("final_norm"),
        head=Linear(table) if c.tied_head else tensors.linear("head", "head"),
    )


class Taker:
    """Takes weights by canonical name out of a checkpoint, for one backend."""

    def __init__(self, checkpoint: Checkpoint, ops: Ops, weights: WeightTaker) -> None:
        self.config, self.tensors, self.ops, self.weights = checkpoint.config, checkpoint.tensors, ops, weights

    def experts(self, held: str, *names: str) -> Experts | QuantizedExperts:
        """The stacks of experts of these names as one, which is called `held`."""
        return self.weights.experts(held, *(self.tensors[name] for name in names))

    def array(self, *names: str) -> Array:
        """Small arrays, joined."""
        return self.ops.take_array(*(self.tensors[name].numpy() for name in names))

    def linear(self, held: str, *names: str) -> Linear:
        """The matrices of these names as one linear layer called `held`, with their biases if the family has them."""
        weight = self.weights.matrix(held, *(self.tensors[name] for name in names))
        biases = [f"{name}.bias" for name in names]
        return Linear(weight, self.array(*biases) if biases[0] in self.tensors else None)

    def norm(self, name: str) -> Norm:
        """The norm of that name, of the family's kind."""
        if self.config.norm == "layer":
            return LayerNorm(self.array(name), self.array(f"{name}.bias"), self.config.norm_eps)
        return RMSNorm(self.array(name), self.config.norm_eps)


def build_layer(i: int, c: ModelConfig, tensors: Taker, rotation: int) -> Layer:
    """Layer i, queries, keys and values fused."""
    n = f"layers.{i}."
    return Layer(
        attention_norm=tensors.norm(n + "attention_norm"),
        qkv=tensors.linear(n + "qkv", n + "q", n + "k", n + "v"),
        qk_norm=build_qk_norm(n, c, tensors),
        rotation=rotation,
        heads=Heads(c.num_heads, c.num_kv_heads, c.head_dim, c.attention_scale, c.windows[i]),
        o=tensors.linear(n + "o", n + "o"),
        post_attention_norm=tensors.norm(n + "post_attention_norm") if c.post_norms else NoNorm(),
        mlp_norm=tensors.norm(n + "mlp_norm"),
        mlp=build_mlp(n, c, tensors),
        post_mlp_norm=tensors.norm(n + "post_mlp_norm") if c.post_norms else NoNorm(),
    )


def build_qk_norm(n: str, c: ModelConfig, tensors: Taker) -> Norm:
    """The norm of queries and keys; a weight shared by heads is repeated, so that one operation serves both."""
    if c.qk_norm == "none":
        return NoNorm()
    q, k = tensors.array(n + "q_norm"), tensors.array(n + "k_norm")
    if c.qk_norm == "full":
        return FullQKNorm(RMSNorm(q, c.norm_eps), RMSNorm(k, c.norm_eps))
    stacked = np.stack([q] * c.num_heads + [k] * c.num_kv_heads)
    return RMSNorm(tensors.ops.take_array(stacked), c.norm_eps)


def build_mlp(n: str, c: ModelConfig, tensors: Taker) -> MLP:
    """The MLP of the family's kind, gate and up fused."""
    if c.experts:
        gate_up = tensors.experts(n + "gate_up", n + "gate", n + "up")
        router, downs = tensors.linear(n + "router", n + "router"), tensors.experts(n + "down", n + "down")
        return MoE(router, gate_up, downs, c.activation, c.experts)
    down = tensors.linear(n + "down", n + "down")
    if c.gated:
        return GatedMLP(tensors.linear(n + "gate_up", n + "gate", n + "up"), down, c.activation)
    return PlainMLP(tensors.linear(n + "up", n + "up"), down, c.activation)


def frequencies(rope: RopeConfig | None, head_dim: int) -> np.ndarray:  # -> (E/2,)
    """Radians per position of each pair of a head's numbers; without rotary positions, 0 (no rotation)."""
    if rope is None:
        return np.zeros(head_dim // 2, dtype=np.float32)
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    f = np.float32(1) / np.float32(rope.theta) ** exponents
    if rope.divisors is not None:
        return f / np.asarray(rope.divisors, dtype=np.float32)
    if rope.scaling == "linear":
        return f / np.float32(rope.factor)
    return llama3_frequencies(f, rope) if rope.scaling == "llama3" else f


def llama3_frequencies(f: np.ndarray, rope: RopeConfig) -> np.ndarray:  # (E/2,) -> (E/2,)
    """Long wavelengths divided by factor, short ones kept, between them a blend (Llama 3.1's model card)."""
    turns = rope.original_max_position * f / np.float32(2 * math.pi)  # full turns within the original context
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blend = np.clip(blend, 0, 1)
    return ((1 - blend) * f / np.float32(rope.factor) + blend * f).astype(np.float32)


class WeightTaker(Protocol):
    """What assemble.py asks of whoever takes matrices out of a file; `name` is what quantization/recipe.py calls it."""

    def matrix(self, name: str, *parts: LazyTensor) -> Weight:
        """The parts, each (N_i, M), below one another as one weight."""

    def experts(self, name: str, *parts: LazyTensor) -> Experts | QuantizedExperts:
        """The parts, each (X, N_i, M), below one another in each expert."""


class FloatTaker:
    """Quantizes nothing."""

    def __init__(self, ops: Ops, *parts: object) -> None:
        self.ops = ops

    def matrix(self, name: str, *parts: LazyTensor) -> Dense:
        """The parts as the backend keeps floats."""
        return self.ops.take(*parts)

    def experts(self, name: str, *parts: LazyTensor) -> Experts:
        """The parts as the backend keeps floats."""
        return self.ops.take_experts(*parts)
