"""AdamW: each number gets a step of its own size, its mean gradient over the root of its mean square.

    m = b1·m + (1-b1)·g      v = b2·v + (1-b2)·g²      w -= rate · (m̂ / (√v̂ + eps) + decay · w)

m̂ and v̂ are divided by 1 - b1^n and 1 - b2^n, because both begin at zero (Kingma & Ba 2015, algorithm 1). The decay
pulls at the weights themselves and not at the gradients (Loshchilov & Hutter 2019, algorithm 2). The rate rises over
the first steps, while v knows little, and falls along half a cosine (Loshchilov & Hutter 2017, equation 5). A gradient
longer than `clip`, all parameters as one vector, is made as short as that (Pascanu et al. 2013, algorithm 1).

Wins: one rate serves every parameter. Loses: memory, two numbers for each weight. On a CPU the update runs over some
numbers at a time, so that its temporaries stay in the cache: the arrays of SmolLM2 are 2.2 GB, and are read once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from tinyinfer.arrays import Array, Xp, to_host

PIECE = 1 << 15  # numbers updated at a time on a CPU


def rate_at(step: int, steps: int, warm_up: int, rate: float) -> float:
    """The rate of a step, from 0 on: rising for `warm_up` steps, then half a cosine down to 0 at the end.

    >>> [round(rate_at(step, 10, 2, 1.0), 3) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.038]
    """
    if step < warm_up:
        return rate * (step + 1) / warm_up
    return rate * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2


def length_of(gradients: Array, xp: Xp) -> float:  # (P,) ->
    """The length of all gradients as one vector."""
    return math.sqrt(sum(float(to_host(xp.vdot(piece, piece))) for piece in _pieces(xp, gradients)))


def clip_factor(length: float, most: float) -> float:
    """What a gradient of that length is to be multiplied by to be at most `most` long."""
    return min(1.0, most / length) if length > 0 else 1.0


@dataclass
class AdamW:
    """The optimizer's memory of P parameters, matrices first, and how many steps were made.

    decayed: how many of the parameters the decay pulls at, from the first on: those of matrices, since a norm's weights
    belong near 1.
    """

    means: Array  # (P,)
    squares: Array  # (P,)
    decayed: int
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    decay: float = 0.0
    steps: int = 0

    @classmethod
    def of(cls, values: Array, decayed: int, decay: float, xp: Xp) -> Self:  # (P,) ->
        """An optimizer that has seen no gradient yet."""
        return cls(xp.zeros_like(values), xp.zeros_like(values), decayed, decay=decay)

    def step(
        self, values: Array, gradients: Array, rate: float, factor: float, xp: Xp
    ) -> None:  # (P,), (P,) ->
        """Changes the parameters in place; gradients are first multiplied by `factor`."""
        self.steps += 1
        arrays = values, gradients, self.means, self.squares
        for part, decay in ((slice(self.decayed), self.decay), (slice(self.decayed, None), 0.0)):
            for w, g, m, v in zip(*(_pieces(xp, array[part]) for array in arrays), strict=True):
                self._update(w, g, m, v, rate, factor, decay, xp)

    def _update(
        self, w: Array, g: Array, m: Array, v: Array, rate: float, factor: float, decay: float, xp: Xp
    ) -> None:  # (n,), (n,), (n,), (n,) ->
        """One step of n numbers, in place."""
        first, second = self.betas
        f = w.dtype.type
        g = g * f(factor)  # (n,)
        m *= f(first)
        m += f(1 - first) * g
        v *= f(second)
        v += f(1 - second) * g * g
        root = xp.sqrt(v / f(1 - second**self.steps)) + f(self.eps)  # (n,)
        w *= f(1 - rate * decay)
        w -= m / root * f(rate / (1 - first**self.steps))


def _pieces(xp: Xp, array: Array) -> list[Array]:  # (P,) ->
    """Views of the array, each small enough for a CPU's cache; on a GPU the whole array."""
    size = PIECE if xp is np else max(1, len(array))
    return [array[start : start + size] for start in range(0, len(array), size)]
