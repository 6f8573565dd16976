"""The tests of the assignment speculative_verification are fair: right solutions that differ from ours pass."""

from __future__ import annotations

import pytest
from planted_bugs import outcomes

from tinyinfer.course.assignment import assignment

A = assignment("speculative_verification")
OTHER = """
import numpy as np
from tinyinfer.noise import gumbel, uniform
from tinyinfer.sampling import describe, distribution, perturbed
from tinyinfer.sequence import Draft

def verify(logits, seq):
    choices = []
    for i in range(len(logits)):
        new = [*seq.new_tokens, *(choice.token for choice in choices)]
        draft = seq.drafts[i] if i < len(seq.drafts) else Draft(-1)
        choices.append(judge(logits[i], draft, seq, new))
        if choices[-1].token != draft.token:
            break
    return choices

def judge(logits, draft, seq, new):
    if draft.probs is not None:
        return judge_drawn(logits, draft, seq, new)
    return describe(int(np.argmax(perturbed(logits, seq.params, seq.prompt, new, seq.seed))), logits, seq.params)

def by_noise(law, seed, position, stream):
    law = np.array(law)
    with np.errstate(divide="ignore"):
        return int(np.argmax(np.log(law / law.sum()) + gumbel(seed, position, len(law), stream)))

def drawn(logits, params, prompt, new, seed):
    q = distribution(logits, params, prompt, new)
    return Draft(by_noise(q, seed, len(prompt) + len(new), 2), q)

def judge_drawn(logits, draft, seq, new):
    p = distribution(logits, seq.params, seq.prompt, new)
    token = accept_or_replace(p, draft.probs, draft.token, seq.seed, len(seq.prompt) + len(new))
    return describe(token, logits, seq.params)

def accept_or_replace(p, q, token, seed, position):
    if q[token] > 0 and uniform(seed, position, 1) < min(1.0, p[token] / q[token]):
        return token
    lacking = p - np.minimum(p, q)
    return by_noise(lacking if lacking.sum() > 0 else p, seed, position, 0)

class DraftLength:
    def __init__(self, rate=0.8):
        self.rate = rate

    def tokens(self, k):
        return (1 - self.rate ** (k + 1)) / (1 - self.rate)

    def learn(self, proposed, accepted):
        for _ in range(accepted):
            self.rate = 0.9 * self.rate + 0.1
        if accepted < proposed:
            self.rate *= 0.9
        if proposed == 0:
            self.rate = 0.98 * self.rate + 0.016
"""
OWN_NUMBERS = """
def accept_or_replace(p, q, token, seed, position):
    rng = np.random.default_rng([seed, position])
    if rng.random() * q[token] < p[token]:
        return token
    lacking = np.maximum(p - q, 0)
    return int(rng.choice(len(p), p=lacking / lacking.sum()))
"""


@pytest.mark.parametrize("seed", [0, 1])
def test_a_right_solution_gets_full_marks_with_any_seed(seed, tmp_path):
    """Catches a test that asks for our arithmetic: a division by q, laws that are normalized, a closed formula."""
    found = outcomes(A, OTHER, tmp_path, seed)
    assert {test: o.faults for test, o in found.items() if o.score(1) < 1} == {}


def test_other_random_numbers_lose_only_what_a_seed_promises(tmp_path):
    """Catches a test of the law that asks for our numbers: numpy's own generator accepts and replaces by the law."""
    found = outcomes(A, OTHER + OWN_NUMBERS, tmp_path)
    assert {test for test, o in found.items() if o.score(1) < 1} == {
        "test_random_numbers_of_the_rule", "test_steps_with_drawn_drafts", "test_random_steps_with_drawn_drafts",
        "test_inputs_stay_as_they_are",
    }  # fmt: skip
