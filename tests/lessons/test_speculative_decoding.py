"""Lesson 08: the judge of a verifier computes the exact law, and names each usual mistake."""

from __future__ import annotations

import numpy as np
import pytest

from tinyinfer.lessons import speculative_decoding as runs
from tinyinfer.lessons.models import Models
from tinyinfer.lessons.own_part import answers, own_engine
from tinyinfer.lessons.speculative_decoding import EXERCISES, RandomDrafter, drafted, layers_drafter, tokens_a_step
from tinyinfer.lessons.verifier_judge import (
    TOLERANCE,
    USUAL,
    chain_law,
    judge_verifier,
    law,
    leviathan,
    likelier,
    random_laws,
    step_law,
)
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.speculative.best_coupling import accept_or_replace

JUDGES = {exercise.name: exercise for exercise in EXERCISES}
DRAWN = SamplingParams(max_tokens=24, ignore_eos=True, temperature=0.9, seed=3)


@pytest.fixture(scope="module")
def tiny():
    models = Models()
    return models.open(models.tiny_path(), None)


def plain(p, q):
    """As a student writes it: it divides by 0 where q is 0, and where p and q are equal."""
    accept = np.minimum(1, p / q)
    lacking = np.maximum(p - q, 0)
    return accept, lacking / lacking.sum()


def test_right_rules_are_right_in_every_form():
    """Nothing is asked about drafts that q never makes, nor about a replacement that is never needed."""
    assert judge_verifier(leviathan) is None
    assert judge_verifier(plain) is None
    assert judge_verifier(lambda p, q: list(plain(p, q))) is None


@pytest.mark.parametrize("hint", USUAL)
def test_each_planted_mistake_is_named(hint):
    """Catches a judge that lets a wrong law pass, or takes one mistake for another."""
    wrong = judge_verifier(USUAL[hint])
    assert wrong is not None
    assert "comes out with probability" in wrong.sentence
    assert wrong.hint == hint


PLANTED = {
    "unnormalized": (lambda p, q: (plain(p, q)[0], np.maximum(p - q, 0)), "sums to", "divide it"),
    "negative": (lambda p, q: (plain(p, q)[0], p - q), "no probability", "cut p - q off"),
    "above one": (lambda p, q: (p / q, plain(p, q)[1]), "`accept` holds", "cut p/q off"),
    "accepts nothing": (lambda p, q: (np.zeros_like(p), p), "only 0% of the drafts", "need never be rejected"),
    "accepts half": (lambda p, q: (plain(p, q)[0] / 2, p / 2), "sums to", "divide it"),
    "one array": (lambda p, q: p, "returned array", "return two arrays"),
    "nothing": (lambda p, q: None, "returned None", "return two arrays"),
    "a number": (lambda p, q: (0.5, p), "no array", "shape"),
    "sums": (lambda p, q: (plain(p, q)[0].sum(), p), "no array", "shape"),
    "wrong shape": (lambda p, q: (plain(p, q)[0][:-1], p), "no array", "shape"),
    "a small number added": (lambda p, q: (np.minimum(1, p / (q + 1e-5)), plain(p, q)[1]), "off by", "nearly is not"),
    "fewer bits": (lambda p, q: tuple(np.float32(law) for law in plain(p, q)), "off by", "fewer bits"),
    "changes p": (lambda p, q: (np.minimum(1, np.divide(p, q, out=p)), p), "changes the laws", "not p /= q"),
    "nan": (lambda p, q: (p * np.nan, p), "`accept` holds", "cut p/q off"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_other_mistakes_get_their_own_sentence(name):
    rule, sentence, hint = PLANTED[name]
    wrong = judge_verifier(rule)
    assert wrong is not None
    assert sentence in wrong.sentence
    assert hint in wrong.hint


def test_a_slightly_wrong_law_is_wrong():
    """Catches a judge by samples: 20,000 draws would not see one in ten thousand."""

    def nearly(p, q):
        accept, replacement = leviathan(p, q)
        return accept, 0.9999 * replacement + 0.0001 / len(p)

    assert judge_verifier(nearly) is not None


@pytest.mark.parametrize("answer", [None, "a text", float("nan"), 3, [], (1, 2)])
def test_what_is_no_function_gets_a_sentence(answer):
    wrong = judge_verifier(answer)
    assert wrong is not None
    assert "is not a function" in wrong.sentence


def test_code_that_raises_gets_a_sentence():
    wrong = JUDGES["verifier"].judged(lambda p, q: p / "q")
    assert wrong is not None
    assert "stopped with" in wrong.sentence


def test_a_step_of_the_right_rule_has_the_law_of_the_target_alone():
    """Over all texts of three tokens; catches a step_law that would call any rule right."""
    target, drafter = random_laws(3, 3, seed=1), random_laws(3, 3, seed=2)
    right, found = chain_law(target, 3), step_law(leviathan, target, drafter, 2)
    broken = step_law(likelier, target, drafter, 2)
    assert sum(broken.values()) == pytest.approx(1)
    assert max(abs(found[text] - right[text]) for text in right) < TOLERANCE
    assert max(abs(broken[text] - right[text]) for text in right) > 1e-3


def test_the_librarys_rule_has_the_same_law():
    """The law that the lesson proves is the library's: its draws, counted, lie near it."""
    p, q = random_laws(2, 6, seed=5)
    drafts = np.random.default_rng(1).choice(6, size=1500, p=q)
    out = [accept_or_replace(p, q, int(token), 7, position) for position, token in enumerate(drafts)]
    assert np.abs(np.bincount(out, minlength=6) / 1500 - law(leviathan, p, q)).max() < 0.05


def test_the_engine_with_a_students_rule_writes_what_the_librarys_rule_writes(tiny):
    """Catches a wrapper with other random numbers, or that goes on behind a replaced draft."""
    own = drafted(tiny, layers_drafter(tiny, 1, 3), "one prompt", DRAWN, plain)
    theirs = drafted(tiny, layers_drafter(tiny, 1, 3), "one prompt", DRAWN)
    assert own.new_tokens == theirs.new_tokens
    assert own.speculation.accepted == theirs.speculation.accepted > 0


def test_random_drafts_change_no_token_and_save_no_step(tiny):
    """The answer of the exercise `worst`, counted."""
    params = SamplingParams(max_tokens=runs.NEW, ignore_eos=True)
    [right] = answers(tiny, own_engine(tiny), tiny.sequences(["one prompt"], params))
    before = tiny.ledger.copy()
    seq = drafted(tiny, RandomDrafter(tiny.config.vocab_size), "one prompt", params)
    counted = tiny.ledger - before
    assert seq.new_tokens == right
    assert (counted.steps, counted.drafts_accepted) == (runs.WORST[1], 0)


def test_samples_follow_the_exact_law():
    p, q = random_laws(2, 6, seed=6)
    for rule in (leviathan, likelier):
        counts = runs.drawn_counts(rule, p, q, 40_000, seed=1)
        assert np.abs(counts / 40_000 - law(rule, p, q)).max() < 0.01


def test_what_drafts_are_worth():
    """With rows for nothing it is the tokens of a step; with rows that cost as much as the first one, never above 1."""
    free, dear = {1: 1.0, 99: 1.0}, {1: 1.0, 99: 99.0}
    assert runs.worth(free, 0.8, 4) == pytest.approx(tokens_a_step(0.8, 4)) == pytest.approx(3.3616)
    assert all(runs.worth(dear, 0.8, k) < 1 for k in range(1, 9))
    assert runs.worth(dear, 0.8, 4, sequences=16) == pytest.approx(3.3616 / 5)


NUMBERS = {
    "agree": {1: "Not all", 0.29: "independent draws", 0.3: "rejected share", 0.2: "only where p", 0.9: "too high",
              70: "percent"},
    "length": {8: "most tokens", 0: "Some drafts pay", 4: "too high"},
    "worst": {(24, 24): "24 tokens", (0, 5): "5 steps", (0, 120): "120", (0, 48): "48", (0, 0): "0 steps",
              (0, 25): "25"},
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_judged_each_with_its_own_hint(name):
    judge = JUDGES[name].judge
    assert judge(JUDGES[name].solution) is None
    assert judge(np.array(JUDGES[name].solution)[()]) is None
    wrongs = {answer: judge(answer) for answer in NUMBERS[name]}
    assert all(wrong and NUMBERS[name][answer] in wrong.sentence for answer, wrong in wrongs.items())
    assert len({wrong.hint for wrong in wrongs.values() if wrong}) == len(wrongs)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("answer", [None, "many", float("nan"), True, [], (1,), (None, 1), {}])
def test_answers_of_other_types_get_a_sentence(name, answer):
    wrong = JUDGES[name].judged(answer)
    assert wrong is not None
    assert wrong.sentence
    assert wrong.hint
