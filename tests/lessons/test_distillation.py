"""Lesson 19: its judges know the right answers and the usual slips; its runs are the package's own training."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinyinfer.distillation.losses import forward_kl, log_softmax, reverse_kl, top_k_kl
from tinyinfer.distillation.teacher import Teacher
from tinyinfer.lessons import distillation as course
from tinyinfer.lessons import distillation_runs as runs
from tinyinfer.lessons import divergence_judge as judge
from tinyinfer.lessons import peaks
from tinyinfer.lessons import sure_student as sure
from tinyinfer.lessons.distillation import EXERCISES
from tinyinfer.lessons.models import Models

EXERCISE = {one.name: one for one in EXERCISES}


@pytest.fixture(scope="module")
def llm():
    models = Models()
    return models.open(models.tiny_path(), None)


@pytest.fixture(scope="module")
def text(llm):
    return runs.pages(llm)


@pytest.fixture(scope="module")
def said(llm, text):
    return runs.what_the_teacher_says(llm, text)[0]


# Gradients.


@pytest.mark.parametrize(("own", "library"), [(judge.divergence, forward_kl), (judge.reverse, reverse_kl)])
def test_our_divergences_are_the_librarys(own, library):
    logits, teacher = judge.rows(4, 9, seed=8)
    for t in (1.0, 3.0):
        loss, gradient = own(logits, teacher, t)
        assert loss == pytest.approx(library(logits, teacher, t, np)[0])
        np.testing.assert_allclose(gradient, library(logits, teacher, t, np)[1], atol=1e-12)


def test_a_difference_is_the_gradient():
    """Of a loss whose gradient is known: half the sum of squares."""
    logits, _ = judge.rows(2, 5, seed=1)
    np.testing.assert_allclose(judge.differences(lambda x: float((x * x).sum()) / 2, logits), logits, atol=1e-8)


SLIPS = [("divergence", judge.divergence, judge._forward_slips), ("reverse", judge.reverse, judge._reverse_slips)]
PLANTED = [
    (name, right, slips, hint)
    for name, right, slips in SLIPS
    for hint in slips(*judge.rows(3, 7, seed=1), 1.0)
]


@pytest.mark.parametrize(("name", "right", "slips", "hint"), PLANTED)
def test_each_wrong_gradient_is_named(name, right, slips, hint):
    """With a right loss; catches a judge that looks at the loss alone, or takes one slip for another."""
    wrong = EXERCISE[name].judged(lambda x, teacher, t: (right(x, teacher, t)[0], slips(x, teacher, t)[hint]))
    assert wrong is not None
    assert wrong.hint == hint
    assert "your gradient says" in wrong.sentence


LOSSES = {
    "no t²": (lambda x, p, t: judge.divergence(x, p, t)[0] / t**2, "without it a higher temperature"),
    "a sum of rows": (lambda x, p, t: judge.divergence(x, p, t)[0] * len(x), "not their sum"),
    "the sign": (lambda x, p, t: -judge.divergence(x, p, t)[0], "never below 0"),
    "the other direction": (lambda x, p, t: judge.reverse(x, p, t)[0], "the other direction"),
    "something else": (lambda x, p, t: 7.0, "mean over rows, times t²"),
    "a row": (lambda x, p, t: np.ones(3), "sum over tokens"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_each_wrong_loss_is_named(name):
    loss, hint = LOSSES[name]
    wrong = EXERCISE["divergence"].judged(lambda x, p, t: (loss(x, p, t), judge.divergence(x, p, t)[1]))
    assert wrong is not None
    assert hint in wrong.hint


def test_other_wrong_answers_get_a_sentence():
    slightly = EXERCISE["divergence"].judged(
        lambda x, p, t: (judge.divergence(x, p, t)[0], judge.divergence(x, p, t)[1] + 1e-3)
    )
    assert slightly is not None
    assert "derive it" in slightly.hint
    short = EXERCISE["divergence"].judged(lambda x, p, t: (judge.divergence(x, p, t)[0], x[0]))
    assert short is not None
    assert "shape (7,)" in short.sentence
    forward = EXERCISE["reverse"].judged(judge.divergence)
    assert forward is not None
    assert "forward direction" in forward.hint


# The rest of a row.


def named(logits, tokens):
    return np.log(np.take_along_axis(log_softmax(logits, 1.0, np)[0], tokens, axis=1).sum(axis=1))


def spoiled(logits, tokens):
    np.put_along_axis(logits, tokens, -np.inf, axis=1)
    return np.logaddexp.reduce(logits, axis=1)


def undivided(logits, tokens):
    return sure.log_rest(logits, tokens) + np.logaddexp.reduce(logits, axis=1)


def floored(logits, tokens):
    with np.errstate(all="ignore"):
        return np.log(np.maximum(1 - np.exp(named(logits, tokens).astype(np.float64)), 1e-5))


RESTS = {
    "1 minus the sum": (sure.one_minus, "do not subtract"),
    "few digits": (lambda x, n: sure.log_rest(x, n) + 0.01 * (np.arange(len(x)) == 1), "keeps few of them"),
    "no logarithm": (lambda x, n: np.exp(sure.log_rest(x, n)), "the probability itself"),
    "the named ones": (named, "all others are asked for"),
    "not divided": (undivided, "divide by the sum over all tokens"),
    "a smallest number": (floored, "the gradient is then that"),
    "zero": (lambda x, n: np.zeros(len(x)), "log of the sum of exp over the other tokens"),
    "-inf where sure": (lambda x, n: np.where(np.arange(len(x)) < 2, sure.log_rest(x, n), -np.inf), "do not subtract"),
    "changes the logits": (spoiled, "work on a copy"),
    "one number": (lambda x, n: sure.log_rest(x, n).sum(), "one number for each row"),
    "whole numbers": (lambda x, n: np.zeros(len(x), int), "one number for each row"),
}


@pytest.mark.parametrize("name", RESTS)
def test_each_wrong_rest_is_named(name):
    rest, hint = RESTS[name]
    wrong = EXERCISE["log_rest"].judged(rest)
    assert wrong is not None
    assert hint in wrong.hint


def test_a_rest_in_float64_is_right_only_as_a_sum():
    """1 minus a sum loses digits in float64, too, only later; the sum of the others may be taken in any type."""
    assert EXERCISE["log_rest"].judged(lambda x, n: sure.one_minus(x.astype(np.float64), n)) is not None
    assert EXERCISE["log_rest"].judged(lambda x, n: sure.log_rest(x.astype(np.float64), n)) is None


def test_the_loss_of_a_sure_student_is_the_librarys_and_ends_only_with_the_wrong_rest():
    logits = np.random.default_rng(2).standard_normal((5, 60)).astype(np.float32)
    few = sure.some_of(logits)
    own, library = sure.divergence_with(sure.log_rest, logits, few), top_k_kl(logits, few, 1.0, np)
    assert own[0] == pytest.approx(library[0], rel=1e-5)
    np.testing.assert_allclose(own[1], library[1], atol=1e-7)
    naive, right = sure.descent(sure.one_minus), sure.descent(sure.log_rest)
    assert 10 < len(naive) < sure.MOST
    assert not np.isfinite(naive[-1]).all()
    assert len(right) == sure.MOST
    assert np.isfinite(right).all()


def test_a_peak_covers_or_chooses():
    """The prediction's answer is the teacher's mean; the reverse direction ends at a peak."""
    truth, usual = peaks.predicted()
    assert truth == pytest.approx(peaks.MIDDLE, abs=1e-3)
    assert not any(math.isclose(truth, wrong, rel_tol=0.001) for wrong in usual)
    assert peaks.trained_peak(reverse_kl, 50)[0] == pytest.approx(40, abs=0.1)
    assert peaks.trained_peak(reverse_kl, 52)[0] == pytest.approx(60, abs=0.1)


# The runs, on the tiny model.


def test_pages_are_apart_and_known(llm, text):
    """Catches a page that is both read and tested."""
    assert (len(text.read), len(text.tested)) == (runs.READ, runs.TESTED)
    assert not {page.tobytes() for page in text.read} & {page.tobytes() for page in text.tested}
    assert 0 < text.share() <= 1
    assert text.known == llm.config.vocab_size


def test_what_was_kept_is_what_the_teacher_says(llm, text, said):
    """Catches rows that are out of order."""
    q = runs.probabilities(llm, llm.model, text.reading(), text.known)
    assert len(said.rows) == len(q) == runs.READ * runs.WINDOW
    assert (said.rows["tokens"][:, 0] == q.argmax(axis=1)).mean() > 0.99
    table = runs.rows_of(llm, text, said, 1, (0, 9))
    assert len(table) == 2
    assert all(len(row) == 3 for row in table)


def test_own_lines_train_as_the_librarys(llm, text):
    own, library = (runs.first_steps(llm, text, loss, 3) for loss in (judge.divergence, None))
    assert len(own) == 3
    np.testing.assert_allclose(own, library, rtol=1e-4)


def test_a_step_is_counted(llm, text, said):
    """Two FLOPs a weight and row at least; the tape notes every operation once."""
    step = runs.step_cost(llm, text, said)
    weights = runs.training(llm, text, None).parameters.values.size
    assert step.flops > 2 * (weights - weights % 1000)
    assert 10 < step.notes < 40
    assert step.whole > step.forward > 0


def test_runs_are_told_by_rounds(llm, text, said, monkeypatch):
    """Catches a student that is compared with the wrong thing, and a curve with other places than its rounds."""
    short = runs.replace(runs.TRAINING, tokens=2 * runs.READ * runs.WINDOW)
    monkeypatch.setattr(runs, "TRAINING", short)
    by_text, by_teacher = (runs.train(llm, text, one) for one in (None, said))
    for run in (by_text, by_teacher):
        assert run.losses.shape == (2, 2)
        assert run.losses[1, 1] < run.losses[0, 1]
        assert run.tests[0, 0] == 0
        assert run.tests[-1, 0] == 2
        assert run.best <= run.last
        assert run.speed > 0
    assert by_text.training.switches.loss == "cross-entropy"
    counting = course.counted(text)
    assert 0 < counting < math.log(text.known)
    pytest.importorskip("matplotlib").use("agg")
    assert len(course.draw(by_text, by_teacher, counting).axes) == 2
    assert len(peaks.draw({"one": (40.0, 3.0)}).axes) == 1
    assert 0 < runs.right_share(llm, by_text.training.model, text, read=True) < 1
    shown = runs.written(llm, by_teacher.training.model, "If the value", count=5)
    assert isinstance(shown, str)


def test_a_teachers_mistakes_are_found(text):
    """A teacher that is sure of token 5 everywhere is mistaken wherever the text has another one."""
    tokens = text.reading().tokens
    rows = np.zeros(len(tokens), [("tokens", "<u4", 2), ("log_p", "<f2", 2), ("rest", "<f4")])
    rows["tokens"], rows["log_p"] = (5, 6), (math.log(0.75), math.log(0.25))
    found, favourites = runs.mistaken(runs.Kept(rows, np.array([0])), text)
    assert (favourites == 5).all()
    assert set(found) == set(np.flatnonzero((tokens != 5) & (tokens < text.known - 1)))


def test_unknown_tokens_are_boxes(llm):
    ids = llm.tokenizer.encode("abc")
    assert runs.text_of(llm, ids, max(ids) + 2) == "abc"
    assert runs.text_of(llm, [ids[0], 250, ids[2]], 200) == "a□c"
    assert runs.quoted("a|`b`\n") == "`a/'b'⏎`"


def test_a_useful_student_takes_its_tokens_and_its_teacher():
    """Each token is a pass of the teacher, and three of a student of its size."""
    assert course.hours(7200, 4.0) == pytest.approx(2)


NUMBERS = {
    "factor": {2: "one of two effects", 1: "does not stay", 8: "one factor too many", 0.25: "other way round",
               16: "each effect twice", 3: "too low"},
    "once": {40: "costs nothing", 341.8: "how much larger", 1.0: "too low"},
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_judged_each_with_its_own_sentence(name):
    for answer, sentence in NUMBERS[name].items():
        wrong = EXERCISE[name].judged(answer)
        assert wrong is not None
        assert sentence in wrong.sentence


def test_teacher_is_asked_and_not_changed(llm, text):
    """Catches a run that trains its teacher."""
    before = Teacher(llm.model, llm.ops)(text.reading(read=False))[0].copy()
    runs.first_steps(llm, text, None, 2)
    np.testing.assert_array_equal(before, Teacher(llm.model, llm.ops)(text.reading(read=False))[0])
