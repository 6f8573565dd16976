"""Threads that compute a plan together: every launch's items are taken one by one, and all wait where a launch ends.

A pass is some two hundred launches of a few microseconds each. Starting threads for every launch would cost more than
the launches, so the threads stay, and walk through the plan side by side: each takes the next item of the launch from a
counter until none is left, so that a thread that is held up takes fewer; then all wait until every item is done. The
last thread to arrive computes the launches of one item that follow, alone, before it lets the others go on: they cost
no wait of their own.

Waiting threads spin for some microseconds, since the next launch mostly comes sooner than the system could wake them,
and then sleep. On two cores, quiet, SmolLM2 in int8 decodes at 600 tokens a second whether they spin for 10 or for 200
us; while another process computes, at 210 to 370 with 10 us and at 155 with 200 us.
The system gives a core sooner to a thread that wakes than to one that has spun on it, and an idle process takes no
time.

A job is begun and ended by one call of compiled code, so that Ctrl-C and errors find none half begun. A forked process
has memory of the threads but not the threads, so it makes a team of its own.

Wins: a launch costs under a microsecond beside its work. Loses: a thread that the system takes off its core in the
middle of an item keeps the others waiting, so on a busy machine fewer threads are faster.
"""

from __future__ import annotations

import atexit
import os
import threading
from contextlib import suppress
from functools import cache

import numpy as np
from numba import njit, types

from tinyinfer.backends.cpu_kernels.atomics import (
    MONOTONIC,
    atomic_add,
    atomic_swap,
    call_kernel,
    clock_gettime,
    load_acquire,
    pause,
    sleep_while,
    wake_all,
)
from tinyinfer.backends.cpu_kernels.kernel import native
from tinyinfer.backends.cpu_kernels.plan import Plan
from tinyinfer.backends.cpu_kernels.scalars import int_at, set_int

SPINS = 64  # waits of a few dozen cycles each, between two looks at the clock
BETWEEN_LAUNCHES, BETWEEN_PASSES = 10_000, 1_000_000  # nanoseconds that a thread spins before it sleeps
LINE = 64  # bytes of a cache line: what two threads write often lies in two of them
MOST_LAUNCHES, MOST_THREADS = 1 << 12, 1 << 10  # of one job
JOBS = 8  # how many of the last jobs stay readable
# Where what lies in the state, in bytes: the number of the newest job, and how many threads sleep until the next; how
# far launches are released, counted through all jobs, so that a thread that still waits in an old job is let go by any
# newer one, and how many threads sleep for that; the jobs; two counters a launch. Then each thread's line: what it has
# waited, in nanoseconds, and two words for the clock.
EPOCH, RELEASED, JOB, WAITS = 0, LINE, 2 * LINE, (2 + JOBS) * LINE
ASLEEP = 8  # behind a word on which threads sleep
COUNTERS = WAITS + LINE * MOST_THREADS
CLAIMED, ARRIVED, PER_LAUNCH = 0, LINE, 2 * LINE


@njit(forceinline=True, error_model="numpy")
def now(clock: int) -> int:
    """Nanoseconds of a clock that only grows; clock: the address of two words for it."""
    clock_gettime(MONOTONIC, clock)
    return int_at(clock) * 1_000_000_000 + int_at(clock + 8)


@njit(error_model="numpy")
def wait_until(word: int, least: int, patience: int, own: int) -> int:
    """Waits until the word at an address has grown to `least`; returns how many nanoseconds, 0 for very few.

    patience: nanoseconds of spinning before the thread sleeps. own: the thread's line.
    """
    begun = waited = 0
    while True:
        for _ in range(SPINS):
            if load_acquire(word) >= least:
                return waited
            pause()
        time = now(own + 8)
        begun = begun or time
        waited = time - begun
        if waited > patience:
            atomic_add(word + ASLEEP, 1)
            value = load_acquire(word)
            if value < least:
                sleep_while(word, value)
            atomic_add(word + ASLEEP, -1)


@njit(error_model="numpy")
def change(word: int, value: int) -> None:
    """Writes a word, and wakes the threads that sleep until it has grown."""
    atomic_swap(word, value)
    if atomic_add(word + ASLEEP, 0):
        wake_all(word)


@njit(error_model="numpy")
def work(state: int, table: int, count: int, base: int, thread: int, threads: int) -> None:
    """Walks through the launches of a plan as thread number `thread` of `threads`."""
    i, own = 0, state + WAITS + LINE * thread
    while i < count:
        row, counters = table + 24 * i, state + COUNTERS + PER_LAUNCH * i
        kernel, arguments, items = load_acquire(row), load_acquire(row + 8), load_acquire(row + 16)
        item = atomic_add(counters + CLAIMED, 1)
        while item < items:
            call_kernel(kernel, arguments, item, thread)
            item = atomic_add(counters + CLAIMED, 1)
        i += 1
        if atomic_add(counters + ARRIVED, 1) == threads - 1:  # the last one: all items are done
            while i < count and load_acquire(table + 24 * i + 16) <= 1:
                row = table + 24 * i
                if load_acquire(row + 16):
                    call_kernel(load_acquire(row), load_acquire(row + 8), 0, thread)
                i += 1
            change(state + RELEASED, base + i)
        else:
            set_int(own, int_at(own) + wait_until(state + RELEASED, base + i, BETWEEN_LAUNCHES, own))
            i = load_acquire(state + RELEASED) - base


@native(types.void, 3)
def serve(state: int, thread: int, seen: int) -> None:
    """Computes jobs as a worker, from the one after `seen` on, until one of no threads ends it."""
    threads = 1
    while threads:
        wait_until(state + EPOCH, seen + 1, BETWEEN_PASSES, state + WAITS + LINE * thread)
        seen = load_acquire(state + EPOCH)
        job = state + JOB + LINE * (seen % JOBS)
        table, count, base, threads = (
            load_acquire(job), load_acquire(job + 8), load_acquire(job + 16), load_acquire(job + 24)
        )  # fmt: skip
        if load_acquire(state + EPOCH) != seen:  # the job did without this thread; what was read may be another's
            threads = 1
        elif thread < threads:
            work(state, table, count, base, thread, threads)


@native(types.int64, 4)
def compute(state: int, table: int, count: int, threads: int) -> int:
    """Computes a job with the workers 1 ... threads - 1; returns the nanoseconds that all have waited for others."""
    base, epoch = load_acquire(state + RELEASED), load_acquire(state + EPOCH) + 1
    for i in range(count):
        set_int(state + COUNTERS + PER_LAUNCH * i + CLAIMED, 0)
        set_int(state + COUNTERS + PER_LAUNCH * i + ARRIVED, 0)
    if threads != 1:
        job = state + JOB + LINE * (epoch % JOBS)
        set_int(job, table)
        set_int(job + 8, count)
        set_int(job + 16, base)
        set_int(job + 24, threads)
        change(state + EPOCH, epoch)
    work(state, table, count, base, 0, threads)
    waited = 0
    for thread in range(threads):
        waited += int_at(state + WAITS + LINE * thread)
        set_int(state + WAITS + LINE * thread, 0)
    return waited


class Team:
    """The threads of a process that compute plans; they are started when they are first needed."""

    def __init__(self) -> None:
        self.memory = np.zeros((COUNTERS + PER_LAUNCH * MOST_LAUNCHES + LINE) // 8, dtype=np.int64)
        self.state = -(-self.memory.ctypes.data // LINE) * LINE  # an address at the beginning of a cache line
        self.epoch = self.memory[(self.state + EPOCH - self.memory.ctypes.data) // 8 :]
        self.lock, self.joined = threading.Lock(), threading.Condition()
        self.workers: list[threading.Thread] = []
        self.over = False

    def run(self, plan: Plan, threads: int, start: int = 0, stop: int | None = None) -> float:
        """Computes the launches start ... stop of a plan on so many threads, this one included.

        Fewer threads compute it where the system does not give so many. Returns the seconds that the threads together
        have waited for each other.
        """
        stop, waited = len(plan.table) if stop is None else stop, 0
        with self.lock:
            threads = 1 + self._workers(min(threads, MOST_THREADS) - 1)
            for first in range(start, stop, MOST_LAUNCHES):
                table, count = plan.table.ctypes.data + 24 * first, min(MOST_LAUNCHES, stop - first)
                waited += compute.call(self.state, table, count, threads)
        return waited / 1e9

    def _workers(self, wanted: int) -> int:
        """Starts workers until there are so many; returns how many of them there are, 0 when Python ends."""
        with self.joined:
            if self.over:
                return 0
            while len(self.workers) < wanted:
                thread = threading.Thread(target=self._serve, name=f"kernels-{len(self.workers) + 1}", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system has no more threads to give
                    return len(self.workers)
                while thread not in self.workers:
                    self.joined.wait()
        return wanted

    def _serve(self) -> None:
        """A worker takes its number itself: one that Ctrl-C leaves behind while it starts has a number, too."""
        with self.joined:
            seen = int(self.epoch[0])
            self.workers.append(threading.current_thread())
            number = len(self.workers)
            self.joined.notify_all()
        serve.call(self.state, number, seen)

    def stop(self) -> None:
        """Ends the workers: compiled code must not run while Python ends and frees it."""
        with self.lock, self.joined:
            compute.call(self.state, 0, 0, 0)
            for worker in self.workers:
                worker.join()
            self.workers.clear()
            self.over = True


@cache
def team() -> Team:
    """The team of this process."""
    return Team()


def stop_team() -> None:
    """Ends the workers of this process, if it has any."""
    if team.cache_info().currsize:
        team().stop()


atexit.register(stop_team)
with suppress(AttributeError):  # Windows forks no process
    os.register_at_fork(after_in_child=team.cache_clear)
