"""Attention in tiles with an online softmax: the scores of one tile are in memory, never all of them.

The idea of FlashAttention (Dao et al. 2022, algorithm 1; the running maximum and sum are Milakov & Gimelshein 2018).
For each query the loop over tiles of keys keeps the largest score m, the sum l of exp(score - m), and the sum of values
weighted by exp(score - m). When a tile brings a larger score, both sums shrink by exp(old m - new m). Tiles wholly in
the future are skipped, which halves the work of a causal prefill.

Wins: long prompts, in memory and time. Loses: a few more operations on short prompts, where one tile holds all keys.
"""

from __future__ import annotations

from tinyinfer.arrays import Array, Xp
from tinyinfer.model.attention import fold, unfold, visible
from tinyinfer.model.heads import Heads

QUERY_TILE, KEY_TILE = 128, 512


def tiled_attention(
    q: Array, k: Array, v: Array, first: int, start: int, heads: Heads, xp: Xp
) -> Array:  # (T, H, E), (S, K, E), (S, K, E) -> (T, H, E)
    """Computes what `full_attention` computes, in tiles of queries and keys."""
    if len(q) <= QUERY_TILE:
        return attend_tile(q, k, v, first, start, heads, xp)
    out = xp.empty(q.shape, dtype=q.dtype)  # (T, H, E)
    for begin in range(0, len(q), QUERY_TILE):
        tile = slice(begin, begin + QUERY_TILE)
        out[tile] = attend_tile(q[tile], k, v, first + begin, start, heads, xp)
    return out


def attend_tile(
    q: Array, k: Array, v: Array, first: int, start: int, heads: Heads, xp: Xp, key_tile: int = KEY_TILE
) -> Array:  # (T, H, E), (S, K, E), (S, K, E) -> (T, H, E)
    """Attention of one tile of queries: a loop over the tiles of keys that any of the queries sees.

    The sinks belong to the first tile. key_tile is at least T, so that every query sees a key of that tile. (A query
    that has seen none would have the maximum -inf, and -inf - -inf is NaN.)
    """
    oldest = 0 if heads.window is None else max(0, first - heads.window + 1 - start)
    newest = first + len(q) - start  # one past the last key that the last query sees
    folded = fold(q * heads.scale, k.shape[1])  # (K, H/K·T, E)
    largest: Array = None  # (K, H/K·T, 1): m
    total: Array = None  # (K, H/K·T, 1): l
    mixed: Array = None  # (K, H/K·T, E)
    for begin in range(oldest, newest, key_tile):
        end = min(begin + key_tile, newest)
        s = heads.cap(scores(folded, k[begin:end], len(q)), xp)  # (K, H/K·T, end - begin)
        mask_tile(s, len(q), first, start + begin, heads.window, xp)
        before, largest = largest, s.max(axis=-1, keepdims=True)  # (K, H/K·T, 1), (K, H/K·T, 1)
        largest = heads.sinks.largest(largest, xp) if before is None else xp.maximum(before, largest)  # (K, H/K·T, 1)
        s -= largest  # so that exp cannot overflow: no exponent is above 0
        p = xp.exp(s, out=s)  # (K, H/K·T, end - begin)
        tile_total = p.sum(axis=-1, keepdims=True)  # (K, H/K·T, 1)
        tile_mixed = p @ v[begin:end].transpose(1, 0, 2)  # (K, H/K·T, E)
        if before is None:
            total, mixed = heads.sinks.total(tile_total, largest, xp), tile_mixed
        else:
            shrink = xp.exp(before - largest)  # (K, H/K·T, 1): earlier sums were relative to a smaller maximum
            total, mixed = total * shrink + tile_total, mixed * shrink + tile_mixed
    mixed /= total
    return unfold(mixed, len(q))


def scores(folded: Array, k: Array, rows: int) -> Array:  # (K, H/K*rows, E), (S, K, E) -> (K, H/K*rows, S)
    """The score of every folded query with the keys of its head. rows: queries of one head."""
    keys = k.transpose(1, 2, 0)  # (K, E, S)
    if rows == 1:  # decode: a matrix-vector product for each head takes half the time (benchmarks/operations.py)
        return (folded[:, :, None] @ keys[:, None])[:, :, 0]
    return folded @ keys


def mask_tile(s: Array, rows: int, first: int, start: int, window: int | None, xp: Xp) -> None:  # (K, H/K*rows, S) ->
    """Sets to -inf, in place, the scores of keys that a query does not see; does nothing when every query sees all."""
    keys = s.shape[-1]
    if start + keys - 1 <= first and (window is None or start > first + rows - 1 - window):
        return
    seen = max(0, first - start) if window is None else 0  # so many keys lie before the first query: all see them
    hidden = ~visible(rows, keys - seen, first, start + seen, window, xp)  # (rows, S - seen)
    xp.copyto(s.reshape(-1, rows, keys)[:, :, seen:], -xp.inf, where=hidden)  # a view: writes into s
