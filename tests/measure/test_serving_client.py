"""A client that loads a server, held to servers whose every byte is written here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tinyinfer.measure.serving_client import Answered, Refused, Target, ask_json, load
from tinyinfer.measure.serving_requests import Ask

Reply = Callable[[dict[str, Any], asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def token(*ids: int, text: str = "x") -> bytes:
    return event({"choices": [{"text": text, "token_ids": list(ids)}]})


def served(reply: Reply, asks: list[Ask], most: int | None = None, **target: Any) -> list[Answered]:
    """What became of requests to a server that does `reply` with each body."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.split("content-length: ")[1].split("\r\n")[0]) if "content-length" in head else 0
        await reply(json.loads(await reader.readexactly(size) or "null"), writer)
        writer.close()

    async def run() -> list[Answered]:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            return [one async for one in load(Target(url, **target), asks, most)]

    return asyncio.run(run())


def saying(*pieces: bytes, pause: float = 0.0) -> Reply:
    """A server that writes these pieces."""

    async def reply(body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return reply


def one(*pieces: bytes, **more: Any) -> Answered:
    [answered] = served(saying(*pieces, **more), [Ask("Hi", 4)])
    return answered


def test_a_piece_without_a_token_is_not_the_first_token() -> None:
    """Named test 18 of the server. Catches a clock that is read at the role, before anything is computed."""
    role = event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    words = event({"choices": [{"delta": {"content": "Hi"}}]})
    found = one(OK, role, words, words, event({"choices": [{"delta": {}, "finish_reason": "stop"}]}), DONE, pause=0.02)
    assert [n for _, n in found.pieces] == [1, 1]
    assert found.first is not None
    assert found.first - found.sent > 0.03
    assert found.error == ""


def test_a_piece_of_several_tokens_counts_as_several() -> None:
    """As a speculating server sends them. Catches a pace that is the pieces' and not the tokens'."""
    found = one(OK, token(1), token(2, 3, 4), DONE, pause=0.03)
    assert [n for _, n in found.pieces] == [1, 3]
    (before, _), (came, _) = found.pieces
    assert found.gaps == pytest.approx([(came - before) / 3] * 3)
    assert found.output_tokens == 4


def test_the_server_counts_tokens_where_it_says_so() -> None:
    usage = event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 7}})
    found = one(OK, event({"choices": [{"text": "x"}]}), usage, DONE)
    assert (found.prompt_tokens, found.output_tokens) == (9, 7)


def test_events_are_whole_wherever_the_bytes_are_cut() -> None:
    """Catches a reader that takes each packet for an event."""
    stream = OK + b": still here\n\n" + token(1, text="é") + token(2) + DONE
    found = one(*(stream[n : n + 1] for n in range(len(stream))))
    assert (sum(n for _, n in found.pieces), found.error) == (2, "")


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ((OK, token(1)), "ended before [DONE]"),
        ((b"",), "the connection was closed before an answer came"),
        ((OK, DONE), "the answer has no token"),
        ((OK, token(1), event({"error": {"message": "out of room"}}), DONE), "out of room"),
        ((OK, b"data: {\n\n", DONE), "Expecting"),
        ((b"HTTP/1.1 429 Busy\r\nContent-Length: 4\r\n\r\n", b"wait"), "HTTP 429: wait"),
        ((b"no HTTP\r\n\r\n",), "illegal"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_says_why(pieces: tuple[bytes, ...], words: str) -> None:
    """Catches a failure that counts as a fast answer."""
    assert words in one(*pieces).error


@pytest.mark.parametrize(
    "value",
    [[], 5, {"choices": [None]}, {"choices": 5}, {"choices": [{"delta": "x"}]}],
)
def test_an_event_of_another_shape_fails_its_request_alone(value: Any) -> None:
    """Catches a load that waits for ever, as the task of that request ended and told no one."""
    found = served(saying(OK, token(1), event(value), DONE), [Ask("Hi", 4)] * 2)
    assert ["another shape than OpenAI's" in one.error for one in found] == [True, True]


NO_COUNTS: list[Any] = [None, [], "x", True, -1, 1.5, float("inf"), [1], {"cached_tokens": "three"}]


@pytest.mark.parametrize("value", NO_COUNTS, ids=str)
def test_what_is_no_count_is_absent(value: Any) -> None:
    """The answer is whole, whatever its server tells of it. Catches a failure for a null, and sums of nulls later."""
    counts = {"prompt_tokens": value, "completion_tokens": value, "prompt_tokens_details": value}
    inner = {**counts, "prompt_tokens_details": {"cached_tokens": value}}
    for usage in (5, value, counts, inner, {"prompt_tokens_details": 5}):
        found = one(OK, token(1), event({"choices": [], "usage": usage}), DONE)
        assert (found.prompt_tokens, found.output_tokens, found.cached_tokens, found.error) == (0, 1, None, "")
    found = one(OK, event({"choices": [{"text": "ab", "token_ids": 5}]}), DONE)
    assert (found.output_tokens, found.error) == (1, "")


def test_cached_tokens_are_read_beside_the_others() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 0}}
    assert one(OK, token(1), event({"choices": [], "usage": usage}), DONE).cached_tokens == 0


@pytest.mark.parametrize("nine", [9, 9.0, "9"])
def test_a_count_may_be_written_otherwise_and_come_in_parts(nine: Any) -> None:
    """Catches a count that is read as none, and one that a later event without it wipes."""
    parts = [{"prompt_tokens": nine}, {"completion_tokens": nine}, {"queue_time": 0.1}, {"prompt_tokens": 10**400}]
    found = one(OK, token(1), *(event({"choices": [], "usage": part}) for part in parts), DONE)
    assert (found.prompt_tokens, found.output_tokens) == (9, 9)


def test_a_refusal_has_the_servers_words() -> None:
    body = b'{"error": {"message": "queue is full"}}'
    found = one(b"HTTP/1.1 429 Busy\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    assert found.error == "HTTP 429: queue is full"


def test_a_server_that_says_nothing_is_left() -> None:
    [found] = served(saying(OK, token(1), pause=5), [Ask("Hi", 1)], timeout=0.2)
    assert found.error == "no end within 0.2 s"


def test_a_server_that_is_gone_fails_each_request() -> None:
    async def run() -> list[Answered]:
        return [one async for one in load(Target("http://127.0.0.1:1"), [Ask("a", 1), Ask("b", 1)])]

    assert all("Connect call failed" in one.error for one in asyncio.run(run()))


def test_what_is_sent() -> None:
    """Catches token ids that become text on their way, and a chat that is sent as a completion."""
    bodies = []

    async def reply(body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        bodies.append(body)
        writer.write(OK + token(1) + DONE)

    served(reply, [Ask([5, 6], 3)], model="m", extra={"top_k": 2})
    served(reply, [Ask("Hi", 3)], model="m", endpoint="/v1/chat/completions")
    common = {"model": "m", "max_tokens": 3, "stream": True, "stream_options": {"include_usage": True}}
    assert bodies[0] == {**common, "prompt": [5, 6], "top_k": 2}
    assert bodies[1] == {**common, "messages": [{"role": "user", "content": "Hi"}]}


def test_no_more_are_under_way_than_may_be_and_their_wait_is_counted() -> None:
    """Catches coordinated omission: a wait inside the client that no figure shows."""
    under_way, most = [0], [0]

    async def reply(body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        await asyncio.sleep(0.05)
        writer.write(OK + token(1) + DONE)
        await writer.drain()
        under_way[0] -= 1

    found = served(reply, [Ask("Hi", 1)] * 6, most=2)
    assert most == [2]
    assert sum(one.sent - one.due > 0.04 for one in found) >= 4


def test_requests_are_sent_when_they_are_due_whatever_became_of_those_before() -> None:
    """An open loop. Catches a client that waits for an answer before it asks again."""
    here: list[asyncio.StreamWriter] = []

    async def reply(body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        here.append(writer)
        while len(here) < 3:  # answers only when all have asked
            await asyncio.sleep(0.01)
        writer.write(OK + token(1) + DONE)

    found = served(reply, [Ask("Hi", 1, due) for due in (0.0, 0.1, 0.2)], timeout=20.0)
    assert all(one.due <= one.sent and not one.error for one in found)


def test_a_load_that_is_left_ends_what_is_under_way() -> None:
    """Ctrl-C. Catches connections that stay open."""
    closed = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        while await reader.read(100):
            continue
        closed.append(True)
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            answers = load(Target(url), [Ask("Hi", 1)] * 3)
            waiting = asyncio.ensure_future(anext(answers))
            await asyncio.sleep(0.2)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await answers.aclose()
            await asyncio.sleep(0.2)
        assert len(closed) == 3

    asyncio.run(run())


def test_what_a_path_answers() -> None:
    async def reply(body: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]" if body else b"HTTP/1.1 404 No\r\n\r\nnot here")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reply(b"POST" in head, writer)
        await writer.drain()
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            target = Target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            assert await ask_json(target, "/tokenize", {"prompt": "a"}) == []
            with pytest.raises(Refused, match="HTTP 404: not here"):
                await ask_json(target, "/v1/models")

    asyncio.run(run())
