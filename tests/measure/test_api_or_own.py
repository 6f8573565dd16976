"""Ten questions: reasons are added, two answers decide alone, and what would turn the answer is told."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyinfer.measure import api_or_own
from tinyinfer.measure.api_or_own import (
    API,
    EITHER,
    MOST_OF_VOLUME,
    OWN,
    QUESTIONS,
    recommend,
    recommendation_text,
    times_break_even,
    volume_of,
)

FOR_OWN = {one.name: max(one.answers, key=lambda answer: answer.weight).word for one in QUESTIONS}
FOR_OWN |= {"data": "contract"}
FOR_API = {one.name: min(one.answers, key=lambda answer: answer.weight).word for one in QUESTIONS}
FOR_API |= {"quality": "untested"}
EVEN = {"data": "yes", "control": "no", "set-up": "months", "operations": "team", "scaling": "twice", "load": "daily",
        "latency": "relaxed", "quality": "yes", "volume": "1", "skills": "no"}  # fmt: skip


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
    assert doctest.testmod(api_or_own) == (0, 5)


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
    assert recommend(EVEN | {"volume": "10"}).side == OWN
    assert "One of these answers alone would change it" in recommendation_text(recommend(EVEN))


TIMES = st.floats(1e-9, 1e9)


@given(TIMES, TIMES)
def test_a_volume_weighs_by_how_far_it_is_from_the_break_even(one, other):
    """The further the more, as much for one side as for the other, and bounded. Catches a volume just above the
    break-even that weighs as much as a hundred times of it, and one question that outweighs all others.
    """
    low, high = sorted((one, other))
    assert volume_of(low).weight <= volume_of(high).weight
    assert volume_of(one).weight == pytest.approx(-volume_of(1 / one).weight, abs=0.101)  # each rounds to one digit
    assert abs(volume_of(one).weight) <= MOST_OF_VOLUME
    assert volume_of(0).weight == -MOST_OF_VOLUME
    assert volume_of(4).weight == 2.0 == -volume_of(0.25).weight


@given(st.floats(1.0, 1e6), st.floats(1.0, 1e6), st.floats(1.0, 100.0))
def test_a_volume_is_measured_from_the_near_end_of_the_region(one, other, factor):
    """Inside it says nothing; as many times above the end as below the beginning are as far."""
    least, most = sorted((one, other))
    assert times_break_even(least, least, most) == times_break_even((least + most) / 2, least, most) == 1.0
    below, above = (times_break_even(n, least, most) for n in (least / factor, most * factor))
    assert (below, above) == (pytest.approx(1 / factor), pytest.approx(factor))
    assert times_break_even(most, least, None) == 1.0  # the API may stay cheaper for ever, or not
    assert times_break_even(most, None, None) == 0.0
    assert times_break_even(most, float("inf"), float("inf")) == 0.0
    assert times_break_even(most, float("inf"), float("inf"), cheaper=True) == 1.0  # "beyond", and yet cheaper
    assert times_break_even(least / 2, least, most, cheaper=True) == 1.0  # on a step before the first crossing moved
    assert volume_of(times_break_even(1.0, 0.0, 0.0)).weight == 3.0  # machines that cost nothing


def test_a_volume_is_a_number_and_no_other():
    """In a file a number, too. Catches true, which Python takes for 1."""
    assert recommend(EVEN | {"volume": 0.25}).weight == recommend(EVEN).weight - 2
    for wrong in (True, -1, "nan", "inf", "near", [1], 10**400):
        with pytest.raises(ValueError, match=r"volume is .*; answer with a number of at least 0, such as 0\.1, 1"):
            recommend(EVEN | {"volume": wrong})


def test_the_weights_stand_beside_the_reasons():
    """So that a reader can add them up. Catches a recommendation whose reasons are not weighed against each other."""
    found = recommend(FOR_OWN | {"set-up": "days"})
    lines = recommendation_text(found).splitlines()
    assert f"    -2  {found.against[0].reason}" in lines
    told = [float(line.split()[0]) for line in lines if line.startswith("    ") and line.split()[0][:1] in "+-"]
    assert sum(told) == pytest.approx(found.weight)
    assert f"The weights add up to {found.weight:g}." in recommendation_text(found)
    alone = recommendation_text(recommend(FOR_API | {"data": "no"}))
    assert "control (decides alone)" in alone
    assert "add up" not in alone  # they do not decide


def test_what_would_turn_it_does():
    """Every answer that is named recommends another side, and no other answer does."""
    found = recommend(EVEN)
    for one in QUESTIONS:
        for answer in one.answers:
            turned = recommend(EVEN | {one.name: answer.word}).side != found.side
            assert turned == any(told.startswith(f"{one.name}={answer.word}: ") for told in found.turns)
    assert "volume=10: own machines" in found.turns  # a change to what, too: "close" is not the other side


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
