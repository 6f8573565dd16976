"""Lesson 19: the judge of a divergence with its gradient, by finite differences.

A gradient is right if it says how the loss changes: each logit is moved a little up and down, in float64, and the
difference of the losses is compared. So a judge needs no formula for the gradient, and any way to write it is right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyinfer.distillation.losses import forward_kl, log_softmax, reverse_kl
from tinyinfer.lessons.exercise import Judge, Wrong
from tinyinfer.units import show

Loss = Callable[[np.ndarray, np.ndarray, float], tuple[float, np.ndarray]]
Written = Callable[[Any, Any, float], Any]
H, CLOSE = 1e-5, 1e-5  # of a finite difference; within which two gradients are the same, relative
PAIR = "return two things: the loss, one number, and its gradient, an array of the shape of `logits`"
MEAN = "the loss is the mean over rows, so each row's gradient is divided by the number of rows"


def rows(count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:  # -> (R, V), (R, V)
    """Random logits of a student and a teacher."""
    logits, teacher = 2 * np.random.default_rng(seed).standard_normal((2, count, size))  # (R, V), (R, V)
    return logits, teacher


def differences(
    loss: Callable[[np.ndarray], float], logits: np.ndarray
) -> np.ndarray:  # (R, V) -> (R, V)
    """How a loss changes with each logit, by moving it a little up and down."""
    found = np.empty_like(logits)  # (R, V)
    for place in np.ndindex(logits.shape):
        ends = []
        for step in (H, -H):
            moved = logits.copy()
            moved[place] += step
            ends.append(loss(moved))
        found[place] = (ends[0] - ends[1]) / (2 * H)
    return found


def divergence(logits: np.ndarray, teacher: np.ndarray, t: float) -> tuple[float, np.ndarray]:  # (R, V), (R, V) ->
    """The mean of KL(p, q) · t², and its gradient for the student's logits."""
    q, log_q = log_softmax(logits, t, np)
    p, log_p = log_softmax(teacher, t, np)
    loss = (p * (log_p - log_q)).sum(axis=-1).mean() * t**2
    return loss, t * (q - p) / len(logits)


def reverse(logits: np.ndarray, teacher: np.ndarray, t: float) -> tuple[float, np.ndarray]:  # (R, V), (R, V) ->
    """The mean of KL(q, p) · t², and its gradient for the student's logits."""
    q, log_q = log_softmax(logits, t, np)
    ratio = log_q - log_softmax(teacher, t, np)[1]
    by_row = (q * ratio).sum(axis=-1, keepdims=True)
    return by_row.mean() * t**2, t * q * (ratio - by_row) / len(logits)


def _forward_slips(logits: np.ndarray, teacher: np.ndarray, t: float) -> dict[str, np.ndarray]:  # (R, V), (R, V) ->
    """Usual wrong gradients of the forward divergence, each under its hint."""
    (q, _), (p, _), n = log_softmax(logits, t, np), log_softmax(teacher, t, np), len(logits)
    (q1, _), (p1, _) = log_softmax(logits, 1.0, np), log_softmax(teacher, 1.0, np)
    return {
        "the sign: where the student says too little, q < p, its logit must grow, and the loss falls": t * (p - q) / n,
        "the logits are divided by t in the softmax: the chain rule gives 1/t beside the t²": t**2 * (q - p) / n,
        "the factor t² is missing in the gradient": (q - p) / t / n,
        "which factor is left of t², once the chain rule has divided by t?": (q - p) / n,
        MEAN: t * (q - p),
        "both distributions are at temperature t, in the gradient, too": t * (q1 - p1) / n,
        "a logit also changes every other log q of its row, through the sum that divides it": -t * p / n,
    }


def _reverse_slips(logits: np.ndarray, teacher: np.ndarray, t: float) -> dict[str, np.ndarray]:  # (R, V), (R, V) ->
    """Usual wrong gradients of the reverse divergence, each under its hint."""
    (q, log_q), (p, log_p), n = log_softmax(logits, t, np), log_softmax(teacher, t, np), len(logits)
    ratio = log_q - log_p  # (R, V)
    by_row = (q * ratio).sum(axis=-1, keepdims=True)  # (R, 1)
    return {
        "that is the gradient of the forward divergence: here the weights q move with the logits, too": t * (q - p) / n,
        "a logit changes every q of its row: subtract from each log(q/p) their mean under q": t * q * ratio / n,
        "the mean of log(q/p) is one under q, a sum weighted by q": t * q * (ratio - ratio.mean(-1, keepdims=True)) / n,
        "which factor is left of t², once the chain rule has divided by t": q * (ratio - by_row) / n,
        MEAN: t * q * (ratio - by_row),
    }


def judge_of(
    right: Loss, slips: Callable[[np.ndarray, np.ndarray, float], dict[str, np.ndarray]], other: str
) -> Judge:
    """A judge of a function (logits, teacher, t) -> loss and gradient. other: the hint for a loss that is wrong."""

    def judge(answer: Written) -> Wrong | None:
        if not callable(answer):
            return Wrong(f"{show(answer)} is not a function.", PAIR)
        for t in (1.0, 2.0):
            logits, teacher = rows(3, 7, seed=int(t))  # (R, V), (R, V)
            given = answer(logits.copy(), teacher.copy(), t)
            if wrong := _form(given, logits):
                return wrong
            loss, gradient = float(given[0]), np.asarray(given[1], np.float64)  # (R, V)
            truth, _ = right(logits, teacher, t)
            if not np.isclose(loss, truth, rtol=CLOSE):
                return _wrong_loss(loss, truth, t, logits, teacher, other)
            moved = differences(_loss_of(right, teacher, t), logits)  # (R, V)
            if not _same(gradient, moved):
                return _wrong_gradient(gradient, moved, t, slips(logits, teacher, t))
        return None

    return judge


def _loss_of(right: Loss, teacher: np.ndarray, t: float) -> Callable[[np.ndarray], float]:  # (R, V) ->
    """The loss alone, of logits alone."""
    return lambda logits: right(logits, teacher, t)[0]


def _form(given: Any, logits: np.ndarray) -> Wrong | None:  # (R, V) ->
    """What is wrong about the kinds and shapes of what was returned."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        return Wrong(f"It returned {show(given)}, not a pair.", PAIR)
    if np.ndim(given[0]) or not np.issubdtype(np.asarray(given[0]).dtype, np.number):
        return Wrong(f"The loss has the shape {np.shape(given[0])}.", "sum over tokens, then take the mean over rows")
    if np.shape(given[1]) != logits.shape:
        return Wrong(f"The gradient has the shape {np.shape(given[1])}, and the logits {logits.shape}.", PAIR)
    return None


def _same(gradient: np.ndarray, other: np.ndarray) -> bool:  # (R, V), (R, V) ->
    """Whether two gradients are the same but for what a finite difference cannot see."""
    return bool(np.abs(gradient - other).max() <= CLOSE * max(1.0, float(np.abs(other).max())))


def _wrong_loss(
    loss: float, truth: float, t: float, logits: np.ndarray, teacher: np.ndarray, other: str
) -> Wrong:  # (R, V), (R, V) ->
    """The sentence for a wrong loss, and the slip that it is."""
    losses = {name: one(logits, teacher, t, np)[0] for name, one in (("f", forward_kl), ("r", reverse_kl))}
    hint = "Σ p · log(p / q) over tokens, the mean over rows, times t²"
    if any(np.isclose(loss, wrong, rtol=CLOSE) for wrong in losses.values()):
        hint = other
    elif np.isclose(loss, truth / t**2, rtol=CLOSE):
        hint = "multiply the mean by t²: without it a higher temperature would count less"
    elif np.isclose(loss, truth * len(logits), rtol=CLOSE):
        hint = "take the mean over rows, not their sum"
    elif np.isclose(loss, -truth, rtol=CLOSE):
        hint = "a divergence is never below 0: log p - log q, weighted by the first of them"
    return Wrong(f"At temperature {t:g} the loss is {loss:.4f}, and should be {truth:.4f}.", hint)


def _wrong_gradient(
    gradient: np.ndarray, moved: np.ndarray, t: float, slips: dict[str, np.ndarray]
) -> Wrong:  # (R, V), (R, V) ->
    """The sentence for a wrong gradient: one logit that was moved."""
    row, token = np.unravel_index(np.abs(gradient - moved).argmax(), moved.shape)
    text = f"At temperature {t:g}, logit {token} of row {row} moved by 0.001 changes the loss by "
    text += f"{moved[row, token] / 1000:.2g}; your gradient says {gradient[row, token] / 1000:.2g}."
    hints = [hint for hint, wrong in slips.items() if _same(gradient, wrong)]
    return Wrong(text, hints[0] if hints else "the loss is right, its gradient is not: derive it for a single row")


judge_divergence = judge_of(
    divergence, _forward_slips, "that is the other direction: the weights are the teacher's, p, and not the student's"
)
judge_reverse = judge_of(
    reverse, _reverse_slips, "that is the forward direction: here the weights are the student's, q"
)
