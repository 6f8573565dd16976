"""Rows are rounded to 8 bits as the reference rounds them, bit for bit, whatever is in them."""

from __future__ import annotations

import numpy as np
import pytest

from tinyinfer.backends.cpu_kernels.buffers import Buffers
from tinyinfer.backends.cpu_kernels.plan import Plan
from tinyinfer.backends.cpu_kernels.round_rows import RoundedRows, round_rows
from tinyinfer.backends.cpu_kernels.team import team
from tinyinfer.backends.lanes import padded
from tinyinfer.backends.packed import round_groups

pytestmark = pytest.mark.cpu


def rounded(x: np.ndarray, group: int | None, threads: int = 1) -> RoundedRows:
    """What the launch writes for rows of x."""
    buffers = Buffers(len(x), threads)
    rows = buffers.rows("x", x.shape[1])
    rows.array[:, : x.shape[1]] = x
    found, launch = round_rows(rows, padded(x.shape[1]), group, buffers)
    found.codes[:] = 99  # what a product before this one has left
    team().run(Plan([launch]), threads)
    return found


def assert_right(x: np.ndarray, group: int | None, threads: int = 1) -> None:
    """Asserts that codes, scales and sums are the formula's."""
    codes, scale = round_groups(x, group, np)
    found, (rows, inputs) = rounded(x, group, threads), x.shape
    np.testing.assert_array_equal(found.scale[:rows], scale)
    starts = np.arange(0, inputs, group or inputs)
    np.testing.assert_array_equal(found.sums[:rows], np.add.reduceat(codes, starts, axis=1))
    for g, start in enumerate(starts):
        stop, first = min(start + (group or inputs), inputs), start // 16 * 16
        place, end = g * found.span, -(-stop // 16) * 16 - first
        wanted = np.zeros((rows, end), np.float32)
        wanted[:, start - first : stop - first] = codes[:, start:stop]
        np.testing.assert_array_equal(found.codes[:rows, place : place + end], wanted)


@pytest.mark.parametrize("group", [1, 5, 16, 32, 40, 64, 128, None])
@pytest.mark.parametrize(("rows", "inputs"), [(1, 576), (3, 150), (5, 33), (9, 1000)])
def test_codes_scales_and_sums_are_the_formulas(rows, inputs, group):
    """Of numbers that differ a thousandfold, with a last group that is shorter, on two threads.

    Catches a group's scale of a neighbour, padding that counts, and an item that leaves out a group.
    """
    rng = np.random.default_rng(inputs)
    x = rng.standard_normal((rows, inputs)) * 10.0 ** rng.integers(-2, 2, (rows, inputs))
    assert_right((x * (rng.random(x.shape) > 0.1)).astype(np.float32), group, threads=2)


def test_a_number_between_two_codes_goes_where_the_reference_puts_it():
    """All edges, more or less: catches x / scale in place of x · (127 / S), and halves that are rounded up."""
    for size in np.float32([1, 1.7, 3e-20, 5e30]):
        edges = (np.arange(-127, 127) + np.float32(0.5)) * np.float32(size / np.float32(127))
        assert_right(np.concatenate(([size], edges, [-size])).astype(np.float32)[None], None)


def test_zeros_and_the_smallest_numbers_have_a_scale():
    """127 / 0 would be infinite, and infinite times 0 is no number."""
    tiny = np.float32([[0.0] * 32 + [1e-45, -1e-40, 1e-33] + [0] * 29])
    assert_right(tiny, 32)
    assert np.isfinite(rounded(tiny, 32).scale).all()


@pytest.mark.parametrize("wrong", [np.nan, -np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_shows_in_its_group(wrong):
    """A maximum by `a > b` would lose NaN. Other groups are as they were."""
    x = np.ones((2, 64), np.float32)
    x[1, 40] = wrong
    found = rounded(x, 32)
    assert not np.isfinite(found.scale[1, 1])
    np.testing.assert_array_equal(found.scale.ravel()[:3], np.float32(1) / np.float32(127))
    np.testing.assert_array_equal(found.codes[[0, 0, 1], [0, 32, 0]], 127)
