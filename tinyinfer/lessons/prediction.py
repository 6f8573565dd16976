"""A prediction beside the truth: how far off it is, and the misconception whose value it is.

Who has written a number down first looks at the answer with other eyes (Crouch et al. 2004). A guess is right within a
tenth: a lesson asks for an order of magnitude and its reason, not for arithmetic in the head. But who computed a usual
wrong value to the last digit is told so, however close that value is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from tinyinfer.lessons.exercise import as_number
from tinyinfer.lessons.messages import Message
from tinyinfer.units import show

CLOSE = 0.1  # relative distance within which a guess counts as right
SAME = 0.02  # relative distance within which a guess is a misconception's value
EXACT = 0.001  # within which it is that value even where the truth is near, too


def revealed(guess: object, truth: float | str, unit: str, misconceptions: Mapping[float | str, str]) -> Message:
    """What to say to a guess. misconceptions: a wrong value -> one sentence that names the idea behind it."""
    answer = quantity(truth, unit)
    misconceptions = {value: why for value, why in misconceptions.items() if not _exactly(value, truth)}
    if guess is ...:
        text = "Your guess is not answered yet: replace `...` above by your guess, run that cell and this one again."
        return Message("open", text, folded=("show the answer", answer))
    if isinstance(truth, str):
        guess = guess if isinstance(guess, str) else ""
        return _compared(guess, guess == truth, answer, misconceptions)
    if (value := as_number(guess)) is None:
        text = f"{show(guess)} is not a number: write a guess such as `guess = 7` ({unit})."
        return Message("wrong", text, folded=("show the answer", answer))
    right = math.isclose(value, truth, rel_tol=CLOSE)
    compared = f"{answer}; you guessed {quantity(value, unit)}{_off(value, truth, unit)}"
    return _compared(value, right, compared, misconceptions)


def _compared(guess: float | str, right: bool, answer: str, misconceptions: Mapping[float | str, str]) -> Message:
    named = next((why for value, why in misconceptions.items() if _same(guess, value)), "")
    exact = next((why for value, why in misconceptions.items() if _exactly(guess, value)), "")
    if right and not exact:
        return Message("right", f"Right. It is {answer}.")
    return Message("wrong", f"Not this time. It is {answer}. {exact or named}".rstrip())


def _exactly(guess: object, value: float | str) -> bool:
    if isinstance(value, str) or not isinstance(guess, int | float):
        return guess == value
    return math.isclose(guess, value, rel_tol=EXACT, abs_tol=1e-9)


def _same(guess: float | str, value: float | str) -> bool:
    if isinstance(guess, str) or isinstance(value, str):
        return guess == value
    return math.isclose(guess, value, rel_tol=SAME, abs_tol=1e-9)


def _off(guess: float, truth: float, unit: str) -> str:
    """How far off a guess is: in points for shares, else as a factor."""
    if math.isclose(guess, truth, rel_tol=1e-9):
        return ""
    side = "high" if guess > truth else "low"
    if unit == "%":
        return f", {abs(guess - truth):.3g} points too {side}"
    if guess <= 0 or truth <= 0:
        return f", too {side}"
    factor = max(guess / truth, truth / guess)
    return f", {factor - 1:.0%} too {side}" if factor < 1.5 else f", {factor:,.3g} times too {side}"


def quantity(value: float | str, unit: str) -> str:
    """A value with its unit, as a sentence shows it."""
    if isinstance(value, str):
        return value
    digits = f"{value:,.0f}" if abs(value) < 1e15 and value == round(value) else f"{value:,.3g}"
    return digits + ("%" if unit == "%" else f" {unit}".rstrip())
