"""laws.py: right draws pass, wrong ones do not, and the bounds hold for counts that are computed exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinyinfer.course.compare import Failure
from tinyinfer.course.laws import FALSE_ALARM, follows, most_off, same_law, same_share

P = np.array([0.5, 0.25, 0.15, 0.1, 0.0])


def test_a_right_law_passes_and_another_does_not():
    """Catches a bound that accepts all, and one that refuses what is right."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        same_law(rng.choice(5, 300, p=P).tolist(), P, "draws")
    uniform = np.array([0.25, 0.25, 0.25, 0.25, 0.0])
    assert not any(follows(np.bincount(rng.choice(5, 300, p=uniform), minlength=5), P) for _ in range(50))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("trials", [20, 200, 2000])
def test_the_bounds_are_rarely_passed(trials, share):
    """Of two tokens both bounds are checked against the binomial distribution, term by term.

    Catches a factor that is missing in a bound. Chi-square is an approximation, so its bound may fail ten times as
    often where five draws are expected.
    """
    log = [math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in range(trials + 1)]
    law = np.exp(log + np.arange(trials + 1) * np.log(share) + np.arange(trials, -1, -1) * np.log(1 - share))
    counts = np.arange(trials + 1)
    off = np.abs(counts - trials * share) > most_off(trials, share)
    assert law[off].sum() <= FALSE_ALARM
    p = np.array([share, 1 - share])
    refused = [not follows(np.array([k, trials - k]), p) for k in counts]
    assert law[refused].sum() <= 10 * FALSE_ALARM


def test_rare_tokens_are_one_cell():
    """Catches a single draw of a rare token that makes a right law fail: 1,000 tokens, each expected once in five."""
    p = np.concatenate([[0.8], np.full(1000, 0.2 / 1000)])
    rng = np.random.default_rng(1)
    assert all(follows(np.bincount(rng.choice(1001, 1000, p=p), minlength=1001), p) for _ in range(100))


def test_a_token_without_probability_never_comes():
    """Catches a token that a filter left out, drawn once in a million."""
    assert not follows(np.array([500_000, 250_000, 150_000, 99_999, 1]), P)


def test_the_hint_is_that_of_the_law_which_the_tokens_follow():
    """Catches a hint for another mistake than the one that was made."""
    usual = [(np.array([0.1, 0.15, 0.25, 0.5, 0.0]), "upside down"), (np.full(5, 0.2), "uniform")]
    tokens = np.random.default_rng(0).integers(0, 5, 300).tolist()
    with pytest.raises(Failure, match=r"token 0 came out \d+ times in 300 draws.*about 150 are expected") as caught:
        same_law(tokens, P, "draws", usual)
    assert caught.value.hint == "uniform"


@pytest.mark.parametrize("token", [5, -1, 1.0, True, None, [1]])
def test_what_is_no_token_is_a_failure(token):
    """Catches a grader that stops at a result of another type."""
    with pytest.raises(Failure, match="a token is a whole number from 0 to 4"):
        same_law([0, 1, token], P, "draws", iter(()))


def test_a_share_has_a_hint_for_each_side():
    """Catches the hints swapped, and a count that is refused though it is likely."""
    same_share(70, 100, 0.7, "accepted", "low", "high")
    for hits, hint in ((5, "low"), (100, "high")):
        with pytest.raises(Failure, match=rf"accepted: {hits} of 100; with probability 0.700 about 70") as caught:
            same_share(hits, 100, 0.7, "accepted", "low", "high")
        assert caught.value.hint == hint
