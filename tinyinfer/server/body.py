"""A body of limited size, and the JSON object that it spells.

A server that trusts lengths is stopped by one client, with a body of gigabytes. What the header says is refused before
a byte is read; what comes in pieces, at the piece that is too much. How long a body may take is admission.py's.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NoReturn

from tinyinfer.server.errors import APIError

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientGone(Exception):
    """The client has left before its answer was complete."""


async def read_body(headers: Mapping[str, str], receive: Receive, most: int) -> bytes:
    """All bytes of a body. Raises APIError for one that is not declared as JSON and for more than `most` bytes,
    ClientGone when the client has left.
    """
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise APIError(415, "the body must be declared as JSON: Content-Type: application/json", connection="close")
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > most:
        raise too_long(most)
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
    except json.JSONDecodeError as error:
        raise APIError(400, f"the body is not valid JSON: {error}") from None
    except ValueError:  # Python's limit
        raise APIError(400, "a number in the body has too many digits") from None
    if not isinstance(value, dict):
        raise APIError(400, "the body must be a JSON object, such as {\"prompt\": \"Hello\"}")
    return value


def _no_number(word: str) -> NoReturn:
    raise APIError(400, f"the body is not valid JSON: {word} is no number in JSON")
