"""Several callers of one engine: what each of them can do, from any thread.

A caller hands requests to the engine and waits, or reads what came; a driver takes the turns (inbox.py says who, and
turns.py what a turn is). So a server is a client of `submit` and nothing else, and a caller who leaves, fails or is
slow changes nothing for the others.

Wins: throughput, as soon as two callers ask at once. Loses: a request that comes alone waits for a thread to start, and
each step for its callers to be told; benchmarks/submit.py measures both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from collections.abc import Sequence as Seq
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread, get_ident
from typing import Any, TypeVar
from weakref import finalize, ref

import numpy as np

from tinyinfer.engine.engine import Engine
from tinyinfer.engine.inbox import TICK, Client, Inbox, Run, is_ctrl_c, received
from tinyinfer.engine.trace import StepTrace
from tinyinfer.engine.turns import Listener, StepLock, Turns
from tinyinfer.sequence import Sequence

T = TypeVar("T")
AT_EXIT = 5.0  # seconds that a running step is waited for when the program ends
CLOSED = "this LLM is closed; make a new one"
FORKED = (
    "this process was forked while the LLM had requests in flight; fork before the first request or after the end of "
    "the last one, or make an LLM in the new process"
)
FORKED_FROM_GPU = (
    "this process was forked from one whose LLM uses a GPU, and a GPU is of no use in a forked process; start the new "
    "process by multiprocessing's spawn, and make an LLM there"
)
WAITS_FOR_ITSELF = (
    "a call inside on_progress would wait for the engine's thread, on which on_progress runs; submit the prompt there "
    "and wait for it in another thread"
)
IN_FLIGHT = "an LLM with requests in flight cannot be copied; wait for them or cancel them"


class EngineLoop:
    """Takes what callers ask of an engine. step_lock: shared with the loops of engines over the same weights.

    listeners: called with the trace of each step, on the thread that took it; they do not raise.
    """

    def __init__(self, engine: Engine, step_lock: StepLock | None = None) -> None:
        self.engine, self.step_lock = engine, step_lock or StepLock()
        self.closed, self._made_in = False, os.getpid()
        self.listeners: list[Listener] = []
        self._turns: dict[int, Turns] = {}  # by process: a forked one has locks and a thread of its own
        finalize(self, close_at_exit, ref(self))

    def __reduce__(self) -> tuple[type[EngineLoop], tuple[Engine, StepLock]]:
        if any(turns.inbox.busy for turns in tuple(self._turns.values())):
            raise RuntimeError(IN_FLIGHT)
        return EngineLoop, (self.engine, self.step_lock)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Calls `listener` from the next step on; returns what ends that."""
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def submit(self, clients: Seq[Client]) -> None:
        """Hands requests to the engine, all at once, and returns. Raises RuntimeError when that cannot be."""
        turns, now = self.check_open(), self.engine.clock()
        requests = turns.inbox.requests
        with turns.inbox.lock:
            self.check_open()
            try:
                requests.update((client.seq, client) for client in clients)
                turns.inbox.post(partial(turns.enter, clients, now))
            except BaseException:  # the system has no thread to give, or Ctrl-C
                for client in clients:
                    requests.pop(client.seq, None)
                raise

    def leave(self, client: Client) -> None:
        """Lets the driver drop a request that is cancelled: within a step its blocks are free."""
        turns = self._turns.get(os.getpid())
        if turns is not None:  # else a copy in a forked process, which runs nothing
            turns.inbox.leave(partial(turns.leave, client))

    def wait(self, queue: SimpleQueue[T], timeout: float | None = None) -> list[T]:
        """The next item of a queue that a driver fills; no item when none comes within `timeout` seconds.

        Raises RuntimeError where `check_wait` does.
        """
        self.check_wait()
        return received(queue, timeout, self._of_this_process().inbox.ensure_driver)

    def steps(self, sequences: list[Sequence], watch: bool = False) -> Iterator[StepTrace]:
        """Steps until all of `sequences` are finished, on the caller's thread; leaving early aborts the others.

        While the engine's thread serves other callers, its steps are the ones that are yielded: none in which the
        sequences could run is left out. Raises ValueError, before any work, for a sequence that could never fit.
        """
        run = Run(sequences, watch)
        steps = self._steps(run)
        run.reader = ref(steps)
        return steps

    def _steps(self, run: Run) -> Generator[StepTrace, None, None]:
        turns, now = self.check_caller(), self.engine.clock()
        try:
            try:
                turns.inbox.leave(partial(turns.begin, run, now))
                while not run.over or not run.traces.empty():
                    trace = self._next(turns, run)
                    if trace is not None:
                        yield trace
                if run.error is not None:
                    raise run.error
            finally:
                self._finish(turns, run)
        finally:  # once more: Ctrl-C may have come just before the end of the run, or in it
            self._finish(turns, run)

    def _next(self, turns: Turns, run: Run) -> StepTrace | None:
        """The next trace of a run, from a turn of its own if there is no other driver; None: look again."""
        self.check_wait()
        if run.traces.empty() and turns.inbox.take(run):
            try:
                turns.turn()
            finally:
                turns.inbox.rest(run)
        with suppress(Empty):
            return run.traces.get(timeout=TICK)
        return None

    def _finish(self, turns: Turns, run: Run) -> None:
        """Drops the sequences of a run, at once if there is no driver, else before the driver's next step."""
        if self._turns.get(os.getpid()) is turns:  # else a copy in a forked process
            turns.inbox.do_or_post(run, partial(turns.finish, run))

    def logits(self, seq: Sequence, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Pairs (first position, logits of up to `rows` positions) over a sequence, each computed between two steps."""
        turns, start, run = self.check_caller(), 0, Run([seq], watch=False)
        try:
            try:
                turns.inbox.borrowed.add(seq)
                while start < len(seq.tokens):
                    logits = self._between_steps(turns.inbox, partial(turns.logits, seq, start, rows))
                    yield start, logits
                    start += len(logits)
            finally:
                self._give_back(turns, run)
        finally:  # once more: Ctrl-C may have come in between
            self._give_back(turns, run)

    def _give_back(self, turns: Turns, run: Run) -> None:
        """Frees the room of the sequence whose logits were computed, as `_finish` does."""
        [seq] = run.sequences
        if (seq in turns.inbox.borrowed or turns.inbox.driver is run) and self._turns.get(os.getpid()) is turns:
            turns.inbox.do_or_post(run, partial(turns.give_back, seq))

    def _between_steps(self, inbox: Inbox, work: Callable[[], T]) -> T:
        """What `work` gives or raises, done by the driver between two steps."""
        self.check_caller()
        answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

        def action() -> None:
            try:
                answers.put((work(), None))
            except BaseException as error:
                if is_ctrl_c(error):
                    raise  # the next driver does the work
                answers.put((None, error))

        inbox.post(action)
        [(value, error)] = self.wait(answers)
        if error is not None:
            raise error
        return value

    def close(self, timeout: float | None = None) -> None:
        """Ends all open requests, finish_reason "abort", and the engine's thread; waits at most `timeout` seconds."""
        turns = self._turns.get(os.getpid())
        if turns is None:
            self.closed = True
            return
        inbox, ended = turns.inbox, SimpleQueue[None]()
        with inbox.lock:
            self.closed = True
        for client in list(inbox.requests.values()):
            client.cancel()
        if inbox.take(closing := Run([], watch=False)):  # no request is open, and no thread is needed
            try:
                turns.stop()
            finally:
                inbox.rest(closing)
        else:
            inbox.post(turns.stop)
            inbox.post(partial(ended.put, None))
            if inbox.driving != get_ident():  # else in on_progress: the requests end when that returns
                received(ended, timeout)
        driver = inbox.driver
        if isinstance(driver, Thread) and inbox.driving != get_ident():
            driver.join(timeout)
        inbox.retire()

    # Who may ask.

    def check_open(self) -> Turns:
        """Raises RuntimeError: the loop is closed, or this process was forked with requests in flight."""
        if self.closed:
            raise RuntimeError(CLOSED)
        return self._of_this_process()

    def check_wait(self) -> None:
        """Raises RuntimeError where a wait would never end: in such a process, and on the thread that takes a turn."""
        if self._of_this_process().inbox.driving == get_ident():
            raise RuntimeError(WAITS_FOR_ITSELF)

    def check_caller(self) -> Turns:
        """Raises RuntimeError where either check does."""
        self.check_wait()
        return self.check_open()

    def _of_this_process(self) -> Turns:
        pid = os.getpid()
        turns = self._turns.get(pid)
        if turns is None:
            if pid != self._made_in and self.engine.ops.xp is not np:
                raise RuntimeError(FORKED_FROM_GPU)
            if any(other.inbox.busy for process, other in tuple(self._turns.items()) if process != pid):
                raise RuntimeError(FORKED)
            turns = self._turns.setdefault(pid, Turns(self.engine, self.step_lock, self.listeners))
        return turns


def close_at_exit(loop: ref[EngineLoop]) -> None:
    """Ends the engine's thread when the program does; nothing happens for a loop that is gone."""
    found = loop()
    if found is not None:
        found.close(AT_EXIT)
