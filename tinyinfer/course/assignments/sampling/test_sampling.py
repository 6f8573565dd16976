"""Public tests of the assignment "sampling": each names the bug that it catches.

Scores are compared exactly where a filter only keeps or leaves out, else within the rounding of float64. Scores of
`filtered` and `perturbed` are compared relative to the largest: a constant changes no draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tinyinfer import sampling as engine
from tinyinfer.course.compare import same_array, same_value
from tinyinfer.course.laws import same_law
from tinyinfer.course.student import hinting
from tinyinfer.noise import gumbel, uniforms
from tinyinfer.sampling_params import SamplingParams

pytest_plugins = ["tinyinfer.course.pytest_plugin"]

ROUNDING = 1e-12  # float64 rounds to 1e-16: a sum of 1,000 terms, an exponent of up to 100 and some operations
LOGITS = np.array([2.0, -1.0, 0.5, 3.0, -2.0, 1.0, 0.25, -0.5], dtype=np.float32)  # of eight tokens
SCORES = LOGITS.astype(np.float64)  # filters work on float64
PROMPT, NEW = [3, 4, 4, 1], [3, 1, 3]  # likely and unlikely tokens, once and several times
Usual = list[tuple[Any, str]]


def asked(**settings: Any) -> SamplingParams:
    """Parameters with a temperature of 1, unless another one is given."""
    return SamplingParams(**{"temperature": 1.0, **settings})


def relative(s: Any) -> Any:
    """Scores relative to the largest; what is no array stays as it is."""
    usable = isinstance(s, np.ndarray) and s.size and s.dtype.kind == "f" and np.isfinite(s.max())
    return s - s.max() if usable else s


# softmax


def test_softmax(student, part):
    """Catches exponents that overflow, and a sum that is not divided by."""
    with part("three scores"):
        e = np.array([1.0, 2.0, 5.0])
        wrong = [(e, "the sum of probabilities is 1: divide by the sum")]
        same_array(student.softmax(np.log(e)), e / 8, "softmax(log([1, 2, 5]))", rtol=ROUNDING, usual=wrong)
    with part("large scores"):
        with np.errstate(over="ignore", invalid="ignore"):
            overflown = np.exp([1000.0, 999.0, -np.inf]) / np.exp([1000.0, 999.0, -np.inf]).sum()
        hint = "exp(1000) is infinite in float64: the quotient stays the same when the largest score is taken off first"
        right = np.array([1, np.exp(-1), 0]) / (1 + np.exp(-1))
        mine = student.softmax(np.array([1000.0, 999.0, -np.inf]))
        same_array(mine, right, "softmax([1000, 999, -inf])", rtol=ROUNDING, usual=[(overflown, hint)])


# Penalties


def test_repetition_penalty(student, part):
    """Catches a penalty that raises negative scores, that forgets the prompt, or that counts a token twice."""
    params, s = asked(repetition_penalty=2.0), SCORES
    texts = {"prompt and new tokens": (PROMPT, NEW), "only a prompt": (PROMPT, []), "no tokens at all": ([], [])}
    for name, (prompt, new) in texts.items():
        with part(name):
            right = s.copy()
            for token in {*prompt, *new}:
                right[token] = s[token] / 2 if s[token] > 0 else s[token] * 2
            check_penalties(student, LOGITS, params, prompt, new, right)


def test_presence_and_frequency_penalties(student, part):
    """Catches penalties that count the prompt, and presence that is taken off for each time."""
    s = SCORES
    for name, presence, frequency in (("presence", 1.5, 0.0), ("frequency", 0.0, 0.75), ("both", 1.5, 0.75)):
        with part(name):
            params, right = asked(presence_penalty=presence, frequency_penalty=frequency), s.copy()
            for token in set(NEW):
                right[token] -= presence + frequency * NEW.count(token)
            check_penalties(student, LOGITS, params, PROMPT, NEW, right)


def check_penalties(
    student: Any, logits: np.ndarray, params: SamplingParams, prompt: list[int], new: list[int], right: np.ndarray
) -> None:
    """Compares the student's `penalize` with the right scores."""
    mine = student.penalize(logits, params, prompt, new)
    what = f"penalize with {', '.join(penalties(params))}"
    wrong = penalty_mistakes(logits.astype(np.float64), params, prompt, new, right)
    same_array(mine, right, what, rtol=ROUNDING, usual=wrong, axes=["token"])


def penalties(params: SamplingParams) -> list[str]:
    """The penalties that are asked for, as "name=value"."""
    values = {name: getattr(params, f"{name}_penalty") for name in ("repetition", "presence", "frequency")}
    return [f"{name}={value}" for name, value in values.items() if value != (1.0 if name == "repetition" else 0.0)]


def penalty_mistakes(
    s: np.ndarray, params: SamplingParams, prompt: list[int], new: list[int], right: np.ndarray
) -> Iterator[tuple[np.ndarray, str]]:
    """The scores that usual mistakes give; s: the logits in float64."""
    if params.repetition_penalty != 1.0:
        yield from repetition_mistakes(s, params, prompt, new)
    presence, frequency = params.presence_penalty, params.frequency_penalty
    scaled = engine.penalize(s, asked(repetition_penalty=params.repetition_penalty), prompt, new)
    lowered = engine.penalize(scaled, replace(params, repetition_penalty=1.0), [], [*prompt, *new])
    yield lowered, "presence and frequency count the new tokens only: the prompt is not the model's own text"
    for hint, changed in {
        "presence is taken off once, however often the token was generated": (0.0, presence + frequency),
        "frequency is taken off for each time that the token was generated": (presence + frequency, 0.0),
        "a penalty lowers the score: the sign is the other way round": (-presence, -frequency),
    }.items():
        other = replace(params, presence_penalty=changed[0], frequency_penalty=changed[1])
        yield engine.penalize(s, other, prompt, new), hint
    yield right.astype(np.float32).astype(np.float64), "the numbers are rounded to float32: compute in float64"


def repetition_mistakes(
    s: np.ndarray, params: SamplingParams, prompt: list[int], new: list[int]
) -> Iterator[tuple[np.ndarray, str]]:
    """The scores that usual mistakes of the repetition penalty give, the other penalties being right."""
    others, only = replace(params, repetition_penalty=1.0), asked(repetition_penalty=params.repetition_penalty)
    divided, often = s.copy(), s
    divided[list({*prompt, *new})] /= params.repetition_penalty
    for token in (*prompt, *new):
        often = engine.penalize(often, only, [token], [])
    for hint, scaled in {
        "a negative score divided by the penalty becomes larger: multiply it instead": divided,
        "repetition counts the prompt's tokens, too": engine.penalize(s, only, [], new),
        "repetition scales a token once, however often it is there": often,
    }.items():
        yield engine.penalize(scaled, others, prompt, new), hint


# Filters


def test_top_k(student, part):
    """Catches a token that ties with the k-th and is dropped, and a k above the vocabulary's size."""
    with part("the three largest"):
        check_top_k(student, SCORES, 3, only(SCORES, [0, 3, 5]))
    with part("ties"):
        s = np.array([1.0, 4.0, 2.0, 2.0, 0.0, 2.0])
        check_top_k(student, s, 2, only(s, [1, 2, 3, 5]))
    with part("as many as there are, and more"):
        hint = "with k as large as the vocabulary, or larger, all tokens stay"
        with hinting("ValueError", hint), hinting("IndexError", hint):
            check_top_k(student, SCORES, 8, SCORES)
            check_top_k(student, SCORES, 50, SCORES)


def test_top_p(student, part):
    """Catches a nucleus without the token that crosses p, and a mask that lies in sorted order."""
    s = np.log([0.1, 0.5, 0.15, 0.25])
    with part("a token crosses p"):
        check_top_p(student, s, 0.6, only(s, [1, 3]))
    with part("one token is enough"):
        check_top_p(student, s, 0.3, only(s, [1]))
    with part("scores that a filter left out"):
        check_top_p(student, only(s, [0, 2, 3]), 0.6, only(s, [2, 3]))
    with part("no probabilities, but scores"):
        check_top_p(student, s + 7.0, 0.8, only(s + 7.0, [1, 2, 3]))
        kept, half = student.keep_top_p(np.zeros(2), 0.5), np.array([0.0, -np.inf])  # either of the two may stay
        usual = [(np.zeros(2), "a token stays if the mass before it is below p, and not if it is equal to p")]
        right = half[::-1] if isinstance(kept, np.ndarray) and kept.shape == (2,) and kept[0] < 0 else half
        same_array(kept, right, "keep_top_p([0, 0], 0.5)", usual=usual, axes=["token"])


def test_min_p(student, part):
    """Catches a threshold on the probability itself, or on scores, in place of p times the largest probability."""
    s = np.log([0.1, 0.4, 0.05, 0.25, 0.2])
    with part("a quarter of the likeliest"):
        check_min_p(student, s, 0.22, only(s, [0, 1, 3, 4]))
    with part("scores that a filter left out"):
        check_min_p(student, only(s - 3.0, [0, 2, 3]), 0.3, only(s - 3.0, [0, 3]))
        check_min_p(student, s, 1.0, only(s, [1]))


def only(s: np.ndarray, tokens: list[int]) -> np.ndarray:
    """Scores of which only these tokens' are left."""
    return np.where(np.isin(np.arange(len(s)), tokens), s, -np.inf)


def check_top_k(student: Any, s: np.ndarray, k: int, right: np.ndarray) -> None:
    """Compares the student's `keep_top_k` with the right scores."""
    wrong = mask_mistakes(s, right)
    if k < len(s):
        if np.isfinite(right).sum() > k:  # ties: a solution may drop the tokens that come last, or first
            hint = "a token that ties with the k-th stays, too: which of equal tokens goes would be chance"
            for way in (1, -1):
                best = sorted(range(len(s)), key=lambda token: (-s[token], way * token))[:k]
                wrong.append((only(s, best), hint))
        wrong.append((engine.keep_top_k(s, k + 1), "one token too many: k tokens stay"))
        if k > 1:
            wrong.append((engine.keep_top_k(s, k - 1), "one token too few: k tokens stay"))
    same_array(student.keep_top_k(s, k), right, f"keep_top_k(s, {k})", usual=wrong, axes=["token"])


def check_top_p(student: Any, s: np.ndarray, p: float, right: np.ndarray) -> None:
    """Compares the student's `keep_top_p` with the right scores."""
    order = np.argsort(-s)
    kept = int(np.isfinite(right).sum())
    crossing, next_one = order[kept - 1], order[min(kept, len(s) - 1)]
    wrong = [
        (np.where(np.arange(len(s)) == crossing, -np.inf, right),
         "these are the scores without the token that crosses p: a token stays if the mass before it is below p"),
        (np.where(np.arange(len(s)) == next_one, s, right),
         "one token too many stays: what counts is the mass before a token, without its own"),
        *mask_mistakes(s, right),
    ]  # fmt: skip
    same_array(student.keep_top_p(s, p), right, f"keep_top_p(s, {p})", usual=wrong, axes=["token"])


def check_min_p(student: Any, s: np.ndarray, p: float, right: np.ndarray) -> None:
    """Compares the student's `keep_min_p` with the right scores."""
    wrong = [
        (np.where(engine.softmax(s) < p, -np.inf, s),
         "the threshold is p times the largest probability, not p itself"),
        (np.where(s < p * s.max(), -np.inf, s), "p is a quotient of probabilities, and these are scores"),
        (np.where(s < s.max() - p, -np.inf, s), "p is a quotient of probabilities, and these are scores"),
        *mask_mistakes(s, right),
    ]  # fmt: skip
    same_array(student.keep_min_p(s, p), right, f"keep_min_p(s, {p})", usual=wrong, axes=["token"])


def mask_mistakes(s: np.ndarray, right: np.ndarray) -> Usual:
    """What any filter gives that leaves tokens out in a wrong way."""
    out, kept = np.isneginf(right), np.isfinite(right)
    if not out.any():
        return []
    finite = "a token that is left out has the score -inf: any number would be a score for the next filter"
    by_place = "the mask lies in sorted order: argsort tells which token id each place belongs to"
    sorted_mask = np.zeros(len(s), dtype=bool)
    sorted_mask[np.argsort(-s, kind="stable")] = kept
    return [
        (np.where(out, s.dtype.type(-1e10), right), finite),
        (np.where(out, np.finfo(s.dtype).min, right).astype(s.dtype), finite),
        (np.where(out, s.dtype.type(0), right), "0 is a score like any other, exp(0) is 1: leave out by -inf"),
        (np.where(np.arange(len(s)) < kept.sum(), s, -np.inf).astype(s.dtype), by_place),
        (-np.sort(-right), "the scores come back sorted: place i is token i"),
        (np.where(sorted_mask, s, -np.inf).astype(s.dtype), by_place),
        (np.where(out, s, -np.inf).astype(s.dtype), "the filter leaves out what should stay"),
        (engine.softmax(right), "these are probabilities: a filter gives scores back"),
        (s, "nothing is left out"),
    ]


# All filters


def test_order_of_filters(student, part):
    """Catches a temperature or a filter that comes too early or too late."""
    cases = {
        "temperature, then top-p": asked(temperature=2.0, top_p=0.75),
        "temperature, then min-p": asked(temperature=0.5, min_p=0.1),
        "top-k, then top-p": asked(top_k=3, top_p=0.85),
        "top-p, then min-p": asked(temperature=1.5, top_p=0.9, min_p=0.25),
        "penalties, then temperature": asked(temperature=0.5, presence_penalty=1.5, repetition_penalty=1.3),
    }
    for name, params in cases.items():
        with part(name):
            check_filtered(student, LOGITS, params, [], [0, 3, 5], name)
    with part("every filter off"):
        check_filtered(student, np.array([0.0, -50.0, -60.0]), asked(), [], [], "every filter off")


def check_filtered(
    student: Any, logits: np.ndarray, params: SamplingParams, prompt: list[int], new: list[int], what: str
) -> None:
    """Compares the student's `filtered` with the engine's, relative to the largest score."""
    right = relative(engine.filtered(logits, params, prompt, new))
    mine = relative(student.filtered(logits, params, prompt, new))
    wrong = [(relative(value), hint) for value, hint in order_mistakes(logits, params, prompt, new)]
    atol = 4 * np.finfo(np.float64).eps * float(np.abs(logits[np.isfinite(logits)]).max()) / params.temperature
    atol *= max(params.repetition_penalty, 1 / params.repetition_penalty)
    same_array(mine, right, f"filtered ({what})", rtol=ROUNDING, atol=atol, usual=wrong, axes=["token"])


def order_mistakes(
    logits: np.ndarray, params: SamplingParams, prompt: list[int], new: list[int]
) -> Iterator[tuple[np.ndarray, str]]:
    """The scores that wrong orders of the filters give, each made of two calls of the right ones."""
    t, off = params.temperature, asked()
    k, p, m = replace(off, top_k=params.top_k), replace(off, top_p=params.top_p), replace(off, min_p=params.min_p)

    def chain(*steps: SamplingParams) -> np.ndarray:
        s = logits
        for step in steps:
            s = engine.filtered(s, step, prompt, new)
        return s

    warm = replace(params, top_k=0, top_p=1.0, min_p=0.0)
    if t != 1.0:
        cold = chain(replace(params, temperature=1.0))
        yield cold, "the temperature is missing"
        yield cold / t, "the filters saw the scores before the temperature: it comes in front of them"
        yield chain(replace(params, temperature=1 / t)), "the temperature divides the scores"
        late = chain(replace(off, temperature=t), replace(params, temperature=1.0))
        yield late, "the penalties come in front of the temperature"
    yield chain(warm, p, k, m), "top-k comes in front of top-p: the mass of top-p is that of the k tokens"
    yield chain(warm, k, m, p), "min-p comes behind top-p"
    yield chain(warm, m, k, p), "min-p comes last"
    yield chain(warm, k, p), "min-p is missing"
    yield chain(warm, k, m), "top-p is missing"
    yield chain(warm, p, m), "top-k is missing"
    if params.top_p == 1.0:
        hint = "top-p is off at 1: the first tokens alone may sum to 1 after rounding, and all others stay, too"
        yield engine.keep_top_p(chain(params), 1.0), hint
    if penalties(params):
        plain = replace(params, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
        yield chain(plain), "the penalties are missing"
        s = logits.astype(np.float64)
        for penalized, hint in penalty_mistakes(s, params, prompt, new, engine.penalize(s, params, prompt, new)):
            yield engine.filtered(penalized, plain, prompt, new), hint


# The draw


def test_noise_of_a_seed(student, part):
    """Catches noise that is not the written function of (seed, position, token, stream): no text could come again."""
    s = engine.filtered(LOGITS, asked(top_k=6), [], [])
    for name, seed, position, stream in (("seed", 2**40 + 7, 0, 0), ("position", 3, 1000, 0), ("stream", 3, 5, 2)):
        with part(name):
            mine = student.add_noise(s, seed, position, stream)
            check_noise(mine, s, seed, position, stream)
            token = int((s + gumbel(seed, position, len(s), stream)).argmax())
            same_value(student.draw(s, seed, position, stream), token, f"draw(s, {seed}, {position}, {stream})")


def check_noise(mine: Any, s: np.ndarray, seed: int, position: int, stream: int) -> None:
    """Compares scores with noise with the right ones."""
    n = len(s)
    g = gumbel(seed, position, n, stream)
    wrong = [
        (s + gumbel(seed, position, n), "the stream is missing: gumbel(seed, position, size, stream)"),
        (s + gumbel(seed, position + 1, n, stream), "the position is off by one"),
        (s + gumbel(seed, 0, n, stream), "the position is missing: every token of a text would get the same noise"),
        (s + gumbel(0, position, n, stream), "the seed is missing: every request would get the same noise"),
        (s - g, "the noise is added, not taken off"),
        (engine.softmax(s) + g, "the noise belongs to the scores, not to the probabilities"),
        (s + uniforms(seed, position, n, stream), "u is uniform noise, and the draw needs Gumbel noise, -log(-log u)"),
        (s + g[0], "each token has its own noise"),
        (g, "the scores are missing"),
    ]
    same_array(mine, s + g, f"add_noise(s, {seed}, {position}, {stream})", rtol=ROUNDING, usual=wrong, axes=["token"])


def test_draws_follow_the_law(student, part):
    """Catches a uniform choice among the tokens that are left. A right law fails once in a million (course/laws.py)."""
    s = engine.filtered(np.log([0.02, 0.5, 0.05, 0.25, 0.08, 0.1]), asked(top_p=0.9), [], [])
    with part("200 seeds"):
        tokens = [student.draw(s, seed, 9) for seed in range(200)]
        same_law(tokens, engine.softmax(s), "draw(s, seed, 9) for 200 seeds", law_mistakes(s, tokens))
    with part("200 positions"):
        tokens = [student.draw(s, 5, position) for position in range(200)]
        same_law(tokens, engine.softmax(s), "draw(s, 5, position) for 200 positions", law_mistakes(s, tokens))


def law_mistakes(s: np.ndarray, tokens: Sequence[Any]) -> Iterator[tuple[np.ndarray, str]]:
    """The laws of usual wrong draws."""
    left, n = np.isfinite(s), len(s)
    yield left / left.sum(), "every token that the filters have left is equally likely: the scores do not count"
    yield np.full(n, 1 / n), "every token is equally likely, also those that the filters have left out"
    yield np.eye(n)[s.argmax()], "always the likeliest token: that is greedy, and no draw"
    yield np.eye(n)[tokens[0]], "always the same token: the noise is a function of seed and position"
    yield engine.softmax(engine.softmax(s)), "the noise belongs to the scores, not to the probabilities"
    yield engine.softmax(np.where(left, -s, -np.inf)), "unlikely tokens are likely: the noise is added to the scores"


def test_greedy_and_nearly_greedy(student, part):
    """Catches a division by the temperature 0, penalties that greedy text skips, and a tiny temperature's overflow."""
    params = asked(temperature=0.0, presence_penalty=2.5)
    with part("temperature 0"):
        right = np.where(np.arange(len(LOGITS)) == 3, SCORES - 2.5, SCORES)
        with np.errstate(all="ignore"):
            divided = engine.filtered(LOGITS, params, [], [3])
        warm = engine.perturbed(LOGITS, replace(params, temperature=1.0), [], [3], 4)
        zero = "a temperature of 0 is greedy text: the scores are not divided"
        wrong = [
            (relative(SCORES), "the penalties count at temperature 0, too"),
            (divided, zero),
            (divided + gumbel(4, 1, len(LOGITS)), zero),
            (relative(warm), "greedy text has no noise"),
        ]
        with hinting("AssertionError", zero), hinting("ZeroDivisionError", zero), hinting("ValueError", zero):
            mine = relative(student.perturbed(LOGITS, params, [], [3], 4))
        same_array(mine, relative(right), "perturbed at temperature 0", rtol=ROUNDING, atol=1e-15, usual=wrong,
                   axes=["token"])  # fmt: skip
    with part("temperature 1e-320"):
        params = asked(temperature=1e-320)
        right = np.where(np.arange(len(LOGITS)) == LOGITS.argmax(), 0.0, -np.inf)
        with np.errstate(all="ignore"):
            s = LOGITS / np.float64(1e-320)
            overflown = s - s.max()
        hint = "the scores became infinite: take the largest off before they are divided by the temperature"
        mine = student.filtered(LOGITS, params, PROMPT, NEW)
        same_array(mine, right, "filtered at temperature 1e-320", usual=[(s, hint), (overflown, hint)], axes=["token"])


def test_noise_of_a_position(student, part):
    """Catches a position that does not move with the text, and noise that is divided by the temperature."""
    params = asked(temperature=0.7)
    for name, prompt, new in (("first token", PROMPT, []), ("fourth token", PROMPT, NEW)):
        with part(name):
            s = engine.filtered(LOGITS, params, prompt, new)
            mine = student.perturbed(LOGITS, params, prompt, new, 11)
            wrong = position_mistakes(s, params, prompt, new, 11)
            right = relative(engine.perturbed(LOGITS, params, prompt, new, 11))
            same_array(relative(mine), right, f"perturbed ({name})", rtol=ROUNDING, atol=1e-14, usual=wrong,
                       axes=["token"])  # fmt: skip


def position_mistakes(s: np.ndarray, params: SamplingParams, prompt: list[int], new: list[int], seed: int) -> Usual:
    """The scores with noise that usual mistakes give; s: the filtered scores."""
    at, n = len(prompt) + len(new), len(s)
    place = "the position of the next token is the number of tokens so far, the prompt's and the new ones"
    wrong = [(s + gumbel(seed, i, n), place) for i in (len(prompt), len(new), at - 1, at + 1) if i != at and i >= 0]
    wrong += [(s + gumbel(seed, at, n) / params.temperature, "the noise is not divided by the temperature")]
    wrong += [(s, "the noise is missing"), (s + gumbel(0, at, n), "the seed is missing")]
    wrong += [(engine.softmax(s) + gumbel(seed, at, n), "the noise belongs to the scores, not to the probabilities")]
    return [(relative(value), hint) for value, hint in wrong]
