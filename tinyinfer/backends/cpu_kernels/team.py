"""Threads that compute a plan together: every launch's items are taken one by one, and all wait where a launch ends.

A pass is some two hundred launches of a few microseconds each. Starting threads for every launch would cost more than
the launches, so the threads stay, and walk through the plan side by side: each takes the next item of the launch from a
counter until none is left, so that a thread that is held up takes fewer; then all wait until every item is done. The
last thread to arrive computes the launches of one item that follow, alone, before it lets the others go on: they cost
no wait of their own.

Waiting threads spin for some microseconds, since the next launch comes sooner than the system could wake them, and then
give their core away. Between two passes a thread goes to sleep only after a pause, in Python.

Wins: a launch costs under a microsecond beside its work. Loses: a thread that the system takes off its core in the
middle of an item keeps the others waiting, so on a busy machine fewer threads are faster.
"""

from __future__ import annotations

import threading
from functools import cache

import numpy as np
from numba import njit, types

from tinyinfer.backends.cpu_kernels.atomics import (
    MONOTONIC,
    atomic_add,
    call_kernel,
    clock_gettime,
    load_acquire,
    pause,
    sched_yield,
    store_release,
)
from tinyinfer.backends.cpu_kernels.kernel import native
from tinyinfer.backends.cpu_kernels.plan import Plan
from tinyinfer.backends.cpu_kernels.scalars import int_at, set_int

SPINS = 2000  # waits of a few dozen cycles each, before a thread gives its core away
IDLE_SPINS = 20000  # between two passes, before a thread goes to sleep
LINE = 64  # bytes of a cache line: what two threads write often lies in two of them
MOST_LAUNCHES, MOST_THREADS = 1 << 12, 1 << 10
JOBS = 8  # how many of the last jobs stay readable
# Where what lies in the state, in bytes: the number of the newest job; how far launches are released, counted through
# all jobs, so that a thread that still waits in an old job is let go by any newer one; the jobs; two counters a launch.
# Then each thread's line: what it has waited, in nanoseconds, and two words for the clock.
EPOCH, RELEASED, JOB, WAITS = 0, LINE, 2 * LINE, (2 + JOBS) * LINE
COUNTERS = WAITS + LINE * MOST_THREADS
CLAIMED, ARRIVED, PER_LAUNCH = 0, LINE, 2 * LINE


@njit(forceinline=True, error_model="numpy")
def now(clock: int) -> int:
    """Nanoseconds of a clock that only grows; clock: the address of two words for it."""
    clock_gettime(MONOTONIC, clock)
    return int_at(clock) * 1_000_000_000 + int_at(clock + 8)


@njit(error_model="numpy")
def wait_until(word: int, least: int, own: int) -> None:
    """Waits until the word at an address has grown to `least`. own: the thread's line, which gets the time."""
    for _ in range(SPINS):
        if load_acquire(word) >= least:
            return
        pause()
    begun = now(own + 8)
    while load_acquire(word) < least:
        sched_yield()
    set_int(own, int_at(own) + now(own + 8) - begun)


@njit(error_model="numpy")
def work(state: int, table: int, count: int, base: int, thread: int, threads: int) -> None:
    """Walks through the launches of a plan as thread number `thread` of `threads`."""
    i = 0
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
            store_release(state + RELEASED, base + i)
        else:
            wait_until(state + RELEASED, base + i, state + WAITS + LINE * thread)
            i = load_acquire(state + RELEASED) - base


@native(types.int64, 3)
def serve(state: int, thread: int, seen: int) -> int:
    """Computes jobs as a worker until none has come for a while; returns the number of the last one that it saw."""
    spins = 0
    while spins < IDLE_SPINS:
        epoch = load_acquire(state + EPOCH)
        if epoch == seen:
            spins += 1
            if spins < SPINS:
                pause()
            else:
                sched_yield()
            continue
        job = state + JOB + LINE * (epoch % JOBS)
        table, count, base, threads = (
            load_acquire(job), load_acquire(job + 8), load_acquire(job + 16), load_acquire(job + 24)
        )  # fmt: skip
        seen, spins = epoch, 0
        if thread < threads:  # else the job may be over already, and what was read may be another's
            work(state, table, count, base, thread, threads)
    return seen


@native(types.void, 2)
def publish(state: int, epoch: int) -> None:
    """Lets the workers see a job."""
    store_release(state + EPOCH, epoch)


@native(types.void, 6)
def compute(state: int, table: int, count: int, base: int, thread: int, threads: int) -> None:
    """`work`, called by Python."""
    work(state, table, count, base, thread, threads)


class Team:
    """The threads of a process that compute plans; they are started when they are first needed."""

    def __init__(self) -> None:
        self.memory = np.zeros((COUNTERS + PER_LAUNCH * MOST_LAUNCHES + LINE) // 8, dtype=np.int64)
        self.state = -(-self.memory.ctypes.data // LINE) * LINE  # an address at the beginning of a cache line
        self.words = self.memory[(self.state - self.memory.ctypes.data) // 8 :]
        self.lock, self.awake = threading.Lock(), threading.Condition()
        self.workers: list[threading.Thread] = []
        self.sleeping = 0
        self.released = 0  # how many launches of all jobs so far

    def run(self, plan: Plan, threads: int, start: int = 0, stop: int | None = None) -> float:
        """Computes the launches start ... stop of a plan on so many threads, this one included.

        Returns the seconds that the threads together have waited for each other.
        """
        count = (len(plan.table) if stop is None else stop) - start
        table, words = plan.table.ctypes.data + 24 * start, self.words
        with self.lock:
            self._start(threads - 1)
            base, self.released = self.released, self.released + count
            words[COUNTERS // 8 : (COUNTERS + PER_LAUNCH * count) // 8] = 0
            if threads > 1:
                epoch = int(words[EPOCH // 8]) + 1
                job = (JOB + LINE * (epoch % JOBS)) // 8
                words[job : job + 4] = table, count, base, threads
                publish.call(self.state, epoch)
                if self.sleeping:
                    with self.awake:
                        self.awake.notify_all()
            compute.call(self.state, table, count, base, 0, threads)
            waits = words[WAITS // 8 : (WAITS + LINE * threads) // 8 : LINE // 8]  # (threads,)
            waited = int(waits.sum())
            waits[:] = 0
        return waited / 1e9

    def _start(self, workers: int) -> None:
        while len(self.workers) < workers:
            number = len(self.workers) + 1
            seen = int(self.words[EPOCH // 8])
            thread = threading.Thread(target=self._serve, args=(number, seen), name=f"kernels-{number}", daemon=True)
            self.workers.append(thread)
            thread.start()

    def _serve(self, number: int, seen: int) -> None:
        while True:
            seen = serve.call(self.state, number, seen)
            with self.awake:
                self.sleeping += 1
                self.awake.wait_for(lambda seen=seen: self.words[EPOCH // 8] != seen)
                self.sleeping -= 1


@cache
def team() -> Team:
    """The team of this process."""
    return Team()
