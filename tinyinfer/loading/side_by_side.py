"""Parts of a model taken by several threads, and handed over in order.

A start reads, checks, rounds and packs every matrix, each for itself; NumPy's loops over them give up the GIL, so that
threads run them on cores of their own. Wins: a model opens in half the time on two cores. Loses: each thread has
temporaries of its own, one matrix of floats where weights are rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from queue import SimpleQueue
from threading import Event, Thread
from typing import Generic, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Begin(Protocol):
    """Begins a call; what it returns gives the call's result, or raises its error, when it is asked, once."""

    def __call__(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Callable[[], R]: ...


class Call(Generic[R]):
    """A call that a thread runs."""

    def __init__(self, function: Callable[[], R]) -> None:
        self.function, self.done = function, Event()
        self.results: list[R] = []
        self.errors: list[BaseException] = []

    def run(self) -> None:
        """Calls the function, and keeps what becomes of it."""
        try:
            self.results.append(self.function())
        except BaseException as error:
            self.errors.append(error)
        self.done.set()

    def result(self) -> R:
        """Waits for the result. An error is not kept: with its traceback it would keep all that was loaded."""
        self.done.wait()
        if self.errors:
            raise self.errors.pop()
        return self.results.pop()


@contextmanager
def side_by_side(threads: int) -> Iterator[Begin]:
    """Calls by so many threads. One thread: by the caller's own, each when its result is first asked for.

    At the end, also after an error or Ctrl-C, no other call begins. One that is running is not waited for: it may be a
    matrix of minutes.
    """
    calls, over = SimpleQueue[Call | None](), Event()

    def now(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Callable[[], R]:
        call = Call(partial(function, *args, **kwargs))
        calls.put(call)
        return call.result

    try:
        yield now if threads > 1 and started(threads, lambda: work(calls, over)) else later
    finally:
        over.set()
        for _ in range(threads):
            calls.put(None)


def later(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Callable[[], R]:
    """A call that is made when its result is first asked for."""
    return cache(partial(function, *args, **kwargs))


def started(threads: int, target: Callable[[], None]) -> int:
    """Starts so many threads, or as many as the system gives; returns how many."""
    for n in range(threads):
        try:
            Thread(target=target, name=f"weights-{n + 1}", daemon=True).start()
        except RuntimeError:  # no thread more, or Python is about to end
            return n
    return threads


def work(calls: SimpleQueue[Call | None], over: Event) -> None:
    """Runs calls as they come, until None comes."""
    while call := calls.get():
        if not over.is_set():
            call.run()
