"""The tests of the assignment sampling are fair: a right solution passes that computes in another way than ours."""

from __future__ import annotations

import pytest
from planted_bugs import outcomes

from tinyinfer.course.assignment import assignment

A = assignment("sampling")
OTHER = """
import math
import numpy as np
from tinyinfer.noise import gumbel

def softmax(s):
    return np.exp(log_softmax(s))

def log_softmax(s):
    return s - np.logaddexp.reduce(s)

def penalize(s, params, prompt, new):
    out = [float(x) for x in s]
    for token in set(prompt) | set(new):
        out[token] *= params.repetition_penalty ** (-1 if out[token] > 0 else 1)
    for token in new:
        out[token] -= params.frequency_penalty
    for token in set(new):
        out[token] -= params.presence_penalty
    return np.array(out)

def keep_top_k(s, k):
    threshold = sorted(s, reverse=True)[min(k, len(s)) - 1]
    return np.array([x if x >= threshold else -math.inf for x in s])

def keep_top_p(s, p):
    probs, mass, out = softmax(s), 0.0, np.full(len(s), -np.inf)
    for token in sorted(range(len(s)), key=lambda token: -probs[token]):
        out[token] = s[token]
        mass += probs[token]
        if mass >= p:
            return out
    return out

def keep_min_p(s, p):
    probs = softmax(s)
    return np.where(probs >= p * probs.max(), s, -np.inf)

def filtered(logits, params, prompt, new):
    s = penalize(logits, params, prompt, new)
    with np.errstate(over="ignore"):
        s = log_softmax((s - s.max()) / params.temperature)
    s = log_softmax(keep_top_k(s, params.top_k or len(s)))
    s = log_softmax(keep_top_p(s, params.top_p) if params.top_p != 1 else s)
    return log_softmax(keep_min_p(s, params.min_p) if params.min_p else s)

def add_noise(s, seed, position, stream=0):
    return gumbel(seed, position, len(s), stream) + s

def draw(s, seed, position, stream=0):
    noisy = add_noise(s, seed, position, stream).tolist()
    return noisy.index(max(noisy))

def perturbed(logits, params, prompt, new, seed):
    if not params.temperature:
        return penalize(logits, params, prompt, new)
    return add_noise(filtered(logits, params, prompt, new), seed, len([*prompt, *new]))
"""
OWN_NUMBERS = """
def draw(s, seed, position, stream=0):
    return int(np.random.default_rng([seed, position, stream]).choice(len(s), p=softmax(s)))
"""


@pytest.mark.parametrize("seed", [0, 1])
def test_a_right_solution_gets_full_marks_with_any_seed(seed, tmp_path):
    """Catches a test that asks for our arithmetic: where a constant is taken off, what is sorted, which sum is used."""
    found = outcomes(A, OTHER, tmp_path, seed)
    assert {test: o.faults for test, o in found.items() if o.score(1) < 1} == {}


def test_other_random_numbers_lose_only_what_a_seed_promises(tmp_path):
    """Catches a test of the law that asks for our noise: numpy's own generator draws by the same law."""
    found = outcomes(A, OTHER + OWN_NUMBERS, tmp_path)
    assert {test for test, o in found.items() if o.score(1) < 1} == {"test_noise_of_a_seed", "test_random_noise"}
