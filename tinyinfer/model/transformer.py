"""The model: a decoder-only transformer, every family of it, in two functions.

Read `transformer` first. Tokens are flat: one call takes any mix of whole prompts, pieces of prompts and single new
tokens, row by row, and only attention looks at which row belongs to whom. The model knows of no optimization: it asks
`ops` to multiply and `cache` to remember, and what they are is somebody else's choice. It has no branch for families
either: what a family lacks is a `NoNorm`, a rotation by frequency 0 or a scale of 1 (built in assemble.py).

Letters: T rows, D model width, H query heads, K key/value heads, E head size, F MLP width, V vocabulary, R rows whose
logits are wanted. (Vaswani et al. 2017; pre-norm, rotary positions and SwiGLU as in Touvron et al. 2023, section 2.2.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinyinfer.arrays import Array
from tinyinfer.model.weights import Embedding, Heads, Linear, Norm

if TYPE_CHECKING:
    from tinyinfer.kv_cache.base import Cache
    from tinyinfer.model.config import ModelConfig
    from tinyinfer.model.interfaces import Ops
    from tinyinfer.model.mlp import MLP
    from tinyinfer.sequence import Batch


@dataclass(frozen=True)
class Layer:
    """The weights of one layer."""

    attention_norm: Norm
    qkv: Linear  # (D) -> ((H+2K)·E): queries, keys and values in one product
    qk_norm: Norm
    rotation: int  # which of the model's `frequencies` turn its queries and keys
    heads: Heads
    o: Linear  # (H·E) -> (D)
    post_attention_norm: Norm
    mlp_norm: Norm
    mlp: MLP
    post_mlp_norm: Norm

    @property
    def nbytes(self) -> int:
        """Bytes of weights held in memory."""
        norms = self.attention_norm, self.qk_norm, self.post_attention_norm, self.mlp_norm, self.post_mlp_norm
        return sum(norm.nbytes for norm in norms) + self.qkv.nbytes + self.o.nbytes + self.mlp.nbytes


@dataclass(frozen=True)
class Model:
    """A configuration and all its weights, as one backend holds them."""

    config: ModelConfig
    embedding: Embedding
    frequencies: tuple[Array, ...]  # each (E/2,): radians per position; local and global layers may differ
    layers: tuple[Layer, ...]
    final_norm: Norm
    head: Linear  # (D) -> (V); shares the embedding's weight when tied

    @property
    def nbytes(self) -> int:
        """Bytes of weights held in memory, a tied head counted once."""
        head = 0 if self.head.weight is self.embedding.table else self.head.nbytes
        rest = self.embedding.nbytes + self.final_norm.nbytes + head
        return rest + sum(layer.nbytes for layer in self.layers)


def transformer(model: Model, batch: Batch, cache: Cache, ops: Ops) -> Array:  # (T,) -> (R, V)
    """The logits of the rows that the batch asks for; keys and values of all its rows go to the cache."""
    x = ops.embed(batch.tokens, batch.positions, model.embedding)
    rotations = [ops.rotation(batch.positions, frequencies) for frequencies in model.frequencies]
    for i, layer in enumerate(model.layers):
        h = self_attention(ops.norm(x, layer.attention_norm), rotations[layer.rotation], layer, i, batch, cache, ops)
        x = ops.add(x, ops.norm(h, layer.post_attention_norm))
        h = layer.mlp(ops.norm(x, layer.mlp_norm), ops)
        x = ops.add(x, ops.norm(h, layer.post_mlp_norm))
    x = ops.norm(x[batch.logit_rows], model.final_norm)
    return ops.linear(x, model.head)


def self_attention(
    x: Array, rotation: tuple[Array, Array], layer: Layer, i: int, batch: Batch, cache: Cache, ops: Ops
) -> Array:  # (T, D), ((T, 1, E), (T, 1, E)) -> (T, D)
    """Every row gathers from the rows before it in its own sequence, those in the cache included."""
    heads = layer.heads
    qkv = ops.linear(x, layer.qkv).reshape(len(x), -1, heads.size)  # (T, H+2K, E)
    qk, v = qkv[:, : -heads.keys], qkv[:, -heads.keys :]  # (T, H+K, E), (T, K, E)
    qk = ops.rope(ops.norm(qk, layer.qk_norm), rotation)
    q, k = qk[:, : heads.queries], qk[:, heads.queries :]
    cache.append(i, k, v, batch)  # of the whole batch, before any row attends
    mixed = ops.attention(q, i, batch, cache, heads)  # (T, H, E)
    return ops.linear(mixed.reshape(len(x), -1), layer.o)
