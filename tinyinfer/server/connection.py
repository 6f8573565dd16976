"""One connection: how long it may say nothing, and what is answered to bytes that are no HTTP.

uvicorn times a connection between two requests, but not before the first one, and not within the lines of a head: a
client that opens a thousand connections, or sends its head a byte a minute, would keep them for ever (slow loris;
nginx's documentation, `client_header_timeout`). Here the head of the next request has some seconds, counted from the
connection or from the last answer, whatever comes meanwhile. Bodies are timed by admission.py, answers by answer.py.

A client that closes its sending half has left: nothing tells it from one that has closed both. To see that it left, the
server goes on reading while it answers, also when the next request has come already (pipelining), up to a bound.

A client that reads nothing is seen when nothing more can be sent. The system would take 2.5 MB for it first, which is
some thousand tokens: it may take no more than some tens of kilobytes here.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import cast

import h11
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.h11_impl import H11Protocol

from tinyinfer.server.errors import APIError

UNSENT = 1 << 16  # bytes that the system keeps for a client that does not read; Linux doubles it
NO_HTTP = APIError(400, "the bytes of this request are no HTTP/1.1")


class Connection(H11Protocol):
    """uvicorn's connection, whose next head must be here in time. The seconds: uvicorn's timeout_keep_alive."""

    _waiting: asyncio.TimerHandle | None = None
    _unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for the first head."""
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNSENT)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the wait for a head."""
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Reads what has come; a whole head ends the wait."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
            if self.conn.their_state is h11.DONE and len(self.conn.trailing_data[0]) < HIGH_WATER_LIMIT:
                self.flow.resume_reading()  # uvicorn stops at a byte behind the body, and sees no client leave

    def on_response_complete(self) -> None:
        """Begins to wait for the next head."""
        self._wait()  # before the next head, which may be here already (pipelining)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """The answer to what is no HTTP, in OpenAI's form; none in the middle of another one."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(NO_HTTP.as_dict()).encode()
            length = str(len(body)).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", length), (b"connection", b"close")]
            events = h11.Response(status_code=NO_HTTP.status, headers=headers), h11.Data(data=body), h11.EndOfMessage()
            self.transport.write(b"".join(self.conn.send(cast(h11.Event, one)) or b"" for one in events))
        self.transport.close()

    def _wait(self) -> None:
        self._stop_waiting()
        self._waiting = self.loop.call_later(self.timeout_keep_alive, self._end)

    def _end(self) -> None:
        """Ends the connection, unless its client goes on reading the last answer."""
        left, self._unread = self._unread, self.transport.get_write_buffer_size()
        if self._unread and self._unread != left:
            self._wait()
        else:
            self.transport.abort()  # `close` would wait for the client to read

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
