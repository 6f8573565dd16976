"""Public tests of the assignment "pipeline_schedule": each names the bug that it catches.

Right schedules come from a clock that goes from one end of work to the next, and starts whatever the rules allow: it
knows no formula. Right divisions come from trying all of them. Times are whole numbers and halves, so sums are exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from tinyinfer.course.compare import equal, same_array, same_value

pytest_plugins = ["tinyinfer.course.pytest_plugin"]

Usual = list[tuple[Any, str]]
AXES = ("stage", "micro-batch")


# One pass.


def test_equal_stages(student: Any, part: Any) -> None:
    """Catches a stage that does two things at once, a micro-batch in two places, and no overlap at all."""
    with part("as many micro-batches as stages"):
        check_begins(student, np.ones((3, 3)))
    with part("more micro-batches than stages"):
        check_begins(student, np.full((2, 5), 2.0))
    with part("one stage, one micro-batch"):
        check_begins(student, np.ones((1, 4)))
        check_begins(student, np.ones((4, 1)))


def test_ragged_stages(student: Any, part: Any, rng: Any) -> None:
    """Catches stages that all wait for the slowest one, and the time of another stage or micro-batch."""
    with part("a slow stage"):
        check_begins(student, np.array([[1.0] * 4, [3.0] * 4, [1.0] * 4]))
    with part("a long micro-batch"):
        check_begins(student, np.array([[1.0, 4.0, 1.0, 1.0]] * 3))
    with part("all different"):
        check_begins(student, times(rng, 4, 5))
        check_begins(student, times(rng, 3, 3))


def times(rng: np.random.Generator, stages: int, batches: int) -> np.ndarray:
    """Times from a half to eight, in halves: their sums have no rounding."""
    return rng.integers(1, 17, (stages, batches)) / 2


def check_begins(student: Any, seconds: np.ndarray) -> None:
    """Compares the student's begins with the clock's."""
    mine, right = student.begin_times(seconds), clock(seconds, 1, False)[0]
    what = f"begin_times of {seconds.shape[0]} stages and {seconds.shape[1]} micro-batches"
    same_array(mine, right, what, usual=unlike(right, begin_mistakes(seconds)), axes=AXES)


def clock(seconds: np.ndarray, steps: int, tokens: bool) -> np.ndarray:
    """The begins (steps, stages, batches), found moment by moment. tokens: whether a step needs the one before it."""
    stages, batches = seconds.shape
    begin, end = (np.full((steps, stages, batches), np.inf) for _ in range(2))
    waiting = [[(n, i) for n in range(steps) for i in range(batches)] for _ in range(stages)]
    free, now = [0.0] * stages, 0.0
    while any(waiting):
        for s, queue in enumerate(waiting):
            if queue and free[s] <= now and arrived(end, s, *queue[0], tokens) <= now:
                n, i = queue.pop(0)
                begin[n, s, i], free[s] = now, now + seconds[s, i]
                end[n, s, i] = free[s]
        now = min([t for t in free if t > now], default=now)
    return begin


def arrived(end: np.ndarray, s: int, n: int, i: int, tokens: bool) -> float:
    """When step n of batch i is there for stage s."""
    if s:
        return float(end[n, s - 1, i])
    return float(end[n - 1, -1, i]) if tokens and n else 0.0


def unlike(right: np.ndarray, usual: Iterator[tuple[np.ndarray, str]]) -> Usual:
    """The usual mistakes whose results are not the right ones."""
    return [(value, hint) for value, hint in usual if not np.array_equal(value, right)]


def begin_mistakes(seconds: np.ndarray) -> Iterator[tuple[np.ndarray, str]]:
    """The begins that usual mistakes give."""
    stages, batches = seconds.shape
    above, before = along(seconds, 0), along(seconds, 1)
    yield above, "a stage does two things at once: it begins a micro-batch when it has ended the one before"
    yield before, "a micro-batch is in two stages at once: it begins when the stage before has ended it"
    for both in (above + before, recurrence(seconds, 1, 1, np.add)):
        yield both, "a stage waits for the later one of two ends: a maximum, and no sum"
    right = clock(seconds, 1, False)[0]
    yield right + seconds, "these are the ends"
    places = np.add.outer(np.arange(stages), np.arange(batches))
    waits = "stages do not wait for the slowest one in each turn: only for the stage before, and for themselves"
    yield places * seconds.max(), waits
    yield turns(seconds), waits
    yield places * seconds[0, 0], "the times differ: each stage and micro-batch has its own"
    alone = np.cumsum(seconds.sum(axis=0)) - seconds.sum(axis=0)
    yield above + alone, "nothing overlaps: stage 0 begins the next micro-batch when it has ended this one"
    for stage, batch, hint in (
        (0, 1, "after the stage before, wait for that stage's time: seconds[s-1, i]"),
        (1, 0, "after the micro-batch before, wait for that one's time: seconds[s, i-1]"),
        (0, 0, "add the time of what is waited for: seconds[s-1, i] and seconds[s, i-1]"),
    ):
        yield recurrence(seconds, stage, batch), hint
    yield recurrence(seconds, 1, 1, np.minimum), "a stage waits for the later one of two ends: a maximum"


def along(seconds: np.ndarray, axis: int) -> np.ndarray:
    """Begins that wait along one axis alone."""
    return np.asarray(np.cumsum(seconds, axis=axis) - seconds)


def turns(seconds: np.ndarray) -> np.ndarray:
    """Begins in lock step: a turn ends when all that run in it have ended."""
    stages, batches = seconds.shape
    begin, now = np.zeros(seconds.shape), 0.0
    for turn in range(stages + batches - 1):
        running = [(s, turn - s) for s in range(stages) if 0 <= turn - s < batches]
        for place in running:
            begin[place] = now
        now += max(seconds[place] for place in running)
    return begin


def recurrence(seconds: np.ndarray, stage: int, batch: int, combine: Any = np.maximum) -> np.ndarray:
    """The formula with the time of another place: 1 for the one before, as it should be, 0 for the own one."""
    begin = np.zeros(seconds.shape)
    for s, i in np.ndindex(*seconds.shape):
        ends = []
        if s:
            ends.append(begin[s - 1, i] + seconds[s - stage, i])
        if i:
            ends.append(begin[s, i - 1] + seconds[s, i - batch])
        if ends:
            begin[s, i] = combine.reduce(ends)
    return begin


# Decoding.


def test_decode_times(student: Any, part: Any, rng: Any) -> None:
    """Catches a step without its token, groups that wait for each other, and one group after the other."""
    with part("one group"):
        check_decode(student, np.ones((3, 1)), 3)
    with part("fewer groups than stages"):
        check_decode(student, np.ones((4, 2)), 3)
    with part("as many groups as stages, and more"):
        check_decode(student, np.ones((3, 3)), 3)
        check_decode(student, np.ones((2, 4)), 3)
    with part("ragged times"):
        check_decode(student, times(rng, 3, 2), 4)
        check_decode(student, times(rng, 3, 4), 3)


def check_decode(student: Any, seconds: np.ndarray, steps: int) -> None:
    """Compares the student's begins of some steps with the clock's."""
    mine, right = student.decode_times(seconds, steps), clock(seconds, steps, True)
    what = f"decode_times of {seconds.shape[0]} stages, {seconds.shape[1]} groups and {steps} steps"
    usual = unlike(right, decode_mistakes(seconds, steps))
    same_array(mine, right, what, usual=usual, axes=("step", "stage", "group"))


def decode_mistakes(seconds: np.ndarray, steps: int) -> Iterator[tuple[np.ndarray, str]]:
    """The begins that usual mistakes of decoding give."""
    groups = seconds.shape[1]
    right, once = clock(seconds, steps, True), clock(seconds, 1, False)[0]
    yield clock(seconds, steps, False), "a step begins without its token: the group must have left the last stage"
    drained = (once + seconds).max()
    all_wait = "groups wait for each other's tokens: each needs its own only"
    yield once + drained * np.arange(steps)[:, None, None], all_wait
    alone = np.concatenate([clock(seconds[:, [g]], steps, True) for g in range(groups)], axis=2)
    yield alone, "groups are in a stage at the same time: it has one at a time"
    yield one_by_one(seconds, steps), "one group after the other: they take turns, so that stages do not wait"
    behind = np.cumsum(seconds.sum(axis=0)) - seconds.sum(axis=0)
    yield alone + steps * behind, "one group after the other: they take turns, so that stages do not wait"
    whole = seconds.sum()
    each = along(seconds, 0) + behind
    yield each + whole * np.arange(steps)[:, None, None], "nothing overlaps: the next group enters when stage 0 is free"
    yield right + seconds, "these are the ends"
    yield np.moveaxis(right, 0, -1), "the steps are on the first axis: (n, p, m)"
    yield right.swapaxes(1, 2), "the axes are steps, stages, groups"
    yield np.broadcast_to(once, right.shape), "each step begins at 0 again: a stage is free when its last work ends"


def one_by_one(seconds: np.ndarray, steps: int) -> np.ndarray:
    """All steps of a group, and then those of the next one, which follows close behind."""
    stages, groups = seconds.shape
    begin, free = np.zeros((steps, stages, groups)), np.zeros(stages)
    for g, n in np.ndindex(groups, steps):
        ready = begin[n - 1, -1, g] + seconds[-1, g] if n else 0.0
        for s in range(stages):
            begin[n, s, g] = max(ready, free[s])
            ready = free[s] = begin[n, s, g] + seconds[s, g]
    return begin


# The bubble.


def test_idle_share(student: Any, part: Any, rng: Any) -> None:
    """Catches the busy share, idling that is divided by the work, and a time not counted from the first begin."""
    with part("equal stages"):
        for shape in ((4, 8), (3, 1), (1, 5), (2, 3)):
            check_idle(student, clock(np.ones(shape), 1, False)[0], np.ones(shape))
    with part("any schedule"):
        seconds = times(rng, 3, 4)
        begin = clock(seconds, 1, False)[0]
        check_idle(student, begin, seconds)
        check_idle(student, begin + 7.5, seconds)
        check_idle(student, begin + np.arange(4) * 9, seconds)


def check_idle(student: Any, begin: np.ndarray, seconds: np.ndarray) -> None:
    """Compares the student's share with the one that stage after stage gives."""
    mine, right = student.idle_share(begin, seconds), right_idle(begin, seconds)
    usual = [(value, hint) for value, hint in idle_mistakes(begin, seconds) if abs(value - right) > 1e-9]
    same_value(mine, right, f"idle_share of {seconds.shape}", rtol=1e-9, usual=usual)


def right_idle(begin: np.ndarray, seconds: np.ndarray) -> float:
    """The idle share, stage by stage."""
    length = float((begin + seconds).max() - begin.min())
    idle = [length - sum(stage.tolist()) for stage in seconds]
    return sum(idle) / (length * len(idle))


def idle_mistakes(begin: np.ndarray, seconds: np.ndarray) -> Iterator[tuple[float, str]]:
    """The shares that usual mistakes give."""
    (stages, batches), end = seconds.shape, begin + seconds
    right, length = right_idle(begin, seconds), float(end.max() - begin.min())
    yield 1 - right, "that is the busy share"
    yield right / max(1e-9, 1 - right), "the bubble is a share of the whole time, work and waiting together"
    yield 100 * right, "a share is between 0 and 1"
    yield length * stages * right, "that is the time that stages idle: which share of all their time is it?"
    yield 1 - float(seconds.sum()) / (stages * float(end.max())), "the time counts from the first begin, not from 0"
    begins = stages * float(begin.max() - begin.min())
    if begins:
        yield 1 - float(seconds.sum()) / begins, "the time ends when the last stage ends, not when it begins"
    yield 1 - float(seconds.sum()) / length, "each stage could have worked all the time: there are p of them"
    own = end.max(axis=1) - begin.min(axis=1)
    hint = "a stage also idles before its first micro-batch and after its last one"
    yield 1 - float((seconds.sum(axis=1) / own).mean()), hint
    yield 1 - float(seconds.sum() / own.sum()), hint
    formula = (stages - 1) / (batches + stages - 1)
    yield formula, "the formula is of equal times, and of a schedule without gaps: look at begins and ends"
    yield 1 - float(seconds[-1].sum()) / length, "all stages count, not the last one alone"
    yield 1 - float(seconds[0].sum()) / length, "all stages count, not the first one alone"


# Layers.


def test_even_stages(student: Any, part: Any, rng: Any) -> None:
    """Catches as many layers for each stage, a greedy division, and a stage without a layer."""
    with part("equal layers"):
        for layers, stages in ((8, 4), (7, 3), (5, 5), (4, 1)):
            check_division(student, [1] * layers, stages)
    with part("a head beside the last layer"):
        check_division(student, [2] * 7 + [9], 3)
        check_division(student, [1, 1, 1, 20], 3)
    with part("where greedy is not best"):
        check_division(student, [4, 3, 3, 2, 6], 3)
        check_division(student, [3, 2, 5, 1, 1, 4, 4], 3)
    with part("any layers"):
        for stages in (2, 3, 4):
            check_division(student, rng.integers(1, 12, 8).tolist(), stages)


def check_division(student: Any, costs: list[int], stages: int) -> None:
    """Compares the student's division with the best of all."""
    mine, right = student.even_stages(costs, stages), right_division(costs, stages)
    usual = [(value, hint) for value, hint in division_mistakes(costs, stages, mine) if not equal(value, right)]
    same_value(mine, right, f"even_stages of {costs} in {stages} stages", usual=usual)


def all_divisions(layers: int, stages: int) -> Iterator[list[int]]:
    """Every way to give each stage some layers."""
    for stops in combinations(range(1, layers), stages - 1):
        yield [b - a for a, b in pairwise((0, *stops, layers))]


def slowest(costs: list[int], sizes: list[int]) -> float:
    """The time of the slowest stage."""
    stops = np.cumsum([0, *sizes]).tolist()
    return max(sum(costs[a:b]) for a, b in pairwise(stops))


def right_division(costs: list[int], stages: int) -> list[int]:
    """The best of all divisions; of equal ones the one whose first stages have more."""
    return min(all_divisions(len(costs), stages), key=lambda sizes: (slowest(costs, sizes), [-n for n in sizes]))


def division_mistakes(costs: list[int], stages: int, mine: Any) -> Iterator[tuple[Any, str]]:
    """The divisions that usual mistakes give, and what is wrong with this one."""
    layers, total = len(costs), sum(costs)
    even = [layers // stages + (s < layers % stages) for s in range(stages)]
    right = right_division(costs, stages)
    if slowest(costs, even) > slowest(costs, right):
        yield even, "as many layers for each stage are not as much work: add up their costs"
    yield np.cumsum(right).tolist(), "give how many layers each stage has, not where it ends"
    yield tuple(right), "give a list"
    yield [right], "give one list of whole numbers"
    yield greedy(costs, stages), "a stage that is filled up to the mean may leave too much to the last one"
    if not isinstance(mine, list) or not all(type(n) is int for n in mine) or len(mine) != stages:
        yield mine, "give a list with one whole number for each stage"
    elif sum(mine) != layers:
        yield mine, "each layer belongs to one stage: the numbers add up to all layers"
    elif min(mine) < 1:
        yield mine, "each stage has one layer at least"
    elif slowest(costs, mine) == slowest(costs, right):
        yield mine, "as fast as the best one, but of several best ones the first stages have most layers"
    else:
        yield mine, f"its slowest stage takes {slowest(costs, mine):g}; there is a division with less: {total} in all"


def greedy(costs: list[int], stages: int) -> list[int]:
    """Each stage takes layers until it has its share of all."""
    sizes, load, share = [0] * stages, 0.0, sum(costs) / stages
    s = 0
    for i, cost in enumerate(costs):
        left = len(costs) - i
        if s < stages - 1 and sizes[s] and (load + cost > share or left <= stages - 1 - s):
            s, load = s + 1, 0.0
        sizes[s] += 1
        load += cost
    return sizes
