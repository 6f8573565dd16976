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
from tinyinfer.lessons.exercise import Wrong
from tinyinfer.llm import LLM
from tinyinfer.measure.bench import Round, Setting, run_round
from tinyinfer.measure.workload import Request
from tinyinfer.units import show

STEPS = 10_000  # after so many questions to its rule, a student's loop counts as endless

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


def served(llm: LLM, requests: Sequence[Request]) -> Round:
    """All requests run to their end by an engine; its steps, times and counts."""
    return run_round(Setting("", "", llm, list(requests)))


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
                schedule = answer(given, seats, asked)
            except Endless:
                return Wrong(
                    "The loop never ends.",
                    "each step a seated request needs one step less; who needs none any more leaves its seat",
                )
            where = f"lengths {list(lengths)}, {seats} seats, {rule.__name__}"
            wrong = form_of(schedule, seats, where) or _side_effects(given, lengths, asked)
            wrong = wrong or slip(schedule, lengths, seats, rule, where)
            if wrong:
                return wrong
    return None


class Endless(Exception):
    """A student's loop that asked the rule too often."""


class Asked:
    """A rule that counts how often it is asked. Raises Endless after STEPS questions."""

    def __init__(self, rule: Rule) -> None:
        self.rule, self.times = rule, 0

    def __call__(self, free: int, seats: int) -> bool:
        self.times += 1
        if self.times > STEPS:
            raise Endless
        return self.rule(free, seats)


def form_of(schedule: Any, seats: int, where: str) -> Wrong | None:
    """What is wrong with the form of a schedule: not a list of steps, each with one place for each seat."""
    if schedule is None:
        return Wrong("The function returned None.", "end it with `return schedule`")
    if not isinstance(schedule, list) or not all(isinstance(step, list | tuple) for step in schedule):
        return Wrong(f"{show(schedule)} is not a list of steps.", "a step is a list: a number or None for each seat")
    for i, step in enumerate(schedule, 1):
        if len(step) != seats:
            return Wrong(
                f"Step {i} has {len(step)} places ({where}).", "a step has a place for each seat; None if empty"
            )
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
    for request, length in enumerate(lengths):
        sat = sum(request in step for step in theirs)
        if sat != length:
            hint = (
                "a request that needs one step leaves after the step in which it joined"
                if sat
                else "each request of the list gets a seat"
            )
            return Wrong(f"Request {request} needs {length} steps and sits for {sat} ({where}).", hint)
    if len(theirs) > len(ours) and not any(theirs[len(ours) :]):
        hint = "a request that needs no more steps leaves at the end of its last step, not at the beginning of the next"
        return Wrong(f"The schedule has empty steps at the end ({where}).", hint)
    at = next(i for i, (mine, yours) in enumerate(zip_longest(ours, theirs, fillvalue=())) if mine != yours)
    compared = f"In step {at + 1} sit {theirs[at]}, but the engine seats {ours[at]} ({where})."
    return Wrong(compared, _why(theirs[at], ours[at], rule))


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
