"""A pipeline on paper against an event loop that knows no formula, and against GPipe's."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tinyinfer.parallel.schedule import begin_times, decode_times, even_stages, idle_share


def simulated(seconds: np.ndarray, steps: int, follows: bool) -> np.ndarray:  # (p, m) -> (n, p, m)
    """Begins of n steps of m batches in p stages, found moment by moment. follows: whether a step needs the last."""
    p, m = seconds.shape
    begin, end = np.full((steps, p, m), np.nan), np.full((steps, p, m), np.inf)
    work, free, now = [[(n, i) for n in range(steps) for i in range(m)] for _ in range(p)], [0.0] * p, 0.0
    while any(work):
        for s in range(p):
            while work[s]:
                n, i = work[s][0]
                before = end[n, s - 1, i] if s else (end[n - 1, p - 1, i] if follows and n else 0.0)
                if before > now or free[s] > now:
                    break
                begin[n, s, i], end[n, s, i] = now, now + seconds[s, i]
                free[s] = end[n, s, i]
                work[s].pop(0)
        later = [t for t in [*free, *end[np.isfinite(end)].tolist()] if t > now]
        now = min(later, default=now)
    return begin


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 1), (4, 6), (2, 5)])
def test_times_are_those_of_an_event_loop(shape: tuple[int, int]) -> None:
    """Ragged times, in whole numbers, so that sums are exact. Catches a stage that does two things at once."""
    for seed in range(5):
        seconds = np.random.default_rng(seed).integers(1, 9, shape).astype(float)
        assert np.array_equal(begin_times(seconds), simulated(seconds, 1, False)[0])
        assert np.array_equal(decode_times(seconds, 4), simulated(seconds, 4, True))


@pytest.mark.parametrize(("stages", "batches"), [(1, 3), (2, 1), (4, 8), (5, 3)])
def test_equal_stages_have_gpipes_bubble(stages: int, batches: int) -> None:
    seconds = np.full((stages, batches), 0.25)
    expected = (stages - 1) / (batches + stages - 1)
    assert idle_share(begin_times(seconds), seconds) == pytest.approx(expected)


def test_with_as_many_groups_as_stages_no_stage_waits() -> None:
    begin = decode_times(np.ones((4, 4)), 6)
    assert (np.diff(begin[:, 2].reshape(-1)) == 1).all()
    assert decode_times(np.ones((4, 1)), 6)[-1, 0, 0] == 5 * 4


@pytest.mark.parametrize("stages", [1, 2, 3, 5])
def test_no_division_of_layers_is_faster(stages: int) -> None:
    """Against all of them. Catches a greedy division, an empty stage, and layers that are lost."""
    for seed in range(20):
        costs = np.random.default_rng(seed).integers(1, 12, 7).tolist()
        found = even_stages(costs, stages)
        assert (sum(found), len(found), min(found) > 0) == (7, stages, True)

        def slowest(stops: tuple[int, ...], costs: list[int] = costs) -> int:
            return max(sum(costs[a:b]) for a, b in zip((0, *stops), (*stops, 7), strict=True))

        best = min(slowest(stops) for stops in combinations(range(1, 7), stages - 1))
        stops = tuple(np.cumsum(found)[:-1].tolist())
        assert slowest(stops) == best
        alike = [one for one in combinations(range(1, 7), stages - 1) if slowest(one) == best]
        assert stops == max(alike)  # the first stages have more
