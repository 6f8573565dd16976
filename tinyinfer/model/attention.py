"""Attention of one sequence, twice: as the formula says, and in tiles with an online softmax. Tested equal.

`full_attention` makes the whole (H, T, S) matrix of scores: its memory grows with the square of the prompt.
`tiled_attention` is the idea of FlashAttention (Dao et al. 2022, algorithm 1; the running maximum and sum are Milakov
& Gimelshein 2018): it walks over tiles of keys and keeps, per query, the largest score m, the sum l of exp(score - m)
and the weighted sum of values so far; when a larger score turns up, what was summed before is scaled down. Memory is
one tile. Wins: long prompts; tiles wholly in the future are skipped, which halves the work of a causal prefill.
Loses: nothing but a few more operations on short prompts, where one tile holds it all and the two are the same.

Positions: query row t stands at position `first + t`; key row s at `start + s` (start > 0 when a sliding window lets
the cache leave out what nobody sees). A query sees keys up to itself, and with a window only the last `window` of
them. Grouped queries (Ainslie et al. 2023): H/K query heads share a key head, so queries are folded into (K, H/K·T)
rows.
"""

from __future__ import annotations

from tinyinfer.arrays import Array

QUERY_TILE, KEY_TILE = 128, 512


def full_attention(
    q: Array, k: Array, v: Array, first: int, start: int, scale: float, window: int | None, xp: Array
) -> Array:  # (T, H, E), (S, K, E), (S, K, E) -> (T, H, E)
    """softmax(scale · q kᵀ + mask) v (Vaswani et al. 2017, equation 1)."""
    s = scores(q, k, scale)
    hidden = ~visible(len(q), len(k), first, start, window, xp)
    s.reshape(len(s), -1, *hidden.shape)[:, :, hidden] = -xp.inf
    p = xp.exp(s - s.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    return unfold(p @ v.transpose(1, 0, 2), len(q))


def tiled_attention(
    q: Array, k: Array, v: Array, first: int, start: int, scale: float, window: int | None, xp: Array
) -> Array:  # (T, H, E), (S, K, E), (S, K, E) -> (T, H, E)
    """The same, in tiles of queries and keys."""
    if len(q) <= QUERY_TILE:
        return attend_tile(q, k, v, first, start, scale, window, xp)
    out = xp.empty(q.shape, dtype=q.dtype)
    for a in range(0, len(q), QUERY_TILE):
        tile = q[a : a + QUERY_TILE]
        out[a : a + QUERY_TILE] = attend_tile(tile, k, v, first + a, start, scale, window, xp)
    return out


def attend_tile(
    q: Array,
    k: Array,
    v: Array,
    first: int,
    start: int,
    scale: float,
    window: int | None,
    xp: Array,
    key_tile: int = KEY_TILE,
) -> Array:  # (T, H, E), (S, K, E), (S, K, E) -> (T, H, E)
    """Attention of one tile of queries, walking over the keys that any of them sees with an online softmax.

    key_tile is at least T, so that every query sees a key of the first tile and no maximum is ever -inf.
    """
    oldest = 0 if window is None else max(0, first - window + 1 - start)
    newest = first + len(q) - start  # one past the last key that the last query sees
    top: Array = None
    total: Array = None
    mixed: Array = None
    for a in range(oldest, newest, key_tile):
        b = min(a + key_tile, newest)
        s = scores(q, k[a:b], scale)
        mask_tile(s, len(q), first, start + a, window, xp)
        before, top = top, s.max(axis=-1, keepdims=True)
        if before is not None:
            top = xp.maximum(before, top)
        s -= top
        p = xp.exp(s, out=s)
        tile_total, tile_mixed = p.sum(axis=-1, keepdims=True), p @ v[a:b].transpose(1, 0, 2)
        if before is None:
            total, mixed = tile_total, tile_mixed
        else:
            shrink = xp.exp(before - top)  # what was summed so far was relative to a smaller maximum
            total, mixed = total * shrink + tile_total, mixed * shrink + tile_mixed
    mixed /= total
    return unfold(mixed, len(q))


def scores(q: Array, k: Array, scale: float) -> Array:  # (T, H, E), (S, K, E) -> (K, H/K*T, S)
    """Every query head against its key head, queries grouped by the key head they share."""
    folded = (q * scale).transpose(1, 0, 2).reshape(k.shape[1], -1, q.shape[2])  # (K, H/K·T, E)
    keys = k.transpose(1, 2, 0)
    if len(q) == 1:  # decode: a matrix-vector product per head takes half of the time of these thin matrix products
        return (folded[:, :, None] @ keys[:, None])[:, :, 0]
    return folded @ keys


def unfold(x: Array, rows: int) -> Array:  # (K, H/K*T, E) -> (T, H, E)
    """Back from groups to one row per query."""
    return x.reshape(-1, rows, x.shape[-1]).transpose(1, 0, 2)


def mask_tile(
    s: Array, rows: int, first: int, start: int, window: int | None, xp: Array
) -> None:  # (K, H/K*rows, S) ->
    """Sets to -inf, in place, the scores of keys that a query does not see; free when all see all."""
    keys = s.shape[-1]
    if start + keys - 1 <= first and (window is None or start > first + rows - 1 - window):
        return
    seen = max(0, first - start) if window is None else 0  # so many keys lie before the first query: all see them
    hidden = ~visible(rows, keys - seen, first, start + seen, window, xp)
    xp.copyto(s.reshape(-1, rows, keys)[:, :, seen:], -xp.inf, where=hidden)


def visible(rows: int, keys: int, first: int, start: int, window: int | None, xp: Array) -> Array:  # -> (T, S)
    """True where the query at position first + t sees the key at position start + s."""
    back = (first + xp.arange(rows))[:, None] - (start + xp.arange(keys))  # how far the key lies behind the query
    seen = back >= 0
    return seen if window is None else seen & (back < window)


def visible_pairs(rows: int, first: int, window: int | None) -> int:
    """How many (query, key) pairs `rows` queries from position `first` on see; attention's FLOPs are counted by it."""
    last = first + rows
    full = last * (last + 1) // 2 - first * (first + 1) // 2
    if window is None:
        return full
    return full - sum(max(0, p + 1 - window) for p in range(first, last))
