"""Hidden tests of the assignment "sampling": the claims of the public tests, for other sizes and random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyinfer import sampling as engine
from tinyinfer.course.assignments.sampling.test_sampling import (
    ROUNDING,
    asked,
    check_filtered,
    check_min_p,
    check_noise,
    check_penalties,
    check_top_k,
    check_top_p,
    only,
    relative,
)
from tinyinfer.course.compare import same_array, same_value

SIZES = (2, 7, 1000)


def random_logits(rng: np.random.Generator, size: int, dtype: Any = np.float64) -> np.ndarray:
    """Random logits of both signs."""
    return (3 * rng.standard_normal(size)).astype(dtype)


def random_text(rng: np.random.Generator, logits: np.ndarray, length: int) -> list[int]:
    """Random tokens: some are the likeliest and come several times, some are any."""
    likely = rng.permutation(np.argsort(-logits)[: max(2, len(logits) // 3)])[:4]
    some = [*rng.choice(likely, length - 3), *rng.integers(0, len(logits), 3)]
    return [int(token) for token in rng.permutation(some)]


def test_filters_of_random_scores(student, part, rng):
    """Catches a filter that is right only for the sizes or values of the public tests."""
    for size in SIZES:
        with part(f"{size} tokens"):
            s = random_logits(rng, size)
            k = int(rng.integers(1, size))
            check_top_k(student, s, k, engine.keep_top_k(s, k))
            for p in rng.uniform(0.05, 0.95, 3).tolist():
                check_top_p(student, s, p, engine.keep_top_p(s, p))
                check_min_p(student, s, p / 4, engine.keep_min_p(s, p / 4))


def test_ties_and_left_out_tokens(student, part, rng):
    """Catches ties that are broken, and a filter that brings back what another one has left out."""
    with part("ties"):
        s = rng.permutation(np.repeat(rng.standard_normal(6), 3))
        check_top_k(student, s, 4, engine.keep_top_k(s, 4))
    with part("left out"):
        s = rng.permutation(np.linspace(-3, 3, 60))
        s = only(s, rng.choice(60, 25, replace=False).tolist())
        check_top_k(student, s, 9, engine.keep_top_k(s, 9))
        check_top_p(student, s, 0.7, engine.keep_top_p(s, 0.7))
        check_min_p(student, s, 0.05, engine.keep_min_p(s, 0.05))


def test_penalties_of_random_texts(student, part, rng):
    """Catches penalties that are right for one kind of text alone."""
    settings: dict[str, dict[str, float]] = {
        "repetition": {"repetition_penalty": 1.3},
        "below 1": {"repetition_penalty": 0.8, "presence_penalty": -0.4},
        "all": {"repetition_penalty": 1.7, "presence_penalty": 0.6, "frequency_penalty": 0.3},
    }
    for name, penalties in settings.items():
        with part(name):
            for size in SIZES:
                logits, params = random_logits(rng, size, np.float32), asked(**penalties)
                prompt, new = random_text(rng, logits, 9), random_text(rng, logits, 12)
                right = engine.penalize(logits, params, prompt, new)
                check_penalties(student, logits, params, prompt, new, right)


def test_all_filters_together(student, part, rng):
    """Catches a filter that is right alone and wrong behind another one."""

    def uniform(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    temperature = float(rng.choice([0.7, 1.4]))
    penalties = {"repetition_penalty": uniform(1.2, 1.6), "presence_penalty": uniform(0.3, 0.8),
                 "frequency_penalty": uniform(0.1, 0.3)}  # fmt: skip
    cases: dict[str, tuple[int, dict[str, Any]]] = {
        "top-k, then top-p": (200, {"top_k": 100, "top_p": uniform(0.8, 0.9)}),
        "top-p, then min-p": (1000, {"top_p": 0.9, "min_p": uniform(0.3, 0.6)}),
        "penalties, then top-k": (30, penalties | {"top_k": 27}),
        "all": (1000, penalties | {"top_k": 600, "top_p": uniform(0.8, 0.9), "min_p": uniform(0.05, 0.3)}),
    }
    for name, (size, filters) in cases.items():
        with part(name):
            logits = rng.permutation(np.linspace(-3, 0.5, size, dtype=np.float32))  # every filter has its place here
            prompt, new = random_text(rng, logits, 6), random_text(rng, logits, 8)
            check_filtered(student, logits, asked(temperature=temperature, **filters), prompt, new, name)


def test_a_whole_text(student, part, rng):
    """Catches noise, or a position, that does not move on with the text."""
    table = random_logits(rng, 40 * 40, np.float32).reshape(40, 40)
    for name, temperature in (("drawn", 0.8), ("greedy", 0.0)):
        with part(name):
            params, prompt, seed = asked(temperature=temperature), [3, 1, 4, 1, 5], int(rng.integers(2**60))
            mine: list[int] = []
            right: list[int] = []
            for _ in range(20):
                right.append(engine.choose(table[(prompt + right)[-1]], params, prompt, right, seed).token)
                scores = student.perturbed(table[(prompt + mine)[-1]], params, prompt, mine, seed)
                mine.append(largest(scores, 40))
                same_value(mine, right, f"the tokens of a {name} text")


def largest(scores: Any, size: int) -> int:
    """The token of the largest score. Raises Failure where there is not one score for each token."""
    zeros = np.zeros(scores.shape) if isinstance(scores, np.ndarray) else scores
    same_array(zeros, np.zeros(size), "the shape of perturbed")
    return int(scores.argmax())


def test_random_noise(student, rng):
    """Catches a draw that knows only the streams and seeds of the public tests."""
    for size in SIZES:
        s, seed = engine.filtered(random_logits(rng, size), asked(min_p=0.02), [], []), int(rng.integers(2**62))
        position, stream = int(rng.integers(1, 5000)), int(rng.integers(1, 4))
        check_noise(student.add_noise(s, seed, position, stream), s, seed, position, stream)
        right = [engine.draw(s, seed, i, stream) for i in range(20)]
        same_value([student.draw(s, seed, i, stream) for i in range(20)], right, f"20 draws of {size} tokens")


def test_inputs_stay_as_they_are(student, part, rng):
    """Catches a function that writes into its caller's scores: the engine still needs them for log-probabilities."""
    params, prompt, new = asked(temperature=0.9, presence_penalty=0.5), [], rng.choice(50, 8, replace=False).tolist()
    logits = rng.permutation(np.linspace(-2, 2, 50))
    calls = {
        "keep_top_k": (7,), "keep_top_p": (0.7,), "keep_min_p": (0.1,), "softmax": (), "add_noise": (3, 4),
        "penalize": (params, prompt, new), "filtered": (params, prompt, new), "perturbed": (params, prompt, new, 5),
    }  # fmt: skip
    for name, args in calls.items():
        with part(name):
            result, after = student.after(name, logits, *args)
            right = relative(getattr(engine, name)(logits, *args))
            same_array(relative(result), right, name, rtol=ROUNDING, atol=1e-13)
            hint = f"{name} writes into the array of its caller: make a new one, or a copy"
            same_array(after[0], logits, f"the scores after {name}", usual=[(result, hint)])
            if params in args:
                same_value(list(after[2:4]), [prompt, new], f"the tokens after {name}")
