"""The inbox of an engine: what its callers leave for it, and who steps it.

An engine can be stepped by one thread at a time: the driver. All others leave requests and actions in the inbox, and
the driver reads them between two steps. The driver is a thread that is started when there is work and ends when no
request is open, so that an engine at rest has no thread. A caller of `EngineLoop.steps` drives by itself, one turn at a
time, while there is no such thread.

Nothing here waits for a lock that is held during a step: a caller leaves its request and goes on. `post` may even be
called by the garbage collector, which ends a forgotten iteration in the middle of anything.

Ctrl-C may end a driver between any two lines. So an action leaves the inbox only when it is done, and may be done
twice. A driver that is gone (a dead thread, a generator that has ended) is none: the next caller who asks or waits sees
to it that there is a driver.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from queue import Empty, SimpleQueue
from threading import RLock, Thread, current_thread, get_ident, main_thread
from time import monotonic
from typing import Any, Protocol, TypeVar
from weakref import ref

from tinyinfer.engine.trace import StepTrace
from tinyinfer.errors import RequestError
from tinyinfer.sequence import Sequence

T = TypeVar("T")
TICK = 1.0  # seconds: some systems deliver Ctrl-C only between two waits


class Client(Protocol):
    """A request as the engine's side sees it. The driver calls `progress` and `end`, between two steps."""

    seq: Sequence

    def progress(self) -> None:
        """The sequence was in the step, and goes on."""

    def end(self, error: BaseException | None = None) -> None:
        """The request is over, and what the engine kept for it is free. error: what ended it, if anything failed."""

    def cancel(self) -> bool:
        """Asks the driver to end the request; False when the request was over already."""


class Run:
    """Sequences whose steps their caller reads (`EngineLoop.steps`). traces: not yet read; None wakes the reader.

    error: raised to the reader when the run is over: at once, or when it ended one request, after the others.
    reader: the generator that reads, if one does; Python itself says whether it has ended.
    """

    def __init__(self, sequences: list[Sequence], watch: bool) -> None:
        self.sequences, self.watch = sequences, watch
        self.traces: SimpleQueue[StepTrace | None] = SimpleQueue()
        self.error: BaseException | None = None
        self.broken = False  # the error ends all of it
        self.over = False  # nothing more comes into the queue
        self.reader: ref[Any] | None = None

    @property
    def gone(self) -> bool:
        """Whether the reader has ended, or was forgotten."""
        reader = self.reader() if self.reader is not None else None
        return self.reader is not None and (reader is None or reader.gi_frame is None)

    def tell(self, trace: StepTrace | None) -> None:
        """A turn is over, with or without a step."""
        if not self.over:
            self.traces.put(None if self.broken else trace)
            self.over = self.broken or all(seq.finished for seq in self.sequences)

    def fail(self, error: BaseException) -> None:
        """Ends the run, unless the error is one request's: its reader raises the error after the last trace."""
        self.error = self.error or error
        self.broken = self.broken or not isinstance(error, RequestError)

    def leave(self) -> None:
        """The reader has left."""
        self.over = True


class Inbox:
    """What is left for the driver, and what is open, in one process: no lock and no thread survives a fork.

    serve: gives what the engine's thread does; None when the engine is gone: an inbox keeps no engine, so that `del` of
    an LLM at rest frees its weights at once. news: what the driver does before its next step; heard gets an item for
    each. driver: the engine's thread, or the run whose caller drives; None while the engine rests. driving: the ident
    of the thread that takes a turn.
    requests, runs, borrowed: what the engine holds something for; borrowed are sequences whose logits are computed.
    ended: requests that are over, each with its error if any, and whose clients were not yet told.
    """

    def __init__(self, serve: Callable[[], Callable[[], None] | None]) -> None:
        self.serve = serve
        self.lock = RLock()
        self.news: deque[Callable[[], None]] = deque()
        self.heard: SimpleQueue[None] = SimpleQueue()
        self.driver: Thread | Run | None = None
        self.driving: int | None = None
        self.retired = False
        self.requests: dict[Sequence, Client] = {}
        self.ended: dict[Sequence, tuple[Client, BaseException | None]] = {}
        self.runs: set[Run] = set()
        self.borrowed: set[Sequence] = set()

    @property
    def pending(self) -> bool:
        """Whether the engine's thread is needed."""
        return bool(self.requests or self.ended or self.news)

    @property
    def busy(self) -> bool:
        """Whether the engine holds anything for a caller."""
        return bool(self.requests or self.runs or self.borrowed)

    # For callers.

    def leave(self, action: Callable[[], None]) -> None:
        """Leaves an action for the driver."""
        self.news.append(action)
        self.heard.put(None)

    def post(self, action: Callable[[], None]) -> None:
        """Leaves an action for the driver, and starts the engine's thread if there is no driver."""
        self.leave(action)
        self.ensure_driver()

    def ensure_driver(self) -> None:
        """Starts the engine's thread if it is needed and there is no driver."""
        with self.lock:
            if self._free_of_drivers() and self.pending:
                self._start()

    def take(self, who: Thread | Run) -> bool:
        """Makes `who` the driver if there is none; whether it is the driver now."""
        with self.lock:
            if self._free_of_drivers():
                self.driver = who
            return self.driver is who

    def rest(self, driver: Thread | Run) -> None:
        """The driver stops. If there is work, a thread goes on with it; else any run may drive."""
        with self.lock:
            if self.driver is driver:
                self.driver = self.driving = None
            self.ensure_driver()
        for run in tuple(self.runs):
            if run.traces.empty():  # else its reader does not wait, and may never read
                run.traces.put(None)

    def do_or_post(self, who: Run, action: Callable[[], None]) -> None:
        """Does an action at once if there is no driver, else leaves it for the driver; `who` then drives no more.

        The lock is held meanwhile: Python calls a forgotten reader gone before it lets the reader leave, and no other
        thread may drive in between.
        """
        thread = self.driver
        if isinstance(thread, Thread) and thread.ident in (None, get_ident()):  # this may be that thread, which the
            self.leave(action)  # garbage collector met before it told that it has begun; its starter holds the lock
            return
        with self.lock:
            if not self.take(who):
                self.post(action)
                return
            try:
                action()
            finally:
                self.rest(who)

    def retire(self) -> None:
        """No thread is started any more: an iteration may be collected when Python ends, which can start none."""
        self.retired = True

    def _free_of_drivers(self) -> bool:
        """Whether there is no driver; one that is gone is forgotten."""
        driver = self.driver
        if driver is not None and (driver.gone if isinstance(driver, Run) else not driver.is_alive()):
            self.driver = self.driving = None
        return self.driver is None

    def _start(self) -> None:
        """Starts the engine's thread, which drives from now on."""
        if self.retired:
            return
        thread = Thread(target=self._drive, name="tinyinfer engine", daemon=True)
        try:
            self.driver = thread
            thread.start()
        except BaseException:
            self.driver = None
            raise

    # For the driver.

    def _drive(self) -> None:
        serve = self.serve()
        if serve is not None and self.take(current_thread()):
            serve()
            self.rest(current_thread())

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A turn of this thread: does first what was left in the inbox when it began."""
        self.driving = get_ident()
        try:
            self.read()
            yield
        finally:
            self.driving = None

    def read(self) -> bool:
        """Does what was left in the inbox by now; whether there was anything. What is interrupted is done again."""
        count = len(self.news)
        for _ in range(count):
            self.news[0]()
            self.news.popleft()
            with suppress(Empty):
                self.heard.get_nowait()
        return bool(count)

    def hear(self, seconds: float) -> bool:
        """Waits at most so long for news; True when there was some, and it is done."""
        with suppress(Empty):
            self.heard.get(timeout=min(seconds, TICK))
        return self.read()


def is_ctrl_c(error: BaseException) -> bool:
    """Whether an error is meant for the caller on whose thread the driver runs, and for no other one."""
    return isinstance(error, KeyboardInterrupt) and current_thread() is main_thread()


def received(
    queue: SimpleQueue[T], timeout: float | None = None, each_tick: Callable[[], None] = lambda: None
) -> list[T]:
    """The next item of a queue; no item when none comes within `timeout` seconds (None: waits for ever).

    each_tick: is called about once a second.
    """
    until = inf if timeout is None else monotonic() + timeout
    while True:
        with suppress(Empty):
            return [queue.get(timeout=max(0.0, min(TICK, until - monotonic())))]
        if monotonic() >= until:
            return []
        each_tick()
