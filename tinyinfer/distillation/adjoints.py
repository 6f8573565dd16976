"""Adjoints: for each operation of the model, how a gradient of its output becomes gradients of its inputs.

With L the loss and dx = ∂L/∂x, an operation y = f(x) passes dx = Jᵀ dy on, J being its Jacobian. No Jacobian is ever
made: each formula here is what is left of Jᵀ dy once it is written out by hand. The operations themselves are those of
backends/reference.py, in the same order; whatever an adjoint needs of the forward pass is an argument.

(Griewank & Walther 2008, Evaluating Derivatives, chapter 3: reverse mode. Each function names its own source where the
formula is not a line of calculus.)
"""

from __future__ import annotations

import numpy as np

from tinyinfer.arrays import Array, Xp
from tinyinfer.backends.reference import error_function
from tinyinfer.model.attention import fold, unfold, visible
from tinyinfer.model.heads import Heads, SoftCap
from tinyinfer.model.weights import FullQKNorm, LayerNorm, Norm, RMSNorm

QUERY_TILE = 128  # queries whose probabilities are in memory at a time


def rms_norm_adjoint(
    dy: Array, x: Array, weight: Array, eps: float, xp: Xp
) -> tuple[Array, Array]:  # (T, ..., size), (T, ..., size), (..., size) -> (T, ..., size), (T, ..., size)
    """Of y = x · r · weight, r = 1 / sqrt(mean(x²) + eps): dx, and dy · x · r, whose sum over rows is dweight.

    dx = r · (g - x · r² · mean(g · x)) with g = dy · weight.
    """
    r = 1 / xp.sqrt((x * x).mean(axis=-1, keepdims=True) + xp.float32(eps))  # (T, ..., 1)
    g = dy * weight  # (T, ..., E)
    dx = r * (g - x * (r * r * (g * x).mean(axis=-1, keepdims=True)))  # (T, ..., E)
    return dx, dy * x * r


def layer_norm_adjoint(
    dy: Array, x: Array, weight: Array, eps: float, xp: Xp
) -> tuple[Array, Array]:  # (T, D), (T, D), (D,) -> (T, D), (T, D)
    """Of y = n · weight + bias, n = (x - mean) / sqrt(var + eps): dx, and dy · n, whose sum over rows is dweight.

    dx = (g - mean(g) - n · mean(g · n)) / sqrt(var + eps) with g = dy · weight; dbias is the sum of dy over rows.
    """
    centered = x - x.mean(axis=-1, keepdims=True)  # (T, D)
    r = 1 / xp.sqrt((centered * centered).mean(axis=-1, keepdims=True) + xp.float32(eps))  # (T, 1)
    n, g = centered * r, dy * weight  # (T, D), (T, D)
    dx = r * (g - g.mean(axis=-1, keepdims=True) - n * (g * n).mean(axis=-1, keepdims=True))  # (T, D)
    return dx, dy * n


def norm_adjoint(
    dy: Array, x: Array, norm: Norm, xp: Xp
) -> tuple[Array, list[tuple[Array, Array]]]:  # (T, ...), (T, ...) ->
    """Of a norm of any kind but NoNorm: dx, and pairs (parameter, its gradient).

    Of a FullQKNorm, all query heads of a row are one vector, and all key heads another.
    """
    if isinstance(norm, FullQKNorm):
        split, rows, given = len(norm.query.weight), x.reshape(len(x), -1), dy.reshape(len(x), -1)
        query, of_query = norm_adjoint(given[:, :split], rows[:, :split], norm.query, xp)
        key, of_key = norm_adjoint(given[:, split:], rows[:, split:], norm.key, xp)
        return xp.concatenate((query, key), axis=1).reshape(x.shape), of_query + of_key
    assert isinstance(norm, RMSNorm | LayerNorm)
    adjoint = rms_norm_adjoint if isinstance(norm, RMSNorm) else layer_norm_adjoint
    dx, by_row = adjoint(dy, x, norm.weight, norm.eps, xp)
    rest = tuple(range(x.ndim - norm.weight.ndim))  # the axes that share a weight
    found = [(norm.weight, by_row.sum(axis=rest))]
    return dx, found + ([(norm.bias, dy.sum(axis=rest))] if isinstance(norm, LayerNorm) else [])


def rope_adjoint(
    dy: Array, cos: Array, sin: Array, xp: Xp
) -> Array:  # (T, heads, E), (T, 1, E), (T, 1, E) -> (T, heads, E)
    """Turns the gradient back: a rotation's transpose is its inverse, but for the amplitude, which multiplies again.

    cos, sin: as Ops.rotation gives them, the first half's sine negated.
    """
    half, turned = dy.shape[-1] // 2, dy * sin  # (T, heads, E)
    return dy * cos + xp.concatenate((turned[..., half:], turned[..., :half]), axis=-1)


def silu_adjoint(dy: Array, x: Array, xp: Xp) -> Array:  # (T, F), (T, F) -> (T, F)
    """Of x · s, s = sigmoid(x): dy · s · (1 + x · (1 - s))."""
    s = x * xp.float32(0.5)  # (T, F)
    xp.tanh(s, out=s)  # cannot overflow
    s += xp.float32(1)
    s *= xp.float32(0.5)
    change = 1 - s  # (T, F)
    change *= x
    change += 1
    change *= s
    change *= dy
    return change


def gelu_tanh_adjoint(dy: Array, x: Array, xp: Xp) -> Array:  # (T, F), (T, F) -> (T, F)
    """Of x/2 · (1 + t), t = tanh(c · (x + a x³)): dy · ((1 + t)/2 + x/2 · (1 - t²) · c · (1 + 3 a x²))."""
    c, a = xp.float32(0.7978845608), xp.float32(0.044715)
    t = xp.tanh(c * (x + a * x * x * x))  # (T, F)
    return dy * ((1 + t) / 2 + x / 2 * (1 - t * t) * c * (1 + 3 * a * x * x))


def gelu_adjoint(dy: Array, x: Array, xp: Xp) -> Array:  # (T, F), (T, F) -> (T, F)
    """Of x · Φ(x): dy · (Φ(x) + x · φ(x)), Φ the normal distribution and φ its density."""
    f = xp.float32
    below = (1 + error_function(x * f(0.7071067812), xp)) / 2  # (T, F)
    return dy * (below + x * xp.exp(-x * x / 2) * f(0.3989422804))


ACTIVATIONS = {"silu": silu_adjoint, "gelu_tanh": gelu_tanh_adjoint, "gelu": gelu_adjoint}


def attention_adjoint(
    do: Array, q: Array, k: Array, v: Array, first: int, start: int, heads: Heads, xp: Xp
) -> tuple[Array, Array, Array]:  # (T, H, E), (T, H, E), (S, K, E), (S, K, E) -> (T, H, E), (S, K, E), (S, K, E)
    """Of full_attention: the gradients of queries, keys and values, some queries at a time.

    The probabilities p are computed anew, as in FlashAttention's backward pass (Dao et al. 2022, appendix B.4):
    dv = pᵀ do, ds = p · (do vᵀ - sum(do · o)), dq = scale · ds k, dk = scale · dsᵀ q. A cap c · tanh(s/c) passes
    ds · (1 - (s/c)²) on.
    """
    dq, dk, dv = xp.empty(q.shape, q.dtype), xp.zeros(k.shape, k.dtype), xp.zeros(v.shape, v.dtype)
    size = QUERY_TILE if xp is np else max(1, len(q))  # a GPU would rather have few launches than little memory
    for begin in range(0, len(q), size):
        tile = slice(begin, begin + size)
        keys = slice(first + min(begin + size, len(q)) - start)  # those that a query of the tile may see
        parts = attention_tile_adjoint(do[tile], q[tile], k[keys], v[keys], first + begin, start, heads, xp)
        dq[tile] = parts[0]
        dk[keys] += parts[1]
        dv[keys] += parts[2]
    return dq, dk, dv


def attention_tile_adjoint(
    do: Array, q: Array, k: Array, v: Array, first: int, start: int, heads: Heads, xp: Xp
) -> tuple[Array, Array, Array]:  # (T, H, E), (T, H, E), (S, K, E), (S, K, E) -> (T, H, E), (S, K, E), (S, K, E)
    """`attention_adjoint` of few queries, all of their probabilities in memory."""
    rows, count = len(q), k.shape[1]
    queries, grads = fold(q * heads.scale, count), fold(do, count)  # (K, H/K·T, E), (K, H/K·T, E)
    s = heads.cap(queries @ k.transpose(1, 2, 0), xp)  # (K, H/K·T, S)
    seen = visible(rows, len(k), first, start, heads.window, xp)  # (T, S)
    p = xp.where(seen, s.reshape(count, -1, *seen.shape), -xp.inf)  # (K, H/K, T, S)
    largest = heads.sinks.largest(p.max(axis=-1, keepdims=True), xp)  # (K, H/K, T, 1)
    p -= largest
    xp.exp(p, out=p)
    p /= heads.sinks.total(p.sum(axis=-1, keepdims=True), largest, xp)
    p = p.reshape(s.shape)  # (K, H/K·T, S)
    dv = p.transpose(0, 2, 1) @ grads  # (K, S, E)
    ds = grads @ v.transpose(1, 2, 0)  # (K, H/K·T, S): of the probabilities; from here on of the scores, in place
    ds -= (p * ds).sum(axis=-1, keepdims=True)
    ds *= p
    if isinstance(heads.cap, SoftCap):
        ds *= 1 - (s / xp.float32(heads.cap.limit)) ** 2
    dq = unfold(ds @ k.transpose(1, 0, 2), rows) * heads.scale  # (T, H, E)
    dk = ds.transpose(0, 2, 1) @ queries  # (K, S, E), the scale in the queries
    return dq, dk.transpose(1, 0, 2), dv.transpose(1, 0, 2)


def cap_adjoint(dy: Array, y: Array, limit: float, xp: Xp) -> Array:  # (R, V), (R, V) -> (R, V)
    """Of y = limit · tanh(x / limit): dy · (1 - (y / limit)²)."""
    return dy * (1 - (y / xp.float32(limit)) ** 2)
