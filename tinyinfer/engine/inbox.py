"""The inbox of an engine: what its callers leave for it, and who steps it.

An engine can be stepped by one thread at a time: the driver. All others leave requests and actions in the inbox, and
the driver reads them between two steps. The driver is a thread that is started when there is work and ends when no
request is open, so that an engine at rest has no thread. A caller of `EngineLoop.steps` drives by itself, one turn at a
time, while there is no such thread.

Nothing here waits for a lock that is held during a step: a caller leaves its request and goes on. `post` may even be
called by the garbage collector, which ends a forgotten iteration in the middle of anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from queue import Empty, SimpleQueue
from threading import RLock, Thread, current_thread, get_ident
from time import monotonic
from typing import Protocol, TypeVar

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
    """

    def __init__(self, sequences: list[Sequence], watch: bool) -> None:
        self.sequences, self.watch = sequences, watch
        self.traces: SimpleQueue[StepTrace | None] = SimpleQueue()
        self.error: BaseException | None = None
        self.broken = False  # the error ends all of it
        self.over = False  # nothing more comes into the queue

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
    an LLM at rest frees its weights at once. news: what the driver does before its next step. driver: the engine's
    thread, or the run whose caller drives; None while the engine rests. driving: the ident of the thread that takes a
    turn.
    requests, runs, borrowed: what the engine holds something for; borrowed are sequences whose logits are computed.
    """

    def __init__(self, serve: Callable[[], Callable[[], None] | None]) -> None:
        self.serve = serve
        self.lock = RLock()
        self.news: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.driver: Thread | Run | None = None
        self.driving: int | None = None
        self.retired = False
        self.requests: dict[Sequence, Client] = {}
        self.runs: set[Run] = set()
        self.borrowed: set[Sequence] = set()

    @property
    def pending(self) -> bool:
        """Whether the engine's thread is needed."""
        return bool(self.requests) or not self.news.empty()

    @property
    def busy(self) -> bool:
        """Whether the engine holds anything for a caller."""
        return bool(self.requests or self.runs or self.borrowed)

    # For callers.

    def post(self, action: Callable[[], None]) -> None:
        """Leaves an action for the driver, and starts the engine's thread if there is no driver."""
        self.news.put(action)
        with self.lock:
            if self.driver is None:
                self._start()

    def take(self, who: Thread | Run) -> bool:
        """Makes `who` the driver if there is none; whether it is the driver now."""
        with self.lock:
            if self.driver is None:
                self.driver = who
            return self.driver is who

    def rest(self, driver: Thread | Run) -> None:
        """The driver stops. If there is work, a thread goes on with it; else any run may drive."""
        with self.lock:
            if self.driver is driver:
                self.driver = None
                if self.pending:
                    self._start()
        for run in tuple(self.runs):
            if run.traces.empty():  # else its reader does not wait, and may never read
                run.traces.put(None)

    def do_or_post(self, who: Run, action: Callable[[], None]) -> None:
        """Does an action at once if there is no driver, else leaves it for the driver; `who` then drives no more."""
        if not self.lock.acquire(timeout=TICK):  # the garbage collector came before this thread told that it has begun,
            self.news.put(action)  # and who waits for that holds the lock: this thread will drive
            return
        self.lock.release()
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

    def _start(self) -> None:
        """Starts the engine's thread, which drives from now on."""
        if self.retired:
            return
        thread = Thread(target=self._drive, name="tinyinfer engine", daemon=True)
        self.driver = thread
        try:
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
            for _ in range(self.news.qsize()):
                self.news.get()()
            yield
        finally:
            self.driving = None

    def hear(self, seconds: float) -> bool:
        """Waits at most so long for news; True when there was some, and it is done."""
        with suppress(Empty):
            self.news.get(timeout=min(seconds, TICK))()
            return True
        return False


def received(queue: SimpleQueue[T], timeout: float | None = None) -> list[T]:
    """The next item of a queue; no item when none comes within `timeout` seconds (None: waits for ever)."""
    until = inf if timeout is None else monotonic() + timeout
    while True:
        with suppress(Empty):
            return [queue.get(timeout=max(0.0, min(TICK, until - monotonic())))]
        if monotonic() >= until:
            return []
