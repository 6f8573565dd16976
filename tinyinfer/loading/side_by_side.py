"""Parts of a model taken by several threads, and handed over in order.

A start reads, checks, rounds and packs every matrix, each for itself; NumPy's loops over them give up the GIL, so that
threads run them on cores of their own. Wins: a model opens in half the time on two cores. Loses: each thread has
temporaries of its own, one matrix of floats where weights are rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Begin(Protocol):
    """Begins a call; what it returns gives the call's result, or raises its error, whenever it is asked."""

    def __call__(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Callable[[], R]: ...


@contextmanager
def side_by_side(threads: int) -> Iterator[Begin]:
    """Calls by so many threads. One thread: by the caller's own, each when its result is first asked for.

    At the end, also after an error or Ctrl-C, no call is running and none begins any more.
    """

    def later(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Callable[[], R]:
        return cache(partial(function, *args, **kwargs))

    def now(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Callable[[], R]:
        return pool.submit(function, *args, **kwargs).result

    if threads == 1:
        yield later
        return
    pool = ThreadPoolExecutor(threads, "weights")
    try:
        yield now
    finally:
        pool.shutdown(cancel_futures=True)
