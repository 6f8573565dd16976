"""AdamW: each number gets a step of its own size, its mean gradient over the root of its mean square.

    m = b1·m + (1-b1)·g      v = b2·v + (1-b2)·g²      w -= rate · (m̂ / (√v̂ + eps) + decay · w)

m̂ and v̂ are divided by 1 - b1^n and 1 - b2^n, because both begin at zero (Kingma & Ba 2015, algorithm 1). The decay
pulls at the weights themselves and not at the gradients (Loshchilov & Hutter 2019, algorithm 2). The rate rises over
the first steps, while v knows little, and falls along half a cosine (Loshchilov & Hutter 2017, equation 5). A gradient
longer than `clip`, all parameters as one vector, is made as short as that (Pascanu et al. 2013, algorithm 1).

Wins: one rate serves every parameter. Loses: memory, two numbers for each weight. The update runs over some numbers at
a time, so that its temporaries stay in the cache: the three arrays of SmolLM2 are 1.6 GB, and are read once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from tinyinfer.arrays import Array, Xp

PIECE = 1 << 15  # numbers updated at a time


def rate_at(step: int, steps: int, warm_up: int, rate: float) -> float:
    """The rate of a step, from 0 on: rising for `warm_up` steps, then half a cosine down to 0 at the end.

    >>> [round(rate_at(step, 10, 2, 1.0), 3) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.038]
    """
    if step < warm_up:
        return rate * (step + 1) / warm_up
    return rate * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2


def clip_factor(gradients: Iterable[Array], most: float) -> tuple[float, float]:
    """The length of all gradients as one vector, and what they are to be multiplied by to be at most `most` long."""
    length = math.sqrt(sum(float((g * g).sum()) for g in gradients))
    return length, min(1.0, most / length) if length > 0 else 1.0


@dataclass
class AdamW:
    """The optimizer's memory: for each parameter by its place two arrays of its shape; and how many steps were made."""

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    decay: float = 0.0
    steps: int = 0
    means: list[Array] = field(default_factory=list)
    squares: list[Array] = field(default_factory=list)

    def step(self, parameters: list[Array], gradients: list[Array], rate: float, factor: float, xp: Xp) -> None:
        """Changes the parameters in place; gradients are first multiplied by `factor`.

        The lists must have the same order in every step. Decay is for matrices only: a norm's weights belong near 1.
        """
        if not self.means:
            self.means = [xp.zeros_like(p) for p in parameters]
            self.squares = [xp.zeros_like(p) for p in parameters]
        self.steps += 1
        for arrays in zip(parameters, gradients, self.means, self.squares, strict=True):
            decay = self.decay if arrays[0].ndim > 1 else 0.0
            for w, g, m, v in pieces(*arrays):
                self._update(w, g, m, v, rate, factor, decay, xp)

    def _update(
        self, w: Array, g: Array, m: Array, v: Array, rate: float, factor: float, decay: float, xp: Xp
    ) -> None:  # (...,), (...,), (...,), (...,) ->
        """One step of some numbers, in place."""
        first, second = self.betas
        f = w.dtype.type
        g = g * f(factor)  # (...,)
        m *= f(first)
        m += f(1 - first) * g
        v *= f(second)
        v += f(1 - second) * g * g
        root = xp.sqrt(v / f(1 - second**self.steps)) + f(self.eps)  # (...,)
        w *= f(1 - rate * decay)
        w -= m / root * f(rate / (1 - first**self.steps))


def pieces(*arrays: Array) -> Iterable[tuple[Array, ...]]:
    """Views of the same few numbers of each array, all of one shape: along the axis that varies slowest in memory."""
    slowest = max(range(arrays[0].ndim), key=lambda axis: abs(arrays[0].strides[axis]))
    turned = [array.swapaxes(0, slowest) for array in arrays]
    count = max(1, PIECE * len(turned[0]) // max(1, turned[0].size))
    for start in range(0, len(turned[0]), count):
        yield tuple(array[start : start + count] for array in turned)
