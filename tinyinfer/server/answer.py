"""One call, from its body to the last byte: an answer at once when it is whole, or as server-sent events.

Where a stream has nothing to say for a while, because a long prompt is computed or a call is held back, a comment says
that the connection lives. An error before the first byte is a status; behind it, an event with an error in it, since
the status has gone out, after what ends each answer.

A client that leaves ends its requests, streamed or not: a task listens to the connection beside the one that answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from tinyinfer.errors import NotFiniteError, RequestError, SwitchError
from tinyinfer.prompts import Prompt
from tinyinfer.request import Delta, Request
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.server.body import ClientGone
from tinyinfer.server.collected import CUT, Collected
from tinyinfer.server.errors import APIError, UnknownError, as_api_error
from tinyinfer.server.events import COMMENT, encoded
from tinyinfer.server.running import Running
from tinyinfer.server.service import Service

EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"),
          (b"x-accel-buffering", b"no")]  # fmt: skip
LOOKS = 0.2  # seconds between two looks at an answer that is sent whole: for the numbers, which go on meanwhile
ENDED = "the server has ended this request before its answer was complete; send it again"


class Form(Protocol):
    """How one kind of call is asked and answered. Making one raises APIError for a body that is none.

    names: see `as_api_error`. unknown: fields that were passed over.
    """

    names: dict[str, str]
    unknown: list[str]
    stream: bool

    @property
    def count(self) -> int:
        """How many answers there will be: n to each prompt."""

    def prompts(self) -> list[Prompt]:
        """What the engine is given; takes time."""

    @property
    def params(self) -> SamplingParams:
        """How tokens are chosen; asked for when the prompts are made, on which it may depend."""

    def collect(self, request: Request) -> Collected:
        """What gathers the answer of a request."""

    def body(self, answers: list[Collected]) -> dict[str, Any]:
        """All answers, which have ended."""

    def begin(self) -> bytes:
        """What a stream begins with."""

    def events(self, answers: list[Collected], index: int, delta: Delta) -> bytes:
        """What a stream says of a delta, which the answer of this index holds already."""

    def end(self, answers: list[Collected]) -> bytes:
        """What a stream ends with."""

    def failed(self, answers: list[Collected], error: APIError) -> bytes:
        """What a stream ends with when an error cuts it; answers that were cut have taken CUT."""


MakeForm = Callable[[Service, Mapping[str, Any]], Form]


class Endpoint:
    """An ASGI application that answers calls of one form."""

    def __init__(self, service: Service, form: MakeForm) -> None:
        self.service, self.form = service, form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, arrival = self.service, self.service.clock()
        service.admission.check()
        form = await service.read(service.admission, Headers(scope=scope), receive, partial(self.form, service))
        service.log_unknown(scope["path"], form.unknown)
        with service.admission.enter(form.count, service.clock, form.params.n):
            call = Call(service, form, scope["key"], scope["log"], arrival)
            await unless_gone(receive, call.answer(Taken(send, service.stalled)))


class Taken:
    """Sends to a client that takes what is sent. Raises ClientGone for one that reads nothing for so many seconds."""

    def __init__(self, send: Send, seconds: float) -> None:
        self._send, self._seconds = send, seconds

    async def __call__(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await self._send(message)
        except TimeoutError:
            raise ClientGone from None


class Call:
    """One call whose body is read. key: the number of its caller's key. facts: what its log line says."""

    def __init__(self, service: Service, form: Form, key: int | None, facts: dict[str, Any], arrival: float) -> None:
        self.service, self.form, self.key, self.facts, self.arrival = service, form, key, facts, arrival
        self.running = Running(service.llm, 0.0 if form.stream else LOOKS)
        self.answers: list[Collected] = []

    async def answer(self, send: Send) -> None:
        """Answers the call, and ends what is left of it. Raises APIError before the first byte."""
        cut = "abort"
        try:
            async with asyncio.timeout(self.service.switches.request_timeout):
                params = partial(salted_params, self.form, self.key)
                await self.running.open(self.service.pool, self.form.prompts, params)
                self.answers = list(map(self.form.collect, self.running.requests))
                self.service.metrics.began(self.running.requests)
                await (self._stream(send) if self.form.stream else self._whole(send))
        except ClientGone:
            raise
        except Exception as cause:
            cut = "error"
            self._leave()  # before anything is sent, which may take its time
            if not self.form.stream or not self.answers:
                if isinstance(cause, APIError):
                    raise
                raise self._told(cause) from cause
            await self._fail(self._told(cause), send)
        finally:
            self._leave()
            self._count(cut)

    async def _fail(self, error: APIError, send: Send) -> None:
        """Ends a stream with an error."""
        self.facts |= error.logged
        for answer in self.answers:
            if answer.finish_reason not in ("stop", "length"):
                answer.add(CUT)
        told = self.form.failed(self.answers, error)
        await send({"type": "http.response.body", "body": told, "more_body": False})

    async def _whole(self, send: Send) -> None:
        async for _ in self._deltas():
            continue
        body = encoded(self.form.body(self.answers))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        async for piece in self._events():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": self.form.end(self.answers), "more_body": False})

    async def _events(self) -> AsyncIterator[bytes]:
        """The events of a stream, but for the last one."""
        if begin := self.form.begin():
            yield begin
        sent = self.service.clock()
        async for index, delta in self._deltas():
            told = b"" if delta is None else self.form.events(self.answers, index, delta)
            if told or delta is None or self.service.clock() - sent > self.service.patience:
                sent = self.service.clock()
                yield told or COMMENT

    async def _deltas(self) -> AsyncIterator[tuple[int, Delta | None]]:
        """What comes, as `Running.news` has it, counted and added to the answers. Raises APIError when one is cut."""
        async for index, delta in self.running.news(self.service.patience):
            if delta is not None:
                self.service.metrics.saw(self.answers[index], delta, self.arrival)
                self.answers[index].add(delta)
                if delta.finish_reason == "abort":
                    raise APIError(503, ENDED, retry_after="1")
            yield index, delta

    def _told(self, cause: Exception) -> APIError:
        """What the caller is told of an exception."""
        if isinstance(cause, TimeoutError):
            return APIError(504, f"the answer took longer than {self.service.switches.request_timeout:g} seconds")
        if isinstance(cause, NotFiniteError):
            self.service.metrics.corrupted()
        theirs = not self.answers or isinstance(cause, (APIError, RequestError, SwitchError))
        return as_api_error(cause, self.form.names) if theirs else UnknownError(cause)

    def _leave(self) -> None:
        """Ends what has not ended, and takes what has come of it: whole answers are looked at only now and then."""
        for answer in self.answers:
            if answer.finish_reason is None:
                with suppress(Exception):  # an error that ended this request, too; the call tells of the first one
                    if (delta := answer.source.poll()) is not None:
                        self.service.metrics.saw(answer, delta, self.arrival)
                        answer.add(delta)
        self.running.cancel()

    def _count(self, otherwise: str) -> None:
        """Counts each request once, at its end. otherwise: the reason of those that have not come to their own."""
        if not self.answers:
            return
        ends = [one.finish_reason if one.finish_reason in ("stop", "length") else otherwise for one in self.answers]
        for answer, reason in zip(self.answers, ends, strict=True):
            self.service.metrics.ended(answer, self.arrival, reason)
        self.facts["prompt_tokens"] = sum(len(one.prompt) for one in self.answers if one.is_first)
        self.facts["completion_tokens"] = sum(len(answer.token_ids) for answer in self.answers)
        self.facts["finished"] = ",".join(ends)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Does the work unless the client leaves before its end. Raises ClientGone, or what the work raises."""
    task, listening = asyncio.create_task(work), asyncio.create_task(until_gone(receive))
    try:
        await asyncio.wait((task, listening), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        await task
    finally:
        for one in (task, listening):
            one.cancel()
        await asyncio.gather(task, listening, return_exceptions=True)
        del task, one  # a task has its error, whose traceback has this frame (see gate.py, `told`)


async def until_gone(receive: Receive) -> None:
    """Waits until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        continue


def salted_params(form: Form, key: int | None) -> SamplingParams:
    """The parameters, with a salt that no other key has: callers of different keys share no prefix (CVE-2025-46570)."""
    params = form.params
    return params if key is None else replace(params, cache_salt=f"key {key} {params.cache_salt or ''}")
