"""Requests of the engine, as asyncio sees them: what steps bring is told by the engine's thread and read by a task.

Two threads meet here. The engine's thread calls back after each step and must not wait; the event loop's thread serves
all connections and must not compute. So a callback only leaves a number in a queue, and a task takes what is new
(`Request.poll`) when its turn comes. Work that takes time before a request is there (tokenizing, templates) is done by
a third kind of thread, those of a pool: /health answers while a long prompt is tokenized.

A client may leave at any time, also while a thread of the pool still works for it; then the requests that this work
brings are cancelled as soon as they are there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from collections.abc import Sequence as Seq
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeVar

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
    """The requests of one call: n for each prompt, prompt by prompt. Made on the event loop's thread."""

    def __init__(self, llm: LLM) -> None:
        self.requests: list[Request] = []
        self._llm, self._tasks = llm, asyncio.get_running_loop()
        self._news: asyncio.Queue[int] = asyncio.Queue()

    async def open(
        self, pool: ThreadPoolExecutor, prompts: Callable[[], Seq[Prompt]], params: SamplingParams
    ) -> None:
        """Makes the prompts on a thread of the pool, and hands them to the engine. Raises what either raises."""
        job = pool.submit(lambda: self._submit(prompts(), params))
        try:
            self.requests = await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            job.add_done_callback(cancel_all)
            raise

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
            for first, prompt in enumerate(prompts):
                requests += self._llm.submit(prompt, params, partial(self._tell, first * params.n)).branches
        except BaseException:
            for request in requests:
                request.cancel()
            raise
        return requests

    def _tell(self, first: int, request: Request) -> None:
        with suppress(RuntimeError):  # the event loop is closed, and no task reads
            self._tasks.call_soon_threadsafe(self._news.put_nowait, first + request.seq.request.branch)


def cancel_all(job: Future[list[Request]]) -> None:
    """Cancels the requests that a job brought after its client had left."""
    if not job.cancelled() and job.exception() is None:
        for request in job.result():
            request.cancel()


async def in_pool(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """What `work` gives, done on a thread of the pool."""
    return await asyncio.wrap_future(pool.submit(work))
