"""The model: a decoder-only transformer, every family of it, in three parts that follow one another.

Read `transformer` first, then layers.py. Tokens are flat: one call takes any mix of whole prompts, chunks of prompts
and single new tokens, row by row, and only attention looks at which row belongs to which sequence. The model knows of
no optimization: it asks `ops` to compute and `cache` to remember (interfaces.py). The model has no branch for families
either: what a family lacks is a `NoNorm`, a `NoCap`, a rotation of frequency 0 or a scale of 1 (loading/build.py).

`embed`, `run_layers` and `head` can be called one by one: a pipeline stage runs some layers of its own.

Letters: T rows, D model width, E head size, V vocabulary, R rows whose logits are wanted.
(Vaswani et al. 2017; pre-norm, rotary positions and SwiGLU as in Touvron et al. 2023, section 2.2.)
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyinfer.arrays import Array
from tinyinfer.model.config import ModelConfig
from tinyinfer.model.heads import NoCap, SoftCap
from tinyinfer.model.interfaces import KVCache, Ops
from tinyinfer.model.layers import Layer
from tinyinfer.model.weights import Embedding, Linear, Norm, Rotation
from tinyinfer.sequence import Batch


@dataclass(frozen=True)
class Model:
    """A configuration and all its weights, as one backend holds them."""

    config: ModelConfig
    embedding: Embedding
    rotations: tuple[Rotation, ...]  # local and global layers may differ
    layers: tuple[Layer, ...]
    final_norm: Norm
    head: Linear  # (D) -> (V); shares the embedding's weight when tied
    logit_scale: float
    logit_cap: NoCap | SoftCap
    elsewhere: int = 0  # where this is a process's part of a model: the pass_nbytes of the rest

    @property
    def nbytes(self) -> int:
        """Bytes of weights held in memory, a tied head counted once."""
        head = self.head.nbytes * (self.head.weight is not self.embedding.table)
        rest = self.embedding.nbytes + self.final_norm.nbytes + head
        return rest + sum(layer.nbytes for layer in self.layers)

    @property
    def pass_nbytes(self) -> int:
        """Bytes of weights that a pass of few rows reads in all processes, but for its rows of the embedding."""
        own = self.head.nbytes + self.final_norm.nbytes + sum(layer.nbytes for layer in self.layers)
        return own + self.elsewhere


def transformer(model: Model, batch: Batch, cache: KVCache, ops: Ops) -> Array:  # (T,) -> (R, V)
    """The logits of the rows that the batch asks for; keys and values of all its rows go to the cache."""
    x = embed(model, batch, ops)
    x = run_layers(model, 0, len(model.layers), x, batch, cache, ops)
    return head(model, x, batch, ops)


def embed(model: Model, batch: Batch, ops: Ops) -> Array:  # (T,) -> (T, D)
    """The vector of each token, and of its position where the family learned one."""
    return ops.embed(batch.tokens, batch.positions, model.embedding)


def run_layers(
    model: Model, first: int, stop: int, x: Array, batch: Batch, cache: KVCache, ops: Ops
) -> Array:  # (T, D) -> (T, D)
    """Layers first ... stop, each adding to every row the changes of its mixer and of its MLP.

    x is used up: a backend may add to x in place.
    """
    # One pair of cosines and sines for each of the model's rotations: (T, 1, E), (T, 1, E).
    rotations = [ops.rotation(batch.positions, batch.rotation_sets, rotation) for rotation in model.rotations]
    for i, layer in enumerate(model.layers[first:stop], first):
        x = layer(x, rotations, i, batch, cache, ops)  # (T, D)
    return x


def head(model: Model, x: Array, batch: Batch, ops: Ops) -> Array:  # (T, D) -> (R, V)
    """The logits of the rows that the batch asks for."""
    x = ops.norm(ops.gather(x, batch.logit_rows), model.final_norm)  # (R, D)
    return ops.cap(ops.linear(ops.scale(x, model.logit_scale), model.head), model.logit_cap)
