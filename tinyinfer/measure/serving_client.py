"""A client that loads a server and writes down when each piece of each answer came.

Two experiments, which answer two questions:

    open loop     requests are sent when they are due, whatever became of those before: users who do not know of each
                  other. Beyond what the server can do, waits grow without end
    closed loop   at most `max_concurrency` are under way: so many users who each ask again when they have an answer

A closed loop hides waits: while the server is slow, requests wait inside the client, and a clock that starts when they
are sent does not see it ("coordinated omission": Tene 2013). So each request has two beginnings: when it was due, and
when it was sent.

What a clock may be read from is a piece with a token in it: a stream's first piece only says whose answer follows. One
piece may bring several tokens, as a speculating server sends them. Its gap is divided by their number, which its token
ids tell, and where a server sends none, counts as one. Tokens inside the first piece have no gap, yet `tpot` divides
by all tokens but one, as vLLM does: with several in the first piece it is below the mean gap.

Wins: any server of this API can be measured, and compared. Loses: the client computes, too; on the same cores it takes
time from the server. Each request has a connection of its own, and its making counts as the server's time.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import h11

from tinyinfer.measure.serving_requests import Ask

Time = Callable[[], float]
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
READ = 1 << 16  # bytes
MOST = 10**15  # tokens of an answer; a larger number is no count


class Refused(Exception):
    """An answer that is no 200. status: HTTP's; words: what the server says."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"HTTP {status}: {words}")
        self.status, self.words = status, words


# What a request may end with: no connection, no HTTP, no JSON, and JSON of another shape than OpenAI's.
NO_ANSWER = (Refused, OSError, EOFError, h11.ProtocolError, ValueError, RecursionError)
NO_SHAPE = (LookupError, TypeError, AttributeError, ArithmeticError)


@dataclass(frozen=True)
class Target:
    """A server. url: with scheme, host and port; endpoint: the path that generates; extra: further fields of a body."""

    url: str
    endpoint: str = COMPLETIONS
    model: str = ""
    key: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    timeout: float = 600.0  # seconds of a request

    def body(self, ask: Ask) -> dict[str, Any]:
        """What is sent for a request."""
        asked: dict[str, Any] = {"model": self.model, "max_tokens": ask.output_tokens, "stream": True}
        asked |= {"stream_options": {"include_usage": True}, **self.extra}
        if self.endpoint.endswith("/chat/completions"):
            return asked | {"messages": [{"role": "user", "content": ask.prompt}]}
        return asked | {"prompt": ask.prompt}


@dataclass
class Answered:
    """What became of a request; times in seconds from the beginning of the load.

    pieces: when each piece with tokens came, and how many there were; error: why there is no whole answer, "" for one.
    prompt_tokens, output_tokens: as the server counts them, else as the pieces do. cached_tokens: of the prompt, what
    the server's prefix cache had; None where it does not say.
    """

    due: float
    sent: float = 0.0
    ended: float = 0.0
    pieces: list[tuple[float, int]] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str = ""
    cached_tokens: int | None = None

    @property
    def gaps(self) -> list[float]:
        """Seconds between tokens: a piece's gap divided by its tokens, once for each. Inside the first piece there are
        none.
        """
        pairs = zip(self.pieces, self.pieces[1:], strict=False)
        return [(came - before) / n for (before, _), (came, n) in pairs for _ in range(n)]

    @property
    def first(self) -> float | None:
        """When the first token came; None for none."""
        return self.pieces[0][0] if self.pieces else None


async def load(target: Target, asks: list[Ask], max_concurrency: int | None = None) -> AsyncIterator[Answered]:
    """Sends every request when it is due, and yields each when it is over. Ended early, it ends all under way."""
    places = asyncio.Semaphore(max_concurrency or len(asks))
    over: asyncio.Queue[Answered] = asyncio.Queue()
    begun = time.perf_counter()

    def clock() -> float:
        return time.perf_counter() - begun

    async def one(ask: Ask) -> None:
        await asyncio.sleep(ask.due - clock())
        answered = Answered(ask.due)
        async with places:
            answered.sent = clock()
            try:
                await send(target, ask, answered, clock)
            finally:  # else `load` would wait for ever
                answered.ended = clock()
                over.put_nowait(answered)

    tasks = [asyncio.create_task(one(ask)) for ask in asks]
    try:
        for _ in asks:
            yield await over.get()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def send(target: Target, ask: Ask, answered: Answered, clock: Time) -> None:
    """Sends one request and writes down what comes."""
    try:
        async with asyncio.timeout(target.timeout):
            async for event in events(target, target.body(ask)):
                read_event(event, answered, clock())
        if not answered.error and not answered.pieces:
            answered.error = "the answer has no token"
    except TimeoutError:
        answered.error = f"no end within {target.timeout:g} s"
    except (*NO_ANSWER, *NO_SHAPE) as error:
        answered.error = words_of(error)
    if not answered.output_tokens:
        answered.output_tokens = sum(n for _, n in answered.pieces)


def read_event(event: dict[str, Any], answered: Answered, came: float) -> None:
    """Writes down one piece of an answer. A count that is none is absent: servers tell them in several ways."""
    if error := event.get("error"):
        answered.error = str(error.get("message", error) if isinstance(error, dict) else error)
    for choice in event.get("choices") or []:
        said = choice.get("delta") or choice
        ids = choice.get("token_ids")
        words = [said.get(key) for key in ("text", "content", "reasoning_content", "reasoning", "tool_calls")]
        if count := len(ids) if isinstance(ids, list) else int(any(words)):
            answered.pieces.append((came, count))
    if usage := event.get("usage"):  # perhaps in several events, each of which tells a part
        answered.prompt_tokens = count_in(usage, "prompt_tokens", answered.prompt_tokens) or 0
        answered.output_tokens = count_in(usage, "completion_tokens", answered.output_tokens) or 0
        details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
        answered.cached_tokens = count_in(details, "cached_tokens", answered.cached_tokens)


def count_in(told: Any, name: str, known: int | None) -> int | None:
    """A count that a server tells, also as 9.0 or "9"; what is known already where it tells none."""
    value = told.get(name) if isinstance(told, dict) else None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        value = int(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MOST or value != int(value):
        return known
    return int(value)


async def events(target: Target, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The events of a streamed answer. Raises Refused, OSError, EOFError where it ends before it is over."""
    rest, done = b"", False
    async for data in exchange(target, "POST", target.endpoint, json.dumps(body).encode()):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            word = line.strip().removeprefix(b"data:").strip()
            if not line.startswith(b"data:") or done:
                continue
            if word == b"[DONE]":
                done = True
            else:
                yield json.loads(word)
    if not done:
        raise EOFError("the answer ended before [DONE]")


async def ask_json(target: Target, path: str, body: dict[str, Any] | None = None) -> Any:
    """What a path answers: a GET, or with a body a POST. Raises Refused, OSError, ValueError for no JSON."""
    sent = None if body is None else json.dumps(body).encode()
    parts = [part async for part in exchange(target, "GET" if body is None else "POST", path, sent)]
    return json.loads(b"".join(parts))


async def exchange(target: Target, method: str, path: str, body: bytes | None = None) -> AsyncIterator[bytes]:
    """The body of an answer, piece by piece. Raises Refused for an answer that is no 200."""
    place = urlsplit(target.url)
    headers = [("Host", place.netloc), ("Connection", "close"), ("Accept", "text/event-stream, application/json")]
    headers += [("Authorization", f"Bearer {target.key}")] if target.key else []
    if body is not None:
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    async with connection(place) as (reader, writer):
        http = h11.Connection(h11.CLIENT)
        sent = [h11.Request(method=method, target=place.path.rstrip("/") + path, headers=headers)]
        data: Iterable[Any] = [*sent, *([h11.Data(data=body)] if body else []), h11.EndOfMessage()]
        writer.write(b"".join(http.send(one) or b"" for one in data))
        status, refusal = 200, b""
        while not isinstance(event := await next_event(http, reader), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data) and status == 200:
                yield bytes(event.data)
            elif isinstance(event, h11.Data):
                refusal += event.data
        if status != 200:
            raise Refused(status, message_of(refusal))


async def next_event(http: h11.Connection, reader: asyncio.StreamReader) -> Any:
    """What comes next on a connection. Raises EOFError where it is cut."""
    while (event := http.next_event()) is h11.NEED_DATA:
        data = await reader.read(READ)
        if not data and http.their_state is h11.SEND_RESPONSE:
            raise EOFError("the connection was closed before an answer came")
        http.receive_data(data)
    return event


@asynccontextmanager
async def connection(place: Any) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a host, by TLS where the address says https."""
    secure = ssl.create_default_context() if place.scheme == "https" else None
    port = place.port or (443 if secure else 80)
    reader, writer = await asyncio.open_connection(place.hostname, port, ssl=secure)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def words_of(error: BaseException) -> str:
    """Why a request has no answer."""
    if isinstance(error, NO_SHAPE) and not isinstance(error, NO_ANSWER):
        return f"the answer has another shape than OpenAI's ({type(error).__name__}: {error})"
    return str(error) or type(error).__name__


def message_of(body: bytes) -> str:
    """What an error's body says: its message in OpenAI's form, else its beginning."""
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(body)["error"]["message"])
    return body[:200].decode("utf-8", errors="replace")
