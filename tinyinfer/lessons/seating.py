"""The schedule of lesson 09: which request sits in which seat in each step, by the student's lines and by the engine.

A schedule is a list of steps, and a step a list of seats: the number of the request that sits there, or None. Requests
are numbered from 0 in order of arrival, and a length is the number of steps that a request needs. The judge compares
step by step, so that a hint names the step and the slip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, zip_longest
from typing import Any

import numpy as np

from tinyinfer.engine.trace import StepTrace
from tinyinfer.lessons.endless import Endless, bounded
from tinyinfer.lessons.exercise import Wrong
from tinyinfer.units import show

Schedule = list[list[int | None]]
Rule = Callable[[int, int], bool]


# The student's lines, and what the engine did.


def continuous(free: int, seats: int) -> bool:
    """Waiting requests may join whenever a seat is free."""
    return free > 0


def static(free: int, seats: int) -> bool:
    """Waiting requests may join only when all seats are free."""
    return free == seats


def seat_requests(lengths: Sequence[int], seats: int, may_join: Rule) -> Schedule:
    """The schedule of these requests by a rule: for each step the request in each seat, or None."""
    waiting, left = list(range(len(lengths))), list(lengths)
    seated: list[int | None] = [None] * seats
    schedule = []
    while waiting or any(request is not None for request in seated):
        if may_join(seated.count(None), seats):
            for seat in range(seats):
                if seated[seat] is None and waiting:
                    seated[seat] = waiting.pop(0)
        schedule.append(list(seated))
        for seat, request in enumerate(seated):
            if request is not None:
                left[request] -= 1
                if left[request] == 0:
                    seated[seat] = None
    return schedule


def active(schedule: Sequence[Sequence[int | None]]) -> list[list[int]]:
    """The requests that each step of a schedule computes, in order."""
    return [sorted(request for request in step if request is not None) for step in schedule]


def computed(steps: Sequence[StepTrace]) -> list[list[int]]:
    """The requests that each step of an engine computed, in order, padding left out; numbered from 0."""
    first = min(turn.id for step in steps for turn in step.turns)
    return [sorted(turn.id - first for turn in step.turns if turn.phase != "padding") for step in steps]


CASES: tuple[tuple[tuple[int, ...], int], ...] = (
    ((3, 1, 2, 2), 2),
    ((1, 4, 2, 3, 1, 5, 2), 3),
    ((2, 2, 2, 2), 2),
    ((5,), 4),
)


def judge_seats(answer: Any) -> Wrong | None:
    """Runs the student's function under both rules, and compares each step with ours."""
    if not callable(answer):
        return Wrong(f"{show(answer)} is not a function.", "keep the line that begins with `def`")
    for lengths, seats in CASES:
        for rule in (continuous, static):
            given, asked = list(lengths), Asked(rule)
            try:
                schedule = bounded(answer)(given, seats, asked)
            except Endless:
                return Wrong(
                    "The loop never ends.",
                    "each step a seated request needs one step fewer; who needs none any more leaves its seat. Request "
                    "0, too: the number 0 is false in Python, so ask `is not None`",
                )
            where = f"lengths {list(lengths)}, {seats} seats, {rule.__name__}"
            wrong = form_of(schedule, seats, len(lengths), where) or _side_effects(given, lengths, asked)
            wrong = wrong or slip(schedule, lengths, seats, rule, where)
            if wrong:
                return wrong
    return None


class Asked:
    """A rule that counts how often it is asked."""

    def __init__(self, rule: Rule) -> None:
        self.rule, self.times = rule, 0

    def __call__(self, free: int, seats: int) -> bool:
        self.times += 1
        return self.rule(free, seats)


def form_of(schedule: Any, seats: int, requests: int, where: str) -> Wrong | None:
    """What is wrong with the form of a schedule: not a list of steps, each with a request or None for each seat."""
    if schedule is None:
        return Wrong("The function returned None.", "end it with `return schedule`")
    if not isinstance(schedule, list) or not all(isinstance(step, list | tuple) for step in schedule):
        return Wrong(f"{show(schedule)} is not a list of steps.", "a step is a list: a number or None for each seat")
    for i, step in enumerate(schedule, 1):
        if len(step) != seats:
            return Wrong(
                f"Step {i} has {len(step)} places ({where}).", "a step has a place for each seat; None if empty"
            )
        if strange := [one for one in step if one is not None and one not in range(requests)]:
            hint = f"requests are numbered from 0, so the last one is {requests - 1}; an empty seat is None"
            return Wrong(f"In step {i} sits {show(strange[0])} ({where}).", hint)
    return None


def _side_effects(given: list[int], lengths: Sequence[int], asked: Asked) -> Wrong | None:
    if given != list(lengths):
        return Wrong("The function changes the list `lengths` of its caller.", "count down in a copy: `list(lengths)`")
    if not asked.times:
        return Wrong("The function never asks `may_join`.", "before a request joins, ask may_join(free seats, seats)")
    return None


def slip(schedule: Schedule, lengths: Sequence[int], seats: int, rule: Rule, where: str) -> Wrong | None:
    """What a schedule does other than ours, in words; None for the same requests in each step."""
    ours = active(seat_requests(lengths, seats, rule))
    if all(step is schedule[0] for step in schedule[1:]) and len(schedule) > 1:
        return Wrong("All steps of the schedule are one and the same list.", "append a copy: `list(seated)`")
    theirs = active(schedule)
    if theirs == ours:
        return _moved(schedule)
    if theirs and theirs == ours[: len(theirs)]:
        return _stopped(ours[len(theirs)], len(theirs), where)
    sat = [sum(request in step for step in theirs) for request in range(len(lengths))]
    for request, (length, steps) in enumerate(zip(lengths, sat, strict=True)):
        if steps != length:
            sentence = f"Request {request} needs {length} steps and sits for {steps} ({where})."
            return Wrong(sentence, _why_so_long(request, sat, lengths))
    if len(theirs) > len(ours) and not any(theirs[len(ours) :]):
        hint = "a request that needs no more steps leaves at the end of its last step, not at the beginning of the next"
        return Wrong(f"The schedule has empty steps at the end ({where}).", hint)
    at = next(i for i, (mine, yours) in enumerate(zip_longest(ours, theirs, fillvalue=())) if mine != yours)
    compared = f"In step {at + 1} sit {theirs[at]}, but the engine seats {ours[at]} ({where})."
    return Wrong(compared, _why(theirs[at], ours[at], rule))


def _stopped(seated: list[int], steps: int, where: str) -> Wrong:
    """What is wrong with a schedule that is right up to a step and ends there, although requests still sit."""
    sentence = f"The schedule ends after step {steps}, and requests {seated} still need steps ({where})."
    if seated == [0]:
        return Wrong(sentence, "the number 0 is false in Python, in `any` and in `if`: ask if a seat `is not None`")
    return Wrong(sentence, "the loop goes on while a request waits or still sits, not only while the queue has some")


def _why_so_long(request: int, sat: Sequence[int], lengths: Sequence[int]) -> str:
    """The hint for a request that sits too long or too short. sat: the steps for which each request sits."""
    wrong = [i for i, (steps, length) in enumerate(zip(sat, lengths, strict=True)) if steps != length]
    if not sat[request]:
        return "each request of the list gets a seat"
    if wrong == [0] and len(lengths) > 1:
        return "only request 0 goes wrong: the number 0 is false in Python, so ask `is None` or `is not None`"
    if sat[request] > lengths[request] and len(wrong) < len(lengths):
        return "some leave late, not all: does a loop remove from the list that it runs over? It skips the next one"
    return "count down once a step for each request that sits; a request that needs one step leaves after that step"


def _why(theirs: list[int], ours: list[int], rule: Rule) -> str:
    if len(theirs) > len(ours):
        return "the rule said no: under this rule no request joins while a neighbour still runs"
    if len(theirs) < len(ours) and rule is static:
        return "ask the rule once a step, before the first request joins: after that not all seats are free any more"
    if len(theirs) < len(ours):
        return "a seat stays empty while requests wait: look at every seat in every step, and fill all that are free"
    return "the oldest waiting request joins first: `waiting.pop(0)`, not `waiting.pop()`"


def _moved(schedule: Schedule) -> Wrong | None:
    """What is wrong with the seat of a request that changes it; None when none does."""
    seat_of: dict[int, int] = {}
    for i, step in enumerate(schedule, 1):
        for seat, request in enumerate(step):
            if request is not None and seat_of.setdefault(request, seat) != seat:
                return Wrong(f"Request {request} moves to another seat in step {i}.", "a request keeps its seat")
    return None


# The picture.


def draw_seats(axes: Any, schedule: Schedule, title: str, steps: int) -> None:
    """Draws a line for each seat, coloured by request and white where it is empty. steps: the length of the axis."""
    seats = len(schedule[0])
    picture = np.ones((seats, steps, 3))
    for step, seated in enumerate(schedule):
        for seat, request in enumerate(seated):
            if request is not None:
                picture[seat, step] = colour(request)
    axes.imshow(picture, aspect="auto", interpolation="nearest", extent=(0, steps, seats - 0.5, -0.5))
    for seat, lane in enumerate(zip(*schedule, strict=True)):  # a thin line where one request follows another
        starts = [step for step, (before, after) in enumerate(pairwise(lane), 1) if before != after]
        axes.vlines(starts, seat - 0.5, seat + 0.5, color="white", linewidth=1)
    axes.axvline(len(schedule), color="black", linewidth=1)
    axes.set_title(title, fontsize="medium")
    axes.set_ylabel("seat")
    axes.set_yticks(range(seats))


def colour(request: int) -> tuple[float, float, float]:
    """The red, green and blue of a request; requests that follow each other differ most."""
    angle = 2 * np.pi * (request * 0.381966 % 1)  # the golden angle
    red, green, blue = (0.62 + 0.26 * np.cos(angle - shift) for shift in (0, 2 * np.pi / 3, 4 * np.pi / 3))
    return float(red), float(green), float(blue)
