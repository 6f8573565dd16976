"""Patterns: which of the scored weights stay."""

from __future__ import annotations

import numpy as np
import pytest

from tinyinfer.pruning.patterns import Pattern, lowest, read_pattern


def test_a_share_compares_all_weights():
    """Catches a share taken of each row: the second row's weights are all large."""
    scores = np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    np.testing.assert_array_equal(read_pattern("0.5").kept(scores), [[False] * 4, [True] * 4])


def test_two_of_four_stay_in_every_four():
    """Catches groups that run across outputs, or down the columns."""
    scores = np.array([[1.0, 9, 8, 2, 7, 1, 2, 3], [4, 3, 2, 1, 1, 2, 3, 4]])
    kept = [[False, True, True, False, True, False, False, True], [True, True, False, False, False, False, True, True]]
    np.testing.assert_array_equal(read_pattern("2:4").kept(scores), kept)


def test_one_of_four_keeps_one():
    """N:M keeps N. Catches N read as the number that go, which 2:4 does not tell apart."""
    kept = read_pattern("1:4").kept(np.arange(12.0).reshape(1, 12))
    assert kept.sum() == 3
    assert read_pattern("1:4").share == 0.75


@pytest.mark.parametrize(("share", "count"), [(0.7, 7), (0.3, 3), (0.29, 2), (0.999, 9), (0.05, 0)])
def test_a_share_is_rounded_down_to_whole_weights(share, count):
    """Catches 100 * 0.29 cut to 28 by the last bit of a float, and a share that leaves no weight."""
    assert lowest(np.arange(10.0), share).sum() == count
    assert lowest(np.arange(100.0), 0.29).sum() == 29


def test_of_equal_scores_the_first_ones_go():
    """Catches a threshold, which would take or leave all equal scores together."""
    np.testing.assert_array_equal(lowest(np.ones(4), 0.5), [True, True, False, False])


@pytest.mark.parametrize(
    ("text", "words"),
    [("0", "between 0"), ("1", "between 0"), ("1.5", "between 0"), ("-0.5", "between 0"), ("nan", "between 0"),
     ("half", "neither a share"), ("2:", "neither"), ("4:4", "removes nothing"), ("5:4", "removes nothing"),
     ("0:4", "neither"), ("2:4:8", "neither"), ("", "neither")],
)  # fmt: skip
def test_what_is_no_pattern(text, words):
    with pytest.raises(ValueError, match=words):
        read_pattern(text)


def test_a_number_is_a_share():
    """Python gives 0.5, the command line "0.5"."""
    assert read_pattern(0.5) == read_pattern("0.5") == Pattern(0.5)


def test_inputs_that_the_pattern_does_not_divide():
    assert not read_pattern("2:4").divides(6)
    assert read_pattern("0.5").divides(6)
    with pytest.raises(ValueError, match="2:4 needs a multiple of 4 inputs, not 6"):
        read_pattern("2:4").kept(np.ones((1, 6)))
