"""Connections that say nothing, little, too much or no HTTP: through uvicorn, on a real socket."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from http_calls import Served, eventually

from tinyinfer import LLM
from tinyinfer.errors import SwitchError
from tinyinfer.replicas.on_ray import free_port
from tinyinfer.server import process
from tinyinfer.server.process import Server, bind

HEAD = b"Host: localhost\r\n"
HEALTH = b"GET /health HTTP/1.1\r\n" + HEAD + b"\r\n"


class Live(Served):
    """A server on a socket of this process, whose connections may say nothing for a second."""

    def __init__(self, llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(llm, stalled=0.5, idle_timeout=1, port=free_port("127.0.0.1"))
        self.bound, made = bind(self.service.switches), list[Server]()
        monkeypatch.setattr(process, "Server", lambda *args: made.append(Server(*args)) or made[0])
        self.thread = threading.Thread(target=process.run, args=(self.service, self.bound))
        self.thread.start()
        assert eventually(lambda: bool(made) and made[0].started)
        self.server, self.address = made[0], self.bound.getsockname()

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=10)

    def end(self) -> None:
        self.server.stop()
        self.server.force_exit = True
        self.thread.join(10)


@pytest.fixture
def live(served_llm: LLM, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    served_llm.engine.forget_prefixes()
    found = Live(served_llm, monkeypatch)
    yield found
    found.end()


def post(path: str, **fields: Any) -> bytes:
    """The bytes of a call."""
    body = json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n".encode()
    return head + HEAD + b"\r\n" + body


def all_of(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    pieces = list[bytes]()
    with suppress(ConnectionResetError):
        while piece := client.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


def test_a_flood_of_bytes_that_are_no_http_is_a_line_a_second(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a log that any client can fill, also by two kinds in turns. Right: the next line says how many were left
    out, whichever kind it is; an error of the server itself is never left out.
    """

    def garbage(path: bytes = b"") -> None:
        with live.connect() as client:
            client.sendall(b"\x16\x03\x01 nonsense" + path + b"\r\n\r\n")
            assert all_of(client).startswith(b"HTTP/1.1 400")

    monkeypatch.setattr(process, "AGAIN", 60.0)
    for n in range(20):
        garbage(b" HTTP/1.1" if n % 2 else b"")
    [line] = [line for line in live.lines if "Invalid HTTP" in line]
    assert "left_out" not in line
    for handler in logging.getLogger("uvicorn.error").handlers:
        if isinstance(handler, process.Lines):
            handler._until = 0.0
    garbage()
    [_, line] = [line for line in live.lines if "Invalid HTTP" in line]
    assert "left_out=19" in line
    logging.getLogger("uvicorn.error").error("of the server itself")
    assert any("of the server itself" in line for line in live.lines)


def test_connections_that_bring_no_head_in_time_are_closed(live: Live) -> None:
    """One that says nothing, one a byte at a time, one that is silent after an answer. Catches slow loris, which holds
    connections until there are none.
    """
    silent, slow, answered = (live.connect() for _ in range(3))
    answered.sendall(HEALTH)
    until = time.monotonic() + 10
    with suppress(OSError):
        while live.server.server_state.connections and time.monotonic() < until:
            slow.sendall(b"G")
            time.sleep(0.1)
    assert not live.server.server_state.connections
    assert all_of(answered).startswith(b"HTTP/1.1 200")
    assert all_of(silent) == b""


def test_an_answer_may_take_longer_than_a_head(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a time limit of heads that cuts answers."""
    step = live.llm.engine.step

    def slow(*args: Any) -> Any:
        time.sleep(0.4)
        return step(*args)

    monkeypatch.setattr(live.llm.engine, "step", slow)
    with live.connect() as client:
        client.sendall(post("/v1/completions", prompt="x", max_tokens=3, ignore_eos=True))
        assert b'"finish_reason":"length"' in all_of(client)


def test_the_model_is_no_garbage_to_look_at_and_the_event_loop_gets_its_turn(live: Live) -> None:
    """Catches pauses of 0.4 s for all connections (gc), and 5 ms before each system call's return (the GIL)."""
    assert gc.get_freeze_count() > 10_000
    assert sys.getswitchinterval() < 0.001
    assert gc.get_threshold()[2] == process.RARELY
    live.end()
    assert gc.get_freeze_count() == 0
    assert sys.getswitchinterval() > 0.001
    assert gc.get_threshold()[2] < process.RARELY


@pytest.mark.parametrize("busy", [False, True])
def test_garbage_is_looked_for_each_minute_unless_a_call_would_wait(
    live: Live, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    """Catches a server that never collects what others left in circles, and one that stands still in an answer."""
    looked = list[bool]()
    monkeypatch.setattr(process.gc, "collect", lambda: looked.append(True))
    monkeypatch.setattr(live.server.server_state, "tasks", {"a call"} if busy else set())
    for tick in range(1, process.MINUTE + 1):
        assert not asyncio.run(live.server.on_tick(tick))
    monkeypatch.undo()
    assert looked == ([] if busy else [True])


def test_pipelined_calls_are_answered_in_turn(live: Live) -> None:
    """Both are here before the first answer. Catches a second one that is lost, or that is answered first."""
    last = HEALTH.replace(HEAD, HEAD + b"Connection: close\r\n")
    with live.connect() as client:
        client.sendall(post("/tokenize", prompt="abc") + post("/v1/completions", prompt="x", max_tokens=2) + last)
        answers = all_of(client).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200"] * 3
    assert all(word in answer for word, answer in zip((b"token", b"choices", b"status"), answers, strict=True))


@pytest.mark.parametrize("more", [b"", b"\r\n", HEALTH], ids=["nothing", "line", "call"])
def test_a_client_that_closes_its_half_has_left(live: Live, more: bytes) -> None:
    """Also one that sent more before. Catches one whose request goes on to its 9,000 tokens, because the server reads
    nothing behind a body until it has answered.
    """
    with live.connect() as client:
        client.sendall(post("/v1/completions", prompt="x", max_tokens=9000, ignore_eos=True))
        assert eventually(lambda: bool(live.service.metrics.open))
        if more:
            client.sendall(more)
            time.sleep(0.1)  # the server reads it by itself, and stops there
        client.shutdown(socket.SHUT_WR)
        assert eventually(live.at_rest)
    assert eventually(lambda: bool(live.lines) and "status=499" in live.lines[-1])


def test_a_client_that_reads_nothing_is_cut_before_megabytes_are_sent(live: Live) -> None:
    """Through a real socket. Catches a system's buffer that takes a whole answer of some thousand tokens, so that the
    limit of seconds without a byte taken never counts.
    """
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(live.address)
        asked = {"max_tokens": 600, "n": 4, "logprobs": 5, "ignore_eos": True, "stream": True}
        client.sendall(post("/v1/completions", prompt="x", **asked))
        assert eventually(lambda: bool(live.lines), 20)
        assert "finished=abort,abort,abort,abort" in live.lines[0]  # behind it, uvicorn's note that no end was sent
        assert eventually(live.at_rest)


BROKEN = {
    "letters": b"\xff\xfe\x00 nonsense\r\n\r\n", "tls": b"\x16\x03\x01\x02\x00\x01\x00" + b"\0" * 64 + b"\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n", "long head": b"GET /health HTTP/1.1\r\nX: " + b"x" * 100_000,
    "two lengths": b"POST /tokenize HTTP/1.1\r\n" + HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "header": b"GET /health HTTP/1.1\r\n" + HEAD + b"X\xc3\xa9: 1\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_what_is_no_http_is_400_in_openais_form(live: Live, caplog: pytest.LogCaptureFixture, broken: bytes) -> None:
    with live.connect() as client:
        with suppress(OSError):
            client.sendall(broken)
        head, _, body = all_of(client).partition(b"\r\n\r\n")
    assert b" 400 " in head.splitlines()[0]
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert not any(record.levelno >= logging.ERROR for record in caplog.records)


@pytest.mark.parametrize("path", [b"/caf%c3", b"/%ff%fe", b"/v1/models/%ff"])
def test_a_path_that_is_no_utf8_is_not_there(live: Live, path: bytes) -> None:
    with live.connect() as client:
        client.sendall(b"GET " + path + b" HTTP/1.1\r\n" + HEAD + b"Connection: close\r\n\r\n")
        assert all_of(client).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("stream", [False, True])
def test_a_body_that_breaks_off_its_form_ends_its_call_alone(
    live: Live, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    """Its chunks are none; while an answer runs, too. Catches a traceback, and a server that is dead."""
    call = json.dumps({"prompt": "x", "max_tokens": 9000, "ignore_eos": True}).encode()
    first = b"%x\r\n%b\r\n" % (len(call), call) if stream else b""
    head = b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    with live.connect() as client:
        client.sendall(head + HEAD + b"\r\n" + first + b"zz\r\nno chunk\r\n")
        all_of(client)
    assert eventually(live.at_rest)
    assert not any(record.levelno >= logging.ERROR for record in caplog.records)
    assert live.get("/health").status == 200


def test_a_port_that_another_server_took_while_this_one_loaded_is_told(served_llm: LLM) -> None:
    """Both had bound before either listened, which the system allows. Catches a traceback after the model was loaded.
    """
    late = Served(served_llm, port=free_port("127.0.0.1"))
    with bind(late.service.switches) as first, bind(late.service.switches) as second:
        first.listen()
        with pytest.raises(SwitchError, match="cannot be listened at"):
            process.run(late.service, second)
