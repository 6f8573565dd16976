"""An API, or a model on machines of one's own? Ten questions whose answers are reasons, beside the cost.

Cost decides only between two that are both possible. So two answers end it: data that must not leave rule the API out,
and a quality that only an API's model has rules one's own machines out. Each of the others speaks for a side with a
weight, and the sum recommends; where the sides are close, both, or the API first.

Wins: says why, and which answer would turn it. Loses: ten answers are no contract, and the weights are a judgement that
stands in this file to be changed.
Sources: Keeney & Raiffa 1976, "Decisions with Multiple Objectives" (weights that are added).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinyinfer.errors import SwitchError

API, OWN, EITHER = "API", "own machines", "close"
CLOSE = 2  # a smaller difference of weights is no difference


@dataclass(frozen=True)
class Answer:
    """What may be answered. weight: above 0 for one's own machines, below for the API. ends: rules the other side out.

    reason: what follows, as it stands in the recommendation.
    """

    word: str
    weight: int
    reason: str
    ends: bool = False


@dataclass(frozen=True)
class Question:
    """A question by its name, and its answers."""

    name: str
    text: str
    answers: tuple[Answer, ...]


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
    Question("load", "How uneven is the load (the busiest hour over the mean)?", (
        Answer("even", 1, "the load is even, so machines are busy"),
        Answer("daily", 0, "the load follows the day"),
        Answer("bursts", -2, "the load comes in bursts, for which machines wait idle"))),
    Question("latency", "How soon must the first token come?", (
        Answer("relaxed", 0, "a second or two to the first token is soon enough"),
        Answer("fast", 1, "the first token must come fast, and your machines are near and have no stranger's queue"),
        Answer("offline", -1, "the answers may wait, which an API sells at a batch's price"))),
    Question("quality", "Does a model that you may run answer well enough, on a test of your own?", (
        Answer("yes", 1, "an open model passed your own test"),
        Answer("untested", -1, "no open model was tested; test one before anything is bought"),
        Answer("no", -3, "only an API's model answers well enough", ends=True))),
    Question("volume", "Where is your volume beside the break-even? Run `tinyinfer cost` first; near is inside the "
             "range that it prints.", (
        Answer("below", -2, "the volume is below the break-even"),
        Answer("near", 0, "the volume is in the region of the break-even"),
        Answer("above", 2, "the volume is above the break-even"))),
    Question("skills", "Has anyone of you served a model before?", (
        Answer("no", -1, "no one has served a model before"),
        Answer("some", 0, "some have tried it"),
        Answer("yes", 1, "people who have served models are there"))),
)  # fmt: skip


@dataclass(frozen=True)
class Recommendation:
    """The side, the sum of weights (above 0: own machines), the reasons for and against it, and what would turn it."""

    side: str
    weight: int
    sentence: str
    reasons: list[str]
    against: list[str]
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
        known = {answer.word: answer for answer in one.answers}
        if not isinstance(words.get(one.name), str) or words[one.name] not in known:
            reason, said = "{field}: {name} is {value!r}", ", ".join(known)
            cure = "answer with one of {said}"
            raise SwitchError("answers", words.get(one.name), reason, cure, name=one.name, said=said)
        found[one.name] = known[words[one.name]]
    return found


def recommend(words: Mapping[str, Any]) -> Recommendation:
    """What ten answers recommend, with reasons. Raises SwitchError for answers that are not there.

    >>> first = {one.name: one.answers[0].word for one in QUESTIONS}
    >>> recommend(first).side, recommend(first | {"data": "no"}).side
    ('API', 'own machines')
    """
    given = answers_of(words)
    total = sum(answer.weight for answer in given.values())
    ends = [answer for answer in given.values() if answer.ends]
    side = side_of(given)
    speaks = {OWN: 1, API: -1}.get(side, 0)
    ordered = sorted((one for one in given.values() if one.weight), key=lambda one: -abs(one.weight))
    reasons = [one.reason for one in ordered if not speaks or one.weight * speaks > 0]
    against = [one.reason for one in ordered if speaks and one.weight * speaks < 0]
    return Recommendation(side, total, words_of(side, ends), reasons, against, turning(given, side))


def side_of(given: Mapping[str, Answer]) -> str:
    """The side that answers speak for: one that another rules out is none, two that rule out both leave neither."""
    ends = {answer.weight > 0 for answer in given.values() if answer.ends}
    if len(ends) == 2:
        return "neither"
    total = sum(answer.weight for answer in given.values())
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
    """The answers, each alone, that would recommend another side, and which: volume=above: own machines."""
    found = [(one.name, other.word, side_of({**given, one.name: other})) for one in QUESTIONS for other in one.answers]
    return [f"{name}={word}: {other}" for name, word, other in found if other != side]


def recommendation_text(found: Recommendation) -> str:
    """The recommendation for people."""
    parts = [found.sentence]
    for title, listed in (("Reasons:", found.reasons), ("Against it:", found.against),
                          ("One of these answers alone would change it:", found.turns)):  # fmt: skip
        if listed:
            parts.append("\n".join([title, *(f"  - {one}" for one in listed)]))
    return "\n\n".join(parts)
