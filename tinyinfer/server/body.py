"""A body of limited size, read in limited time, as one JSON object.

A server that trusts lengths and patience is stopped by one client: with a body of gigabytes, or with one that comes a
byte a minute. What the header says is refused before a byte is read; what comes in pieces, at the piece that is too
much.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NoReturn

from tinyinfer.server.errors import APIError

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientGone(Exception):
    """The client has left before its answer was complete."""


async def read_json(headers: Mapping[str, str], receive: Receive, most: int, seconds: float) -> dict[str, Any]:
    """The JSON object of a body. Raises APIError for anything else, ClientGone when the client has left."""
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > most:
        raise too_long(most)
    try:
        async with asyncio.timeout(seconds):
            return parse(await read(receive, most))
    except TimeoutError:
        raise APIError(408, f"the body was not here within {seconds:g} seconds", connection="close") from None


async def read(receive: Receive, most: int) -> bytes:
    """All bytes of a body."""
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > most:
            raise too_long(most)
        if not message.get("more_body", False):
            return b"".join(pieces)


def too_long(most: int) -> APIError:
    """The refusal of a body; the connection ends, since the rest of the body is not read."""
    return APIError(413, f"the body is longer than {most} bytes; shorten the prompt", connection="close")


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object that the bytes spell. Raises APIError."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError:
        raise APIError(400, "the body is not valid UTF-8") from None
    except RecursionError:
        raise APIError(400, "the body is nested too deeply") from None
    except ValueError as error:  # no JSON, or a number of thousands of digits
        raise APIError(400, f"the body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise APIError(400, "the body must be a JSON object, such as {\"prompt\": \"Hello\"}")
    return value


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number in JSON")
