"""An API, or a model on machines of one's own? Ten questions whose answers are reasons, beside the cost.

Cost decides only between two that are both possible. So two answers end it: data that must not leave rule the API out,
and a quality that only an API's model has rules one's own machines out. Each of the others speaks for a side with a
weight, and the sum recommends; where the sides are close, both, or the API first.

The volume is a number: how many times the nearest end of the break-even's range. Inside (1) it speaks for no side,
outside for one of them, the more the further: each doubling and each halving weighs 1, at most 3.

Wins: says why, and which answer would turn it. Loses: ten answers are no contract, and the weights are a judgement that
stands in this file to be changed.
Sources: Keeney & Raiffa 1976, "Decisions with Multiple Objectives" (weights that are added).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tinyinfer.errors import SwitchError

API, OWN, EITHER = "API", "own machines", "close"
CLOSE = 2  # a smaller difference of weights is no difference
MOST_OF_VOLUME = 3.0  # the weight of a volume of 8 break-evens, or of an eighth, and of any further one


@dataclass(frozen=True)
class Answer:
    """What may be answered. weight: above 0 for one's own machines, below for the API. ends: rules the other side out.

    reason: what follows, as it stands in the recommendation.
    """

    word: str
    weight: float
    reason: str
    ends: bool = False


@dataclass(frozen=True)
class Question:
    """A question by its name, and its answers. graded: any number of at least 0 is one; `answers` are then examples."""

    name: str
    text: str
    answers: tuple[Answer, ...]
    graded: Callable[[float], Answer] | None = None

    def said(self) -> str:
        """What may be answered, for a message."""
        words = ", ".join(answer.word for answer in self.answers)
        return f"a number of at least 0, such as {words}" if self.graded else f"one of {words}"

    def answer(self, value: object) -> Answer | None:
        """The answer that a word, or a number where it is graded, means; None for what is none."""
        found = next((answer for answer in self.answers if answer.word == value), None)
        if found or not self.graded or isinstance(value, bool) or not isinstance(value, str | int | float):
            return found
        try:
            times = float(value)
        except (ValueError, OverflowError):
            return None
        return self.graded(times) if 0 <= times < math.inf else None


def volume_of(times: float) -> Answer:
    """The answer for a volume of so many times the nearest end of the break-even's range.

    >>> [volume_of(times).weight for times in (0, 0.5, 1, 2, 100)]
    [-3.0, -1.0, 0.0, 1.0, 3.0]
    """
    doublings = math.log2(times) if times else -math.inf
    weight = round(min(MOST_OF_VOLUME, max(-MOST_OF_VOLUME, doublings)), 1) + 0.0  # + 0.0: no minus zero
    place = f"{times:.3g} times the nearest end of" if times != 1 else "within"
    return Answer(f"{times:.3g}", weight, f"the volume is {place} the break-even's range")


def times_break_even(requests: float, least: float | None, most: float | None, cheaper: bool = False) -> float:
    """How many times a break-even between `least` and `most` requests a day is; 1 inside, 0 where there is none.

    least, most: None where the machines never stay cheaper, at this end or at both. cheaper: whether the machines are
    cheaper at these requests, which then lie inside at least, as those do of a break-even that is too far to be known.

    >>> times_break_even(500, 1000, 4000), times_break_even(2000, 1000, 4000), times_break_even(8000, 1000, 4000)
    (0.5, 1.0, 2.0)
    >>> times_break_even(8000, 1000, None), times_break_even(8000, None, None)
    (1.0, 0.0)
    """
    if least is None or requests < least:
        below = requests / least if least else 0.0
        return 1.0 if cheaper else below
    if most is None or requests <= most:
        return 1.0
    return requests / most if most else 2**MOST_OF_VOLUME  # from the first request on


QUESTIONS = (
    Question("data", "May the prompts leave your firm's control? A rented GPU is another firm's, too; for names of "
             "people, ask who is responsible for data.", (
        Answer("yes", 0, "the prompts may leave"),
        Answer("contract", 1, "the prompts may leave only under a contract, which takes time and limits the choice"),
        Answer("no", 3, "the prompts must not leave your firm's control", ends=True))),
    Question("control", "Must the same model still answer next year, or must the model be changed?", (
        Answer("no", -1, "a model that its vendor changes is no harm"),
        Answer("pinned", 1, "the same model must answer next year, and a vendor ends its models"),
        Answer("tuned", 2, "the model must be changed (weights, sampling, what is measured inside)"))),
    Question("set-up", "When must it work?", (
        Answer("days", -2, "it must work within days, and an API needs a key alone"),
        Answer("weeks", -1, "it must work within weeks"),
        Answer("months", 0, "there are months to set it up"))),
    Question("operations", "Who is called when it fails at night?", (
        Answer("none", -2, "there is no one who is called at night"),
        Answer("office", -1, "people look after it in office hours, or in a part of them"),
        Answer("team", 1, "a team is on call already"))),
    Question("scaling", "How large may it be in a year, beside today?", (
        Answer("same", 1, "it stays as large as it is, so machines can be planned"),
        Answer("twice", 0, "it may double"),
        Answer("unknown", -1, "how it grows is unknown, and machines come late or idle"))),
    Question("load", "How uneven is the load? `tinyinfer cost` prints the busiest hour over the mean.", (
        Answer("even", 1, "the load is even (up to 1.5 times the mean), so machines are busy"),
        Answer("daily", 0, "the load follows the day (up to 4 times the mean)"),
        Answer("bursts", -2, "the load comes in bursts (more than that), for which machines wait idle"))),
    Question("latency", "How soon must the first token come?", (
        Answer("relaxed", 0, "a second or two to the first token is soon enough"),
        Answer("fast", 1, "the first token must come fast, and your machines are near and have no stranger's queue"),
        Answer("offline", -1, "the answers may wait, which an API sells at a batch's price"))),
    Question("quality", "Does a model that you may run answer well enough, on a test of your own?", (
        Answer("yes", 1, "an open model passed your own test"),
        Answer("untested", -1, "no open model was tested; test one before anything is bought"),
        Answer("no", -3, "only an API's model answers well enough", ends=True))),
    Question("volume", "How many times the nearest end of the break-even's range is your volume? `tinyinfer cost ... "
             "--api FILE` prints the number; 1 inside the range, or if you do not know.",
             tuple(map(volume_of, (0.1, 1, 10))), volume_of),
    Question("skills", "Has anyone of you served a model before?", (
        Answer("no", -1, "no one has served a model before"),
        Answer("some", 0, "some have tried it"),
        Answer("yes", 1, "people who have served models are there"))),
)  # fmt: skip


@dataclass(frozen=True)
class Reason:
    """A reason and its weight, above 0 for one's own machines. decides: it rules the other side out."""

    weight: float
    reason: str
    decides: bool = False


@dataclass(frozen=True)
class Recommendation:
    """The side, the sum of weights (above 0: own machines), the reasons for and against it, and what would turn it."""

    side: str
    weight: float
    sentence: str
    reasons: list[Reason]
    against: list[Reason]
    turns: list[str]


def answers_of(words: Mapping[str, Any]) -> dict[str, Answer]:
    """The answer to each question, by the question's name. Raises SwitchError for a missing, unknown or wrong one."""
    names = [one.name for one in QUESTIONS]
    for name in words:
        if name not in names:
            reason, cure = "{field}: there is no question {value!r}", "the questions are {known}"
            raise SwitchError("answers", name, reason, cure, known=", ".join(names))
    found = {}
    for one in QUESTIONS:
        answer = one.answer(words.get(one.name))
        if answer is None:
            reason = "{field}: {name} is {value!r}" if one.name in words else "{field}: {name} has no answer"
            cure = "answer with {said}"
            raise SwitchError("answers", words.get(one.name), reason, cure, name=one.name, said=one.said())
        found[one.name] = answer
    return found


def recommend(words: Mapping[str, Any]) -> Recommendation:
    """What ten answers recommend, with reasons. Raises SwitchError for answers that are not there.

    >>> first = {one.name: one.answers[0].word for one in QUESTIONS}
    >>> recommend(first).side, recommend(first | {"data": "no"}).side
    ('API', 'own machines')
    """
    given = answers_of(words)
    ends = [answer for answer in given.values() if answer.ends]
    side = side_of(given)
    speaks = {OWN: 1, API: -1}.get(side, 0)
    ordered = sorted((one for one in given.values() if one.weight), key=lambda one: -abs(one.weight))
    reasons = [reason_of(one) for one in ordered if not speaks or one.weight * speaks > 0]
    against = [reason_of(one) for one in ordered if speaks and one.weight * speaks < 0]
    return Recommendation(side, sum_of(given), words_of(side, ends), reasons, against, turning(given, side))


def reason_of(answer: Answer) -> Reason:
    """An answer as a reason."""
    return Reason(answer.weight, answer.reason, answer.ends)


def sum_of(given: Mapping[str, Answer]) -> float:
    """The sum of the weights, which have one digit behind the point."""
    return round(sum(answer.weight for answer in given.values()), 1)


def side_of(given: Mapping[str, Answer]) -> str:
    """The side that answers speak for: one that another rules out is none, two that rule out both leave neither."""
    ends = {answer.weight > 0 for answer in given.values() if answer.ends}
    if len(ends) == 2:
        return "neither"
    total = sum_of(given)
    if ends:
        return OWN if ends == {True} else API
    return EITHER if abs(total) < CLOSE else OWN if total > 0 else API


def words_of(side: str, ends: list[Answer]) -> str:
    """The recommendation in a sentence."""
    if side == "neither":
        return f"Neither, as things are: {' and '.join(one.reason for one in ends)}; change one of the two."
    if ends:
        words = f"Take {'your own machines' if side == OWN else 'the API'}: {ends[0].reason}, and that decides alone."
        ask = "Ask first whether names can be masked, or a contract is enough; `tinyinfer cost` says what this costs."
        return f"{words} {ask}" if side == OWN else words
    if side == EITHER:
        return "The sides are close: begin with the API, and keep the prompts to test an open model on them."
    return "Take your own machines." if side == OWN else "Take the API."


def turning(given: Mapping[str, Answer], side: str) -> list[str]:
    """The answers, each alone, that would recommend another side, and which: volume=10: own machines."""
    found = [(one.name, other.word, side_of({**given, one.name: other})) for one in QUESTIONS for other in one.answers]
    return [f"{name}={word}: {other}" for name, word, other in found if other != side]


def recommendation_text(found: Recommendation) -> str:
    """The recommendation for people, each reason behind its weight."""
    parts = [found.sentence]
    for title, listed in (("Reasons:", found.reasons), ("Against it:", found.against)):
        if listed:
            parts.append("\n".join([title, *map(weighed, listed)]))
    if not any(one.decides for one in found.reasons):
        sides = f"From {CLOSE:+d} on they recommend your own machines, from {-CLOSE:+d} down the API"
        parts.append(f"The weights add up to {found.weight or 0:g}. {sides}; between, the sides are close.")
    if found.turns:
        title = "One of these answers alone would change it:"
        parts.append("\n".join([title, *(f"  - {one}" for one in found.turns)]))
    return "\n\n".join(parts)


def weighed(one: Reason) -> str:
    """A reason as a line."""
    return f"  {one.weight:+4g}  {one.reason}" + (" (decides alone)" if one.decides else "")
