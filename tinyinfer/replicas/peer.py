"""A replica as the front's process has it: a connection with two threads, so that neither side waits for the other.

A socket can hold so much and no more. If the front sent a long prompt while the replica sent a report, and neither
read, both would wait for ever. So one thread reads all that comes, and another one writes what the front leaves for it.
The reader notices at once that a replica is gone: the system closes the sockets of a process that ends, however that
came.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Event, Thread
from time import monotonic

from tinyinfer.replicas.serve import NUMBER


@dataclass(frozen=True)
class Heard:
    """What came from a replica, and when (seconds of time.monotonic). words: None: the replica is gone."""

    replica: int
    moment: float
    words: bytes | None


class Box:
    """What replicas say to an engine, until the engine takes it."""

    def __init__(self) -> None:
        self.items: deque[Heard] = deque()
        self.filled = Event()

    def put(self, heard: Heard) -> None:
        """Adds something; from any thread."""
        self.items.append(heard)
        self.filled.set()

    def wait(self, seconds: float) -> bool:
        """Whether there is something, or comes within so many seconds."""
        self.filled.clear()
        if not self.items:
            self.filled.wait(seconds)
        return bool(self.items)

    def has(self, replica: int) -> bool:
        """Whether something of this replica is still to be taken."""
        return any(heard.replica == replica and heard.words is not None for heard in tuple(self.items))

    def take(self) -> Heard | None:
        """The oldest, or None."""
        return self.items.popleft() if self.items else None


class Peer:
    """A replica. number: which one; gone: whether its end of the connection is; given_up: whether ours is."""

    def __init__(self, number: int, connection: Connection) -> None:
        self.number, self.connection, self.gone, self.given_up = number, connection, False, False
        self.heard = monotonic()  # when something last came
        self.boxes: dict[int, Box] = {}  # of the engines that have a part in the replica
        self.outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        for work in (self._read, self._write):
            Thread(target=work, name=f"replica {number}", daemon=True).start()

    def send(self, engine: int, words: bytes) -> None:
        """Leaves a message for an engine of the replica, and returns at once."""
        self.outgoing.put(engine.to_bytes(NUMBER, "big") + words)

    def listen(self, engine: int, box: Box) -> None:
        """Puts what comes from an engine of the replica into a box, and that the replica is gone."""
        self.boxes[engine] = box
        if self.gone:
            box.put(Heard(self.number, monotonic(), None))

    def hang_up(self) -> bool:
        """Ends the connection, by which the replica's process ends, too; whether this is the first call."""
        first, self.given_up = not self.given_up, True
        self.outgoing.put(None)
        hang_up(self.connection)
        return first

    def _read(self) -> None:
        try:
            while True:
                words = self.connection.recv_bytes()
                self.heard = monotonic()
                box = self.boxes.get(int.from_bytes(words[:NUMBER], "big"))
                if box is not None:
                    box.put(Heard(self.number, monotonic(), words[NUMBER:]))
        except (EOFError, OSError):
            self.gone = True
        for box in list(self.boxes.values()):
            box.put(Heard(self.number, monotonic(), None))
        self.outgoing.put(None)

    def _write(self) -> None:
        with suppress(OSError):  # the reader tells that the replica is gone
            while (words := self.outgoing.get()) is not None:
                self.connection.send_bytes(words)


def hang_up(connection: Connection) -> None:
    """Ends a connection, also one that another thread reads: `close` alone would leave that thread waiting."""
    with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)
