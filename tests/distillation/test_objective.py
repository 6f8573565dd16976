"""The objective: sums of losses, against SciPy's numbers and finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from distilling import OPS, reading_of, switches
from scipy.special import log_softmax, logsumexp, rel_entr, softmax

from tinyinfer.distillation.losses import top_k
from tinyinfer.distillation.objective import Losses, Objective
from tinyinfer.distillation.teacher import Kept

RNG = np.random.default_rng(1)
ONE = reading_of([7, 5])  # ten rows
STUDENT, SAID = 2 * RNG.standard_normal((10, 31)), 2 * RNG.standard_normal((10, 31))
HIDDEN, STATES = RNG.standard_normal((10, 20)), RNG.standard_normal((10, 20))
CASES: dict[str, dict[str, Any]] = {
    "text": {"loss": "cross-entropy"},
    "forward": {"loss": "forward-kl", "temperature": 2.0},
    "reverse": {"loss": "reverse-kl", "temperature": 0.7},
    "both": {"loss": "forward-kl", "text_share": 0.3},
    "hidden": {"loss": "reverse-kl", "hidden": 0.5},
    "text and hidden": {"loss": "cross-entropy", "hidden": 2.0},
    "all": {"loss": "forward-kl", "text_share": 0.25, "hidden": 0.5, "temperature": 3.0},
    "a share of one": {"loss": "forward-kl", "text_share": 1.0},
}


def found(x: np.ndarray = STUDENT, hidden: np.ndarray = HIDDEN, said: np.ndarray = SAID, /, **changes: Any) -> Losses:
    teacher: Any = lambda one: (said.copy(), STATES)  # noqa: E731
    s = switches(**changes)
    return Objective(s, teacher if s.asks_teacher else None)(x.copy(), hidden, ONE, OPS)


def right(x: np.ndarray, hidden: np.ndarray, said: np.ndarray, tokens: np.ndarray, /, **changes: Any) -> float:
    """The sum, as the page of objective.py says it."""
    s = switches(**changes)
    t, share = s.temperature, 1.0 if s.loss == "cross-entropy" else s.text_share
    p, q = softmax(said / t, axis=1), softmax(x / t, axis=1)
    far = rel_entr(p, q) if s.loss == "forward-kl" else rel_entr(q, p)
    text = -log_softmax(x, axis=1)[np.arange(len(x)), tokens].mean()
    cosine = (hidden * STATES).sum(1) / np.linalg.norm(hidden, axis=1) / np.linalg.norm(STATES, axis=1)
    return (1 - share) * t * t * far.sum(1).mean() + share * text + s.hidden * (1 - cosine).mean()


@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_the_sum_of_its_parts(name: str) -> None:
    """Catches a share that is left out, or counted twice."""
    assert found(**CASES[name]).loss == pytest.approx(right(STUDENT, HIDDEN, SAID, ONE.tokens, **CASES[name]))


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_finite_differences(name: str) -> None:
    """Along random directions of logits and of hidden states. Catches a part whose gradient has another factor."""
    losses, rng = found(**CASES[name]), np.random.default_rng(2)
    dx, dh = rng.standard_normal(STUDENT.shape), rng.standard_normal(HIDDEN.shape)
    values = [found(STUDENT + h * dx, HIDDEN + h * dh, **CASES[name]).loss for h in (1e-6, -1e-6)]
    wide = 0.0 if losses.hidden is None else float((losses.hidden * dh).sum())
    assert float((losses.logits * dx).sum()) + wide == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6)
    assert (losses.hidden is None) == ("hidden" not in CASES[name])


@pytest.mark.parametrize("name", ["text", "forward", "all"])
def test_a_student_of_fewer_tokens(name: str) -> None:
    """Its last token stands for all others, in the text and in what the teacher says."""
    few = np.concatenate([SAID[:, :19], logsumexp(SAID[:, 19:], axis=1, keepdims=True)], axis=1)  # (10, 20)
    tokens = np.where(ONE.tokens < 20, ONE.tokens, 19)
    assert (ONE.tokens > 19).any()
    expected = right(STUDENT[:, :20], HIDDEN, few, tokens, **CASES[name])
    assert found(STUDENT[:, :20], **CASES[name]).loss == pytest.approx(expected)


def test_what_a_teacher_said_counts_as_the_teacher() -> None:
    """Kept whole, it gives the loss of the teacher itself, but for sixteen-bit logarithms."""
    said = top_k(SAID, 31, 2.0, np)
    rows = np.empty(10, [("tokens", "<u4", 31), ("log_p", "<f2", 31), ("rest", "<f4")])
    rows["tokens"], rows["log_p"], rows["rest"] = said.tokens, said.log_p, said.rest
    s = switches(loss="forward-kl", temperature=2.0, text_share=0.3, top_k=31)
    losses = Objective(s, Kept(rows, np.array([0, 6, 10])))(STUDENT.copy(), HIDDEN, ONE, OPS)
    assert losses.loss == pytest.approx(found(loss="forward-kl", temperature=2.0, text_share=0.3).loss, rel=2e-3)
    assert losses.hidden is None


def test_the_text_alone_asks_no_teacher() -> None:
    """Catches hours of a teacher that counts for nothing."""
    asked = switches(loss="cross-entropy").asks_teacher, switches(loss="cross-entropy", hidden=1.0).asks_teacher
    assert asked == (False, True)
    assert switches(loss="forward-kl").asks_teacher


def test_float32_stays_float32() -> None:
    """Catches a gradient of twice the memory: it is as large as all logits."""
    x, hidden, said = (array.astype(np.float32) for array in (STUDENT, HIDDEN, SAID))
    for case in CASES.values():
        teacher: Any = lambda one: (said, STATES.astype(np.float32))  # noqa: E731
        losses = Objective(switches(**case), teacher)(x, hidden, ONE, OPS)
        assert losses.logits.dtype == np.float32
        assert losses.hidden is None or losses.hidden.dtype == np.float32
