"""noise.py: the bits are Random123's, every token's number is a written function, and the noise has Gumbel's law."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_noise_goldens import FILE, random_words, word
from scipy.special import softmax
from scipy.stats import chisquare, gumbel_r, kstest

from tinyinfer.noise import gumbel, philox, uniform, uniforms

FALSE_ALARM = 1e-4  # of each statistical test: a right generator fails it for one in 10,000 seeds; ours are fixed
WORD = st.integers(0, 2**32 - 1)
SEED = st.integers(0, 2**64 - 1)

# Random123's kat_vectors, philox4x32 with 10 rounds: counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words_of(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_the_bits_are_those_that_random123_publishes(counter: str, key: str, result: str) -> None:
    """Catches a swapped multiplier, a key raised before the first round, nine rounds, words in another order."""
    low, high = words_of(key)
    assert list(philox(tuple(words_of(counter)), high << 32 | low)) == words_of(result)  # type: ignore[arg-type]
    assert random_words(words_of(counter), [low, high]) == words_of(result)


@given(st.lists(st.tuples(WORD, WORD, WORD, WORD), min_size=1, max_size=5), SEED)
def test_arrays_and_integers_give_the_same_bits(counters: list[tuple[int, int, int, int]], seed: int) -> None:
    """Against a scalar version that shares no code. Catches a product cut to 32 bits, and a sign."""
    found = philox(tuple(np.array(counters, dtype=np.uint64).T), seed)  # type: ignore[arg-type]
    right = [random_words(list(counter), [seed % 2**32, seed >> 32]) for counter in counters]
    assert np.stack(found, axis=1).tolist() == right
    assert [list(philox(counter, seed)) for counter in counters] == right


def test_the_numbers_of_tokens_are_those_of_the_table() -> None:
    """Exactly, for five seeds of the whole range, positions and streams; other backends are held to the same table.

    Catches another layout of the counter, halves of the seed swapped, and u = x / 2^32, which may be 0.
    """
    for row in json.loads(FILE.read_text()):
        tokens, keys = row["tokens"], (row["seed"], row["position"])
        u = uniforms(*keys, max(tokens) + 1, row["stream"])[tokens]
        assert [float(one).hex() for one in u] == row["u"]
        assert uniform(*keys, row["stream"]).hex() == row["u"][tokens.index(0)]
        expected = [-math.log(-math.log(float.fromhex(text))) for text in row["u"]]
        np.testing.assert_allclose(gumbel(*keys, max(tokens) + 1, row["stream"])[tokens], expected, rtol=1e-13)


@given(SEED, WORD, st.integers(1, 40))
def test_a_token_s_number_does_not_depend_on_the_size_of_the_vocabulary(seed: int, position: int, size: int) -> None:
    """A draft model's vocabulary may be padded. Catches noise that is drawn for the vocabulary as a whole."""
    found = uniforms(seed, position, size)
    assert found.tolist() == [(word(seed, position, token, 0) + 0.5) / 2**32 for token in range(size)]
    assert found.tolist() == uniforms(seed, position, 41)[:size].tolist()
    assert gumbel(seed, position, size).tolist() == gumbel(seed, position, 41)[:size].tolist()


@pytest.mark.parametrize("along", ["tokens", "positions", "seeds"])
def test_the_numbers_are_uniform_along_every_axis(along: str) -> None:
    """Kolmogorov-Smirnov over 50,000 numbers of neighbouring tokens, positions or seeds."""
    keys = {
        "tokens": lambda: [uniforms(3, 9, 50_000)],
        "positions": lambda: [uniforms(3, position, 25) for position in range(2000)],
        "seeds": lambda: [uniforms(seed, 9, 25) for seed in range(2000)],
    }[along]()
    u = np.concatenate(keys)
    assert kstest(u, "uniform").pvalue > FALSE_ALARM
    assert kstest(-np.log(-np.log(u)), gumbel_r.cdf).pvalue > FALSE_ALARM


def test_the_tokens_of_a_position_are_independent_of_each_other() -> None:
    """Chi-square over a 6 x 6 grid of neighbours, within a counter's four words and across. Catches a repeated word."""
    u = uniforms(11, 4, 60_001)
    for distance in (1, 2, 3, 4):
        cells = np.bincount(6 * (6 * u[:-distance:2]).astype(int) + (6 * u[distance::2]).astype(int), minlength=36)
        assert chisquare(cells).pvalue > FALSE_ALARM


@pytest.mark.parametrize("vary", ["seed", "position", "stream"])
def test_numbers_of_neighbours_are_independent_and_uniform(vary: str) -> None:
    """Chi-square over a 6 x 6 grid of 5,000 pairs of numbers that differ in one key only.

    Speculation accepts a draft by one stream and draws the draft by another. Catches streams, seeds or positions of
    which one is another one shifted, or the same.
    """
    step = {"seed": (1, 0, 0), "position": (0, 1, 0), "stream": (0, 0, 1)}[vary]
    keys = [(2 * i, 2 * (i % 71), 0) for i in range(5000)]
    pairs = [(uniform(*key), uniform(*(k + s for k, s in zip(key, step, strict=True)))) for key in keys]
    cells = np.bincount([6 * int(6 * a) + int(6 * b) for a, b in pairs], minlength=36)
    assert chisquare(cells).pvalue > FALSE_ALARM


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63 - 1, 2**64 - 1])
def test_every_seed_has_its_own_numbers(seed: int) -> None:
    """The whole range of seeds, and positions of a long context; catches a key cut to 32 bits."""
    numbers = {uniform(s, position) for s in (seed, seed ^ 2**40, seed ^ 1) for position in (0, 1, 2**17, 2**20)}
    assert len(numbers) == 12


def test_the_largest_score_with_noise_is_a_draw() -> None:
    """Chi-square of 5,000 seeds against softmax: the Gumbel-max trick. Catches g of the wrong sign, or one log."""
    s = np.random.default_rng(2).standard_normal(23) * 2
    tokens = [int((s + gumbel(seed, 40, 23)).argmax()) for seed in range(5000)]
    observed, expected = np.bincount(tokens, minlength=23), softmax(s) * 5000
    few = expected < 5
    cells, means = np.append(observed[~few], observed[few].sum()), np.append(expected[~few], expected[few].sum())
    assert chisquare(cells[means > 0], means[means > 0]).pvalue > FALSE_ALARM
