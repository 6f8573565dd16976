"""Training: what a step does, what is read and what never is, and that a student learns."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from distilling import OPS, SMALL, documents, model_of, training_of
from helpers import checkpoint_of, random_tensors, small_config
from scipy.special import log_softmax

from tinyinfer.distillation.adamw import AdamW, rate_at
from tinyinfer.distillation.padding import PassCache
from tinyinfer.distillation.teacher import Teacher
from tinyinfer.distillation.texts import in_order, reading
from tinyinfer.distillation.training import HELD_OUT, TESTS, Training
from tinyinfer.errors import TrainingError
from tinyinfer.loading.build import build_model
from tinyinfer.model.transformer import Model, transformer
from tinyinfer.model.weights import Dense


def run(training: Training) -> list[float]:
    return list(training.run())


def noted(training: Training) -> list[tuple[int, ...]]:
    """The documents of each batch that is learned, as they come."""
    seen, backward = [], training.backward

    def note(one: Any, share: float) -> float:
        seen.append(one.documents)
        return backward(one, share)

    training.backward = note  # type: ignore[method-assign]
    return seen


# It learns


def counting(count: int, seed: int = 0) -> list[np.ndarray]:
    """A text that is easily learned: each token is the one before it plus one."""
    starts = np.random.default_rng(seed).integers(0, 31, count)
    return [np.arange(start, start + 12) % 31 for start in starts]


def test_the_loss_falls_on_a_text_that_can_be_learned() -> None:
    """Catches a gradient of the wrong sign, and steps that the model does not see."""
    training = training_of(counting(40), tokens=3000, tested=counting(5, seed=9))
    losses = run(training)
    (_, first), (_, last) = training.place.tests[0], training.place.tests[-1]
    assert np.mean(losses[-5:]) < 0.1 < 3 < losses[0]
    assert last < 0.5 < 3 < first


@pytest.mark.parametrize("loss", ["forward-kl", "reverse-kl"])
def test_a_student_comes_to_say_what_its_teacher_says(loss: str) -> None:
    """The divergence falls, on text that itself says nothing. Catches a teacher that is not asked."""
    teacher = Teacher(model_of(seed=7), OPS)
    losses = run(training_of(documents([12] * 40), teacher=teacher, loss=loss, tokens=4000, hidden=0.1))
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:3])


def test_the_teacher_itself_has_nothing_to_learn() -> None:
    """Catches a student that reads other rows than its teacher."""
    training = training_of(teacher=Teacher(model_of(), OPS), loss="forward-kl")
    assert abs(training.step()) < 1e-6


# What is read


def test_every_document_is_read_once_in_an_epoch() -> None:
    """Over three epochs. Catches a batch that is left out where an epoch ends."""
    training = training_of(documents([9] * 20), tokens=3 * 160, batch_tokens=16)
    seen = noted(training)
    run(training)
    assert Counter(n for batch in seen for n in batch) == dict.fromkeys(range(20), 3)
    for number in range(3):
        part = seen[10 * number : 10 * number + 10]
        assert Counter(n for batch in part for n in batch) == Counter(range(20))
    assert seen[:10] != seen[10:20]
    assert (training.place.epoch, training.place.batch, training.place.tokens) == (3, 0, 480)


def test_the_seed_decides_the_order_and_all_numbers() -> None:
    """Catches a draw that the seed does not know, and arrays in which something was left."""
    orders, values = [], []
    for seed in (1, 1, 2):
        training = training_of(seed=seed)
        orders.append(noted(training))
        run(training)
        values.append(training.parameters.values)
    assert orders[0] == orders[1] != orders[2]
    np.testing.assert_array_equal(values[0], values[1])
    assert (values[0] != values[2]).any()


def test_held_out_documents_are_never_learned() -> None:
    """One of 64, and the rest all. Catches a test on what was read."""
    read = documents([9] * 130)
    training = training_of(read, tokens=2 * 127 * 8, batch_tokens=64, rate=1e-4)
    seen = noted(training)
    run(training)
    assert [ids.tolist() for ids in training.tested] == [read[n].tolist() for n in (0, 64, 128)]
    assert {n for batch in seen for n in batch} == set(range(130)) - {0, 64, 128}


def test_a_text_for_tests_lets_all_be_learned() -> None:
    read = documents([9] * HELD_OUT)
    training = training_of(read, tested=documents([9, 4]), tokens=512, batch_tokens=64)
    seen = noted(training)
    run(training)
    assert {n for batch in seen for n in batch} == set(range(HELD_OUT))


def test_few_documents_are_all_learned_and_nothing_is_tested() -> None:
    training = training_of(documents([9] * (HELD_OUT - 1)), tokens=504)
    run(training)
    assert training.read == list(range(63))
    assert not training.place.tests


# A test


def test_a_test_is_the_mean_of_all_rows() -> None:
    """By SciPy, each document by itself: also where groups have different sizes. Catches a mean of means."""
    tested = documents([9, 3, 17, 5, 12])
    training = training_of(tested=tested, batch_tokens=16)
    assert len(list(in_order(tested, 16))) > 2
    model, losses = model_of(), []
    for ids in tested:
        logits = transformer(model, reading([ids], [0], SMALL.rotation_sets).batch, PassCache(), OPS)
        losses += (-log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(ids) - 1), ids[1:]]).tolist()
    assert training.test() == pytest.approx(np.mean(losses), rel=1e-5)


def test_tests_come_evenly_and_at_the_end() -> None:
    """The first before anything is learned. Catches a test after each step, which costs more than the steps."""
    training = training_of(documents([9] * 8), tested=documents([9]), tokens=1600, batch_tokens=16)
    run(training)
    places = [tokens for tokens, _ in training.place.tests]
    assert places == list(range(0, 1601, 1600 // TESTS))
    assert [tokens for tokens, _ in training.place.losses] == list(range(0, 1600, 16))
    assert run(training) == []
    assert len(training.place.tests) == TESTS + 1  # a run that goes on at its end


# A step


def test_a_step_is_adamws_with_the_gradient_made_short() -> None:
    """Of the rate of its place, once. Catches a gradient that was left from the step before."""
    training, other = training_of(clip=0.5, decay=0.1), training_of(clip=0.5, decay=0.1)
    p, optimizer = other.parameters, AdamW.of(other.parameters.values, other.parameters.decayed, 0.1, np)
    before = 0
    for _ in range(3):
        training.step()
        p.gradients[...] = 0
        one = other._next()
        other.backward(one)
        length = float(np.linalg.norm(p.gradients.astype(np.float64)))
        optimizer.step(p.values, p.gradients, rate_at(before // 32, 10, 1, 1e-2), min(1, 0.5 / length), np)
        before += len(one)
    np.testing.assert_allclose(training.parameters.values, p.values, rtol=1e-4, atol=1e-6)


def test_two_halves_are_a_whole() -> None:
    """Two passes of half the documents are one step of all. Catches gradients that are summed, not averaged."""
    read = documents([9] * 4)
    whole, halves = training_of(read, batch_tokens=32), training_of(read, batch_tokens=16, accumulate=2)
    losses = whole.step(), halves.step()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    np.testing.assert_allclose(halves.parameters.gradients, whole.parameters.gradients, rtol=1e-3, atol=1e-5)
    assert whole.place.tokens == halves.place.tokens == 32
    assert len(halves.place.losses) == halves.optimizer.steps == 1


def test_passes_of_unequal_sizes_weigh_by_their_rows() -> None:
    """Catches a mean of means, in which the tokens of a short pass weigh more."""
    read = documents([25, 9])
    whole, parts = training_of(read, batch_tokens=32), training_of(read, batch_tokens=24, accumulate=2)
    losses = whole.step(), parts.step()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    np.testing.assert_allclose(parts.parameters.gradients, whole.parameters.gradients, rtol=1e-3, atol=1e-5)


def test_the_first_rate_is_a_step_of_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the peak where ten steps warm up; a run too short for that warms up for a fifth of it. Catches a rate
    by tokens before the step, which began at nearly nothing, and a run that ends before its peak.
    """
    for tokens, first in ((3200, 0.1), (320, 0.5), (32, 1.0)):
        rates: list[float] = []
        training = training_of(tokens=tokens, warm_up=10, rate=1.0)
        monkeypatch.setattr(AdamW, "step", lambda self, w, g, rate, *rest, rates=rates: rates.append(rate))
        for _ in training.run():
            pass
        assert rates[0] == pytest.approx(first)
        assert max(rates) == pytest.approx(1.0, abs=0.01)


def test_a_batch_is_its_documents_alone() -> None:
    """Gradients of a batch of mixed lengths are the mean of each document's, by its rows. Catches a leak."""
    read = documents([9, 4, 17, 12])
    training = training_of(read)
    p, sets, total = training.parameters, SMALL.rotation_sets, sum(len(ids) - 1 for ids in read)
    loss = training.backward(reading(read, range(4), sets))
    whole = p.gradients.copy()
    losses, right = 0.0, np.zeros_like(whole)
    for n, ids in enumerate(read):
        p.gradients[...] = 0
        share = (len(ids) - 1) / total
        losses += share * training.backward(reading(read, [n], sets))
        right += np.float32(share) * p.gradients
    assert loss == pytest.approx(losses, rel=1e-5)
    assert np.linalg.norm(whole - right) < 1e-5 * np.linalg.norm(right)


def test_recomputing_gives_the_same_gradients() -> None:
    """With hidden states, whose gradient comes in the middle. Catches a layer that is run with another batch."""
    teacher, found = Teacher(model_of(seed=7), OPS), []
    for recompute in (False, True):
        training = training_of(teacher=teacher, loss="forward-kl", hidden=1.0, recompute=recompute)
        training.step()
        found.append(training.parameters.gradients)
    assert np.linalg.norm(found[1] - found[0]) < 1e-5 * np.linalg.norm(found[0])


def test_a_tied_table_stays_tied() -> None:
    """Catches a head that learns by itself, which a folder could not hold."""
    training = training_of(config=small_config(tied_head=True))
    training.step()
    table, head = training.model.embedding.table, training.model.head.weight
    assert table is head


# Pruned weights


def pruned_student(seed: int = 0) -> tuple[Model, np.ndarray]:
    """A student half of whose weights in matrices are zero; where its flat array has zeros."""
    tensors = random_tensors(SMALL, seed)
    rng = np.random.default_rng(4)
    for array in tensors.values():
        if array.ndim > 1:
            array[rng.random(array.shape) < 0.5] = 0
    student = build_model(checkpoint_of(SMALL, tensors), OPS)
    return student, training_of(student=student).parameters.values == 0


def test_pruned_weights_stay_exactly_zero() -> None:
    """Also with a weight decay, and after many steps. Catches a mean or a decay that moves them by a last bit."""
    student, zeros = pruned_student()
    training = training_of(student=student, masked=True, decay=0.1)
    before = training.parameters.values.copy()
    run(training)
    assert zeros.sum() > 1000
    np.testing.assert_array_equal(training.parameters.values[zeros], 0)
    assert (training.parameters.values[~zeros] != before[~zeros]).mean() > 0.9


def test_without_a_mask_all_weights_learn() -> None:
    student, zeros = pruned_student()
    training = training_of(student=student)
    run(training)
    assert (training.parameters.values[zeros] != 0).mean() > 0.9


def test_pruned_weights_do_not_make_others_gradients_short() -> None:
    """The length that is clipped is that of what is learned. Catches a mask that comes after the clip."""
    student, zeros = pruned_student()
    training = training_of(student=student, masked=True)
    training.step()
    assert not training.parameters.gradients[zeros].any()
    assert training.parameters.gradients[~zeros].any()


# Numbers that are none


def spoiled() -> Model:
    model = model_of()
    assert isinstance(model.head.weight, Dense)
    array = model.head.weight.array.copy()
    array[3, 4] = np.nan
    return replace(model, head=replace(model.head, weight=Dense(array)))


@pytest.mark.filterwarnings("error")
def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step() -> None:
    """Before the parameters are changed, and without NumPy's warnings. Catches NaN that spreads to all weights."""
    training = training_of(student=spoiled())
    before = training.parameters.values.copy()
    with pytest.raises(TrainingError, match="step 1: the loss is nan and its gradient nan long"):
        run(training)
    np.testing.assert_array_equal(training.parameters.values, before)
    assert training.optimizer.steps == 0
    with pytest.raises(TrainingError, match="step 0: after it the loss of the test is nan"):
        run(training_of(student=spoiled(), tested=documents([9])))


@pytest.mark.filterwarnings("error")
def test_an_absurd_rate_stops_the_run() -> None:
    """At the step whose loss is no number, or at its end. Catches a last step that nothing looks at."""
    training = training_of(rate=1e38, batch_tokens=16)
    with pytest.raises(TrainingError, match="step 2: the loss is nan"):
        run(training)
    last = training_of(documents([9]), rate=1e38, tokens=8)
    run(last)
    with pytest.raises(TrainingError, match="step 1: after it the parameters are no numbers"):
        last.check()
