"""Lesson 19: a teacher of two peaks and a student that can only have one, by either divergence.

The teacher's distribution over a hundred tokens has a peak at 40 and a smaller one at 60. The student's logits are a
parabola: it has a place and a width, and no second peak. Its loss and the gradient for its logits are the package's
own; the gradient for place and width is a line of calculus more. Where the student ends shows what a divergence asks
for, since this student cannot have what both ask for, the teacher's distribution itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyinfer.distillation.losses import forward_kl, log_softmax

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOKENS = np.arange(100.0)  # (V,)
PLACES, SHARES, WIDTH = (40.0, 60.0), (0.6, 0.4), 3.0
MIDDLE = sum(place * share for place, share in zip(PLACES, SHARES, strict=True))
DESCENT = 1500  # steps of gradient descent

Divergence = Callable[[np.ndarray, np.ndarray, float, Any], tuple[float, np.ndarray]]


def teacher() -> np.ndarray:  # -> (1, V)
    """The logarithm of the teacher's distribution."""
    laws = [np.exp(log_softmax(bump(place, WIDTH), 1.0, np)[1]) for place in PLACES]  # (1, V) each
    return np.log(sum(share * law for share, law in zip(SHARES, laws, strict=True)))


def bump(place: float, width: float) -> np.ndarray:  # -> (1, V)
    """The logits of one peak."""
    return -((TOKENS - place) ** 2)[None] / (2 * width**2)


def trained_peak(divergence: Divergence, place: float, width: float = 5.0) -> tuple[float, float]:
    """Place and width of a student's peak after gradient descent from there."""
    law = teacher()  # (1, V)
    for _ in range(DESCENT):
        _, gradient = divergence(bump(place, width), law, 1.0, np)  # (1, V)
        away = TOKENS - place  # (V,)
        place -= float((gradient * away).sum())  # the gradient for the place, times width²
        width *= math.exp(-0.05 * float((gradient * away**2).sum()) / width**2)
    return place, width


def predicted() -> tuple[float, dict[float, str]]:
    """Where the peak of a student by forward KL ends, and of each usual wrong guess the idea."""
    return round(trained_peak(forward_kl, 50.0)[0], 2), {
        PLACES[0]: "That is where the teacher's higher peak is. But a student that says nothing at the other one would "
        "be told an enormous loss there: the log of a number near zero, in four of ten cases.",
        PLACES[1]: "That is where the teacher's smaller peak is.",
        sum(PLACES) / 2: "That is the middle. The higher peak has more of the teacher's probability, and pulls harder.",
    }


def draw(ends: dict[str, tuple[float, float]]) -> Figure:
    """The teacher's distribution and where students ended: name -> place and width."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(9, 3.4), layout="constrained")
    ax.fill_between(TOKENS, np.exp(teacher())[0], color="0.85", label="the teacher")
    for name, (place, width) in ends.items():
        ax.plot(TOKENS, log_softmax(bump(place, width), 1.0, np)[0][0], label=name)
    ax.set(xlabel="token", ylabel="probability")
    ax.legend(frameon=False)
    return figure

