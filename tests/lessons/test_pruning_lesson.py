"""Lesson 18: its judges know the right answer, the usual slips and what is no answer; its models are the library's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinyinfer.lessons import pruned_models as runs
from tinyinfer.lessons.lesson import Lesson
from tinyinfer.lessons.pruning import ALL, EVEN, EXERCISES, LAYER, usual_guesses
from tinyinfer.lessons.pruning_judge import (
    CHOICES,
    INFLUENCES,
    REFITS,
    cheapest,
    examples,
    influence,
    judge_cheapest,
    judge_influence,
    judge_refit,
    refit,
    squared_error,
    turned,
)
from tinyinfer.pruning.layers import block_influence, rows_around
from tinyinfer.pruning.magnitude import magnitude
from tinyinfer.pruning.patterns import Pattern
from tinyinfer.pruning.sparsegpt import prune_block, sparsegpt
from tinyinfer.pruning.wanda import wanda
from tinyinfer.quantization.gptq import inverse_factor

EXERCISE = {one.name: one for one in EXERCISES}
HALF = Pattern(0.5)


@pytest.fixture(scope="module")
def lesson() -> Lesson:
    return Lesson("18_pruning")


@pytest.fixture(scope="module")
def text(lesson) -> np.ndarray:
    return runs.windows(lesson.tiny(), 512, 64)


# What the lines mean.


def test_no_other_weights_have_a_smaller_error():
    """Catches a solution of other equations: a step in any direction among the kept weights costs."""
    rng = np.random.default_rng(0)
    for w, hessian, kept in examples():
        best = refit(w, hessian, kept)
        assert not best[~kept].any()
        least = squared_error(w, best, hessian)
        for _ in range(20):
            assert squared_error(w, best + 0.01 * rng.normal(size=len(w)) * kept, hessian) > least


def test_one_removal_costs_what_the_inverse_says():
    """The score of the Optimal Brain Surgeon: w² over the inverse's diagonal. Catches a score that is only near."""
    for w, hessian, _ in examples():
        costs = [squared_error(w, refit(w, hessian, np.arange(len(w)) != i), hessian) for i in range(len(w))]
        assert costs == pytest.approx((w**2 / np.diag(np.linalg.inv(hessian))).tolist())
        assert cheapest(w, hessian) == int(np.argmin(costs))


def test_the_librarys_step_is_the_refit_of_the_inputs_to_come():
    """Where only the first input's weight goes, all others are still to come: then SparseGPT's step is exact."""
    for w, hessian, _ in examples():
        size = len(w)
        first = cheapest(w, hessian)
        order = [first, *(i for i in range(size) if i != first)]
        row, sums = w[order].astype(np.float32), hessian[np.ix_(order, order)]
        columns = row[:, None].copy()
        row[1:] = columns[1:, 0] = 100 * row[1:]  # so large that the first one goes
        prune_block(columns, inverse_factor(sums.astype(np.float32), 0.0), Pattern(1 / size))
        assert columns[:, 0] == pytest.approx(refit(row.astype(float), sums, np.arange(size) > 0), rel=1e-3, abs=1e-3)


# The measured models.


def test_windows_that_are_read_are_not_scored(lesson):
    """Catches a perplexity of the text that chose the weights, and an `other text` that was read."""
    llm = lesson.tiny()
    read, unread, scored = runs.windows(llm, 512, 64), runs.unread_windows(llm, 256, 64), runs.later_text(llm)
    assert (read.shape, unread.shape, len(scored)) == ((8, 64), (4, 64), runs.TOKENS + 1)
    everything = " ".join(map(str, scored))
    for window in (*read, *unread):
        assert " ".join(map(str, window)) not in everything
    assert not {window.tobytes() for window in read} & {window.tobytes() for window in unread}
    assert len({window.tobytes() for window in read}) == 8


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_a_pruned_model_is_that_of_the_switch(lesson, text, method):
    """Catches an experiment that prunes other weights than `--prune`; and with `first`, more layers than that."""
    llm = lesson.tiny()
    reads = None if method == "magnitude" else text
    whole, one = runs.pruned(llm, method, reads), runs.pruned(llm, method, reads, first=1)
    assert one.model.layers[1] is llm.model.layers[1]
    zeros = [float((runs.matrix_of(model, 0, "o") == 0).mean()) for model in (llm, one, whole)]
    assert zeros == [0, 0.5, 0.5]
    if method == "magnitude":
        switched = lesson.tiny(prune="magnitude")
        tokens = runs.later_text(llm)
        assert runs.perplexity(whole, tokens) == pytest.approx(runs.perplexity(switched, tokens), rel=1e-5)


def test_bits_are_those_that_are_held(lesson):
    """Catches bits without the mask, without scales, or of the layers that are left only."""
    llm = lesson.tiny()
    assert runs.bits(llm, llm) == 32
    sparse = runs.pruned(llm, "magnitude")
    assert 17 < runs.bits(sparse, llm) < 19  # where each output begins counts much in small matrices
    assert runs.bits(runs.without_layers(llm, [1]), llm) == 16
    four = runs.rounded(sparse, "int4", 32, prune="magnitude")
    assert runs.bits(sparse, llm) - runs.bits(four, llm) == pytest.approx(16 - 2.5, abs=0.1)


def test_a_model_keeps_a_layer(lesson):
    """The tiny model has only two, and three are to go."""
    assert runs.without_layers(lesson.tiny(), [0, 1, 2]).config.num_layers == 1


def test_a_token_of_a_sparse_model_reads_less_and_multiplies_as_much(lesson):
    """Catches counts that are the same before and after, and FLOPs that fall with zeros."""
    llm = lesson.tiny()
    dense, sparse, short = (
        runs.decoded(one, 3) for one in (llm, runs.pruned(llm, "magnitude"), runs.without_layers(llm, [0]))
    )
    assert sparse.weight_bytes < dense.weight_bytes
    assert sparse.flops == dense.flops > short.flops
    assert dense.text != short.text


def test_inputs_are_those_of_the_named_matrix(lesson, text):
    """Catches the inputs of another layer or matrix, and rows that are counted twice."""
    llm = lesson.tiny()
    half = len(text) // 2
    both, one, two = (runs.inputs_of(llm, part, "layers.1.o") for part in (text, text[:half], text[half:]))
    assert both == pytest.approx(one + two, rel=1e-3, abs=1e-3 * float(np.abs(both).max()))
    assert not np.allclose(both, runs.inputs_of(llm, text, "layers.0.o"))


def test_errors_are_those_of_the_formula(lesson, text):
    """Catches a norm that is not squared, or that is summed along the wrong axis."""
    llm = lesson.tiny()
    w, hessian = runs.matrix_of(llm, 1, "o"), runs.inputs_of(llm, text, "layers.1.o")
    root = np.linalg.cholesky(hessian)
    new = wanda(w, hessian, HALF)
    by_hand = np.linalg.norm((w - new) @ root, axis=1) ** 2
    assert runs.output_errors(w, new, hessian) == pytest.approx(by_hand)
    assert runs.output_error(w, new, hessian) == pytest.approx(math.sqrt(by_hand.sum()) / np.linalg.norm(w @ root))
    assert runs.weight_error(w, np.zeros_like(w)) == 1
    assert runs.weight_error(w, magnitude(w, HALF)) <= runs.weight_error(w, new)


def test_the_refit_is_at_least_as_good_as_the_library(lesson, text):
    """Catches a claim that holds for our example only."""
    llm = lesson.tiny()
    w, hessian = runs.matrix_of(llm, 0, "o"), runs.inputs_of(llm, text, "layers.0.o")
    for new in (wanda(w, hessian, HALF), sparsegpt(w, hessian.astype(np.float32), HALF)):
        mine = np.array([refit(row, hessian, kept) for row, kept in zip(w.astype(float), new != 0, strict=True)])
        assert (runs.output_errors(w, mine, hessian) <= runs.output_errors(w, new, hessian) * (1 + 1e-6)).all()


def test_our_influence_is_the_librarys(lesson, text):
    """Catches rows of another layer, and a layer that is counted twice."""
    llm = lesson.tiny()
    mine = [influence(before, after) for before, after in rows_around(llm.model, text, llm.ops)]
    assert len(mine) == llm.config.num_layers
    assert mine == pytest.approx(block_influence(llm.model, text, llm.ops).tolist(), abs=1e-5)


# The judges.


@pytest.mark.parametrize("slip", REFITS, ids=lambda slip: slip[1])
def test_a_slip_in_the_refit_is_named(slip):
    """Catches a hint that fits another mistake."""
    made, sentence, hint = slip
    wrong = judge_refit(made)
    assert wrong is not None
    assert (wrong.sentence, wrong.hint) == (sentence, hint)


REFIT_FORMS = {
    "is gone, but it is 0.5": lambda w, hessian, kept: np.where(kept, refit(w, hessian, kept), 0.5),
    "an array of shape (7,)": lambda w, hessian, kept: refit(w, hessian, kept)[kept],
    "returned [-1.19": lambda w, hessian, kept: refit(w, hessian, kept).tolist(),
    "not finite": lambda w, hessian, kept: np.where(kept, np.nan, 0),
    "the least is": lambda w, hessian, kept: 0.9 * refit(w, hessian, kept),
    "returned None": lambda w, hessian, kept: None,
    "LinAlgError": lambda w, hessian, kept: np.linalg.solve(hessian * 0, w),
}


@pytest.mark.parametrize("said", REFIT_FORMS)
def test_a_refit_of_another_form_is_told(said):
    """Catches one sentence for all mistakes."""
    wrong = EXERCISE["refit"].judged(REFIT_FORMS[said])
    assert wrong is not None
    assert said in f"{wrong.sentence} {wrong.hint}"


def by_inverse(w, hessian, kept):
    """Another right way: the weights that go are pulled out of the inverse together."""
    inverse = np.linalg.inv(hessian)
    new = w - inverse[:, ~kept] @ np.linalg.solve(inverse[~kept][:, ~kept], w[~kept])
    return np.where(kept, new, 0)


def by_least_squares(w, hessian, kept):
    root = np.linalg.cholesky(hessian).T
    new = np.zeros_like(w)
    new[kept] = np.linalg.lstsq(root[:, kept], root @ w, rcond=None)[0]
    return new


@pytest.mark.parametrize("right", [by_inverse, by_least_squares, lambda *row: refit(*row).astype(np.float32)])
def test_every_right_refit_is_right(right):
    """Catches a judge that wants our solver, or our precision."""
    assert judge_refit(right) is None


@pytest.mark.parametrize("slip", CHOICES, ids=lambda slip: slip[1])
def test_a_slip_in_the_choice_is_named(slip):
    """Catches a hint that fits another mistake."""
    made, sentence, hint = slip
    wrong = judge_cheapest(lambda w, hessian: int(np.argmin(made(w, hessian))))
    assert wrong is not None
    assert (wrong.sentence, wrong.hint) == (sentence, hint)


def by_trying(w, hessian):
    """The loop that the exercise names."""
    kept = [np.arange(len(w)) != i for i in range(len(w))]
    return min(range(len(w)), key=lambda i: squared_error(w, refit(w, hessian, kept[i]), hessian))


def test_the_cheapest_weight_by_trying_is_right():
    """Catches a judge that wants the formula."""
    assert judge_cheapest(by_trying) is None
    assert judge_cheapest(lambda w, hessian: np.int64(cheapest(w, hessian))) is None


@pytest.mark.parametrize(("chosen", "said"), [(0, "which costs"), (99, "no weight")])
def test_another_choice_gets_its_costs(chosen, said):
    """Catches a wrong choice without a hint."""
    wrong = judge_cheapest(lambda w, hessian: chosen)
    assert wrong is not None
    assert said in wrong.sentence


@pytest.mark.parametrize("slip", INFLUENCES, ids=lambda slip: slip[1])
def test_a_slip_in_the_influence_is_named(slip):
    """Catches a hint that fits another mistake."""
    made, sentence, hint = slip
    wrong = judge_influence(made)
    assert wrong is not None
    assert (wrong.sentence, wrong.hint) == (sentence, hint)


def test_another_influence_gets_its_number():
    """Catches a wrong number without a hint; a tensor of one number and float32 are right."""
    wrong = judge_influence(lambda before, after: 0.123)
    assert wrong is not None
    assert "not 0" in wrong.sentence
    assert judge_influence(lambda before, after: np.float32(influence(before, after))) is None
    assert influence(*turned()[1]) == pytest.approx(0)


WRONG = [
    ("break even", 0, "no mask"),
    ("break even", 0.5, "smaller already"),
    ("break even", 1 / 32, "share of float32"),
    ("break even", 1 / 4.5, "lets scales go"),
    ("break even", 25, "percent"),
    ("break even", 0.3, "too high"),
    ("fewer bytes", 10, "three of thirty"),
    ("fewer bytes", 0.0789, "not the percentage"),
    ("fewer bytes", 92.1, "what is left"),
    ("fewer bytes", 2.63, "one layer"),
    ("fewer bytes", 5, "too low"),
]


@pytest.mark.parametrize(("name", "answer", "said"), WRONG)
def test_a_usual_wrong_answer_gets_its_own_hint(name, answer, said):
    """Catches one hint for all mistakes."""
    wrong = EXERCISE[name].judged(answer)
    assert wrong is not None
    assert said in f"{wrong.sentence} {wrong.hint}"


def test_the_numbers_of_the_exercises():
    """Catches a size that the real model does not have, and a share at which the sparse matrix is larger."""
    d, f, kv = 576, 1536, 3 * 64
    assert d * (d + 2 * kv) + d * d + 3 * d * f + 2 * d == LAYER
    assert 30 * LAYER + d + 49_152 * d == ALL
    assert 1 + 4 * (1 - EVEN) + 16 / 32 == 4 + 16 / 32
    assert len(usual_guesses(49_152, 30.0)) == 3
