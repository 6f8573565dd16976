"""Comparisons that teach: what differs first, and the usual mistake that it comes from."""

from __future__ import annotations

import numpy as np
import pytest

from tinyinfer.course.compare import Failure, at_least, differing, same_array, same_value

RIGHT = np.arange(1, 13, dtype=np.float32).reshape(3, 4)


def failure(call, *args, **named) -> Failure:
    with pytest.raises(Failure) as caught:
        call(*args, **named)
    return caught.value


def test_equal_arrays_pass_and_a_tolerance_is_relative_to_the_right_number():
    """Catches a tolerance that is taken relative to the student's number, which a huge result would widen."""
    same_array(RIGHT.copy(), RIGHT, "x")
    same_array(RIGHT * np.float32(1.0009), RIGHT, "x", rtol=1e-3)
    failure(same_array, RIGHT * np.float32(1.0011), RIGHT, "x", rtol=1e-3)


def test_the_first_difference_is_named_by_its_axes():
    """Catches a message without a place."""
    mine = RIGHT.copy()
    mine[1, 2:] = 0
    sentence = failure(same_array, mine, RIGHT, "scores", axes=("token", "channel")).sentence
    assert "scores: first difference at token 1, channel 2: 0.0 in place of 7.0" in sentence
    assert "2 of 12 numbers differ, by at most 8" in sentence


@pytest.mark.parametrize(
    ("mine", "said"),
    [
        (RIGHT.astype(np.float64), "dtype is float64"), (RIGHT.T.copy(), "shape is (4, 3)"), (RIGHT[:, :3], "(3, 3)"),
        ([1.0], "an array is expected"), (None, "an array is expected"), (np.float32(3.0), "an array is expected"),
        (RIGHT.astype(object), "dtype is object"), (np.full((3, 4), np.nan, np.float32), "first difference"),
        (np.full((3, 4), np.inf, np.float32), "first difference"), (RIGHT.ravel(), "shape is (12,)"),
    ],
)  # fmt: skip
def test_what_is_no_equal_array_is_refused(mine, said):
    """Catches a comparison that broadcasts, converts, or passes NaN and infinity."""
    assert said in failure(same_array, mine, RIGHT, "x", rtol=1e-3).sentence


def test_nan_and_infinity_equal_only_themselves():
    """Catches NaN as a joker, and an infinite right number that makes the tolerance infinite."""
    right = np.array([np.nan, np.inf, -np.inf, 1.0])
    assert not differing(right.copy(), right, 0.1, 0.1).any()
    assert differing(np.array([1.0, 1.0, np.inf, np.nan]), right, 0.1, 0.1).all()


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda x: x * np.float32(8), "8 times the right one"), (lambda x: -x, "sign"), (lambda x: x + 5, "+5 away"),
        (lambda x: x[::-1].copy(), "axis 0 runs backwards"), (lambda x: np.roll(x, 1, 0), "moved by one along axis 0"),
        (lambda x: x.T.copy(), "another order"), (lambda x: x * np.float32(np.nan), "NaN comes from"),
        (lambda x: x * np.float32(1.00001), "nearly right"), (lambda x: x.astype(np.float64), "twice as many bytes"),
    ],
)  # fmt: skip
def test_the_numbers_themselves_give_a_hint(change, hint):
    """Catches a hint that names the wrong cause."""
    assert hint in failure(same_array, change(RIGHT), RIGHT, "x").hint


def test_a_usual_mistake_has_its_own_hint_whatever_its_shape():
    """Catches a usual mistake of another shape or dtype that only gets the general hint."""
    usual = [(RIGHT[1:], "the first row is missing"), (RIGHT.astype(np.float64) * 2, "scaled twice")]
    assert failure(same_array, RIGHT[1:], RIGHT, "x", usual=usual).hint == "the first row is missing"
    assert failure(same_array, RIGHT * 2, RIGHT, "x", usual=usual).hint == "scaled twice"


def test_right_numbers_of_a_wrong_dtype_are_no_mistake_of_numbers():
    """Catches the hint of a mistake that, for these inputs, gives the right numbers."""
    usual = [(RIGHT.copy(), "the prompt is counted"), (RIGHT.astype(np.float64), "a constant is a float64")]
    assert "twice as many bytes" in failure(same_array, RIGHT.astype(np.float64), RIGHT, "x", usual=usual[:1]).hint
    assert failure(same_array, RIGHT.astype(np.float64), RIGHT, "x", usual=usual).hint == "a constant is a float64"


@pytest.mark.parametrize(
    ("mine", "right"),
    [(True, 1), (1, True), (1.5, 1), ([1, 2], (1, 2)), ([2, 1], [1, 2]), ("1", 1), (None, 0), (float("nan"), 1.0)],
)
def test_values_of_other_types_are_not_the_same(mine, right):
    """Catches True taken for 1, a list for a tuple, and an order that does not count."""
    failure(same_value, mine, right, "count")


def test_values_that_are_the_same():
    """Whole floats may come as int; floats within the tolerance."""
    for mine, right in [(1, 1), (2, 2.0), (1.0005, 1.0), ([1, (2, "a")], [1, (2, "a")]), (None, None)]:
        same_value(mine, right, "x", rtol=1e-3)


def test_a_count_below_its_bound_is_a_fault():
    """Catches work that cannot have been done."""
    at_least(12, 12, "bytes")
    assert "11 were counted, and the least possible is 12" in failure(at_least, 11, 12, "bytes").sentence


@pytest.mark.parametrize(("mine", "right"), [(5.0, float("inf")), (5.0, float("-inf")), (float("inf"), 5.0)])
def test_no_number_is_near_to_infinity(mine, right):
    """Catches rtol · |inf|, within which every number lies."""
    with pytest.raises(Failure):
        same_value(mine, right, "a logit", rtol=1e-6)
    same_value(right, right, "a logit", rtol=1e-6)


def test_whole_numbers_are_compared_whole():
    """Catches 2^60 + 1 in place of 2^60, which are one number in float64."""
    with pytest.raises(Failure, match="1152921504606846977 in place of 1152921504606846976"):
        same_array(np.array([2**60 + 1]), np.array([2**60]), "seeds")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mine", [[1e300, -1e300], [1e308, -1e308]])
def test_huge_numbers_give_no_warning_of_ours(mine):
    """Catches a warning about the grader's own arithmetic among a student's results."""
    with pytest.raises(Failure, match="2 of 2 numbers differ"):
        same_array(np.array(mine), np.array([-1e-300, 1e308]), "scores")
