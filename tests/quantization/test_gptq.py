"""GPTQ against what it claims to be: its objective, its textbook form, and all codes tried when there are few."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from tinyinfer.model.quantized_matrix import QuantizedMatrix, QuantScheme, expand
from tinyinfer.quantization.gptq import BLOCK, gptq, inverse_factor, output_errors
from tinyinfer.quantization.hqq import hqq
from tinyinfer.quantization.rtn import round_to_nearest

SCHEMES = [QuantScheme(4, 8, False), QuantScheme(3, 8, True), QuantScheme(2, None, False), QuantScheme(8, 8, True)]


def problem(seed: int, outputs: int, inputs: int, rows: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, inputs that depend on one another and differ in size, and their Hessian."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, inputs)) @ rng.standard_normal((inputs, inputs)) * rng.uniform(0.1, 3, inputs)
    x = x.astype(np.float32)
    return rng.standard_normal((outputs, inputs)).astype(np.float32), x, x.T @ x


def textbook(w: np.ndarray, hessian: np.ndarray, scheme: QuantScheme, act_order: bool, damp: float) -> np.ndarray:
    """Optimal Brain Surgeon in its plainest form: the whole inverse, from which every finished input is eliminated."""
    plain = round_to_nearest(w, scheme)
    scale = expand(plain.scale, scheme, w.shape[1])
    minimum = np.zeros_like(scale) if plain.minimum is None else expand(plain.minimum, scheme, w.shape[1])
    inverse = np.linalg.inv(hessian + damp * np.diag(hessian).mean() * np.eye(len(hessian)))
    w, q = w.astype(np.float64), np.zeros(w.shape, dtype=np.int16)
    for j in np.argsort(-np.diag(hessian), kind="stable") if act_order else range(w.shape[1]):
        q[:, j] = np.clip(np.rint((w[:, j] - minimum[:, j]) / scale[:, j]), scheme.lowest, scheme.highest)
        error = w[:, j] - (q[:, j] * scale[:, j] + minimum[:, j])
        w = w - np.outer(error / inverse[j, j], inverse[j])
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        inverse[j, j] = 1.0  # done: its row and column are zero, and are not asked again
    return q


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("act_order", [False, True])
def test_codes_equal_the_textbook(scheme, act_order):
    """A wrong factor, a block that is corrected twice or not at all, scales of another group after reordering."""
    w, _, h = problem(1, outputs=12, inputs=2 * BLOCK + 10, rows=400)
    expected = textbook(w, h.astype(np.float64), scheme, act_order, damp=0.01)
    plain = round_to_nearest(w, scheme)
    found = gptq(w, h, plain, act_order)
    textbook_errors = output_errors(w, QuantizedMatrix(scheme, expected, plain.scale, plain.minimum), h)
    rows = textbook_errors < output_errors(w, plain, h)  # a row that plain rounding serves better keeps it
    same = (found.codes == expected)[rows]
    assert rows.sum() >= 10
    assert same.all(axis=1).mean() >= 0.8, "float32 may tip a code that lies between two, and then all after it"
    np.testing.assert_allclose(output_errors(w, found, h)[rows].sum(), textbook_errors[rows].sum(), rtol=0.02)
    np.testing.assert_array_equal(found.scale, plain.scale)


def test_the_input_that_matters_most_comes_first():
    """Nothing has moved it by then, so it keeps its nearest codes. Catches the file's order, unless it is asked for."""
    w, _, h = problem(1, outputs=12, inputs=40)
    order, scheme = np.argsort(np.diag(h)), QuantScheme(4, 8, False)
    h = h[np.ix_(order, order)]  # the one that matters most is last
    plain = round_to_nearest(w, scheme)
    np.testing.assert_array_equal(gptq(w, h, plain).codes[:, -1], plain.codes[:, -1])
    asked = gptq(w, h, plain, act_order=False).codes
    assert (asked[:, -1] != plain.codes[:, -1]).any(), "last, it makes up for all others"
    assert (asked != plain.codes).any(axis=1).sum() > 6, "and rows are GPTQ's"


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_the_objective_is_never_worse_than_plain_rounding_in_any_row(scheme, seed):
    """‖(W - Q) X‖², computed from X itself: errors pushed in the wrong direction, or to inputs that are done."""
    w, x, h = problem(seed, outputs=20, inputs=40)
    start = round_to_nearest(w, scheme)
    found, plain = (np.square((w - matrix.dequantize()) @ x.T).sum(axis=1) for matrix in (gptq(w, h, start), start))
    assert (found <= plain * (1 + 1e-5)).all()
    assert found.sum() < 0.8 * plain.sum()


def test_rows_that_plain_rounding_serves_better_keep_it():
    """Greedy choices lose now and then, most often where inputs hardly depend on one another."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((200, 24)).astype(np.float32), rng.standard_normal((300, 24)).astype(np.float32)
    scheme = QuantScheme(3, 8, False)
    plain = round_to_nearest(w, scheme)
    found = gptq(w, x.T @ x, plain)
    errors = [np.square((w - matrix.dequantize()) @ x.T).sum(axis=1) for matrix in (found, plain)]
    assert (errors[0] <= errors[1] * (1 + 1e-5)).all()
    kept = (found.codes == plain.codes).all(axis=1)
    assert 5 < kept.sum() < 250, "some rows each way, or nothing was tried"


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_another_grid_is_kept_and_its_codes_made_better(scheme):
    """Catches a grid that is fitted again by the range of the weights, whatever was given."""
    w, _, h = problem(4, outputs=20, inputs=40)
    start = hqq(w, scheme)
    found = gptq(w, h, start)
    np.testing.assert_array_equal(found.scale, start.scale)
    np.testing.assert_array_equal(found.minimum, start.minimum)
    errors, before = output_errors(w, found, h), output_errors(w, start, h)
    assert (errors <= before).all()
    assert errors.sum() < 0.8 * before.sum()


def test_two_columns_against_all_codes():
    """With two inputs, GPTQ is: round the more important one, then the best code for the other. All codes are tried."""
    scheme = QuantScheme(2, 2, False)
    for seed in range(50):
        w, x, h = problem(seed, outputs=1, inputs=2)
        plain = round_to_nearest(w, scheme)
        first = np.diag(h).argmax()
        error = {}
        for pair in product(range(4), repeat=2):
            q = np.array([pair], dtype=np.int16)
            y = (w - QuantizedMatrix(scheme, q, plain.scale, plain.minimum).dequantize()) @ x.T
            error[pair] = float((y.astype(np.float64) ** 2).sum())
        kept = {pair: e for pair, e in error.items() if pair[first] == plain.codes[0, first]}
        found = tuple(gptq(w, h, round_to_nearest(w, scheme), damp=1e-6).codes[0].tolist())
        assert error[found] <= min(kept.values()) * (1 + 1e-4) + 1e-6
        assert error[found] >= min(error.values())


def test_one_column_is_rounded():
    """Nothing else can make up for it."""
    w, _, h = problem(0, outputs=9, inputs=1)
    scheme = QuantScheme(3, 4, True)
    np.testing.assert_array_equal(gptq(w, h, round_to_nearest(w, scheme)).codes, round_to_nearest(w, scheme).codes)


def test_inputs_that_are_always_zero_are_rounded_and_disturb_nothing():
    """No curvature is no reason to divide by zero, and no reason to forget the weight: other text may use it."""
    w, x, _ = problem(3, outputs=10, inputs=24)
    x[:, [4, 17]] = 0
    scheme, h = QuantScheme(4, 8, False), x.T @ x
    found, plain = gptq(w, h, round_to_nearest(w, scheme), damp=0.0), round_to_nearest(w, scheme)
    np.testing.assert_array_equal(found.codes[:, [4, 17]], plain.codes[:, [4, 17]])
    assert output_errors(w, found, h).sum() < 0.8 * output_errors(w, plain, h).sum()


def test_without_any_input_every_weight_is_rounded():
    """A layer that the text never reached."""
    w, _, h = problem(3, outputs=10, inputs=24)
    plain = round_to_nearest(w, QuantScheme(4, 8, False))
    np.testing.assert_array_equal(gptq(w, 0 * h, plain).codes, plain.codes)


@pytest.mark.parametrize("act_order", [False, True])
def test_fewer_rows_of_text_than_inputs(act_order):
    """A singular Hessian is the rule for short texts; the damping must make it harmless, not the result NaN."""
    w, _, h = problem(5, outputs=16, inputs=40, rows=7)
    scheme = QuantScheme(3, 8, False)
    found = gptq(w, h, round_to_nearest(w, scheme), act_order)
    assert output_errors(w, found, h).sum() < 0.5 * output_errors(w, round_to_nearest(w, scheme), h).sum()


def test_a_hessian_that_cannot_be_used_is_refused():
    """NaN would turn into code 0 everywhere; a matrix without an inverse into a traceback."""
    w, _, h = problem(0, outputs=4, inputs=8, rows=3)
    h = np.outer(np.arange(8), np.arange(8)) - np.eye(8, dtype=np.float32)  # negative where nothing else is
    with pytest.raises(ValueError, match="raise damp"):
        gptq(w, h, round_to_nearest(w, QuantScheme(4, 8, False)), damp=0.0)
    h[2, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        gptq(w, h, round_to_nearest(w, QuantScheme(4, 8, False)))


def test_the_factor_is_the_inverse_upside_down():
    """Of all triangular factors of the inverse only the upper one, from the left, holds the inverses to come."""
    _, _, h = problem(2, outputs=1, inputs=30)
    u = inverse_factor(h, damp=0.1)
    np.testing.assert_array_equal(u, np.triu(u))
    damped = h + 0.1 * np.diag(h).mean() * np.eye(30)
    np.testing.assert_allclose(u.T @ u @ damped, np.eye(30), atol=1e-3)


def test_blocks_change_nothing():
    """Groups, blocks and rows have nothing to do with each other: 70 inputs fill no block and no group."""
    w, _, h = problem(8, outputs=6, inputs=70, rows=300)
    scheme = QuantScheme(4, 32, False)
    whole = gptq(w, h, round_to_nearest(w, scheme))
    rows = [gptq(w[i : i + 1], h, round_to_nearest(w[i : i + 1], scheme)) for i in range(len(w))]
    np.testing.assert_array_equal(whole.scale, np.concatenate([row.scale for row in rows]))
    errors = sum(output_errors(w[i : i + 1], row, h).sum() for i, row in enumerate(rows))
    np.testing.assert_allclose(output_errors(w, whole, h).sum(), errors, rtol=0.02)
