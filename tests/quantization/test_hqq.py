"""HQQ: its own objective never grows, a slow plain version agrees, and outliers no longer decide the scale."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tinyinfer.model.quantized_matrix import QuantizedMatrix, QuantScheme, expand
from tinyinfer.quantization.hqq import BETA, ROUNDS, P, hqq, outliers, refit
from tinyinfer.quantization.rtn import fit, round_to_nearest

SCHEMES = [
    QuantScheme(4, 32, False), QuantScheme(3, 16, False), QuantScheme(2, None, False), QuantScheme(4, 32, True),
    QuantScheme(8, 32, False),
]  # fmt: skip


def heavy_tailed(seed: int, outputs: int = 20, inputs: int = 96) -> np.ndarray:
    """Weights of which a few are far out, as in real layers."""
    return (0.02 * np.random.default_rng(seed).standard_t(5, (outputs, inputs))).astype(np.float32)


def losses(w: np.ndarray, matrix: QuantizedMatrix) -> np.ndarray:
    """The sum of |error|^p of each group, in double precision."""
    group = matrix.scheme.group_size or w.shape[1]
    error = np.abs(w.astype(np.float64) - matrix.dequantize()) ** P
    return np.stack([error[:, i : i + group].sum(axis=1) for i in range(0, w.shape[1], group)], axis=1)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_no_group_is_worse_than_rounded_to_nearest(scheme, seed):
    """Refitting may overshoot; then the grid found before must be kept."""
    w = heavy_tailed(seed)
    found, plain = losses(w, hqq(w, scheme)), losses(w, round_to_nearest(w, scheme))
    assert (found <= plain * (1 + 1e-5)).all()
    assert found.sum() < plain.sum()


def plain_hqq(w: np.ndarray, scheme: QuantScheme, rounds: int, beta: float) -> tuple[np.ndarray, float, float]:
    """One group w (n,), by the paper's two steps in double precision: codes, and scale and minimum in float16."""
    scale = np.float16((w.max() - w.min()) / scheme.highest)
    minimum, best = np.float16(w.min()), None
    for _ in range(rounds + 1):
        codes = np.clip(np.rint((w - float(minimum)) / float(scale)), 0, scheme.highest)
        error = w - (codes * float(scale) + float(minimum))
        loss = (np.abs(error) ** P).sum()
        if best is not None and loss >= best[0]:
            return best[1:]
        best = loss, codes, scale, minimum
        size = np.maximum(np.abs(error) / float(scale), 1e-6)
        rest = w - np.sign(error) * np.maximum(size - size ** (P - 1) / beta, 0) * float(scale)
        scale = np.float16(np.polyfit(codes, rest, 1)[0])
        minimum = np.float16((rest - float(scale) * codes).mean())  # best for the scale that is kept
    return best[1:]


@pytest.mark.parametrize("seed", range(8))
def test_a_group_by_itself_equals_the_plain_version(seed):
    """The sums of groups side by side, the shrinkage, least squares: all against ten plain lines."""
    scheme, w = QuantScheme(4, None, False), heavy_tailed(seed, outputs=1, inputs=64)
    codes, scale, minimum = plain_hqq(w[0].astype(np.float64), scheme, ROUNDS, BETA)
    found = hqq(w, scheme)
    np.testing.assert_allclose(found.scale[0, 0], scale, rtol=2e-3)
    np.testing.assert_allclose(found.minimum[0, 0], minimum, rtol=2e-3)
    assert (found.codes[0] == codes).mean() > 0.95
    expected = (np.abs(w - (codes * float(scale) + float(minimum))) ** P).sum()
    np.testing.assert_allclose(losses(w, found).sum(), expected, rtol=5e-3)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_groups_and_rows_have_nothing_to_do_with_each_other(scheme):
    """Tiles of rows, groups side by side, the last one shorter: the same as each group alone."""
    w = heavy_tailed(4, outputs=5, inputs=90)
    group = scheme.group_size or 90
    alone = [np.hstack([hqq(row[None, j : j + group], scheme).dequantize() for j in range(0, 90, group)]) for row in w]
    np.testing.assert_array_equal(hqq(w, scheme).dequantize(), np.vstack(alone))


def test_what_is_left_out_of_an_error():
    """|e| - |e|^(p-1) / beta with e in scales; by hand for p = 1.5 and beta = 2, where 4 keeps half its root."""
    assert (P, BETA) == (1.5, 2.0)
    scale = np.full((1, 5), 0.5, dtype=np.float32)
    error = np.array([[0.1, 0.5, -2.0, 4.5, 0.0]], dtype=np.float32)  # 0.2, 1, 4, 9 and 0 scales
    np.testing.assert_allclose(outliers(error, scale), [[0, 0.25, -1.5, 3.75, 0]], atol=1e-6)


def test_leaving_outliers_out_changes_the_grid():
    """The half-quadratic step may not be idle: without it this is least squares by turns, which fits everything."""
    w, scheme = heavy_tailed(7), QuantScheme(4, 32, False)
    codes, scale, minimum = round_to_nearest(w, scheme).codes, *fit(w, scheme)
    error = w - QuantizedMatrix(scheme, codes, scale, minimum).dequantize()
    left_out = outliers(error, expand(scale, scheme, w.shape[1]))
    assert 0.1 < (left_out != 0).mean() < 0.9
    new = refit(w - left_out, codes, scale, minimum, scheme)[0]
    assert (new != refit(w, codes, scale, minimum, scheme)[0]).mean() > 0.5
    found = hqq(w, scheme, rounds=1).scale
    assert ((found == new) | (found == scale)).all(), "a group takes the new scale or keeps its own"
    assert (found == new).mean() > 0.5


def test_more_rounds_converge():
    """Each round may only help, and soon no longer does: oscillation, or a loss that is kept from another grid."""
    w, scheme = heavy_tailed(5), QuantScheme(3, 16, False)
    totals = [losses(w, hqq(w, scheme, rounds)).sum() for rounds in (0, 1, 2, 4, 8, 16, 32, 64)]
    assert totals[0] == losses(w, round_to_nearest(w, scheme)).sum()
    assert all(after <= before for before, after in pairwise(totals))
    assert totals[-2] - totals[-1] < 0.005 * (totals[0] - totals[-1])


def test_what_lies_on_the_grid_stays():
    """A fit that is exact already must not be lost to rounding the refit to float16."""
    for scheme in SCHEMES:
        w = round_to_nearest(heavy_tailed(6), scheme).dequantize()
        np.testing.assert_array_equal(hqq(w, scheme).dequantize(), round_to_nearest(w, scheme).dequantize())


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-7, 60000.0])
def test_groups_of_equal_weights(value):
    """No range, no scale, nothing to fit: no NaN, and as good as round-to-nearest."""
    w = np.full((3, 32), value, dtype=np.float32)
    for scheme in SCHEMES:
        with np.errstate(all="raise", under="ignore"):
            found = hqq(w, scheme)
        assert np.isfinite(found.dequantize()).all()
        assert (losses(w, found) <= losses(w, round_to_nearest(w, scheme))).all()


def test_one_grid_for_a_whole_matrix_is_refused():
    """It would be fitted to each group, and the format promises one scale."""
    with pytest.raises(ValueError, match="choose groups, or rtn"):
        hqq(heavy_tailed(0), QuantScheme(4, 32, False, per_tensor=True))
