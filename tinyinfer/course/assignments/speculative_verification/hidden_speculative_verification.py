"""Hidden tests of the assignment "speculative_verification": the public claims, for other sizes and random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyinfer.course.assignments.speculative_verification.test_speculative_verification import (
    check_drawn_step,
    check_law,
    check_rate,
    check_step,
    drawn_drafts,
    plain,
    random_table,
    sequence,
    tokens_of,
)
from tinyinfer.course.compare import same_array, same_value
from tinyinfer.sampling import distribution
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.sequence import Draft
from tinyinfer.speculative import best_coupling
from tinyinfer.speculative.verify import verify

ASKED = {
    "greedy": SamplingParams(temperature=0.0),
    "drawn": SamplingParams(temperature=1.0),
    "with filters": SamplingParams(temperature=0.8, top_k=15, top_p=0.9, min_p=0.01),
    "with penalties": SamplingParams(temperature=0.6, repetition_penalty=1.2, frequency_penalty=0.7),
}


def test_every_pattern_of_accepted_drafts(student, part, rng):
    """Catches a step that is right for the public tests' drafts alone."""
    for name, params in ASKED.items():
        with part(name):
            for right in range(6):
                size, seed = int(rng.integers(20, 60)), int(rng.integers(2**60))
                prompt, new = (rng.integers(0, size, n).tolist() for n in (4, int(rng.integers(0, 5))))
                what = f"{right} of 5 drafts accepted, {name}"
                check_step(student, random_table(rng, size), params, right, what, prompt, new, seed, 5)


def test_laws_of_random_pairs(student, part, rng):
    """Catches a rule that is right for the public tests' laws alone."""
    for size in (2, 6, 300):
        with part(f"{size} tokens"):
            for zeros in (0, size // 3):
                p, q = (random_law(rng, size, zeros) for _ in range(2))
                check_law(student, p, q, 60, f"accept_or_replace of {size} tokens")


def random_law(rng: np.random.Generator, size: int, zeros: int) -> np.ndarray:
    """A random law, in which some tokens have the probability 0."""
    weights = rng.gamma(0.7, size=size)
    weights[rng.permutation(size)[:zeros]] = 0
    return weights / weights.sum()


def test_random_steps_with_drawn_drafts(student, part, rng):
    """Catches p without filters, without earlier drafts, or at another position."""
    asked = {
        "with filters": SamplingParams(temperature=0.8, top_k=10, top_p=0.95),
        "with penalties": SamplingParams(temperature=0.7, frequency_penalty=1.5, presence_penalty=0.5),
    }
    for name, params in asked.items():
        with part(name):
            table = random_table(rng, 15)
            drafter = table + 0.3 * random_table(rng, 15)  # near the model, so that several drafts are accepted
            prompt, new = rng.integers(0, 15, 3).tolist(), rng.integers(0, 15, 2).tolist()
            first = int(rng.integers(2**60))
            for seed in range(first, first + 20):
                check_drawn_step(student, table, drafter, params, prompt, new, seed, name)


def test_a_whole_text(student, rng):
    """Catches a step that is right alone and loses its place in a text of several steps."""
    table, params, seed = random_table(rng, 25), SamplingParams(temperature=0.7, top_p=0.9), int(rng.integers(2**60))
    prompt: list[int] = [3, 1, 4]
    new: list[int] = []
    right = plain(table, params, prompt, [], seed, 40)
    for step in range(12):
        drafts, wrong = right[len(new) : len(new) + 3], step % 4  # a wrong draft at each place in turn, then none
        drafts = [(token + 1) % 25 if i == wrong else token for i, token in enumerate(drafts)]
        seq = sequence(params, prompt, new, [Draft(token) for token in drafts], seed)
        new += tokens_of(student.verify(table[[[*prompt, *new][-1], *drafts]], seq))
        accepted = right[: len(seq.new_tokens) + wrong + 1]
        same_value(new, accepted, f"the text with drafts, after step {step}")


def test_random_rates(student, rng):
    """Catches a rate that is right for the public tests' steps alone."""
    check_rate(student, [(n, int(rng.integers(0, n + 1))) for n in rng.integers(0, 6, 12).tolist()])


def test_inputs_stay_as_they_are(student, part):
    """Catches a step that writes into its sequence or its caller's laws: the engine appends the tokens itself."""
    table, params = random_table(np.random.default_rng(3), 12), SamplingParams(temperature=0.9)
    seq = sequence(params, [1, 2], [3, 4], drawn_drafts(table, params, 3, [1, 2], [3, 4]))
    with part("verify"):
        logits = table[[4, *(draft.token for draft in seq.drafts)]]
        result, after = student.after("verify", logits, seq)
        same_value(tokens_of(result), tokens_of(verify(logits, seq)), "verify")
        same_array(after[0], logits, "the logits after verify")
        hint = "the sequence's new tokens are the engine's: work on a list of your own"
        found = [list(after[1].new_tokens), list(after[1].prompt), len(after[1].drafts)]
        longer = [[3, 4, *tokens_of(result)][:n] for n in range(3, 3 + len(result))]
        wrong = [([new, [1, 2], 3], hint) for new in longer]
        same_value(found, [[3, 4], [1, 2], 3], "new tokens, prompt and number of drafts after verify", usual=wrong)
    with part("accept_or_replace"):
        p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
        for seed in range(8):  # some drafts are accepted, some are replaced
            result, after = student.after("accept_or_replace", p, q, 2, seed, 0)
            same_value(result, best_coupling.accept_or_replace(p, q, 2, seed, 0), "accept_or_replace")
            check_law_stays(after[0], p, "p")
            check_law_stays(after[1], q, "q")
    with part("judge"):
        draft, new = seq.drafts[0], [3, 4]
        result, after = student.after("judge", table[4], draft, seq, new)
        p = distribution(table[4], params, [1, 2], new)
        right = best_coupling.accept_or_replace(p, draft.probs, draft.token, seq.seed, 4)
        same_value(tokens_of([result]), [right], "judge")
        same_value(list(after[3]), [3, 4], "new after judge")


def check_law_stays(after: Any, before: np.ndarray, name: str) -> None:
    """Raises Failure where a law has changed in the call."""
    same_array(after, before, f"{name} after accept_or_replace")
