"""What a prediction is answered: folded without one, right within a tenth, else how far off, and why."""

from __future__ import annotations

import numpy as np
import pytest

from tinyinfer.lessons.prediction import quantity, revealed

WHY = {95: "Those are the rows with a cache.", 96: "Ninety-six counts the last token, too."}


def test_without_a_guess_the_answer_is_folded():
    """Catches an answer that is read before it was asked for."""
    message = revealed(..., 2544, "rows", WHY)
    assert message.kind == "open"
    assert "not answered yet" in message.text
    assert "2,544" not in message.text
    assert message.folded == ("show the answer", "2,544 rows")


@pytest.mark.parametrize(
    ("guess", "kind", "text"),
    [
        (2544, "right", "Right. It is 2,544 rows; you guessed 2,544 rows."),
        (2400, "right", "Right. It is 2,544 rows; you guessed 2,400 rows, 6% too low."),
        (1700, "wrong", "Not this time. It is 2,544 rows; you guessed 1,700 rows, 50% too low."),
        (5088, "wrong", "Not this time. It is 2,544 rows; you guessed 5,088 rows, 2 times too high."),
        (95, "wrong", "Not this time. It is 2,544 rows; you guessed 95 rows, 26.8 times too low. "
                      "Those are the rows with a cache."),
        (0, "wrong", "Not this time. It is 2,544 rows; you guessed 0 rows, too low."),
        (-3, "wrong", "Not this time. It is 2,544 rows; you guessed -3 rows, too low."),
    ],
)  # fmt: skip
def test_a_guess_is_told_how_far_off_it_is(guess, kind, text):
    """Catches a factor upside down, and a misconception that is not named."""
    message = revealed(guess, 2544, "rows", WHY)
    assert (message.kind, repr(message)) == (kind, text)


def test_the_nearest_misconception_is_named_once():
    """Two wrong values that lie close together: the first that fits within two hundredths."""
    assert "too." not in revealed(95, 2544, "rows", WHY).text.split("low.")[1]


def test_who_computed_a_usual_wrong_value_is_told_so_however_close_it_is():
    """Catches one step too many called right, since it is only a few hundredths off; a rough guess there is right."""
    why = {2640: "That is one step too many.", 2544: "This would be the truth itself."}
    assert revealed(2640, 2544, "rows", why).kind == "wrong"
    assert "one step too many" in revealed(2640, 2544, "rows", why).text
    assert revealed(2600, 2544, "rows", why).kind == revealed(2544, 2544, "rows", why).kind == "right"


def test_the_value_itself_comes_before_one_that_is_only_near():
    """Catches the first of two close misconceptions, named for the second one."""
    assert "Ninety-six" in revealed(96, 2544, "rows", WHY).text


def test_shares_differ_by_points():
    """Catches 20% against 10% said to be 100% too high."""
    assert "you guessed 20%, 10 points too high" in revealed(20, 10, "%", {}).text


@pytest.mark.parametrize("guess", ["7", None, True, float("nan"), [7]])
def test_what_is_no_number_is_said_to_be_none(guess):
    """Catches a TypeError shown to a student."""
    message = revealed(guess, 7, "rows", {})
    assert "is not a number" in message.text
    assert message.folded == ("show the answer", "7 rows")


def test_a_choice_is_compared_as_text():
    """Misconceptions of choices are named as those of numbers are."""
    why = {"values": "Values are nearly alike from channel to channel."}
    assert revealed("keys", "keys", "", why).kind == "right"
    assert revealed("values", "keys", "", why).text == (
        "Not this time. It is keys. Values are nearly alike from channel to channel."
    )
    assert revealed(3, "keys", "", why).kind == "wrong"


def test_quantities_read_as_in_a_sentence():
    """Digits in groups, few of a fraction, the unit behind."""
    assert [quantity(2544, "rows"), quantity(3.3616, "tokens"), quantity(44.31, "%"), quantity("keys", "")] == [
        "2,544 rows", "3.36 tokens", "44.3%", "keys",
    ]  # fmt: skip


def test_a_guess_may_be_of_any_kind():
    """Catches an OverflowError for a huge guess, and an array that is neither equal nor unequal to a choice."""
    assert revealed(10**5000, 95, "rows", WHY).text.endswith("times too high.")
    assert revealed(np.zeros(3), "keys", "", {"values": "Not those."}).text == "Not this time. It is keys."
    assert revealed(np.float16(95), 2544, "rows", WHY).text.endswith("Those are the rows with a cache.")
