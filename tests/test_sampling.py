"""sampling.py: filters equal transformers' own, draws follow the filtered distribution, and a seed is a text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import chisquare

from tinyinfer.sampling import (
    SamplingParams,
    choose,
    distribution,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    perturbed,
)

GOLDEN = json.loads(Path(__file__).with_name("golden").joinpath("sampling.json").read_text())
LOGITS = np.array(GOLDEN["logits"], dtype=np.float32)
PROMPT, NEW = GOLDEN["prompt"], GOLDEN["new"]
FALSE_ALARM = 1e-4  # of each chi-square test below: a right sampler fails it once in 10,000 seeds; seeds are fixed


def sample(**settings: float) -> SamplingParams:
    return SamplingParams(**{"temperature": 1.0, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("golden", GOLDEN["cases"], ids=lambda g: ",".join(f"{k}={v}" for k, v in g["case"].items()))
def test_filters_equal_transformers_in_its_order(golden: dict) -> None:
    """Catches another order, a top-p that drops the token crossing p, a penalty of the wrong sign."""
    p = distribution(LOGITS, sample(**golden["case"]), PROMPT, NEW)
    np.testing.assert_array_equal(p > 0, np.array(golden["p"]) > 0)
    np.testing.assert_allclose(p, golden["p"], atol=2e-7)  # transformers computes in float32


def test_presence_and_frequency_count_new_tokens_only() -> None:
    """Catches penalties that punish the prompt, or presence counted per occurrence (OpenAI's definition)."""
    s = LOGITS.astype(np.float64)
    for token, count in ((11, 2), (3, 1)):
        s[token] -= 0.5 + 0.25 * count
    p = distribution(LOGITS, sample(presence_penalty=0.5, frequency_penalty=0.25), PROMPT, NEW)
    np.testing.assert_allclose(p, softmax(s), rtol=1e-12)


def counts(params: SamplingParams, draws: int) -> tuple[np.ndarray, np.ndarray]:
    p = distribution(LOGITS, params, PROMPT, NEW)
    tokens = [choose(LOGITS, params, PROMPT, NEW, seed).token for seed in range(draws)]
    return np.bincount(tokens, minlength=len(p)), p


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.6}, {"top_k": 7}, {"top_p": 0.75}, {"min_p": 0.1}, {"top_p": 0.9, "repetition_penalty": 2}],
    ids=str,
)
def test_draws_follow_the_distribution(settings: dict) -> None:
    """Chi-square over 5,000 requests of different seeds. Catches a uniform draw over the nucleus (lumi's bug)."""
    observed, p = counts(sample(**settings), 5000)
    assert not observed[p == 0].any(), "a token that the filters excluded was drawn"
    likely = p * 5000 >= 5  # chi-square needs five expected a cell; the rest is one cell
    cells = np.append(observed[likely], observed[~likely].sum())
    expected = np.append(p[likely], p[~likely].sum()) * 5000
    keep = expected > 0
    assert chisquare(cells[keep], expected[keep]).pvalue > FALSE_ALARM


def test_draws_of_one_request_are_independent_along_its_positions() -> None:
    """Chi-square over pairs of neighbouring draws. Catches a stream that repeats its number at each position."""
    p = np.array([0.5, 0.3, 0.2])
    tokens = [draw(np.log(p), 9, position) for position in range(6001)]
    pairs = np.bincount([3 * a + b for a, b in zip(tokens[::2], tokens[1::2], strict=False)], minlength=9)
    assert chisquare(pairs, np.outer(p, p).ravel() * pairs.sum()).pvalue > FALSE_ALARM


def test_a_draw_needs_no_normalized_p_and_never_takes_what_has_none() -> None:
    """What speculation draws replacements from sums to less than 1; catches a draw that falls off the end."""
    s = np.log([1e-320, 0.02, 1e-320, 0.01, 1e-320])
    s[[0, 4]] = -np.inf
    tokens = [draw(s, seed, 4) for seed in range(3000)]
    assert set(tokens) == {1, 3}
    assert chisquare([tokens.count(1), tokens.count(3)], [2000, 1000]).pvalue > FALSE_ALARM


@given(st.integers(0, 2**32), st.floats(1e-7, 1e-2), st.integers(0, 50))
def test_rounding_changes_a_token_only_where_two_scores_nearly_tie(seed: int, d: float, rounding: int) -> None:
    """Catches a draw for which the order or the rounding of other tokens counts, as for an inverse CDF (bug B4)."""
    params = sample(temperature=0.9)
    noisy = LOGITS + d * np.random.default_rng(rounding).uniform(-1, 1, len(LOGITS))
    before, after = (perturbed(x, params, PROMPT, NEW, seed) for x in (LOGITS, noisy))
    second, first = np.partition(before, -2)[-2:]
    assert before.argmax() == after.argmax() or first - second <= 2 * 1.01 * d / 0.9


def test_same_seed_and_position_give_the_same_token_whatever_was_drawn_between() -> None:
    """Catches a generator with state: a request's text would then depend on its neighbours in the batch."""
    params = sample(seed=3)
    first = choose(LOGITS, params, PROMPT, NEW, 3)
    choose(LOGITS, params, PROMPT, [], 3)
    assert choose(LOGITS, params, PROMPT, NEW, 3) == first


def test_greedy_takes_the_largest_and_penalties_still_count() -> None:
    """Catches a greedy path that skips the penalties."""
    assert choose(LOGITS, SamplingParams(), PROMPT, [], 0).token == LOGITS.argmax()
    best = int(LOGITS.argmax())
    heavy = SamplingParams(presence_penalty=100.0)
    assert choose(LOGITS, heavy, PROMPT, [best], 0).token == int(np.argsort(-LOGITS)[1])


def test_logprobs_are_of_the_unfiltered_model() -> None:
    """Catches logprobs taken after temperature or filters (vLLM and OpenAI report the model's own)."""
    choice = choose(LOGITS, sample(temperature=0.3, top_k=2, logprobs=4, seed=0), PROMPT, NEW, 0)
    expected = log_softmax(LOGITS.astype(np.float64))
    assert choice.logprob == pytest.approx(expected[choice.token], rel=1e-12)
    assert choice.top is not None
    assert list(choice.top) == list(np.argsort(-expected)[:4])
    assert list(choice.top.values()) == pytest.approx(sorted(expected)[::-1][:4], rel=1e-12)
    alone = choose(LOGITS, sample(logprobs=0), PROMPT, NEW, 0)
    assert alone.top == {}
    assert choose(LOGITS, sample(), PROMPT, NEW, 0).logprob is None


def test_logprobs_beyond_the_vocabulary_give_all_of_it() -> None:
    """Catches an index error when more alternatives are asked for than there are tokens."""
    choice = choose(LOGITS, sample(logprobs=99), PROMPT, NEW, 0)
    assert choice.top is not None
    assert len(choice.top) == len(LOGITS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", float("nan")),
        ("temperature", -0.1),
        ("temperature", float("inf")),
        ("temperature", "hot"),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_p", float("nan")),
        ("top_k", -2),
        ("top_k", 2.5),
        ("min_p", -0.1),
        ("min_p", 1.01),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e308),
        ("repetition_penalty", 1e-308),
        ("presence_penalty", float("inf")),
        ("presence_penalty", 1e308),
        ("frequency_penalty", -1e308),
        ("frequency_penalty", float("nan")),
        ("max_tokens", 0),
        ("max_tokens", -2),
        ("max_tokens", True),
        ("seed", -(2**63) - 1),
        ("seed", 2**63),
        ("logprobs", -1),
        ("logprobs", 101),
        ("stop", ["ok", ""]),
        ("stop", [1]),
        ("stop", b"ab"),
        ("stop", [None]),
        ("stop_token_ids", [-3]),
        ("stop_token_ids", 3),
        ("ignore_eos", "no"),
        ("min_tokens", -1),
        ("min_tokens", 257),  # more than max_tokens
        ("logit_bias", {5: 100.5}),
        ("logit_bias", {5: float("nan")}),
        ("logit_bias", {"5": 1.0}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", [5]),
        ("json_schema", "{"),
        ("json_schema", "[]"),
        ("json_schema", {"enum": {1}}),
        ("json_schema", 1),
        ("json_schema", False),  # allows no answer
        ("regex", ""),
        ("regex", 1),
        ("grammar", b"start: A"),
    ],
)
def test_a_value_out_of_range_is_refused_in_one_sentence(name: str, value: object) -> None:
    """Catches NaN slipping through a comparison, and settings that would be ignored silently."""
    with pytest.raises(ValueError, match=name) as caught:
        SamplingParams(**{name: value})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("top_k", -1, 0),  # vLLM
        ("top_k", np.int64(-1), 0),
        ("top_k", None, 0),  # transformers
        ("stop", None, ()),
        ("stop", [], ()),
        ("stop_token_ids", None, ()),
        ("max_tokens", None, None),  # vLLM: to the end of the context
        ("max_tokens", -1, None),  # llama.cpp's -n -1
        ("seed", None, None),
        ("seed", -1, None),  # vLLM and llama.cpp: a random one
        ("seed", -2, -2),  # vLLM: a seed as any other
        ("temperature", None, 0.0),
        ("top_p", None, 1.0),  # vLLM's from_optional: None is the default
        ("min_p", None, 0.0),
        ("repetition_penalty", None, 1.0),
        ("presence_penalty", None, 0.0),
        ("frequency_penalty", None, 0.0),
        ("ignore_eos", None, False),
        ("logprobs", None, None),
        ("min_tokens", None, 0),
        ("logit_bias", None, ()),
        ("logit_bias", {}, ()),
        ("logit_bias", {7: 0.0}, ()),
        ("json_schema", None, None),
        ("regex", None, None),
        ("grammar", None, None),
    ],
)
def test_the_usual_words_for_off_are_read(name: str, value: object, meant: object) -> None:
    """Catches bug B15: "off" as vLLM, llama.cpp and transformers spell it was an error. Right: vLLM."""
    found = getattr(SamplingParams(**{name: value}), name)  # type: ignore[arg-type]
    assert (type(found), found) == (type(meant), meant)


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("seed", np.int64(7), 7),
        ("seed", np.int64(-2), -2),
        ("top_k", np.uint8(3), 3),
        ("max_tokens", np.int8(9), 9),
        ("logprobs", np.int64(0), 0),
        ("temperature", np.float32(0.5), 0.5),
        ("temperature", np.uint8(1), 1),
    ],
)
def test_numbers_of_numpy_are_pythons(name: str, value: object, meant: object) -> None:
    """Catches seed % 2**64, which overflows in NumPy, and -top_k, which wraps around in an unsigned type."""
    found = getattr(SamplingParams(**{name: value}), name)  # type: ignore[arg-type]
    assert (type(found), found) == (type(meant), meant)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("settings", [{}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}, {"presence_penalty": 1000.0}])
def test_a_tiny_temperature_is_greedy_without_overflow(settings: dict) -> None:
    """Catches logits divided before the largest is taken off: infinity minus infinity, and a draw of no token."""
    s = LOGITS.astype(np.float64)
    s[NEW] -= settings.get("presence_penalty", 0.0)
    p = distribution(LOGITS, sample(temperature=1e-320, **settings), PROMPT, NEW)
    assert p.tolist() == np.eye(len(s))[s.argmax()].tolist()
    assert choose(LOGITS, sample(temperature=1e-320, **settings), PROMPT, NEW, 1).token == s.argmax()


def test_what_is_given_as_a_dict_is_kept_so_that_it_hashes() -> None:
    """Catches a frozen SamplingParams that cannot be the key of a dict, and two equal ones that differ."""
    one = SamplingParams(logit_bias={9: -100, 5: 1.5}, json_schema={"type": "object"})
    same = SamplingParams(logit_bias=[(5, 1.5), [9, -100.0]], json_schema='{"type":\n"object"}')  # type: ignore[arg-type]
    assert one == same
    assert len({one, same}) == 1
    assert replace(one, seed=1).logit_bias == one.logit_bias == ((5, 1.5), (9, -100.0))


@pytest.mark.parametrize("names", [("json_schema", "regex"), ("regex", "grammar"), ("json_schema", "grammar")])
def test_two_forms_of_one_answer_are_refused(names: tuple[str, str]) -> None:
    """Catches the second form left out without a word."""
    with pytest.raises(ValueError, match=" and ".join(names) + " are two forms of one answer; give"):
        SamplingParams(**dict.fromkeys(names, "true"))  # type: ignore[arg-type]


def test_a_stop_that_is_no_string_is_called_that() -> None:
    """Catches "an empty string" said of a number."""
    with pytest.raises(ValueError, match=r"stop holds 1, which is no string"):
        SamplingParams(stop=[1])  # type: ignore[list-item]


ANY_LOGITS = st.lists(st.one_of(st.integers(-4, 4).map(float), st.just(-np.inf)), min_size=1, max_size=30).filter(
    lambda values: max(values) > -np.inf
)


def support(filtered: np.ndarray) -> set[int]:
    """The tokens that a filter left."""
    return set(np.flatnonzero(filtered > -np.inf).tolist())


@given(ANY_LOGITS, st.integers(1, 31), st.integers(1, 31))
def test_a_smaller_top_k_keeps_a_part_of_a_larger_one(values: list[float], a: int, b: int) -> None:
    """With ties and impossible tokens. Catches ties cut apart, the largest dropped, an impossible token kept."""
    s = np.array(values)
    few, many = (support(keep_top_k(s, k)) for k in sorted((a, b)))
    assert int(s.argmax()) in few <= many <= support(s)
    assert len(few) >= min(min(a, b), len(support(s)))
    assert all(s[token] < min(s[list(few)]) for token in support(s) - few), "what is dropped is less than what stays"


@given(ANY_LOGITS, st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_a_smaller_top_p_keeps_a_part_of_a_larger_one(values: list[float], a: float, b: float) -> None:
    """The nucleus grows with p, holds at least the mass p, and is never empty."""
    s = np.array(values)
    few, many = (support(keep_top_p(s, p)) for p in sorted((a, b)))
    assert max(s[list(few)]) == s.max()
    assert few <= many <= support(s)
    assert softmax(s)[list(few)].sum() >= min(a, b) - 1e-9
    least = min(softmax(s)[list(few)])
    assert softmax(s)[list(few)].sum() - least < min(a, b) + 1e-9, "without its last token the mass is too small"


@given(ANY_LOGITS, st.floats(0.001, 1.0), st.floats(0.001, 1.0))
def test_a_larger_min_p_keeps_a_part_of_a_smaller_one(values: list[float], a: float, b: float) -> None:
    """The bar is relative to the likeliest token, which always stays, and whatever ties with it."""
    s = np.array(values)
    many, few = (support(keep_min_p(s, p)) for p in sorted((a, b)))
    assert support(np.where(s == s.max(), s, -np.inf)) <= few <= many <= support(s)
