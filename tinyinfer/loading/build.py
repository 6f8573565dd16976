"""From a checkpoint to a model: which tensors are fused, and what takes the place of a part that a family lacks.

All that differs between families is decided here, once, while loading, so that transformer.py has no branches. A
matrix passes through a `Conversion` on its way from the file to the backend: floats stay floats, or keep the codes that
the file holds, or are rounded (quantization/apply.py). How the result lies in memory is the backend's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.errors import SwitchError, note
from tinyinfer.loading.checkpoint import Checkpoint, Joined
from tinyinfer.loading.rotations import build_rotation
from tinyinfer.loading.side_by_side import side_by_side
from tinyinfer.model.attention import GroupedQuery
from tinyinfer.model.config import ModelConfig, MoEConfig, held_matrices
from tinyinfer.model.heads import Heads, NoCap, NoSinks, Sinks, SoftCap
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.layers import Layer, ParallelLayer, SerialLayer
from tinyinfer.model.mlp import MLP, GatedMLP, PlainMLP
from tinyinfer.model.moe import MoE, SharedMoE
from tinyinfer.model.quantized_matrix import HALF
from tinyinfer.model.transformer import Model
from tinyinfer.model.visit import layer_matrices, map_matrices, with_matrices
from tinyinfer.model.weights import (
    Embedding,
    Experts,
    FullQKNorm,
    LayerNorm,
    Linear,
    Matrix,
    MixedMatrix,
    NoNorm,
    Norm,
    RMSNorm,
    SparseMatrix,
    Weight,
)
from tinyinfer.pruning.switches import STRUCTURED, WeightSwitches
from tinyinfer.units import amount, show

AGAIN = {"quantized": "rounding", "pruned": "changing weights"}
Conversion = Callable[[str, Joined], Matrix]  # (name, float rows) -> what the backend takes
Progress = Callable[[int, int], None]  # (layers done, of how many)


class Share(Protocol):
    """What a process takes of a model that several hold together: some layers and experts, some of each matrix."""

    layers: range
    experts: range  # of each mixture

    def has(self, name: str) -> bool:
        """Whether the process has anything of the matrix."""

    def matrix(self, name: str, matrix: Matrix) -> Matrix:
        """The process's outputs, or inputs, of the matrix that the model holds under this name."""


@dataclass(frozen=True)
class NoRows:
    """The float matrix of M inputs and no outputs, in the place of one that other processes have."""

    inputs: int

    @property
    def shape(self) -> tuple[int, int]:
        """(0, M): no outputs, all inputs."""
        return 0, self.inputs

    def tiles(self) -> Iterator[tuple[int, np.ndarray]]:
        """No tiles, since there are no rows."""
        return iter(())

    def where(self, output: int) -> str:
        """Nowhere: there is no output."""
        return "nowhere"


def as_floats(name: str, matrix: Joined) -> Matrix:
    """The null conversion: floats stay floats."""
    return matrix


def as_stored(name: str, matrix: Joined) -> Matrix:
    """What the file itself holds: codes or floats, without zeros or with them; parts that are not alike stay apart.

    Raises ModelError for NaN and infinity in scales.
    """
    if not matrix.alike:
        return MixedMatrix(tuple(as_stored(name, part) for part in matrix.separate()))
    kept, layout = matrix.quantized() if matrix.parts[0].codes else matrix, matrix.parts[0].sparse
    return SparseMatrix(kept, layout) if layout else kept


def build_model(
    checkpoint: Checkpoint,
    ops: Ops,
    on_layer: Progress = lambda done, of: None,
    conversion: Conversion = as_floats,
    share: Share | None = None,
) -> Model:
    """The model of a checkpoint, as `ops` holds it. on_layer(done, total) is called as layers are loaded.

    share: what of the model is taken; None: all.
    """
    c, builder = checkpoint.config, Builder(checkpoint, ops, conversion, share)
    wanted = share.layers if share else range(c.num_layers)
    ropes, sets = list(dict.fromkeys(c.rope)), c.rotation_sets.count
    with side_by_side(ops.loading_threads) as begin:
        table_of = begin(builder.weight, "head" if c.tied_head else "embedding")
        waiting = [begin(build_layer, i, c, builder, ropes.index(c.rope[i])) for i in wanted]
        head_of = None if c.tied_head else begin(builder.linear, "head")
        table, positions = table_of(), builder.array("positions") if c.learned_positions else None
        built: list[Layer] = []
        for layer_of in waiting:
            built.append(layer_of())
            on_layer(len(built), len(wanted))
        head = head_of() if head_of else Linear(table)
    return Model(
        config=c,
        embedding=Embedding(table, positions, c.embedding_scale),
        rotations=tuple(build_rotation(rope, c.head_dim, ops, sets) for rope in ropes),
        layers=tuple(built),
        final_norm=builder.norm("final_norm"),
        head=head,
        logit_scale=c.logit_scale,
        logit_cap=build_cap(c.logit_cap),
    )


class Builder:
    """Takes the weights of a checkpoint into a backend, by the names under which the model holds them."""

    def __init__(self, checkpoint: Checkpoint, ops: Ops, conversion: Conversion, share: Share | None) -> None:
        self.config, self.tensors, self.ops, self.conversion = checkpoint.config, checkpoint.tensors, ops, conversion
        self.share = share
        self.held = held_matrices(checkpoint.config)

    def weight(self, name: str, expert: int | None = None) -> Weight:
        """The tensors that are held as one matrix of this name, below one another; expert: that expert's rows."""
        matrix = Joined(tuple(self.tensors[part] for part, _ in self.held[name].parts), expert)
        if self.share is None:
            return self.ops.take(self.conversion(name, matrix))
        return self.ops.take(own_part(self.share, name, matrix.shape[1], lambda: self.conversion(name, matrix)))

    def linear(self, name: str) -> Linear:
        """The linear layer of this name, with its biases if the family has them."""
        biases = [f"{part}.bias" for part, _ in self.held[name].parts]
        return Linear(self.weight(name), self.array(*biases) if biases[0] in self.tensors else None)

    def experts(self, name: str) -> Experts:
        """The experts of this name, each by itself, with their biases if the family has them."""
        biases = [self.tensors.get(f"{part}.bias") for part, _ in self.held[name].parts]
        stacks = [bias.numpy() for bias in biases if bias]  # (X, N) each
        return Experts(
            tuple(
                Linear(self.weight(name, e), self.ops.take_array(*(stack[e] for stack in stacks)) if stacks else None)
                for e in (self.share.experts if self.share else range(self.held[name].count))
            )
        )

    def array(self, *names: str) -> Array:
        """Small arrays, joined along their first axis."""
        return self.ops.take_array(*(self.tensors[name].numpy() for name in names))

    def norm(self, name: str) -> Norm:
        """The norm of this name, of the family's kind; NoNorm where the family has none."""
        if name not in self.tensors:
            return NoNorm()
        if self.config.norm == "layer":
            return LayerNorm(self.array(name), self.array(f"{name}.bias"), self.config.norm_eps)
        return RMSNorm(self.array(name), self.config.norm_eps)


def build_layer(i: int, c: ModelConfig, builder: Builder, rotation: int) -> Layer:
    """Layer i. rotation: the index of its kind among the model's rotations."""
    n = f"layers.{i}."
    qkv, o, qk_norm = builder.linear(n + "qkv"), builder.linear(n + "o"), build_qk_norm(n, c, builder)
    mixer = GroupedQuery(qkv, qk_norm, rotation, build_heads(i, c, builder), o)
    mlp, before = build_mlp(n, c, c.mixture(i), builder), builder.norm(n + "attention_norm")
    if c.parallel:
        return ParallelLayer(before, mixer, builder.norm(n + "mlp_norm"), mlp, c.residual_scale)
    return SerialLayer(
        attention_norm=before,
        mixer=mixer,
        post_attention_norm=builder.norm(n + "post_attention_norm"),
        mlp_norm=builder.norm(n + "mlp_norm"),
        mlp=mlp,
        post_mlp_norm=builder.norm(n + "post_mlp_norm"),
        scale=c.residual_scale,
    )


def build_heads(i: int, c: ModelConfig, builder: Builder) -> Heads:
    """Heads, scale, window, cap and sinks of layer i."""
    sinks: NoSinks | Sinks = NoSinks()
    if c.sinks:
        scores = builder.tensors[f"layers.{i}.sinks"].numpy().reshape(c.num_kv_heads, -1, 1)  # (K, H/K, 1)
        sinks = Sinks(builder.ops.take_array(scores))
    cap = build_cap(c.score_cap)
    return Heads(c.num_heads, c.num_kv_heads, c.head_dim, c.attention_scale, c.windows[i], cap, sinks)


def build_cap(limit: float | None) -> NoCap | SoftCap:
    """The cap of scores or of logits; None: none."""
    return NoCap() if limit is None else SoftCap(limit)


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


def build_mlp(n: str, c: ModelConfig, moe: MoEConfig | None, builder: Builder) -> MLP:
    """The MLP of the layer's kind, gate and up fused. moe: its mixture of experts; None: it is dense."""
    if moe is None and not c.gated:
        return PlainMLP(builder.linear(n + "up"), builder.linear(n + "down"), c.activation)
    if moe is None:
        return GatedMLP(builder.linear(n + "gate_up"), builder.linear(n + "down"), c.activation)
    router, gate_up, down = builder.linear(n + "router"), builder.experts(n + "gate_up"), builder.experts(n + "down")
    if not moe.shared_size:
        return MoE(router, gate_up, down, c.activation, moe)
    shared = [builder.linear(n + name) for name in ("shared_router", "shared_gate_up", "shared_down")]
    return SharedMoE(router, gate_up, down, c.activation, moe, *shared)


# From a checkpoint to a model as the switches say.


def load_alone(checkpoint: Checkpoint, ops: Ops, c: WeightSwitches, on_layer: Progress) -> tuple[Model, Ops]:
    """The model of a checkpoint and the operations that run it, of one process; parallel/start.py has several."""
    return load_model(checkpoint, ops, c, on_layer), ops


def load_model(
    checkpoint: Checkpoint, ops: Ops, c: WeightSwitches, on_layer: Progress = lambda done, of: None,
    share: Share | None = None,
) -> Model:  # fmt: skip
    """The model of a checkpoint, pruned and quantized as the switches say; a folder that is so already stays so.

    share: what of the model is taken; None: all. Raises ValueError for changing such a folder again, and as
    pruning/apply.py and quantization/apply.py do.
    """
    if keeps_file_quantization(c, checkpoint):
        note_floats(checkpoint)
        return build_model(checkpoint, ops, on_layer, as_stored, share)
    if not c.changes:
        return build_model(checkpoint, ops, on_layer, as_floats, share)
    from tinyinfer.quantization.apply import quantize_model, read_windows, rounding

    if not (c.prunes or c.calibrated):
        return build_model(checkpoint, ops, on_layer, rounding(c, checkpoint.config), share)
    if c.prunes:
        model = load_pruned(checkpoint, ops, c, on_layer)
    else:
        windows = read_windows(c, checkpoint.config, checkpoint.tokenizer)
        model = build_model(checkpoint, ops, lambda done, of: on_layer(done, 2 * of))
        model = quantize_model(model, ops, c, windows, lambda done, of: on_layer(of + done, 2 * of))
    return model if share is None else share_of(model, share, ops)


def share_of(model: Model, share: Share, ops: Ops) -> Model:
    """A process's share of a model that is in memory."""
    layers = list(model.layers)
    for i, layer in enumerate(layers):
        mixtures = {name: held for name, held in layer_matrices(layer).items() if isinstance(held, Experts)}
        kept = {name: Experts(tuple(held.linears[e] for e in share.experts)) for name, held in mixtures.items()}
        layers[i] = with_matrices(layer, dict(kept))

    def part(name: str, weight: Weight) -> Weight:
        return ops.take(own_part(share, name, weight.shape[1], weight.matrix))

    own = map_matrices(replace(model, layers=tuple(layers)), part)
    return with_rest(model, replace(own, layers=own.layers[share.layers.start : share.layers.stop]))


def with_rest(model: Model, own: Model) -> Model:
    """A part of a model, which knows what a pass reads in all of it as `model` does."""
    return replace(own, elsewhere=own.elsewhere + model.pass_nbytes - own.pass_nbytes)


def own_part(share: Share, name: str, inputs: int, matrix: Callable[[], Matrix]) -> Matrix:
    """A process's part of the matrix of that name, which is not made where the process has nothing of it."""
    return share.matrix(name, matrix()) if share.has(name) else NoRows(inputs)


def load_pruned(checkpoint: Checkpoint, ops: Ops, c: WeightSwitches, on_layer: Progress) -> Model:
    """The float model of a checkpoint, pruned and then quantized; each of both may read the same text."""
    from tinyinfer.pruning.apply import check_can_prune, prune_model, read_windows, round_pruned
    from tinyinfer.quantization.apply import quantize_model

    check_can_prune(c, checkpoint.config)
    windows = read_windows(c, checkpoint.config, checkpoint.tokenizer) if c.reads_text else None
    layers, rounds = checkpoint.config.num_layers, 3 if c.calibrated else 2

    def part(before: int) -> Progress:
        return lambda done, of: on_layer(before * layers + done * layers // of, rounds * layers)

    model = prune_model(build_model(checkpoint, ops, part(0)), ops, c, windows, part(1))
    if not c.quantizes:
        return model
    if windows is not None and c.calibrated:
        return quantize_model(model, ops, c, windows, part(2))
    return round_pruned(model, ops, c)


def note_floats(checkpoint: Checkpoint) -> None:
    """Gives a note when matrices of a few bits become floats, because their type is none that is kept."""
    lost = [
        tensor for tensor in checkpoint.tensors.values()
        if len(tensor.shape) > 1 and tensor.codes is None and tensor.nbytes < HALF * prod(tensor.shape)
    ]  # fmt: skip
    if lost:
        size, names = amount(sum(tensor.nbytes for tensor in lost), "B"), show(lost[0].name)
        many = f"{len(lost)} tensors, {names} the first of them, are" if len(lost) > 1 else f"tensor {names} is"
        cure = "a file of Q8_0 or Q4_K_M has only types that are kept"
        note(f"{checkpoint.path}: {many} of a type that is not kept, so {size} become floats; {cure}")


def keeps_file_quantization(c: WeightSwitches, checkpoint: Checkpoint) -> bool:
    """True if quantized tensors are loaded without dequantizing: quantize=keep, or a folder that we quantized.

    Raises ValueError for quantizing or pruning such a folder again.
    """
    if checkpoint.quantization is None:
        return c.quantize == "keep"
    if c.changes:
        changed = c.given("quantize", "quantize_head", "quantize_rules", "quantize_method", "prune", *STRUCTURED)
        given = ", ".join(f"{{{name}}}={{its_{name}}}" for name in changed)
        verb = AGAIN[checkpoint.change]
        reason = given + f" is given, but {{path}} is {checkpoint.change} already, and {verb} twice loses twice"
        cure = "leave it out, or take the model that the folder was made from"
        values = {f"its_{name}": getattr(c, name) for name in changed}
        raise SwitchError(changed[0], getattr(c, changed[0]), reason, cure, **values, path=checkpoint.path)
    return True
