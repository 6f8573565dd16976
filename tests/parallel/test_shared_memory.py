"""Small collectives through shared memory: with threads as ranks, and plain memory that they all see."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest

from tinyinfer.parallel.shared_memory import ROOM, YIELD, Places


def ranks(size: int) -> list[Places]:
    """Places of so many ranks in this process. Threads of one interpreter see each other's writes in order."""
    memories = [np.zeros(Places.nbytes, np.uint8) for _ in range(size)]
    return [Places(rank, memories, lambda: None, nullcontext, YIELD) for rank in range(size)]


def of(rank: int, number: int, shape: tuple[int, ...]) -> np.ndarray:  # -> shape
    """Numbers that are one rank's and one collective's alone."""
    return np.random.default_rng([rank, number]).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_ranks_of_different_speed_get_the_same_sums(size: int) -> None:
    """Catches a place with one half: a rank that is ahead would write over what another has not read yet; and sums in
    different orders, which differ in their last bits.
    """
    rounds, found = 200, [[] for _ in range(size)]  # type: list[list[np.ndarray]]

    def run(places: Places) -> None:
        pause = np.random.default_rng(places.rank)
        for number in range(rounds):
            if pause.random() < 0.1:
                time.sleep(0.0005)
            shape = (1 + number % 3, 7)
            found[places.rank].append(places.all_reduce(of(places.rank, number, shape)))

    threads = [threading.Thread(target=run, args=(places,)) for places in ranks(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(rounds):
        total = of(0, number, (1 + number % 3, 7))
        for rank in range(1, size):
            total = total + of(rank, number, total.shape)
        for rank in range(size):
            np.testing.assert_array_equal(found[rank][number], total)


def test_a_rank_that_is_ahead_leaves_what_another_still_reads() -> None:
    """The slow rank holds the views of one collective while the fast one has begun the next. Catches one half alone."""
    slow, fast = ranks(2)
    ahead = threading.Thread(target=lambda: [fast.exchange(of(1, number, (4,))) for number in (1, 2)])
    ahead.start()
    views = slow.exchange(of(0, 1, (4,)))
    while fast.number < 2 or fast.counters[1][0] < 2:  # the fast rank has written its second array
        time.sleep(0.001)
    np.testing.assert_array_equal(views[1], of(1, 1, (4,)))
    slow.exchange(of(0, 2, (4,)))
    ahead.join()


def test_arrays_of_different_lengths_and_of_the_largest_size() -> None:
    first, second = ranks(2)
    given: list[list[np.ndarray]] = []
    most = ROOM // 4
    other = threading.Thread(target=lambda: given.append(first.exchange(of(0, 1, (0, 1)), [0, most])))
    other.start()
    none, all_rows = second.exchange(of(1, 1, (most, 1)), [0, most])
    other.join()
    assert none.shape == (0, 1)
    np.testing.assert_array_equal(all_rows, of(1, 1, (most, 1)))
    np.testing.assert_array_equal(given[0][1], of(1, 1, (most, 1)))


def test_places_are_read_as_what_lies_there_now() -> None:
    """Collectives of one shape, first of floats and then of integers, and gathers in which only another rank's rows
    change. Catches a view that is kept for another type, or for other lengths.
    """
    cases: list[tuple[type, list[int]]] = []
    for dtype in (np.float32, np.int32, np.float32):
        for lengths in ([2, 3], [2, 1]):
            cases += [(dtype, lengths)] * 2  # one for each half
    found: list[list[np.ndarray]] = [[], []]

    def run(places: Places) -> None:
        for number, (dtype, lengths) in enumerate(cases):
            mine = (of(places.rank, number, (lengths[places.rank], 4)) * 100).astype(dtype)
            found[places.rank] += [part.copy() for part in places.exchange(mine, lengths)]

    both = ranks(2)
    thread = threading.Thread(target=run, args=(both[0],))
    thread.start()
    run(both[1])
    thread.join()
    wanted = [
        (of(rank, number, (lengths[rank], 4)) * 100).astype(dtype)
        for number, (dtype, lengths) in enumerate(cases) for rank in (0, 1)
    ]  # fmt: skip
    for one in found:
        for got, right in zip(one, wanted, strict=True):
            assert got.dtype == right.dtype
            np.testing.assert_array_equal(got, right)


def test_a_long_wait_is_wrapped_and_a_short_one_is_not() -> None:
    """What wraps a wait is the watch that names a rank that hangs. Catches a wait that no watch sees."""
    events: list[str] = []

    @contextmanager
    def waiting() -> Iterator[None]:
        events.append("begins")
        yield
        events.append("ends")

    memories = [np.zeros(Places.nbytes, np.uint8) for _ in range(2)]
    early, late = (Places(rank, memories, lambda: None, waiting, YIELD) for rank in range(2))
    thread = threading.Thread(target=early.exchange, args=(np.ones(3, np.float32),))
    thread.start()
    while events != ["begins"]:
        time.sleep(0.001)
    late.exchange(np.ones(3, np.float32))
    thread.join()
    assert events == ["begins", "ends"]
