"""Tensor parallelism: every layer is divided among the ranks, and each rank computes its part of every token.

A sub-layer is two products. The first one's outputs are divided, the second one's inputs (Shoeybi et al. 2019,
Megatron-LM, section 3), so that between them each rank goes on with its own numbers, and at the end of the sub-layer
the ranks' terms are added up: one all-reduce of (T, D) after attention, one after the MLP.

    attention    heads: a rank has some key/value heads and the query heads that share them, and their part of the cache
    MLP          neurons: rows of gate and up, columns of down
    mixture      experts: a rank has some of them whole, and computes the rows that chose those; their terms are added
                 up by an all-reduce, or by fewer bytes (experts.py)
    vocabulary   a rank looks up its own tokens (a third all-reduce), and computes the logits of its own tokens

The model's code stays as it is: a rank's model is a model with fewer heads, and an Ops around the backend's adds up
(`TensorOps`). Where the heads do not divide by the ranks, some ranks get one more; with fewer key/value heads than
ranks, ranks share copies of them.

Wins: memory for weights and cache, and the time of a decode step, which is the reading of weights, fall with the number
of ranks. Loses: 2·L + 1 all-reduces a step, whose latency no rank can hide; no more ranks than heads.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from tinyinfer.arrays import Array, to_host
from tinyinfer.backends.delegate import DelegatingOps
from tinyinfer.errors import SwitchError
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import share_of, with_rest
from tinyinfer.model.attention import GroupedQuery
from tinyinfer.model.config import ModelConfig
from tinyinfer.model.heads import Heads, Sinks
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.layers import Layer
from tinyinfer.model.mlp import MLP, GatedMLP, PlainMLP
from tinyinfer.model.moe import MoE, SharedMoE
from tinyinfer.model.quantized_matrix import QuantizedMatrix
from tinyinfer.model.transformer import Model
from tinyinfer.model.visit import matrices, weights
from tinyinfer.model.weights import Embedding, Experts, FullQKNorm, Linear, Matrix, NoNorm, Norm, RMSNorm
from tinyinfer.parallel.comm import Comm, CommError, sizes
from tinyinfer.parallel.experts import owners_of, total
from tinyinfer.parallel.pipeline import stage_layers
from tinyinfer.parallel.shards import Parts, division, input_unit, part_of, width

# What a rank's model holds in the place of whole parts.


@dataclass(frozen=True)
class Summed(Linear):
    """A linear layer whose inputs are divided: the ranks' products add up. The first rank has the bias."""


@dataclass(frozen=True)
class SomeExperts(Experts):
    """Some of a layer's experts. first: the number of the first one; owners: the rank of each expert of the layer."""

    first: int
    owners: np.ndarray  # (X,)


@dataclass(frozen=True)
class SomeTokens(Embedding):
    """The vectors of some tokens; first: the first one's id."""

    first: int = 0


@dataclass(frozen=True)
class DividedQKNorm(FullQKNorm):
    """The norms of all ranks' query heads together, and of their key heads.

    sizes: how many numbers those have. copies: how many ranks have the same key heads.
    """

    sizes: tuple[int, int] = (0, 0)
    copies: int = 1


class Division:
    """Which part of a model of this configuration a rank has: of some layers (pipeline.py), some numbers of each.

    unit: neurons that stay together, because they share a scale as inputs. stage, stages: of the pipeline.
    Raises SwitchError for more ranks than there are heads, experts, tokens or units, and for more stages than layers.
    """

    def __init__(
        self, config: ModelConfig, rank: int, ranks: int, unit: int = 1, stage: int = 0, stages: int = 1
    ) -> None:
        self.config, self.rank, self.ranks, self.unit = config, rank, ranks, unit
        self.layers = stage_layers(config, stages)[stage]
        self.embeds, self.ends = stage == 0, stage == stages - 1
        self.queries, self.keys = head_parts(config, ranks)[rank]
        check_enough(config, ranks, unit)
        self.tokens = division(config.vocab_size, ranks)[rank]
        moe = config.experts
        self.experts = division(moe.num_experts, ranks)[rank] if moe else range(0)

    @property
    def own_config(self) -> ModelConfig:
        """The configuration of the rank's model: its layers and heads are the rank's, so its cache is."""
        c, layers = self.config, self.layers
        own = replace(
            c, num_heads=len(self.queries), num_kv_heads=len(self.keys), num_layers=len(layers),
            rope=c.rope[layers.start : layers.stop], windows=c.windows[layers.start : layers.stop],
        )  # fmt: skip
        if not c.experts:
            return own
        dense = tuple(layer - layers.start for layer in c.experts.dense_layers if layer in layers)
        return replace(own, experts=replace(c.experts, dense_layers=dense))

    def has(self, name: str) -> bool:
        """Whether the rank has anything of the matrix: its layers', and embedding and head where they are needed."""
        if name.startswith("layers."):
            return int(name.split(".")[1]) in self.layers
        embeds = self.embeds and (name == "embedding" or self.config.tied_head)
        return embeds or (self.ends and name == "head")

    def matrix(self, name: str, matrix: Matrix) -> Matrix:
        """The rank's part of a matrix of the model, by the name under which the model holds it; experts stay whole.

        Raises SwitchError where inputs that share a scale would have to be divided.
        """
        if self.ranks == 1:
            return matrix
        own = self.outputs(name)
        if own is not None:
            return part_of(matrix, outputs=own)
        inputs = self.inputs(name, width(matrix), input_unit(matrix))
        if inputs is None:
            return matrix
        if isinstance(matrix, QuantizedMatrix) and matrix.scheme.integer_inputs:
            reason = "{field}={value} would divide {name}, whose inputs are rounded by one scale for all of them"
            cure = "choose {quantize}=int8 with {activations}=int8, which has groups"
            raise SwitchError("tensor_parallel_size", self.ranks, reason, cure, name=name)
        return part_of(matrix, inputs=inputs)

    def outputs(self, name: str) -> Parts | None:
        """The rank's outputs of a matrix; None: all of them."""
        c, last = self.config, name.rpartition(".")[2]
        if last in ("head", "embedding"):
            return (self.tokens,)
        if last == "qkv":
            first_key, first_value = c.num_heads, c.num_heads + c.num_kv_heads
            heads = self.queries, moved(self.keys, first_key), moved(self.keys, first_value)
            return tuple(range(part.start * c.head_dim, part.stop * c.head_dim) for part in heads)
        if last in ("gate_up", "up", "shared_gate_up") and (size := self.neurons(name)):
            own = division(size, self.ranks, self.unit)[self.rank]
            return (own,) if last == "up" else (own, moved(own, size))
        return None

    def inputs(self, name: str, total: int, unit: int) -> range | None:
        """The rank's inputs of a matrix, of which `unit` cannot be divided; None: all of them."""
        last = name.rpartition(".")[2]
        if last == "o":
            own = range(self.queries.start * self.config.head_dim, self.queries.stop * self.config.head_dim)
        elif last in ("down", "shared_down") and (size := self.neurons(name)):
            own = division(size, self.ranks, self.unit)[self.rank]
        else:
            return None
        if own.start % unit or (own.stop % unit and own.stop != total):
            reason = "{field}={value} would divide {name} inside a group of {unit} inputs that share a scale"
            cure = "choose a smaller {group_size}, or fewer ranks"
            raise SwitchError("tensor_parallel_size", self.ranks, reason, cure, name=name, unit=unit)
        return own

    def neurons(self, name: str) -> int:
        """How many neurons the MLP has that a matrix belongs to; 0: it is an expert's, which stays whole."""
        _, layer, last = name.split(".")
        moe = self.config.mixture(int(layer))
        if moe is None:
            return self.config.intermediate_size
        return moe.shared_size if last.startswith("shared_") else 0

    # The rest of a model whose matrices are divided already.

    def finish(self, model: Model, ops: Ops) -> Model:
        """The rank's model: its heads, its biases and norms, and the sums marked."""
        if self.ranks == 1:
            return replace(model, config=self.own_config)
        table = model.embedding
        tokens = SomeTokens(table.table, table.positions, table.scale, self.tokens.start)
        head = Linear(model.head.weight, some(model.head.bias, (self.tokens,), ops))
        layers = tuple(self.layer(i, layer, ops) for i, layer in zip(self.layers, model.layers, strict=True))
        own = replace(model, config=self.own_config, embedding=tokens, layers=layers, head=head)
        return with_rest(model, own)

    def layer(self, i: int, layer: Layer, ops: Ops) -> Layer:
        """The rank's part of a layer."""
        mixer = layer.mixer
        assert isinstance(mixer, GroupedQuery)
        own = GroupedQuery(
            self.rows(f"layers.{i}.qkv", mixer.qkv, ops), self.qk_norm(mixer.qk_norm, ops), mixer.rotation,
            self.heads(mixer.heads, ops), self.summed(mixer.o),
        )  # fmt: skip
        return replace(layer, mixer=own, mlp=self.mlp(f"layers.{i}.", layer.mlp, ops))

    def mlp(self, n: str, mlp: MLP, ops: Ops) -> MLP:
        """The rank's part of an MLP."""
        if isinstance(mlp, GatedMLP):
            return replace(mlp, gate_up=self.rows(n + "gate_up", mlp.gate_up, ops), down=self.summed(mlp.down))
        if isinstance(mlp, PlainMLP):
            return replace(mlp, up=self.rows(n + "up", mlp.up, ops), down=self.summed(mlp.down))
        assert isinstance(mlp, MoE)
        own: dict[str, Any] = {"gate_up": self.some_experts(mlp.gate_up), "down": self.some_experts(mlp.down)}
        if isinstance(mlp, SharedMoE):
            own["shared_gate_up"] = self.rows(n + "shared_gate_up", mlp.shared_gate_up, ops)
            own["shared_down"] = self.summed(mlp.shared_down)
        return replace(mlp, **own)

    def rows(self, name: str, linear: Linear, ops: Ops) -> Linear:
        """A linear layer whose outputs are divided, with the bias of those."""
        own = self.outputs(name)
        return linear if own is None else Linear(linear.weight, some(linear.bias, own, ops))

    def summed(self, linear: Linear) -> Summed:
        """A linear layer whose inputs are divided."""
        return Summed(linear.weight, None if self.rank else linear.bias)

    def some_experts(self, experts: Experts) -> SomeExperts:
        """The experts of a layer, all of which are the rank's, with their numbers."""
        moe = self.config.experts
        assert moe is not None
        return SomeExperts(experts.linears, self.experts.start, owners_of(moe.num_experts, self.ranks))

    def heads(self, heads: Heads, ops: Ops) -> Heads:
        """The rank's heads, and their sinks."""
        sinks = heads.sinks
        if isinstance(sinks, Sinks):
            own = to_host(sinks.scores).reshape(-1)[self.queries.start : self.queries.stop]
            sinks = Sinks(ops.take_array(own.reshape(len(self.keys), -1, 1)))
        return replace(heads, queries=len(self.queries), keys=len(self.keys), sinks=sinks)

    def qk_norm(self, norm: Norm, ops: Ops) -> Norm:
        """The norm of the rank's heads."""
        e, h = self.config.head_dim, self.config.num_heads
        if isinstance(norm, FullQKNorm):
            query, key = (
                RMSNorm(ops.take_array(to_host(one.weight)[part.start * e : part.stop * e]), one.eps)
                for one, part in ((norm.query, self.queries), (norm.key, self.keys))
            )
            copies = sum(keys == self.keys for _, keys in head_parts(self.config, self.ranks))
            return DividedQKNorm(query, key, (h * e, self.config.num_kv_heads * e), copies)
        if isinstance(norm, NoNorm):
            return norm
        assert isinstance(norm, RMSNorm)
        return RMSNorm(some(norm.weight, (self.queries, moved(self.keys, h)), ops), norm.eps)


def divide(model: Model, rank: int, ranks: int, ops: Ops, stage: int = 0, stages: int = 1) -> Model:
    """A rank's part of a model that is in memory, as `ops` holds it, for a TensorOps.

    Raises SwitchError as Division does.
    """
    inputs = (weight.matrix() for name, held in matrices(model) if name.endswith("down") for weight in weights(held))
    unit = int(np.lcm.reduce([input_unit(matrix) for matrix in inputs]))
    own = Division(model.config, rank, ranks, unit, stage, stages)
    return own.finish(share_of(model, own, ops), ops)


def head_parts(c: ModelConfig, ranks: int) -> list[tuple[range, range]]:
    """The query heads and the key/value heads of each rank; where there are more ranks than key/value heads, some
    share a copy of one.

    Raises SwitchError for more ranks than query heads.
    """
    h, k = c.num_heads, c.num_kv_heads
    each = h // k  # query heads that share a key/value head
    if ranks <= k:
        return [(range(own.start * each, own.stop * each), own) for own in division(k, ranks)]
    if ranks > h:
        reason = "{field}={value} are more ranks than the {heads} query heads of this model"
        raise SwitchError("tensor_parallel_size", ranks, reason, "choose {heads} at most", heads=h)
    return [
        (moved(own, key * each), range(key, key + 1))
        for key, sharing in enumerate(sizes(ranks, k))
        for own in division(each, sharing)
    ]


def check_enough(c: ModelConfig, ranks: int, unit: int = 1) -> None:
    """Raises SwitchError where a rank would have no token, no expert or no neuron. unit: of neurons, see Division."""
    moe, parts = c.experts, [c.vocab_size]
    dense = not moe or moe.dense_layers
    parts += [-(-c.intermediate_size // unit)] if dense else []
    parts += [moe.num_experts] if moe else []
    parts += [-(-moe.shared_size // unit)] if moe and moe.shared_size else []
    if ranks > min(parts):
        reason = "{field}={value} would leave ranks without a part of this model"
        raise SwitchError("tensor_parallel_size", ranks, reason, "choose {most} at most", most=min(parts))


def moved(part: range, by: int) -> range:
    """The same numbers, so much higher."""
    return range(part.start + by, part.stop + by)


def some(array: Array | None, parts: Parts, ops: Ops) -> Any:  # (N, ...) | None -> (n, ...) | None
    """These n entries of a small array; None of none."""
    if array is None:
        return None
    host = to_host(array)
    return ops.take_array(np.concatenate([host[part.start : part.stop] for part in parts]))


class TensorOps(DelegatingOps):
    """The operations of a rank: those of a backend, and sums over the ranks where a part of the model is divided."""

    def __init__(self, inner: Ops, comm: Comm) -> None:
        super().__init__(inner)
        self.comm, self.apart = comm, False

    def counting(self, ledger: Ledger) -> Self:
        """The same operations for work that the other ranks know nothing of, so that nothing of it can be added up."""
        other = copy(self)
        other.inner, other.ledger, other.apart = self.inner.counting(ledger), ledger, True
        return other

    def embed(self, tokens: Array, positions: Array, embedding: Embedding) -> Array:  # (T,), (T,) -> (T, D)
        """Each rank looks up its own tokens; of all others it adds zeros."""
        if not isinstance(embedding, SomeTokens):
            return self.inner.embed(tokens, positions, embedding)
        place = np.asarray(tokens) - embedding.first  # (T,)
        own = (place >= 0) & (place < embedding.table.shape[0])  # (T,)
        vectors = Embedding(embedding.table, None, embedding.scale)
        x = self.inner.embed(np.where(own, place, 0), positions, vectors)  # (T, D)
        x = self.total(x * self.xp.asarray(own, dtype=x.dtype)[:, None])
        return x if embedding.positions is None else x + embedding.positions[self.xp.asarray(positions)]

    def norm(self, x: Array, norm: Norm) -> Array:  # (T, ...) -> (T, ...)
        """A norm over the heads of all ranks adds up their squares first."""
        if not isinstance(norm, DividedQKNorm):
            return self.inner.norm(x, norm)
        xp, rows, split = self.xp, x.reshape(len(x), -1), len(norm.query.weight)  # (T, (H+K)·E)
        parts = rows[:, :split], rows[:, split:]  # (T, H·E), (T, K·E)
        q, k = ((part * part).sum(axis=1) for part in parts)  # (T,), (T,)
        squares = self.total(xp.stack([q, k / xp.float32(norm.copies)]))  # (2, T)
        out = [
            part * (xp.float32(1) / xp.sqrt(squares[i] / xp.float32(norm.sizes[i]) + xp.float32(one.eps)))[:, None]
            * one.weight
            for i, (part, one) in enumerate(zip(parts, (norm.query, norm.key), strict=True))
        ]  # fmt: skip
        return xp.concatenate(out, axis=1).reshape(x.shape)

    def linear(self, x: Array, linear: Linear) -> Array:  # (T, M) -> (T, N)
        y = self.inner.linear(x, linear)  # (T, N)
        return self.total(y) if isinstance(linear, Summed) else y

    def experts(
        self, x: Array, chosen: Array, weights: Array, gate_up: Experts, down: Experts, activation: str
    ) -> Array:  # (T, D), (T, k), (T, k) -> (T, D)
        """Each rank computes its own experts for the rows that chose them; the ranks' terms add up (experts.py)."""
        if not isinstance(gate_up, SomeExperts):
            return self.inner.experts(x, chosen, weights, gate_up, down, activation)
        place, y = chosen - gate_up.first, self.xp.zeros_like(x)  # (T, k), (T, D)
        rows, slots = self.xp.nonzero((place >= 0) & (place < len(gate_up.linears)))  # (n,), (n,)
        if len(rows):
            picked = place[rows, slots][:, None], weights[rows, slots][:, None]  # (n, 1), (n, 1)
            terms = self.inner.experts(x[rows], *picked, gate_up, down, activation)  # (n, D)
            for slot in range(chosen.shape[1]):  # a row is once in a slot
                y[rows[slots == slot]] += terms[slots == slot]
        return total(y, chosen, gate_up.owners, self.ranks, self.xp)

    def total(self, x: Array) -> Array:  # (...,) -> (...,)
        """The sum of the ranks' arrays."""
        return self.ranks.all_reduce(self.xp.ascontiguousarray(x))

    @property
    def ranks(self) -> Comm:
        """The ranks that add up. Raises CommError in work that the others know nothing of."""
        if self.apart:
            raise CommError("this work is one rank's alone, and a part of the model has to be added up")
        return self.comm
