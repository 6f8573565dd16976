"""Requests of the engine, as asyncio sees them: what steps bring is told by the engine's thread and read by a task.

Two threads meet here. The engine's thread calls back after each step and must not wait; the event loop's thread serves
all connections and must not compute. So a callback only leaves a number in a queue, and a task takes what is new
(`Request.poll`) when its turn comes. To wake the event loop costs a system call, at which the engine's thread gives the
GIL away; so an answer that is sent whole is looked at only a few times a second. Work that takes time before a request
is there (tokenizing, templates) is done by a third kind of thread, those of a pool: /health answers while a prompt is
tokenized.

A client may leave at any time, also while a thread of the pool still works for it; then the requests that this work
brings are cancelled as soon as they are there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from collections.abc import Sequence as Seq
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from time import monotonic
from typing import NamedTuple, TypeVar

from tinyinfer.errors import SwitchError, placed
from tinyinfer.llm import LLM
from tinyinfer.prompts import Prompt
from tinyinfer.request import Delta, Request
from tinyinfer.sampling_params import SamplingParams

T = TypeVar("T")


class News(NamedTuple):
    """What came of the request of this place in the call; no delta: nothing came for a while."""

    place: int
    delta: Delta | None


class Running:
    """The requests of one call: n for each prompt, prompt by prompt. Made on the event loop's thread.

    pause: seconds for which news may wait for more, but for the end.
    """

    def __init__(self, llm: LLM, pause: float) -> None:
        self.requests: list[Request] = []
        self._llm, self._tasks = llm, asyncio.get_running_loop()
        self._news: asyncio.Queue[int] = asyncio.Queue()
        self._pause, self._due = pause, 0.0

    async def open(
        self, pool: ThreadPoolExecutor, prompts: Callable[[], Seq[Prompt]], params: Callable[[], SamplingParams]
    ) -> None:
        """Makes the prompts, then the parameters, on a thread of the pool, and hands them to the engine.

        Raises what either raises.
        """
        job = pool.submit(lambda: self._submit(prompts(), params()))
        try:
            self.requests = await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            job.add_done_callback(cancel_all)
            raise
        finally:
            del job  # it has its error, whose traceback has this frame

    async def news(self, patience: float) -> AsyncIterator[News]:
        """What comes, until all requests have ended; a News without a delta after `patience` seconds of silence.

        Raises the error that ended one of the requests.
        """
        left = len(self.requests)
        while left:
            try:
                async with asyncio.timeout(patience):
                    place = await self._news.get()
            except TimeoutError:
                yield News(-1, None)
                continue
            delta = self.requests[place].poll()
            if delta is not None:
                left -= delta.finish_reason is not None
                yield News(place, delta)

    def cancel(self) -> None:
        """Ends what has not ended; within a step its blocks are free."""
        for request in self.requests:
            request.cancel()

    def _submit(self, prompts: Seq[Prompt], params: SamplingParams) -> list[Request]:
        requests: list[Request] = []
        try:
            for place, prompt in enumerate(prompts):
                with naming(place, len(prompts)):
                    tell = partial(self._tell, place * params.n)
                    requests += self._llm.submit(prompt, params, tell).branches
        except BaseException:
            for request in requests:
                request.cancel()
            raise
        return requests

    def _tell(self, first: int, request: Request) -> None:
        now = monotonic()
        if request.finish_reason is not None or now >= self._due:
            self._due = now + self._pause
            with suppress(RuntimeError):  # the event loop is closed, and no task reads
                self._tasks.call_soon_threadsafe(self._news.put_nowait, first + request.seq.request.branch)


@contextmanager
def naming(place: int, count: int) -> Iterator[None]:
    """Lets an error say which of several prompts it is about, unless it is about a parameter of all of them."""
    try:
        yield
    except ValueError as error:
        if count == 1 or (isinstance(error, SwitchError) and error.field):
            raise
        raise placed(f"prompt[{place}]", error) from error


def cancel_all(job: Future[list[Request]]) -> None:
    """Cancels the requests that a job brought after its client had left."""
    if not job.cancelled() and job.exception() is None:
        for request in job.result():
            request.cancel()


async def in_pool(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """What `work` gives, done on a thread of the pool."""
    return await asyncio.wrap_future(pool.submit(work))
