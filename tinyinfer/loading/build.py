"""From a checkpoint to a model: which tensors are fused, and what takes the place of a part that a family lacks.

All that differs between families is decided here, once, while loading, so that transformer.py has no branches. A
matrix passes through a `Conversion` on its way from the file to the backend: floats stay floats, or keep the codes that
the file holds, or are rounded (quantization/apply.py). How the result lies in memory is the backend's choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.errors import SwitchError
from tinyinfer.loading.checkpoint import Checkpoint, Joined
from tinyinfer.model.attention import GroupedQuery
from tinyinfer.model.config import ModelConfig, RopeConfig, held_matrices
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.mlp import MLP, GatedMLP, PlainMLP
from tinyinfer.model.moe import MoE
from tinyinfer.model.transformer import Layer, Model
from tinyinfer.model.weights import (
    Embedding,
    Experts,
    FullQKNorm,
    Heads,
    LayerNorm,
    Linear,
    Matrix,
    NoNorm,
    Norm,
    RMSNorm,
    Rotation,
    Weight,
)
from tinyinfer.quantization.switches import QuantizationSwitches

Conversion = Callable[[str, Joined], Matrix]  # (name, float rows) -> what the backend takes
Progress = Callable[[int, int], None]  # (layers done, of how many)


def as_floats(name: str, matrix: Joined) -> Matrix:
    """The null conversion: floats stay floats."""
    return matrix


def as_stored(name: str, matrix: Joined) -> Matrix:
    """The codes that the file itself holds; floats where it holds floats, or parts that were rounded differently.

    Raises ModelError for NaN and infinity in scales.
    """
    return matrix.quantized() or matrix


def build_model(
    checkpoint: Checkpoint,
    ops: Ops,
    on_layer: Progress = lambda done, of: None,
    conversion: Conversion = as_floats,
) -> Model:
    """The model of a checkpoint, as `ops` holds it. on_layer(done, total) is called as layers are loaded."""
    c, builder = checkpoint.config, Builder(checkpoint, ops, conversion)
    ropes = list(dict.fromkeys(c.rope))
    table = builder.weight("head" if c.tied_head else "embedding")
    positions = builder.array("positions") if c.learned_positions else None
    layers = []
    for i in range(c.num_layers):
        layers.append(build_layer(i, c, builder, ropes.index(c.rope[i])))
        on_layer(i + 1, c.num_layers)
    return Model(
        config=c,
        embedding=Embedding(table, positions, c.embedding_scale),
        rotations=tuple(builder.rotation(rope) for rope in ropes),
        layers=tuple(layers),
        final_norm=builder.norm("final_norm"),
        head=Linear(table) if c.tied_head else builder.linear("head"),
    )


class Builder:
    """Takes the weights of a checkpoint into a backend, by the names under which the model holds them."""

    def __init__(self, checkpoint: Checkpoint, ops: Ops, conversion: Conversion) -> None:
        self.config, self.tensors, self.ops, self.conversion = checkpoint.config, checkpoint.tensors, ops, conversion
        self.held = held_matrices(checkpoint.config)

    def weight(self, name: str, expert: int | None = None) -> Weight:
        """The tensors that are held as one matrix of this name, below one another; expert: that expert's rows."""
        parts = tuple(self.tensors[part] for part, _ in self.held[name].parts)
        return self.ops.take(self.conversion(name, Joined(parts, expert)))

    def linear(self, name: str) -> Linear:
        """The linear layer of this name, with its biases if the family has them."""
        biases = [f"{part}.bias" for part, _ in self.held[name].parts]
        return Linear(self.weight(name), self.array(*biases) if biases[0] in self.tensors else None)

    def experts(self, name: str) -> Experts:
        """The experts of this name, each a matrix by itself."""
        return Experts(tuple(self.weight(name, e) for e in range(self.held[name].count)))

    def array(self, *names: str) -> Array:
        """Small arrays, joined along their first axis."""
        return self.ops.take_array(*(self.tensors[name].numpy() for name in names))

    def norm(self, name: str) -> Norm:
        """The norm of this name, of the family's kind."""
        if self.config.norm == "layer":
            return LayerNorm(self.array(name), self.array(f"{name}.bias"), self.config.norm_eps)
        return RMSNorm(self.array(name), self.config.norm_eps)

    def rotation(self, rope: RopeConfig | None) -> Rotation:
        """The rotary positions of one kind of layer, as one set."""
        f = frequencies(rope, self.config.head_dim)[None]  # (1, E/2)
        return Rotation(self.ops.take_array(f), self.ops.take_array(np.ones_like(f)))


def build_layer(i: int, c: ModelConfig, builder: Builder, rotation: int) -> Layer:
    """Layer i. rotation: the index of its kind among the model's rotations."""
    n = f"layers.{i}."
    heads = Heads(c.num_heads, c.num_kv_heads, c.head_dim, c.attention_scale, c.windows[i])
    qk_norm = build_qk_norm(n, c, builder)
    return Layer(
        attention_norm=builder.norm(n + "attention_norm"),
        mixer=GroupedQuery(builder.linear(n + "qkv"), qk_norm, rotation, heads, builder.linear(n + "o")),
        post_attention_norm=builder.norm(n + "post_attention_norm") if c.post_norms else NoNorm(),
        mlp_norm=builder.norm(n + "mlp_norm"),
        mlp=build_mlp(n, c, builder),
        post_mlp_norm=builder.norm(n + "post_mlp_norm") if c.post_norms else NoNorm(),
    )


def build_qk_norm(n: str, c: ModelConfig, builder: Builder) -> Norm:
    """The norm of queries and keys; a weight shared by heads is repeated, so that one operation serves both."""
    if c.qk_norm == "none":
        return NoNorm()
    if c.qk_norm == "full":
        q, k = builder.array(n + "q_norm"), builder.array(n + "k_norm")
        return FullQKNorm(RMSNorm(q, c.norm_eps), RMSNorm(k, c.norm_eps))
    norms = builder.tensors[n + "q_norm"].numpy(), builder.tensors[n + "k_norm"].numpy()
    stacked = np.stack([norms[0]] * c.num_heads + [norms[1]] * c.num_kv_heads)  # (H+K, E)
    return RMSNorm(builder.ops.take_array(stacked), c.norm_eps)


def build_mlp(n: str, c: ModelConfig, builder: Builder) -> MLP:
    """The MLP of the family's kind, gate and up fused."""
    if c.experts:
        router, gate_up = builder.linear(n + "router"), builder.experts(n + "gate_up")
        return MoE(router, gate_up, builder.experts(n + "down"), c.activation, c.experts)
    if c.gated:
        return GatedMLP(builder.linear(n + "gate_up"), builder.linear(n + "down"), c.activation)
    return PlainMLP(builder.linear(n + "up"), builder.linear(n + "down"), c.activation)


def frequencies(rope: RopeConfig | None, head_dim: int) -> np.ndarray:  # -> (E/2,)
    """Radians per position of each pair of a head's numbers: theta^(-2i/E); without rotary positions, 0 (no rotation).

    (Su et al. 2021, section 3.3.)
    """
    if rope is None:
        return np.zeros(head_dim // 2, dtype=np.float32)
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)  # (E/2,)
    f = np.float32(1) / np.float32(rope.theta) ** exponents  # (E/2,)
    if rope.divisors is not None:
        return f / np.asarray(rope.divisors, dtype=np.float32)
    if rope.scaling == "linear":
        return f / np.float32(rope.factor)
    return llama3_frequencies(f, rope) if rope.scaling == "llama3" else f


def llama3_frequencies(f: np.ndarray, rope: RopeConfig) -> np.ndarray:  # (E/2,) -> (E/2,)
    """Long wavelengths divided by factor, short ones kept, between them a blend (Llama 3.1's model card)."""
    turns = rope.original_max_position * f / np.float32(2 * math.pi)  # (E/2,): full turns within the original context
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)  # (E/2,)
    blend = np.clip(blend, 0, 1)  # 0: a long wavelength, divided; 1: a short one, kept
    return ((1 - blend) * f / np.float32(rope.factor) + blend * f).astype(np.float32)


# From a checkpoint to a model as the switches say.


def load_model(
    checkpoint: Checkpoint, ops: Ops, c: QuantizationSwitches, on_layer: Progress = lambda done, of: None
) -> Model:
    """The model of a checkpoint, quantized as the switches say; a folder that is quantized already stays so.

    Raises ValueError for quantizing such a folder again, and as quantization/apply.py does.
    """
    if keeps_file_quantization(c, checkpoint):
        return build_model(checkpoint, ops, on_layer, as_stored)
    if not c.quantizes:
        return build_model(checkpoint, ops, on_layer)
    from tinyinfer.quantization.apply import quantize_model, read_windows, rounding

    if not c.calibrated:
        return build_model(checkpoint, ops, on_layer, rounding(c, checkpoint.config))
    windows = read_windows(c, checkpoint.config, checkpoint.tokenizer)
    model = build_model(checkpoint, ops, lambda done, of: on_layer(done, 2 * of))
    return quantize_model(model, ops, c, windows, lambda done, of: on_layer(of + done, 2 * of))


def keeps_file_quantization(c: QuantizationSwitches, checkpoint: Checkpoint) -> bool:
    """True if quantized tensors are loaded without dequantizing: quantize=keep, or a folder that we quantized.

    Raises ValueError for quantizing such a folder again.
    """
    if checkpoint.quantization is None:
        return c.quantize == "keep"
    if c.quantizes:
        changed = c.given("quantize", "quantize_head", "quantize_rules", "quantize_method")
        given = ", ".join(f"{{{name}}}={{its_{name}}}" for name in changed)
        reason = given + " is given, but {path} is quantized already, and rounding twice loses twice"
        cure = "leave it out, or quantize the model that the folder was made from"
        values = {f"its_{name}": getattr(c, name) for name in changed}
        raise SwitchError(changed[0], getattr(c, changed[0]), reason, cure, **values, path=checkpoint.path)
    return True
