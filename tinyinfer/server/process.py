"""The process of a server: a socket, uvicorn's event loop, and the signals that end it.

The first SIGTERM (or Ctrl-C, or SIGHUP) drains: /ready says 503, new requests are refused, those that are in go on to
their end, and then the process ends. A second one ends it now. The socket is bound before the model is loaded, so that
a port in use is told at once, and it listens after that, so that no request waits for a model that may never come.

What uvicorn has to say becomes log lines of the server's own form: else `--log-json` would not be JSON, and each call
that a second signal cuts would be a traceback.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

import uvicorn

from tinyinfer.errors import SwitchError
from tinyinfer.server.admission import Admission
from tinyinfer.server.app import make_app
from tinyinfer.server.connection import Connection
from tinyinfer.server.service import Service
from tinyinfer.server.switches import ServerSwitches

GIL_INTERVAL = 0.0005  # seconds
RARELY = 100  # of Python's second threshold, which is 10
MINUTE = 600  # ticks of uvicorn's loop
AGAIN = 1.0  # seconds between two lines that any client can cause


def bind(switches: ServerSwitches) -> socket.socket:
    """The socket, which does not listen yet. Raises SwitchError for an address or a port that cannot be had."""
    with refusing(switches):
        family, kind, protocol, _, address = socket.getaddrinfo(
            switches.host, switches.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what an ended server left does not hold it
            bound.bind(address)
        except OSError:
            bound.close()
            raise
        return bound


@contextmanager
def refusing(switches: ServerSwitches) -> Iterator[None]:
    """Turns the system's refusal of an address into a SwitchError."""
    try:
        yield
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no address book can hold
        reason = "{field}={value} cannot be listened at on {host}={address} ({why})"
        cure = "end what listens there, or choose another port"
        why = getattr(error, "strerror", None) or str(error)
        raise SwitchError("port", switches.port, reason, cure, address=switches.host, why=why) from None


def run(service: Service, bound: socket.socket) -> None:
    """Serves until a signal ends it, which is raised again at the end. Raises SwitchError where `bind` does: of two
    servers that load at the same time, one finds the port taken only now.
    """
    config = uvicorn.Config(
        make_app(service), http=Connection, lifespan="off", ws="none", log_config=None, log_level="warning",
        access_log=False, server_header=False, timeout_keep_alive=service.switches.idle_timeout,
    )  # fmt: skip
    try:
        with refusing(service.switches):
            bound.listen(config.backlog)
        with attentive(), logged(service):
            Server(config, service.admission).run([bound])
    finally:
        service.close()
        bound.close()


@contextmanager
def attentive() -> Iterator[None]:
    """Keeps the event loop quick beside an engine, which computes in the same Python.

    A full collection of garbage looks at every object of the model and its libraries, for 0.4 s in which no thread
    runs: what is there before the first request stays, and is not looked at. What comes later is much, too, while a
    queue is full, and calls leave no garbage that only a full collection finds: it comes rarely then, and else when no
    call is there. And each system call of the event loop gives the GIL away, which the engine's thread then keeps for a
    whole interval: one ten times shorter than Python's costs the engine nothing that can be measured.
    """
    before, thresholds = sys.getswitchinterval(), gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*thresholds[:2], RARELY)
    sys.setswitchinterval(GIL_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
        gc.set_threshold(*thresholds)
        gc.unfreeze()


@contextmanager
def logged(service: Service) -> Iterator[None]:
    """Turns warnings and errors of uvicorn and asyncio into lines of the service."""
    lines, loggers = Lines(service), [logging.getLogger(name) for name in ("uvicorn.error", "asyncio")]
    for logger in loggers:
        logger.addHandler(lines)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(lines)


class Lines(logging.Handler):
    """Writes a record as one line; a call that the end of the server cuts is none.

    A client may send bytes that are no HTTP a thousand times a second: within a second one such line is written, and
    the next line says how many were left out.
    """

    def __init__(self, service: Service) -> None:
        super().__init__(logging.WARNING)
        self._service = service
        self._until, self._left_out = 0.0, 0

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the line: the message, and the exception without its traceback."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, asyncio.CancelledError):
            return
        now = time.monotonic()
        if error is None and record.levelno < logging.ERROR:  # what any client can cause
            if now < self._until:
                self._left_out += 1
                return
            self._until = now + AGAIN
        left_out, self._left_out = self._left_out, 0
        told = None if error is None else f"{type(error).__name__}: {error}"
        self._service.log(note=record.getMessage().strip(), exception=told, left_out=left_out or None)


class Server(uvicorn.Server):
    """uvicorn's server, which drains before it ends."""

    def __init__(self, config: uvicorn.Config, admission: Admission) -> None:
        super().__init__(config)
        self._admission = admission

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's two signals, and SIGHUP of a terminal that closes, unless it is ignored (nohup)."""
        hangup = getattr(signal, "SIGHUP", None)  # Windows has none
        with super().capture_signals():
            before = signal.getsignal(hangup) if hangup else signal.SIG_IGN
            if hangup is None or before is signal.SIG_IGN or current_thread() is not main_thread():
                yield
                return
            signal.signal(hangup, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(hangup, before)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second one ends at once."""
        self._captured_signals.append(sig)
        if len(self._captured_signals) > 1:
            self.force_exit = True
            self.stop()
        else:  # not here: a signal comes between any two lines of the event loop
            asyncio.get_running_loop().call_soon_threadsafe(self._admission.drain, self.stop)

    async def on_tick(self, counter: int) -> bool:
        """What uvicorn does ten times a second; each minute a full collection, if no call is there to wait for it."""
        if counter % MINUTE == 0 and not self.server_state.tasks:
            gc.collect()
        return await super().on_tick(counter)

    def stop(self) -> None:
        """Ends uvicorn's loop within a tenth of a second."""
        self.should_exit = True
