"""Hidden tests of the assignment "pipeline_schedule": other sizes, and what the slowest stage decides."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyinfer.course.assignments.pipeline_schedule.test_pipeline_schedule import (
    check_begins,
    check_decode,
    check_division,
    check_idle,
    clock,
    times,
)
from tinyinfer.course.compare import Failure

IN_PLACE = "an operator with `=`, or an assignment to an element, writes into the argument: make a new array"


def test_other_schedules(student: Any, part: Any, rng: Any) -> None:
    """Catches what only some numbers of stages, micro-batches and steps break."""
    stages, batches = int(rng.integers(3, 6)), int(rng.integers(2, 8))
    with part("one pass"):
        check_begins(student, times(rng, stages, batches))
        check_begins(student, times(rng, batches, stages))
    with part("decoding"):
        check_decode(student, times(rng, stages, batches), 3)
        check_decode(student, times(rng, stages, 1), 2)
        check_decode(student, times(rng, 1, batches), 2)
    with part("the bubble"):
        seconds = times(rng, stages, batches)
        check_idle(student, clock(seconds, 1, False)[0] - 3, seconds)


def test_what_the_slowest_stage_decides(student: Any, part: Any, rng: Any) -> None:
    """Catches a pipeline that is faster, or slower, than its slowest stage or a sequence's way allows.

    Where all groups take as long, a token follows another one of its sequence after the way through all stages, or,
    where that takes longer, after all groups have been in the slowest stage.
    """
    for name, groups in (("few groups", 2), ("many groups", 7)):
        with part(name):
            seconds = np.repeat(times(rng, 4, 1), groups, axis=1)
            check_decode(student, seconds, 5)
            mine = student.decode_times(seconds, 12)
            expected = max(float(seconds[:, 0].sum()), groups * float(seconds.max()))
            if not isinstance(mine, np.ndarray) or mine.shape != (12, 4, groups):
                raise Failure(f"decode_times: an array (12, 4, {groups}) is expected.", "the axes are (n, p, m)")
            between = float(mine[-1, -1, 0] - mine[-2, -1, 0])
            if between != expected:
                said = f"Between two tokens of a sequence lie {between:g} seconds, and {expected:g} are expected"
                hint = "a group waits for its own token and for the stage in front of it, and for nothing else"
                raise Failure(f"{said} ({groups} groups, stages of {seconds[:, 0].tolist()}).", hint)


def test_no_division_is_faster(student: Any, part: Any, rng: Any) -> None:
    """Catches a division that is right for the public tests' costs alone."""
    with part("a few sizes of layers"):
        for stages in (2, 3, 5):
            check_division(student, rng.integers(1, 4, 9).tolist(), stages)
    with part("layers of many sizes"):
        for stages in (2, 4, 6):
            check_division(student, rng.integers(1, 100, 8).tolist(), stages)


def test_inputs_stay_as_they_are(student: Any, part: Any, rng: Any) -> None:
    """Catches times or costs that are changed in place: the caller draws the schedule with them."""
    seconds = times(rng, 3, 4)
    begin = clock(seconds, 1, False)[0]
    with part("times"):
        check_begins(student, seconds)
        check_decode(student, seconds, 2)
        check_idle(student, begin, seconds)
        for name, given in (
            ("begin_times", (seconds,)), ("decode_times", (seconds, 2)), ("idle_share", (begin, seconds)),
        ):  # fmt: skip
            _, after = student.after(name, *given)
            for before, then in zip(given, after, strict=True):
                if not np.array_equal(np.asarray(before), np.asarray(then)):
                    raise Failure(f"{name} has changed an argument.", IN_PLACE)
    with part("costs"):
        costs = rng.integers(1, 9, 6).tolist()
        check_division(student, costs, 3)
        _, after = student.after("even_stages", costs, 3)
        if after[0] != costs:
            raise Failure("even_stages has changed its costs.", "work on a copy of the list")
