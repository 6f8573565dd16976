"""One call, from its body to the last byte: an answer at once when it is whole, or as server-sent events.

A stream is `data: {...}` lines, the last of them `data: [DONE]` (WHATWG HTML, "Server-sent events"). Where nothing
comes for a while, because a long prompt is computed, a comment line says that the connection lives. An error before the
first byte is a status; behind it, an event with an error in it, since the status has gone out.

A client that leaves ends its requests, streamed or not: a task listens to the connection beside the one that answers.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, Protocol

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from tinyinfer.errors import NotFiniteError, RequestError, SwitchError
from tinyinfer.llm import LLM
from tinyinfer.prompts import Prompt
from tinyinfer.request import Delta
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.server.body import ClientGone, read_json
from tinyinfer.server.collected import Collected, usage
from tinyinfer.server.errors import APIError, as_api_error, unknown
from tinyinfer.server.logprobs import Speller
from tinyinfer.server.running import Running
from tinyinfer.server.service import Service

EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"),
          (b"x-accel-buffering", b"no")]  # fmt: skip
COMMENT = b": the prompt is being computed\n\n"
ENDED = "the server has ended this request before its answer was complete; send it again"


class Form(Protocol):
    """How one kind of completion is asked and answered. Making one raises APIError for a body that is none.

    names: see `as_api_error`. unknown: fields that were passed over. usage_last, usage_always: whether a stream ends
    with the usage, and whether each chunk has it.
    """

    kind: str
    chunk_kind: str
    prefix: str
    params: SamplingParams
    names: dict[str, str]
    unknown: list[str]
    stream: bool
    usage_last: bool
    usage_always: bool

    @property
    def count(self) -> int:
        """How many answers there will be: n to each prompt."""

    def prompts(self) -> list[Prompt]:
        """What the engine is given; takes time."""

    def whole(self, index: int, answer: Collected) -> dict[str, Any]:
        """An answer that has ended."""

    def opening(self, index: int, answer: Collected) -> list[dict[str, Any]]:
        """What stands before the first piece of an answer."""

    def pieces(self, index: int, answer: Collected, delta: Delta) -> list[dict[str, Any]]:
        """The parts of a stream that a delta becomes."""


MakeForm = Callable[[LLM, Speller, str, Mapping[str, Any]], Form]


class Endpoint:
    """An ASGI application that answers calls of one form."""

    def __init__(self, service: Service, form: MakeForm) -> None:
        self.service, self.form = service, form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, arrival = self.service, self.service.clock()
        switches = service.switches
        body = await read_json(Headers(scope=scope), receive, switches.max_body, switches.body_timeout)
        form = self.form(service.llm, service.speller, service.name, body)
        service.log_unknown(scope["path"], form.unknown)
        with service.admission.enter(form.count, service.clock):
            params = salted(form.params, scope["key"])
            call = Call(service, form, params, scope["log"], arrival)
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
    """One call whose body is read. facts: what its log line says."""

    def __init__(
        self, service: Service, form: Form, params: SamplingParams, facts: dict[str, Any], arrival: float
    ) -> None:
        self.service, self.form, self.params, self.facts, self.arrival = service, form, params, facts, arrival
        self.running = Running(service.llm)
        self.answers: list[Collected] = []
        kind = form.chunk_kind if form.stream else form.kind
        self._head = {"id": form.prefix + secrets.token_hex(12), "object": kind, "created": int(time.time())}
        self._head |= {"model": service.name, "system_fingerprint": None}

    async def answer(self, send: Send) -> None:
        """Answers the call, and ends what is left of it. Raises APIError before the first byte."""
        error: APIError | None = None
        try:
            async with asyncio.timeout(self.service.switches.request_timeout):
                await self.running.open(self.service.pool, self.form.prompts, self.params)
                self.answers = [Collected(request) for request in self.running.requests]
                self.service.metrics.began(self.running.requests)
                await (self._stream(send) if self.form.stream else self._whole(send))
        except ClientGone:
            raise
        except Exception as cause:
            self.running.cancel()  # before anything is sent, which may take its time
            error = self._told(cause)
            if not self.form.stream or not self.answers:
                raise error from cause
            self.facts["error"] = error.logged
            with_error = event(error.as_dict()) + event(None)
            await send({"type": "http.response.body", "body": with_error, "more_body": False})
        finally:
            self.running.cancel()
            self._count("error" if error else "abort")

    async def _whole(self, send: Send) -> None:
        async for _ in self._deltas():
            continue
        choices = [self.form.whole(index, answer) for index, answer in enumerate(self.answers)]
        body = encoded({**self._head, "choices": choices, "usage": usage(self.answers)})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        async for piece in self._events():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": event(None), "more_body": False})

    async def _events(self) -> AsyncIterator[bytes]:
        """The events of a stream, but for the last one."""
        opened: set[int] = set()
        async for index, delta in self._deltas():
            if delta is None:
                yield COMMENT
                continue
            answer = self.answers[index]
            choices = [] if index in opened else self.form.opening(index, answer)
            opened.add(index)
            choices += self.form.pieces(index, answer, delta)
            if choices:
                yield b"".join(self._chunk([choice]) for choice in choices)
        if self.form.usage_last:
            yield self._chunk([], usage(self.answers))

    def _chunk(self, choices: list[dict[str, Any]], counted: dict[str, Any] | None = None) -> bytes:
        """One event. usage is null in all but the last, where it is asked for at the end."""
        if self.form.usage_always and counted is None:
            counted = usage(self.answers)
        told = {"usage": counted} if self.form.usage_last else {}
        return event({**self._head, "choices": choices, **told})

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
        told = as_api_error(cause, self.form.names) if theirs else unknown(cause)
        if told.status == 500 and not isinstance(cause, (NotFiniteError, APIError)):
            self.facts["exception"] = f"{type(cause).__name__}: {cause}"
        return told

    def _count(self, otherwise: str) -> None:
        """Counts each request once, at its end. otherwise: the reason of those that have not come to their own."""
        if not self.answers:
            return
        for answer in self.answers:
            reason = answer.finish_reason if answer.finish_reason in ("stop", "length") else otherwise
            self.service.metrics.ended(answer, self.arrival, reason)
        self.facts["prompt_tokens"] = sum(len(one.prompt) for one in self.answers if one.is_first)
        self.facts["completion_tokens"] = sum(len(answer.token_ids) for answer in self.answers)
        self.facts["finished"] = ",".join(answer.finish_reason or otherwise for answer in self.answers)


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


async def until_gone(receive: Receive) -> None:
    """Waits until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        continue


def salted(params: SamplingParams, key: int | None) -> SamplingParams:
    """The parameters, with a salt that no other key has: callers of different keys share no prefix (CVE-2025-46570)."""
    return params if key is None else replace(params, cache_salt=f"key {key} {params.cache_salt or ''}")


def encoded(value: Any) -> bytes:
    """JSON in UTF-8, as short as can be."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")


def event(value: dict[str, Any] | None) -> bytes:
    """A server-sent event; None: the last one of a stream."""
    return b"data: " + (b"[DONE]" if value is None else encoded(value)) + b"\n\n"
