"""Ten questions: reasons are added, two answers decide alone, and what would turn the answer is told."""

from __future__ import annotations

import doctest

import pytest

from tinyinfer.measure import api_or_own
from tinyinfer.measure.api_or_own import API, EITHER, OWN, QUESTIONS, recommend, recommendation_text

FOR_OWN = {one.name: max(one.answers, key=lambda answer: answer.weight).word for one in QUESTIONS}
FOR_OWN |= {"data": "contract"}
FOR_API = {one.name: min(one.answers, key=lambda answer: answer.weight).word for one in QUESTIONS}
FOR_API |= {"quality": "untested"}
EVEN = {"data": "yes", "control": "no", "set-up": "months", "operations": "team", "scaling": "twice", "load": "daily",
        "latency": "relaxed", "quality": "yes", "volume": "near", "skills": "no"}  # fmt: skip


def test_there_are_ten_with_distinct_answers():
    """The first is about data that leaves, and every question has at least two answers that weigh differently."""
    assert len({one.name for one in QUESTIONS}) == len(QUESTIONS) == 10
    for one in QUESTIONS:
        assert len({answer.word for answer in one.answers}) == len(one.answers) >= 2
        assert len({answer.weight for answer in one.answers}) >= 2


def test_all_that_speaks_for_a_side_recommends_it():
    """With the heaviest reason first, and none against it. Catches a sign that is turned."""
    own, api = recommend(FOR_OWN), recommend(FOR_API)
    assert (own.side, own.against) == (OWN, [])
    assert (api.side, api.against) == (API, [])
    assert doctest.testmod(api_or_own) == (0, 2)


def test_data_that_must_not_leave_decides_alone():
    """Whatever all others say; and so does a quality that only an API has."""
    for answers in (FOR_OWN, FOR_API, EVEN):
        assert recommend(answers | {"data": "no"}).side == OWN
        assert recommend(answers | {"quality": "no"}).side == API
    said = recommend(FOR_API | {"data": "no"}).sentence
    assert "decides alone" in said
    assert "whether names can be masked" in said  # the way out, where all else speaks for the API


def test_both_ruled_out_is_said():
    """Catches the sum that hides a contradiction."""
    found = recommend(FOR_OWN | {"data": "no", "quality": "no"})
    assert found.side == "neither"
    assert "must not leave" in found.sentence
    assert "only an API" in found.sentence


def test_close_sides_are_close():
    """A difference of one is no reason."""
    assert recommend(EVEN).side == EITHER
    assert recommend(EVEN | {"volume": "above"}).side == OWN
    assert "One of these answers alone would change it" in recommendation_text(recommend(EVEN))


def test_what_would_turn_it_does():
    """Every answer that is named recommends another side, and no other answer does."""
    found = recommend(EVEN)
    for one in QUESTIONS:
        for answer in one.answers:
            turned = recommend(EVEN | {one.name: answer.word}).side != found.side
            assert turned == any(told.startswith(f"{one.name}={answer.word}: ") for told in found.turns)
    assert "volume=above: own machines" in found.turns  # a change to what, too: "close" is not the other side


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"data": "maybe"}, "data is 'maybe'; answer with one of yes, contract, no"),
     ({"date": "no"}, "no question 'date'"), ({"skills": None}, "skills is None; answer with one of no, some, yes")],
)  # fmt: skip
def test_a_wrong_answer_is_one_sentence(changed, words):
    """It names the question and its answers."""
    with pytest.raises(ValueError, match="answers") as told:
        recommend(EVEN | changed)
    assert words in str(told.value)
