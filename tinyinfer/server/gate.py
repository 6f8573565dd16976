"""Who gets in, before anything is read; and what leaves: an error in one form, and one log line a request.

An address of this machine alone is no lock. A web page that its user has open may post to 127.0.0.1 (a form needs no
permission), or give its own name this address and read the answers (DNS rebinding; Jackson et al. 2007). So a Host that
is no name of this server and an Origin that is another one are refused also here, as is a body that is not declared as
JSON (body.py), which no page can send elsewhere without being asked first; and no answer has a CORS header. An open
address needs a key, compared in constant time: else its letters could be measured one by one.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from hmac import compare_digest
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinyinfer.server.body import ClientGone
from tinyinfer.server.errors import APIError, as_api_error
from tinyinfer.server.service import Service
from tinyinfer.server.switches import ServerSwitches

OPEN = "/health"  # the only path without a key: who watches a process needs none
LEFT = 499  # what logs say of a client that has left (nginx)


class Gate:
    """The outermost ASGI application: lets a request in, or says why not."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        begun, facts = self.service.clock(), {"request": secrets.token_hex(4)}
        answered = Answered(send, facts["request"])
        try:
            key = check(scope, self.service.switches)
            await self.app({**scope, "log": facts, "key": key}, receive, answered)
        except ClientGone:
            answered.status = LEFT
        except Exception as cause:
            response = told(cause, facts)
            if answered.status is None:
                await response(scope, receive, answered)
        finally:
            path = quote(scope["path"])[:200]
            line: dict[str, Any] = {"method": scope["method"], "path": path, "status": answered.status}
            self.service.log(**line, ms=round(1000 * (self.service.clock() - begun), 1), **facts)


def told(cause: Exception, facts: dict[str, Any]) -> JSONResponse:
    """The answer that says an error, of which the log line says its facts.

    Code that catches an error keeps it in no variable: its traceback has the frame, the frame would have the error, and
    of such a circle a collection of garbage is what gets rid, for which all threads stand still.
    """
    error = as_api_error(cause)
    facts |= error.logged
    return JSONResponse(error.as_dict(), error.status, error.headers)


class Answered:
    """Passes an answer on, and keeps its status: None before the first byte."""

    def __init__(self, send: Send, request: str) -> None:
        self.status: int | None = None
        self._send, self._request = send, request

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            named = [*message.get("headers", []), (b"x-request-id", self._request.encode())]
            message = {**message, "headers": named}
        await self._send(message)


def check(scope: Scope, switches: ServerSwitches) -> int | None:
    """The number of the key that a request brings, None where no key is asked for. Raises APIError for a request that
    does not get in.
    """
    headers = Headers(scope=scope)
    if "content-length" in headers and "transfer-encoding" in headers:  # a proxy before this server may read the other
        message = "the body has two lengths: send Content-Length or Transfer-Encoding, not both (RFC 9112, 6.1)"
        raise APIError(400, message, connection="close")
    host = headers.get("host", "")
    if not (switches.any_host or is_own(host, switches)):
        raise APIError(403, f"the Host {host[:100]!r} is not this server; --allowed-host adds a name")
    origin = headers.get("origin")
    page = read_url(origin or "")
    if origin is not None and (page.scheme not in ("http", "https") or page.netloc.lower() != host.lower()):
        raise APIError(403, f"pages of {origin[:100]!r} may not call this server")
    key = key_of(headers, switches.api_key)
    if switches.api_key and scope["path"] != OPEN and key is None:
        message = "the key is missing or wrong; send it as Authorization: Bearer KEY"
        raise APIError(401, message, code="invalid_api_key", www_authenticate="Bearer")
    return key


def is_own(host: str, switches: ServerSwitches) -> bool:
    """Whether a Host is a name of this server: an address as it is, which no page can give itself, or a known name."""
    name = read_url("//" + host).hostname or "" if not set(host) & set("/?#@\\") else ""
    try:
        ip_address(name)
    except ValueError:
        return name in ("localhost", switches.host.lower(), *map(str.lower, switches.allowed_host))
    return True


def read_url(text: str) -> SplitResult:
    """The parts of a URL; empty ones for a text that is none."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises ValueError for one that is no number
        return parts
    except ValueError:
        return urlsplit("")


def key_of(headers: Headers, keys: Iterable[str]) -> int | None:
    """The number of the key that the request brings; all are compared, and a wrong one takes as long as a right one."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    same = [compare_digest(given.strip().encode("utf-8"), key.encode("utf-8")) for key in keys]
    return same.index(True) if any(same) and kind.lower() == "bearer" else None
