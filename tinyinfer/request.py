"""A request: one prompt that the engine continues, as its caller sees it while the engine computes.

>>> request = llm.submit("Once upon a time")                                        # doctest: +SKIP
>>> for delta in request: print(delta.text, end="")                                 # doctest: +SKIP

Tokens and text of a sequence only grow. So the engine's thread tells of a step by three numbers (how many tokens and
characters there are), and a reader takes what lies between those numbers and the ones that it has seen. The engine
waits for no reader, a slow reader gets larger pieces, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import NamedTuple

from tinyinfer.engine.inbox import is_ctrl_c
from tinyinfer.engine.loop import EngineLoop
from tinyinfer.engine.metrics import RequestMetrics, request_metrics
from tinyinfer.sampling import Choice
from tinyinfer.sequence import Sequence

Wake = Callable[[], None]


@dataclass(frozen=True)
class TokenLogprob:
    """A generated token's log-probability before any filter, and the best alternatives' (id -> logprob)."""

    token: int
    logprob: float
    top: dict[int, float]


@dataclass(frozen=True)
class RequestOutput:
    """The result of one prompt. finish_reason: "stop" (end token or stop string), "length" or "abort".

    token_ids holds the end token when it was generated; text ends before a stop string. logprobs: when asked for.
    reasoning: what a model that answers a conversation thought before its text, "" when nothing. With n > 1 this is the
    first branch, and others are the results of the rest; index: the number of the branch. prompt_logprobs: when asked
    for, of the prompt's tokens; the first is None, since nothing stands before it.
    """

    text: str
    token_ids: list[int]
    prompt_token_ids: list[int]
    finish_reason: str
    metrics: RequestMetrics
    logprobs: list[TokenLogprob] | None = None
    reasoning: str = ""
    index: int = 0
    others: tuple[RequestOutput, ...] = ()
    prompt_logprobs: list[TokenLogprob | None] | None = None

    @property
    def outputs(self) -> list[RequestOutput]:
        """The results of all branches of the prompt."""
        return [self, *self.others]


@dataclass(frozen=True)
class Delta:
    """What is new of a request. finish_reason: None but in the last delta. logprobs: when asked for."""

    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None
    reasoning: str
    finish_reason: str | None


class Shown(NamedTuple):
    """How much of a sequence there is to see: tokens, characters of the text and of the reasoning, and its end."""

    tokens: int = 0
    characters: int = 0
    reasoning: int = 0
    finish_reason: str | None = None


class Request:
    """A prompt that was handed to the engine. All methods may be called from any thread.

    Iterating, also with `async for`, gives a Delta whenever a step brings something; each iteration begins with the
    first token. Leaving an iteration early cancels the request. on_progress(request) is called on the engine's thread
    after each step that brought something, and at the end. An exception in it ends this request only.
    others: the requests of the prompt's other branches, of the first one (n > 1).
    """

    def __init__(
        self, seq: Sequence, loop: EngineLoop, on_progress: Callable[[Request], None] | None = None,
        others: tuple[Request, ...] = (),
    ) -> None:  # fmt: skip
        self.seq, self._others = seq, others
        self._loop, self._on_progress = loop, on_progress
        self._ended_by: dict[str, object] = {}  # "first": what ended it first, the engine or a call of `cancel`
        self._newest = self._polled = Shown()
        self._shown = self._newest  # what readers see: on_progress has returned
        self._error: BaseException | None = None
        self._readers: list[Wake] = []  # woken by each step
        self._waiters: list[Wake] = []  # woken by the end

    @property
    def id(self) -> int:
        """The number of the request; StepTrace.turns have it, too."""
        return self.seq.id

    @property
    def branches(self) -> tuple[Request, ...]:
        """The requests of all branches of the prompt, this one first; each is read, waited for and cancelled by itself.
        """
        return self, *self._others

    @property
    def finish_reason(self) -> str | None:
        """Why the request ended: "stop", "length" or "abort"; None while it runs."""
        return self._newest.finish_reason

    def cancel(self) -> bool:
        """Ends the request; returns at once, and within a step its blocks are free. False when it was over already."""
        call = object()
        if self._ended_by.setdefault("first", call) is not call:  # `setdefault` of a dict cannot be interrupted
            return False
        self._loop.leave(self)
        return True

    def poll(self) -> Delta | None:
        """What came since the last `poll`, without waiting; None when nothing did."""
        seen, self._polled = self._polled, self._newest
        return self._delta(seen, self._polled) if seen != self._polled else None

    def result(self, timeout: float | None = None) -> RequestOutput:
        """Waits for the end. Raises the error that ended the request, TimeoutError after `timeout` seconds."""
        if self._shown.finish_reason is None:
            self._loop.check_wait()
            with listening(self._waiters) as woken:
                if self._shown.finish_reason is None and not self._loop.wait(woken, timeout):
                    raise TimeoutError(f"request {self.id} has not ended within {timeout} seconds; it goes on")
        if self._error is not None:
            raise self._error
        return request_output(self.seq, self._shown.finish_reason or "abort")

    def __iter__(self) -> Iterator[Delta]:
        seen = Shown()
        try:
            with listening(self._readers) as woken:
                while seen.finish_reason is None:
                    if seen == self._shown:
                        self._loop.wait(woken)
                    else:
                        seen, before = self._shown, seen
                        yield self._delta(before, seen)
        finally:
            self.cancel()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        from asyncio import Event, get_running_loop  # loaded on use: asyncio costs start-up time

        changed, tasks, seen = Event(), get_running_loop(), Shown()

        def wake() -> None:
            with suppress(RuntimeError):  # the event loop is closed, and no task waits
                tasks.call_soon_threadsafe(changed.set)

        self._readers.append(wake)
        try:
            while seen.finish_reason is None:
                changed.clear()
                if seen == self._shown:
                    self._loop.check_wait()
                    await changed.wait()
                else:
                    seen, before = self._shown, seen
                    yield self._delta(before, seen)
        finally:
            self._readers.remove(wake)
            self.cancel()

    def _delta(self, seen: Shown, shown: Shown) -> Delta:
        """What lies between two looks. Raises the error that ended the request."""
        if shown.finish_reason is not None and self._error is not None:
            raise self._error
        return Delta(
            self.seq.text.text[seen.characters : shown.characters],
            [choice.token for choice in self.seq.progress.choices[seen.tokens : shown.tokens]],
            token_logprobs(self.seq, seen.tokens, shown.tokens),
            self.seq.text.reasoning[seen.reasoning : shown.reasoning],
            shown.finish_reason,
        )

    # What the engine's thread calls (engine/inbox.py, Client).

    def progress(self) -> None:
        """Tells readers of new tokens, if the step brought any."""
        if len(self.seq.progress.choices) > self._shown.tokens:
            self._show(None)

    def end(self, error: BaseException | None = None) -> None:
        """Tells readers that the request is over. After an interrupt it may be called again."""
        if self._ended_by.setdefault("first", self.seq) is self.seq:
            self._error = self._error or error
            self._show(self.seq.progress.finish_reason or "abort")
        else:
            self._show("abort")
        for wake in tuple(self._waiters):
            wake()
        self._on_progress = None  # who is called back may hold this request: a circle

    def _show(self, finish_reason: str | None) -> None:
        seq = self.seq
        self._newest = Shown(len(seq.progress.choices), len(seq.text.text), len(seq.text.reasoning), finish_reason)
        if self._on_progress is not None:
            self._call_back(self._on_progress)
        self._shown = self._newest
        for wake in tuple(self._readers):
            wake()

    def _call_back(self, on_progress: Callable[[Request], None]) -> None:
        try:
            on_progress(self)
        except BaseException as error:  # of this caller; the engine goes on for the others
            if is_ctrl_c(error):
                raise  # the next turn calls back again
            failure = RuntimeError(f"on_progress of request {self.id} raised {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._on_progress, self._error = None, self._error or failure
            self.cancel()


@contextmanager
def listening(listeners: list[Wake]) -> Iterator[SimpleQueue[None]]:
    """A queue that gets an item whenever the listeners are woken."""
    woken: SimpleQueue[None] = SimpleQueue()
    wake = partial(woken.put, None)
    listeners.append(wake)
    try:
        yield woken
    finally:
        listeners.remove(wake)


def token_logprobs(seq: Sequence, start: int = 0, stop: int | None = None) -> list[TokenLogprob] | None:
    """The log-probabilities of generated tokens start ... stop, stop not included; None when they were not asked for.
    """
    if seq.request.params.logprobs is None:
        return None
    return [token_logprob(choice) for choice in seq.progress.choices[start:stop]]


def token_logprob(choice: Choice) -> TokenLogprob:
    """A choice whose log-probability was asked for."""
    return TokenLogprob(choice.token, choice.logprob or 0.0, choice.top or {})


def prompt_logprobs(seq: Sequence) -> list[TokenLogprob | None] | None:
    """The log-probabilities of the prompt's tokens, the first one's None; None when they were not asked for."""
    return None if seq.request.params.prompt_logprobs is None else [None, *map(token_logprob, seq.progress.scores)]


def request_output(seq: Sequence, finish_reason: str) -> RequestOutput:
    """The RequestOutput of a sequence: its text, tokens, log-probabilities and metrics."""
    return RequestOutput(
        seq.text.text, seq.new_tokens, seq.prompt, finish_reason, request_metrics(seq), token_logprobs(seq),
        seq.text.reasoning, seq.request.branch, prompt_logprobs=prompt_logprobs(seq),
    )  # fmt: skip
