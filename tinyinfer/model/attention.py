"""Attention: each row gathers from the rows before it in its own sequence, weighted by how well key and query agree.

`GroupedQuery` is a layer's mixer: what `transformer` calls between two norms, alike for every kind of attention.
`full_attention` is the formula itself, for one sequence: softmax(scale · q kᵀ + mask) v. The formula makes the whole
(H, T, S) array of scores, so memory grows with the square of the prompt; backends/flash.py computes the same tile by
tile.

Positions: query row t is at position `first + t`, key row s at `start + s` (start > 0 when a sliding window lets the
cache leave out keys that no query sees). A query sees keys up to itself; with a window, only the last `window` of
them. Grouped queries (Ainslie et al. 2023): H/K query heads share a key head, so the queries of one key head are
folded into one (H/K·T, E) matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinyinfer.arrays import Array, Xp
from tinyinfer.model.heads import Heads
from tinyinfer.model.weights import Linear, Norm

if TYPE_CHECKING:
    from tinyinfer.model.interfaces import KVCache, Ops
    from tinyinfer.sequence import Batch


@dataclass(frozen=True)
class GroupedQuery:
    """Attention whose query heads share key heads: multi-head attention when H = K, multi-query when K = 1."""

    qkv: Linear  # (D) -> ((H+2K)·E): queries, keys and values in one product
    qk_norm: Norm
    rotation: int  # which of the model's rotations queries and keys get
    heads: Heads
    o: Linear  # (H·E) -> (D)

    @property
    def nbytes(self) -> int:
        return self.qkv.nbytes + self.qk_norm.nbytes + self.heads.sinks.nbytes + self.o.nbytes

    def __call__(
        self, x: Array, rotations: list[tuple[Array, Array]], layer: int, batch: Batch, cache: KVCache, ops: Ops
    ) -> Array:  # (T, D) -> (T, D)
        """The change that attention makes to each row; keys and values of the rows go to the cache.

        rotations: of each of the model's rotations the cosines and sines, (T, 1, E) and (T, 1, E).
        """
        heads = self.heads
        qkv = ops.linear(x, self.qkv).reshape(len(x), heads.queries + 2 * heads.keys, heads.size)  # (T, H+2K, E)
        qk, v = qkv[:, : -heads.keys], qkv[:, -heads.keys :]  # (T, H+K, E), (T, K, E)
        qk = ops.rope(ops.norm(qk, self.qk_norm), rotations[self.rotation])  # (T, H+K, E)
        q, k = qk[:, : heads.queries], qk[:, heads.queries :]  # (T, H, E), (T, K, E)
        cache.append(layer, k, v, batch)  # of the whole batch, before any row attends
        mixed = ops.attention(q, layer, batch, cache, heads)  # (T, H, E)
        return ops.linear(mixed.reshape(len(x), heads.queries * heads.size), self.o)


def full_attention(
    q: Array, k: Array, v: Array, first: int, start: int, heads: Heads, xp: Xp
) -> Array:  # (T, H, E), (S, K, E), (S, K, E) -> (T, H, E)
    """softmax(cap(scale · q kᵀ) + mask) v (Vaswani et al. 2017, equation 1); with sinks, a score more in the softmax.

    first, start: positions of the first query and of the first key. heads: their scale, cap, window and sinks. Every
    query must see a key.
    """
    seen = visible(len(q), len(k), first, start, heads.window, xp)  # (T, S)
    folded = fold(q * heads.scale, k.shape[1])  # (K, H/K·T, E)
    s = heads.cap(folded @ k.transpose(1, 2, 0), xp)  # (K, H/K·T, S)
    s = xp.where(seen, s.reshape(k.shape[1], -1, *seen.shape), -xp.inf)  # (K, H/K, T, S)
    largest = heads.sinks.largest(s.max(axis=-1, keepdims=True), xp)  # (K, H/K, T, 1)
    p = xp.exp(s - largest)  # (K, H/K, T, S): no exponent above 0, so exp cannot overflow
    p = p / heads.sinks.total(p.sum(axis=-1, keepdims=True), largest, xp)  # (K, H/K, T, S)
    return unfold(p.reshape(len(p), -1, len(k)) @ v.transpose(1, 0, 2), len(q))  # of (K, H/K·T, E)


def fold(q: Array, key_heads: int) -> Array:  # (T, H, E) -> (K, H/K*T, E)
    """Queries grouped by the key head that they share, one matrix for each key head."""
    # Query heads that share a key head are neighbours, so a reshape puts them below one another, with no repeated keys.
    return q.transpose(1, 0, 2).reshape(key_heads, -1, q.shape[2])


def unfold(x: Array, rows: int) -> Array:  # (K, H/K*T, E) -> (T, H, E)
    """The inverse of `fold`: from groups of queries back to one row for each query."""
    return x.reshape(-1, rows, x.shape[-1]).transpose(1, 0, 2)


def visible(rows: int, keys: int, first: int, start: int, window: int | None, xp: Xp) -> Array:  # -> (T, S)
    """True where the query at position first + t sees the key at position start + s."""
    back = (first + xp.arange(rows))[:, None] - (start + xp.arange(keys))  # (T, S): how far the key lies behind
    seen = back >= 0  # (T, S)
    return seen if window is None else seen & (back < window)


def visible_pairs(rows: int, first: int, window: int | None) -> int:
    """How many (query, key) pairs `rows` queries from position `first` on see: a pair costs 4·E FLOPs in each head."""
    last = first + rows
    full = last * (last + 1) // 2 - first * (first + 1) // 2  # the query at position p sees p + 1 keys
    if window is None:
        return full
    return full - sum(max(0, p + 1 - window) for p in range(first, last))
