"""The random numbers of a request: a written function of (seed, position, token id), with no state and no order.

The bits come from Philox 4x32-10, a generator by counter (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers:
as easy as 1, 2, 3"; its constants and test vectors are Random123's):

    key      the low and the high 32 bits of the seed
    counter  token id // 4, position, stream, 0
    x        word token id % 4 of the four 32-bit words that come out
    u        (x + 0.5) / 2^32, strictly between 0 and 1, and exact in float64
    g        -log(-log u), Gumbel noise

The token whose score log p + g is the largest is a draw from p (Gumbel 1954; the "Gumbel-max trick"). A token's noise
does not depend on the vocabulary's size, on other tokens or on what was drawn before, so that every backend, batch and
draft model can compute the same noise by itself. (tests/golden/noise.json holds vectors for other backends.)

Wins: the chosen token is the same wherever the scores are nearly the same. Loses: a draw costs one random number for
each token of the vocabulary, where an inverse CDF needs one in all; and as u has 32 bits, g ends at 22.9, so that
tokens of a probability below about 1e-9 are drawn less often than they should be.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyinfer.arrays import Array, Xp

ROUNDS = 10
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85  # the golden ratio and the root of 3, as fractions of 2^32
MASK = 0xFFFFFFFF

Words = tuple[Any, Any, Any, Any]  # 32-bit words: Python's integers, or arrays of uint64, whose products need 64 bits


def philox(counter: Words, seed: Any) -> Words:
    """Four random words for each counter, under the 64 bits of the seed as the key."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & MASK, (seed >> 32) & MASK
    for _ in range(ROUNDS):
        first, second = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (second >> 32) ^ c1 ^ k0, second & MASK, (first >> 32) ^ c3 ^ k1, first & MASK
        k0, k1 = (k0 + KEY_STEPS[0]) & MASK, (k1 + KEY_STEPS[1]) & MASK
    return c0, c1, c2, c3


def uniform(seed: int, position: int, stream: int = 0) -> float:
    """The number u of token 0 alone, for decisions that are about no token; streams serve different purposes."""
    return (philox((0, position, stream, 0), seed)[0] + 0.5) / 2**32


def uniforms(seed: int, position: int, size: int, stream: int = 0, xp: Xp = np) -> Array:  # -> (V,)
    """The number u of each of the first `size` token ids."""
    fours = xp.arange((size + 3) // 4, dtype=xp.uint64)  # (fours,): four token ids share a counter
    return _fractions(philox((fours, position, stream, 0), seed), size, xp)


def _fractions(
    words: Words, size: int, xp: Xp
) -> Array:  # ((..., fours), (..., fours), (..., fours), (..., fours)) -> (..., size)
    """The words of `fours` counters, one behind the other, as numbers between 0 and 1."""
    u = xp.stack(words, axis=-1).reshape(*words[0].shape[:-1], -1)[..., :size].astype(xp.float64)  # (..., size)
    u += 0.5  # in place, here and below: without a new array for each operation they take a third of the time
    u *= 2.0**-32
    return u


def gumbel(seed: int, position: int, size: int, stream: int = 0, xp: Xp = np) -> Array:  # -> (V,)
    """The noise g of each of the first `size` token ids, float64."""
    return _from_uniforms(uniforms(seed, position, size, stream, xp), xp)


def gumbels(seeds: Array, positions: Array, size: int, xp: Xp) -> Array:  # (R,), (R,) -> (R, V)
    """The noise of R draws at once, of stream 0, each with its own seed and position: arrays of uint64."""
    fours = xp.arange((size + 3) // 4, dtype=xp.uint64)[None]  # (1, fours)
    words = philox((fours, positions[:, None], 0, 0), seeds[:, None])
    return _from_uniforms(_fractions(words, size, xp), xp)


def _from_uniforms(g: Array, xp: Xp) -> Array:  # (..., V) -> (..., V)
    """-log(-log u), in the memory of u."""
    for _ in range(2):
        xp.log(g, out=g)
        xp.negative(g, out=g)
    return g
