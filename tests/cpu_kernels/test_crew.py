"""How many threads a pass runs on, with times that are made up: what a quiet and what a busy machine teach."""

from __future__ import annotations

from collections.abc import Callable

from tinyinfer.backends.cpu_kernels.crew import AT_MOST, EVERY, SAMPLES, Crew

Machine = Callable[[int], tuple[float, float]]  # by the number of threads: seconds of a pass, share of time waited


def quiet(threads: int) -> tuple[float, float]:
    """Two threads take little more than half of the time, and wait little."""
    return 1.0 / threads + 0.02, 0.05 * (threads > 1)


def busy(threads: int) -> tuple[float, float]:
    """Another process has one of the cores: threads wait for each other's turn."""
    return 1.0 * threads, 0.5 * (threads > 1)


def uneven(threads: int) -> tuple[float, float]:
    """Threads wait, since the work does not divide; two are faster all the same."""
    return 1.0 / threads + 0.2, 0.4 * (threads > 1)


def passes(crew: Crew, machine: Machine, count: int, work: str = "decode") -> list[int]:
    """How many threads each of so many passes ran on."""
    sizes = []
    for _ in range(count):
        sizes.append(crew.size)
        seconds, share = machine(crew.size)
        crew.record(work, seconds, share * crew.size * seconds)
    return sizes


def test_a_quiet_machine_keeps_all_threads() -> None:
    """Catches trials of fewer threads that cost time where nothing is wrong."""
    assert set(passes(Crew(4), quiet, 500)) == {4}


def test_a_busy_machine_is_noticed_within_a_dozen_passes() -> None:
    """Catches a run that stays at the pace of threads which wait for each other."""
    crew = Crew(2)
    sizes = passes(crew, busy, 20)
    assert sizes.index(1) <= SAMPLES
    assert set(sizes[sizes.index(1) :]) == {1}


def test_threads_that_wait_and_are_faster_all_the_same_stay() -> None:
    """Waiting alone says nothing: catches a crew that gives up a core, and one that tries to in every other pass."""
    crew = Crew(2)
    sizes = passes(crew, uneven, 2000)
    assert sizes[-1] == 2
    assert 0 < sizes.count(1) < 30
    assert 1 in passes(crew, busy, 3 * SAMPLES), "slower passes are a reason to try again"


def test_trials_of_more_threads_become_rare_while_the_machine_stays_busy() -> None:
    """Each trial is a slow pass. Catches one in every EVERY passes for hours."""
    sizes = passes(Crew(2), busy, 4000)
    assert sum(size == 2 for size in sizes) < 30
    assert sum(size == 2 for size in sizes[-AT_MOST - SAMPLES :]) >= 1


def test_all_threads_come_back_when_the_machine_is_quiet_again() -> None:
    """Within AT_MOST passes even after hours; catches one thread for good."""
    crew = Crew(3)
    passes(crew, busy, 3000)
    assert crew.size == 1
    sizes = passes(crew, quiet, 3 * AT_MOST)
    assert sizes[-1] == 3
    assert sizes.index(2) <= AT_MOST + SAMPLES
    fast = Crew(2)
    passes(fast, busy, 10)
    assert passes(fast, quiet, 2 * EVERY)[-1] == 2


def test_times_of_different_work_are_not_compared() -> None:
    """A prompt's pass takes a hundred times a token's. Catches a decision between one of each."""
    crew = Crew(2)
    passes(crew, busy, 30)
    assert crew.size == 1
    assert passes(crew, lambda threads: (100.0 / threads, 0.0), 5, "prompt") == [1] * 5


def test_one_thread_is_never_more() -> None:
    assert set(passes(Crew(1), busy, 100)) == {1}


def test_passes_of_milliseconds_are_compared_over_many_of_them() -> None:
    """One thread has a core for 9 milliseconds and then none for 9; two never wait as long. Catches a decision by six
    passes that were all in one of them.
    """

    def by_turns(threads: int, passed: list[float] = [0.0]) -> tuple[float, float]:  # noqa: B006
        seconds = 0.001 if threads == 1 and passed[0] % 0.018 < 0.009 else 0.003 if threads == 1 else 0.0035
        passed[0] += seconds
        return seconds, 0.5 * (threads > 1)

    sizes = passes(Crew(2), by_turns, 1000)
    assert sizes.count(1) > 800
