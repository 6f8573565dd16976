"""Lesson 19: what a student says of all tokens beside the top k, where it is so sure that float32 knows no rest.

The student has no layers: its parameters are the logits of one row. A teacher that is sure of two tokens teaches it by
the package's optimizer. How the rest's probability is computed is the student's of the lesson: 1 minus the others is 0
in float32 before it is small, and a loss divides by it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyinfer.distillation.adamw import AdamW
from tinyinfer.distillation.losses import TopK, log_softmax, top_k
from tinyinfer.lessons.exercise import Wrong
from tinyinfer.units import show

LogRest = Callable[[np.ndarray, np.ndarray], np.ndarray]
SIZE, RATE, MOST = 1000, 1.0, 120  # tokens; the optimizer's rate; steps
SHAPE = "return one number for each row: the logarithm of the probability of all tokens that `tokens` does not name"


def log_rest(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:  # (R, V), (R, k) -> (R,)
    """The logarithm of the probability of all tokens but these: of the others, summed up by themselves."""
    others = logits.copy()
    np.put_along_axis(others, tokens, -np.inf, axis=1)
    return np.logaddexp.reduce(others, axis=1) - np.logaddexp.reduce(logits, axis=1)


def one_minus(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:  # (R, V), (R, k) -> (R,)
    """The same as it is first written: 1 minus the sum of the k probabilities."""
    q, _ = log_softmax(logits, 1.0, np)  # (R, V)
    return np.log(1 - np.take_along_axis(q, tokens, axis=1).sum(axis=1))


def divergence_with(rest: LogRest, logits: np.ndarray, said: TopK) -> tuple[float, np.ndarray]:  # (R, V) ->
    """What `top_k_kl` computes, with a student's own rest: the loss of k + 1 outcomes, and its gradient."""
    q, log_q = log_softmax(logits, 1.0, np)  # (R, V), (R, V)
    p, log_others = np.exp(said.log_p), rest(logits, said.tokens)  # (R, k), (R,)
    by_row = (p * (said.log_p - np.take_along_axis(log_q, said.tokens, axis=1))).sum(axis=1)  # (R,)
    by_row += said.rest * (np.log(said.rest) - log_others)
    gradient = q - said.rest[:, None] * np.exp(log_q - log_others[:, None])  # (R, V)
    np.put_along_axis(gradient, said.tokens, np.take_along_axis(q, said.tokens, axis=1) - p, axis=1)
    return float(by_row.mean()), gradient / len(logits)


def sure_teacher(rest: float = 1e-9) -> TopK:
    """One row of a teacher that is sure: two tokens, and nearly nothing for all others."""
    f = np.float32
    return TopK(np.array([[3, 7]]), np.log(np.array([[0.7, 0.3 - rest]], f)), np.array([rest], f))


def some_of(logits: np.ndarray, k: int = 5) -> TopK:  # (R, V) ->
    """A teacher that says of each row what the row before it would say."""
    return top_k(np.roll(logits, 1, axis=0), k, 1.0, np)


def descent(rest: LogRest) -> list[tuple[float, float, float]]:
    """Of each step the rest in float64, the loss and the gradient's largest number; ends where one is no number."""
    logits, said, steps = np.zeros(SIZE, np.float32), sure_teacher(), []  # logits: (V,)
    optimizer = AdamW.of(logits, SIZE, 0.0, np)
    with np.errstate(all="ignore"):
        for _ in range(MOST):
            loss, gradient = divergence_with(rest, logits[None], said)  # gradient: (1, V)
            largest = float(np.abs(gradient).max())
            steps.append((float(np.exp(log_rest(logits[None].astype(np.float64), said.tokens))[0]), loss, largest))
            if not np.isfinite(loss + largest):
                break
            optimizer.step(logits, gradient[0].astype(np.float32), RATE, 1.0, np)
    return steps


GAPS = (1.0, 6.0, 12.0, 30.0, 60.0)  # by how much the judge's rows are sure of the named tokens


def judge_rest(answer: Any) -> Wrong | None:
    """Judges a function (logits, tokens) -> log of the rest, in float32: rows that are less and more sure."""
    if not callable(answer):
        return Wrong(f"{show(answer)} is not a function.", SHAPE)
    logits = np.random.default_rng(1).standard_normal((len(GAPS), 50)).astype(np.float32)  # (R, V)
    tokens = np.array([[1, 4, 9]] * len(GAPS))  # (R, k)
    for row, gap in zip(logits, GAPS, strict=True):
        row[tokens[0]] += np.float32(gap)
    given_logits = logits.copy()
    with np.errstate(all="ignore"):
        given = np.asarray(answer(given_logits, tokens.copy()))
    if not np.array_equal(given_logits, logits):
        return Wrong("It changes the logits that it is given.", "work on a copy: the loss still needs them")
    if given.shape != (len(GAPS),) or not np.issubdtype(given.dtype, np.floating):
        return Wrong(f"It returned {show(given)}, for {len(GAPS)} rows.", SHAPE)
    truth = log_rest(logits.astype(np.float64), tokens)  # (R,)
    return _compared(given.astype(np.float64), truth, logits, tokens)


def _compared(
    given: np.ndarray, truth: np.ndarray, logits: np.ndarray, tokens: np.ndarray
) -> Wrong | None:  # (R,), (R,), (R, V), (R, k) ->
    """The first row that is wrong, and why."""
    far = ~(np.abs(given - truth) < 1e-3)  # (R,): NaN is far
    if not far.any():
        return None
    if not far[0] and np.isfinite(given).all() and given[-1] > truth[-1] + 3:
        text = f"Where the rest is {np.exp(truth[-1]):.2g}, its logarithm is {truth[-1]:.1f}; yours is {given[-1]:.1f}."
        hint = "a smallest number keeps the logarithm finite, and wrong: the gradient is then that of this number"
        return Wrong(text, hint)
    n = int((far if np.isfinite(given).all() or far[0] else ~np.isfinite(given)).argmax())
    text = f"Where the rest is {np.exp(truth[n]):.2g}, its logarithm is {truth[n]:.3f}; yours is {given[n]:.3f}."
    if np.allclose(given, np.exp(truth), rtol=1e-3, atol=1e-7):
        return Wrong(text, "that is the probability itself; its logarithm is asked for, which has no smallest number")
    whole = np.logaddexp.reduce(logits.astype(np.float64), axis=1)  # (R,)
    if np.allclose(given, truth + whole, atol=1e-3):
        return Wrong(text, "the others are summed up; divide by the sum over all tokens, a difference of logarithms")
    if np.allclose(given, np.log1p(-np.exp(truth)), atol=1e-3):
        return Wrong(text, "that is the probability of the named tokens; all others are asked for")
    if n == 0:
        return Wrong(text, "log of the sum of exp over the other tokens, less log of the sum of exp over all")
    if not np.isfinite(given[n]):
        return Wrong(text, "1 minus a sum near 1 is 0, or below it, in float32: do not subtract, sum the others up")
    return Wrong(text, "digits were lost before the logarithm: 1 minus a sum near 1 keeps few of them")
