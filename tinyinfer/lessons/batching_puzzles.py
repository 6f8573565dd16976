"""The puzzles of lesson 09: seats and rows shared out by hand, drawn and scored by counts at each attempt.

`two seats`: eight requests on two seats in the fewest steps. `waiting`: requests arrive over time, and readers wait as
little as possible. `chunks`: a long prompt in the rows that its neighbours leave in each step. The first two need the
lengths in advance. An engine has none of them, and the puzzles show what that costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import permutations
from typing import Any

from tinyinfer.lessons.endless import Endless, bounded
from tinyinfer.lessons.exercise import Exercise, Wrong
from tinyinfer.units import show
from tinyinfer.views.seats import Seats

SEATS = 2
LENGTHS = (2, 6, 3, 3, 1, 7, 4, 10)  # steps of each request of `two seats`
ARRIVALS, STAYS = (1, 1, 2, 2, 3, 3), (8, 8, 2, 2, 2, 2)  # of each request of `waiting`: its first step, its steps
PROMPT, NEIGHBOURS, BUDGET = 20, (2, 4, 6), 6  # of `chunks`: rows, steps of each neighbour, rows of a step

Lanes = Sequence[Sequence[int]]  # for each seat the requests that sit there, one after the other


def is_count(value: object) -> bool:
    """Whether a value is a whole number of at least 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


# Two seats.


def timeline(lanes: Lanes) -> list[list[int | None]]:
    """The schedule of these lanes: a list of steps, each with the request of every seat, or None."""
    filled = [[request for request in lane for _ in range(LENGTHS[request])] for lane in lanes]
    steps = max(map(len, filled))
    return [[lane[i] if i < len(lane) else None for lane in filled] for i in range(steps)]


def in_order(lengths: Sequence[int], seats: int) -> int:
    """Steps when the oldest request takes the first free seat: continuous batching."""
    free = [0] * seats
    for length in lengths:
        free[free.index(min(free))] += length
    return max(free)


def in_batches(lengths: Sequence[int], seats: int) -> int:
    """Steps when each batch waits for its longest request: static batching."""
    return sum(max(lengths[i : i + seats]) for i in range(0, len(lengths), seats))


FEWEST = sum(LENGTHS) // SEATS  # no seat is ever empty


def draw_two_seats(answer: Any) -> Seats | None:
    """The student's lanes as a timeline, beside the steps of both policies."""
    if _lanes_form(answer):
        return None
    schedule = timeline(answer)
    title = f"yours: {len(schedule)} steps (static batching {in_batches(LENGTHS, SEATS)}, continuous batching "
    return Seats.of_schedule(schedule, f"{title}{in_order(LENGTHS, SEATS)})")


def judge_two_seats(answer: Any) -> Wrong | None:
    """Each request once, and no place empty."""
    wrong = _lanes_form(answer)
    if wrong:
        return wrong
    given = [request for lane in answer for request in lane]
    if twice := [request for request in range(len(LENGTHS)) if given.count(request) > 1]:
        return Wrong(f"Request {twice[0]} sits twice.", "each request sits once, on one seat")
    if missing := [request for request in range(len(LENGTHS)) if request not in given]:
        return Wrong(f"Request {missing[0]} never sits.", f"eight requests are numbered from 0 to {len(LENGTHS) - 1}")
    steps = len(timeline(answer))
    if steps == FEWEST:
        return None
    sentence = f"Your schedule takes {steps} steps, {steps - FEWEST} more than the best one."
    if steps == in_order(LENGTHS, SEATS):
        hint = "an engine that takes requests as they come needs as many: the longest one starts late and ends alone"
    elif steps >= in_batches(LENGTHS, SEATS):
        hint = "that is no better than static batching; a seat need not wait for the other one"
    else:
        hint = "all lengths together fill both seats exactly: which requests add up to half of the sum?"
    return Wrong(sentence, hint)


def _lanes_form(answer: Any) -> Wrong | None:
    """What is wrong with the form of two lanes of request numbers."""
    hint = "write two lists of request numbers, one for each seat, such as [[0, 2, 4, 6], [1, 3, 5, 7]]"
    if not isinstance(answer, list | tuple) or not all(isinstance(lane, list | tuple) for lane in answer):
        return Wrong(f"{show(answer)} is not two lists.", hint)
    if len(answer) != SEATS:
        return Wrong(f"There are {SEATS} seats, and your answer has {len(answer)} lists.", hint)
    for request in (request for lane in answer for request in lane):
        if not is_count(request) or request >= len(LENGTHS):
            hint = f"requests are numbered from 0 to {len(LENGTHS) - 1}; write these numbers, not their lengths"
            return Wrong(f"{show(request)} is no request.", hint)
    return None


# Waiting.


def total_wait(starts: Sequence[int]) -> int:
    """Steps that all requests together wait between arrival and start."""
    return sum(starts) - sum(ARRIVALS)


def least_wait() -> int:
    """The smallest total wait of any schedule, by trying all orders on both seats."""
    orders = permutations(range(len(STAYS)))
    return min(_wait((order[:cut], order[cut:])) for order in orders for cut in range(len(STAYS) + 1))


def _wait(lanes: Lanes) -> int:
    wait = 0
    for lane in lanes:
        now = 1
        for request in lane:
            now = max(now, ARRIVALS[request])
            wait, now = wait + now - ARRIVALS[request], now + STAYS[request]
    return wait


def engine_starts() -> list[int]:
    """When an engine with continuous batching starts each request: the oldest first, as soon as a seat is free."""
    free, starts = [1] * SEATS, []
    for arrival, stay in zip(ARRIVALS, STAYS, strict=True):
        seat = free.index(min(free))
        starts.append(max(free[seat], arrival))
        free[seat] = starts[-1] + stay
    return starts


def draw_waiting(answer: Any) -> Seats | None:
    """The requests on the seats, as far as two seats are enough."""
    if _starts_wrong(answer):
        return None
    lanes: list[list[int | None]] = [[] for _ in range(SEATS)]
    for request in sorted(range(len(STAYS)), key=lambda i: (answer[i], i)):
        lane = next(lane for lane in lanes if len(lane) < answer[request])
        lane += [None] * (answer[request] - 1 - len(lane)) + [request] * STAYS[request]
    steps = max(map(len, lanes))
    schedule = [[lane[i] if i < len(lane) else None for lane in lanes] for i in range(steps)]
    return Seats.of_schedule(schedule, f"yours: all requests together wait {total_wait(answer)} steps")


def judge_waiting(answer: Any) -> Wrong | None:
    """No start before the arrival, two requests at a time, and the least total wait."""
    wrong = _starts_wrong(answer)
    if wrong:
        return wrong
    wait, least = total_wait(answer), least_wait()
    if wait == least:
        return None
    sentence = f"All requests together wait {wait} steps, {wait - least} more than in the best schedule."
    if wait >= total_wait(engine_starts()):
        hint = "continuous batching does as well: while a request waits, no seat is empty. Must that be so?"
    elif 1 in answer[:2]:
        hint = "a long request that starts at once holds its seat while four short ones wait"
    else:
        hint = "short requests go first, as soon as they are there; the long ones go last"
    return Wrong(sentence, hint)


def _starts_wrong(answer: Any) -> Wrong | None:
    """What is wrong with a list of starts: its form, a start before the arrival, or three requests on two seats."""
    if not isinstance(answer, list | tuple) or len(answer) != len(STAYS) or not all(map(is_count, answer)):
        hint = "write the first step of each request, in the order of their numbers"
        return Wrong(f"{show(answer)} is not a list of {len(STAYS)} steps.", hint)
    for request, (start, arrival) in enumerate(zip(answer, ARRIVALS, strict=True)):
        if start < arrival:
            return Wrong(f"Request {request} starts in step {start}, but it arrives in step {arrival}.",
                         "a request cannot start before it is there, and the first step is 1, not 0")  # fmt: skip
    for step in range(max(answer) + max(STAYS)):
        there = [i for i, start in enumerate(answer) if start <= step < start + STAYS[i]]
        if len(there) > SEATS:
            return Wrong(f"In step {step} requests {there} run on {SEATS} seats.", "a later start frees a seat")
    return None


# Chunks.


def chunks(prompt: int, neighbours: Sequence[int], budget: int) -> list[int]:
    """How many rows of a prompt each step computes, beside neighbours that decode for so many more steps."""
    sizes: list[int] = []
    while sum(sizes) < prompt:
        busy = sum(steps > len(sizes) for steps in neighbours)
        sizes.append(min(budget - busy, prompt - sum(sizes)))
    return sizes


def draw_chunks(answer: Callable[..., Any]) -> Seats | None:
    """The rows of each step: one for each neighbour that decodes, then those of the prompt, number 0."""
    sizes = bounded(answer)(PROMPT, list(NEIGHBOURS), BUDGET)
    rows = [[i for i, steps in enumerate(NEIGHBOURS, 1) if steps > step] + [0] * n for step, n in enumerate(sizes)]
    width = max(BUDGET, *map(len, rows))
    schedule = [[*step, *[None] * (width - len(step))] for step in rows]
    over = sum(max(0, len(step) - BUDGET) for step in rows)
    title = f"a step's rows (here each seat is a row; the prompt is 0): {len(sizes)} steps, {over} rows over the budget"
    return Seats.of_schedule(schedule, title)


def judge_chunks(answer: Any) -> Wrong | None:
    """The prompt's rows in each step, equal to ours."""
    if not callable(answer):
        return Wrong(f"{show(answer)} is not a function.", "keep the line that begins with `def`")
    first = None
    for prompt, neighbours, budget in ((PROMPT, NEIGHBOURS, BUDGET), (7, (), 3), (9, (1, 1, 9), 4), (2, (5, 5), 8)):
        where = f"prompt {prompt}, neighbours {list(neighbours)}, budget {budget}"
        try:
            sizes = bounded(answer)(prompt, list(neighbours), budget)
        except Endless:
            hint = "what a step computes is taken off the prompt: count down, or add up, until all of it is computed"
            return Wrong(f"The loop never ends ({where}).", hint)
        if not isinstance(sizes, list | tuple) or not all(map(is_count, sizes)):
            return Wrong(f"The function returned {show(sizes)}.", "return a list of whole numbers, one for each step")
        if list(sizes) != chunks(prompt, neighbours, budget):
            if sizes == first:
                hint = "prompt, neighbours and budget differ from call to call: compute the rows from them"
                return Wrong(f"Your chunks are the same for every prompt ({where}).", hint)
            return _chunk_slip(list(sizes), prompt, neighbours, budget, where)
        first = first or sizes
    return None


def _chunk_slip(sizes: list[int], prompt: int, neighbours: Sequence[int], budget: int, where: str) -> Wrong:
    total = list(_totals(sizes, neighbours))
    if over := [i for i, rows in enumerate(total, 1) if rows > budget]:
        hint = "a neighbour that decodes takes a row of each step first; without this row its reader gets no token"
        return Wrong(f"Step {over[0]} computes {total[over[0] - 1]} rows, more than the budget ({where}).", hint)
    if sum(sizes) != prompt:
        hint = "the last chunk is what is left of the prompt"
        return Wrong(f"Your chunks have {sum(sizes)} rows together ({where}).", hint)
    pairs = zip(sizes, chunks(prompt, neighbours, budget), strict=False)
    at = next(i for i, (mine, ours) in enumerate(pairs, 1) if mine != ours)
    hint = "a neighbour that has finished needs no row any more: count those that still decode in this step"
    return Wrong(f"In step {at} rows of the budget stay empty ({where}).", hint)


def _totals(sizes: Iterable[int], neighbours: Sequence[int]) -> Iterable[int]:
    """All rows of each step."""
    return (rows + sum(steps > i for steps in neighbours) for i, rows in enumerate(sizes))


PUZZLES = (
    Exercise(
        "two seats",
        judge_two_seats,
        [[7, 1, 0], [5, 6, 2, 3, 4]],
        "No place is empty. You knew all lengths before the first step; an engine learns a length when a request ends.",
        draw_two_seats,
    ),
    Exercise(
        "waiting",
        judge_waiting,
        [6, 6, 2, 2, 4, 4],
        "Readers wait least when both seats stay empty for a step, although two requests are there. The machine needs "
        "a step more for that. Continuous batching never does it: an engine knows neither lengths nor who comes next.",
        draw_waiting,
    ),
    Exercise(
        "chunks",
        judge_chunks,
        chunks,
        "Every step but the last is full, and no neighbour ever misses a token. How small a step should be is another "
        "question: one that only a measurement answers.",
        draw_chunks,
    ),
)
